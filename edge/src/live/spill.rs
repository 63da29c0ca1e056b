//! Handing over users of a region that is full, empty or gone, without knocking the next one over.
//!
//! For each region this keeps which share of its users goes to which other one. Pure: `step` takes what the regions report
//! and moves the shares a little. Must never send more to a region than it has room for while any other has room; where
//! nobody has room, a living region keeps its users (it answers them with a clear no), and a dead one's users are spread by
//! capacity. Loads are looked at twice, as reported and as planned, and the higher counts: what was moved a moment ago is
//! not yet seen, and must not be moved again.

use smallvec::SmallVec;

use crate::choice::{Handover, RegionIdx};
use crate::config::SpillConfig;

/// What a region reports, as far as hand-overs go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Users may be sent there.
    pub usable: bool,
    /// Arrivals per second; `None` when no fresh report is at hand.
    pub arrivals_per_s: Option<f64>,
    /// Arrivals per second that it can take.
    pub capacity_per_s: Option<f64>,
    /// Out of stock, or the queue is full: newcomers are better off elsewhere.
    pub refuses: bool,
}

/// Bounds of a step; see [`SpillConfig`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpillRules {
    /// Largest share of a region's users moved in one step.
    pub step_share: f64,
    /// Part of its capacity above which a region gives users away.
    pub high_water: f64,
    /// Part of its capacity up to which a region takes users in.
    pub low_water: f64,
    /// Largest share of a living region's users that goes elsewhere.
    pub share_max: f64,
}

impl From<&SpillConfig> for SpillRules {
    fn from(config: &SpillConfig) -> Self {
        let low_water = config.low_water.clamp(0.05, 1.0);
        Self {
            step_share: config.step_share.clamp(0.001, 1.0),
            high_water: config.high_water.clamp(low_water, 1.0),
            low_water,
            share_max: config.share_max.clamp(0.0, 1.0),
        }
    }
}

/// Shares below this are nothing: a 65,536th of the users cannot be told apart anyway.
const NOTHING: f64 = 1.0 / 65_536.0;

/// The shares, and the demand that they are shares of.
#[derive(Clone, Debug)]
pub struct Spill {
    rules: SpillRules,
    neighbours: Vec<Vec<RegionIdx>>,
    /// `shares[from][to]`; what is missing to 1 stays.
    shares: Vec<Vec<f64>>,
    /// Users per second whose first region this is, wherever they go now.
    demand: Vec<f64>,
}

impl Spill {
    /// Begins with everybody at home. `neighbours` has for each region the others, nearest first.
    pub fn new(rules: SpillRules, neighbours: Vec<Vec<RegionIdx>>) -> Self {
        let n = neighbours.len();
        Self { rules, neighbours, shares: vec![vec![0.0; n]; n], demand: vec![0.0; n] }
    }

    /// The share of `from`'s users that goes to `to`.
    pub fn share(&self, from: RegionIdx, to: RegionIdx) -> f64 {
        self.shares[from.at()][to.at()]
    }

    /// The share of a region's users that goes elsewhere.
    pub fn away(&self, from: RegionIdx) -> f64 {
        self.shares[from.at()].iter().sum()
    }

    /// One step. `loads` has one entry for each region.
    pub fn step(&mut self, loads: &[Load]) {
        self.estimate_demand(loads);
        for from in 0..loads.len() {
            self.withdraw_from_unfit(loads, from);
        }
        for at in 0..loads.len() {
            if loads[at].usable && self.excess(loads, at) > 0.0 {
                self.cut_inflow(loads, at);
            }
        }
        for (from, load) in loads.iter().enumerate() {
            match load.usable {
                false => self.place_all(loads, from),
                true if load.refuses || (self.excess(loads, from) > 0.0 && self.inflow(from) <= 0.0) => {
                    self.give(loads, from)
                }
                true => self.take_back(loads, from),
            }
        }
        for row in &mut self.shares {
            row.iter_mut().filter(|s| **s < NOTHING).for_each(|s| *s = 0.0);
        }
    }

    /// The shares as the choice uses them.
    pub fn handover(&self, from: RegionIdx) -> Handover {
        let mut below = 0.0;
        let mut list: SmallVec<[(RegionIdx, u32); 4]> = SmallVec::new();
        for to in &self.neighbours[from.at()] {
            let share = self.share(from, *to);
            if share > 0.0 {
                below += share;
                list.push((*to, (below.min(1.0) * 65_536.0).round() as u32));
            }
        }
        if list.is_empty() { Handover::None } else { Handover::Shares(list) }
    }

    /// Arrivals that the shares send to a region.
    fn planned(&self, at: usize) -> f64 {
        self.demand[at] * (1.0 - self.shares[at].iter().sum::<f64>()).max(0.0) + self.inflow(at)
    }

    fn inflow(&self, at: usize) -> f64 {
        (0..self.demand.len()).filter(|from| *from != at).map(|from| self.demand[from] * self.shares[from][at]).sum()
    }

    /// What a region could still take in, in arrivals per second.
    fn room(&self, loads: &[Load], at: usize) -> f64 {
        let load = &loads[at];
        match (load.capacity_per_s, load.arrivals_per_s) {
            (Some(capacity), Some(arrivals)) if load.usable && !load.refuses => {
                (self.rules.low_water * capacity - arrivals.max(self.planned(at))).max(0.0)
            }
            _ => 0.0,
        }
    }

    /// Arrivals above the high water, as reported.
    fn excess(&self, loads: &[Load], at: usize) -> f64 {
        match (loads[at].capacity_per_s, loads[at].arrivals_per_s) {
            (Some(capacity), Some(arrivals)) => (arrivals - self.rules.high_water * capacity).max(0.0),
            _ => 0.0,
        }
    }

    /// Demand follows from arrivals and shares; smoothed, because answers live on in caches for a while.
    fn estimate_demand(&mut self, loads: &[Load]) {
        for (at, load) in loads.iter().enumerate() {
            let stays = 1.0 - self.shares[at].iter().sum::<f64>();
            let Some(arrivals) = load.arrivals_per_s.filter(|_| load.usable && stays > 0.2) else { continue };
            let seen = ((arrivals - self.inflow(at)) / stays).max(0.0);
            let known = self.demand[at];
            self.demand[at] = if known == 0.0 { seen } else { known + 0.3 * (seen - known) };
        }
    }

    /// Nobody is sent to a region that is gone; from one that refuses, users are withdrawn step by step.
    fn withdraw_from_unfit(&mut self, loads: &[Load], from: usize) {
        for (to, load) in loads.iter().enumerate() {
            let share = &mut self.shares[from][to];
            if !load.usable {
                *share = 0.0;
            } else if load.refuses && loads[from].usable {
                *share = (*share - self.rules.step_share).max(0.0);
            }
        }
    }

    /// An overloaded region first loses what others send it: back home, or, where home is gone, to others with room.
    fn cut_inflow(&mut self, loads: &[Load], at: usize) {
        let inflow = self.inflow(at);
        if inflow <= 0.0 {
            return;
        }
        let part = (self.excess(loads, at) / inflow).min(1.0);
        for from in (0..loads.len()).filter(|from| *from != at) {
            let cut = (self.shares[from][at] * part).min(self.rules.step_share);
            if cut <= 0.0 {
                continue;
            }
            if loads[from].usable {
                self.shares[from][at] -= cut;
            } else {
                let placed = self.place(loads, from, cut, Some(at));
                self.shares[from][at] -= placed;
            }
        }
    }

    /// Puts up to `share` of a region's users where there is room, nearest first; returns what was placed.
    fn place(&mut self, loads: &[Load], from: usize, share: f64, except: Option<usize>) -> f64 {
        let demand = self.demand[from];
        if demand <= 0.0 {
            return 0.0;
        }
        let mut left = share;
        for to in self.neighbours[from].clone() {
            let to = to.at();
            if left <= 0.0 || Some(to) == except {
                continue;
            }
            let taken = (self.room(loads, to) / demand).min(left);
            self.shares[from][to] += taken;
            left -= taken;
        }
        share - left
    }

    /// All users of a region that is gone need a place: by room, and what finds none, by capacity.
    fn place_all(&mut self, loads: &[Load], from: usize) {
        let homeless = 1.0 - self.shares[from].iter().sum::<f64>();
        if homeless <= NOTHING || self.demand[from] <= 0.0 {
            return;
        }
        let left = homeless - self.place(loads, from, homeless, None);
        let capacity = |l: &Load| if l.usable { l.capacity_per_s.unwrap_or(0.0) } else { 0.0 };
        let total: f64 = loads.iter().map(capacity).sum();
        if left <= NOTHING || total <= 0.0 {
            return;
        }
        for (to, load) in loads.iter().enumerate().filter(|(to, _)| *to != from) {
            self.shares[from][to] += left * capacity(load) / total;
        }
    }

    fn give(&mut self, loads: &[Load], from: usize) {
        let demand = self.demand[from];
        if demand <= 0.0 {
            return;
        }
        let away: f64 = self.shares[from].iter().sum();
        let need = if loads[from].refuses { 1.0 } else { self.excess(loads, from) / demand };
        let share = need.min(self.rules.step_share).min(self.rules.share_max - away);
        if share > 0.0 {
            self.place(loads, from, share, None);
        }
    }

    /// Users come home step by step, the farthest first, as far as there is room below the middle of the two marks.
    fn take_back(&mut self, loads: &[Load], from: usize) {
        let demand = self.demand[from];
        let room = match (loads[from].capacity_per_s, loads[from].arrivals_per_s) {
            (Some(capacity), Some(arrivals)) => {
                let middle = (self.rules.high_water + self.rules.low_water) / 2.0;
                middle * capacity - arrivals.max(self.planned(from))
            }
            _ => f64::INFINITY,
        };
        let mut left = self.rules.step_share.min(if demand > 0.0 { room / demand } else { 1.0 });
        for to in self.neighbours[from].clone().into_iter().rev() {
            if left <= 0.0 {
                return;
            }
            let back = self.shares[from][to.at()].min(left);
            self.shares[from][to.at()] -= back;
            left -= back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: SpillRules = SpillRules { step_share: 0.1, high_water: 0.9, low_water: 0.8, share_max: 0.9 };

    fn ring(n: usize) -> Vec<Vec<RegionIdx>> {
        (0..n).map(|at| (1..n).map(|d| RegionIdx(((at + d) % n) as u8)).collect()).collect()
    }

    fn load(arrivals: f64, capacity: f64) -> Load {
        Load { usable: true, arrivals_per_s: Some(arrivals), capacity_per_s: Some(capacity), refuses: false }
    }

    #[test]
    fn gives_gradually_to_the_nearest_with_room_and_takes_back() {
        let mut spill = Spill::new(RULES, ring(3));
        let (a, b, c) = (RegionIdx(0), RegionIdx(1), RegionIdx(2));
        spill.step(&[load(1500.0, 1000.0), load(700.0, 1000.0), load(100.0, 1000.0)]);
        assert!((spill.share(a, b) - 100.0 / 1500.0).abs() < 1e-9, "all the room that b has: {}", spill.share(a, b));
        assert!((spill.away(a) - 0.1).abs() < 1e-9, "no more than a step");
        for _ in 0..20 {
            let arrive = |at| {
                (0..3)
                    .map(|f| {
                        1500.0f64.min([1500.0, 700.0, 100.0][f])
                            * [spill.share(RegionIdx(f as u8), at), 1.0 - spill.away(at)][usize::from(f == at.at())]
                    })
                    .sum::<f64>()
            };
            let loads = [load(arrive(a), 1000.0), load(arrive(b), 1000.0), load(arrive(c), 1000.0)];
            spill.step(&loads);
        }
        assert!((0.39..0.42).contains(&spill.away(a)), "down to the high water: {}", spill.away(a));
        for _ in 0..30 {
            spill.step(&[load(300.0 * (1.0 - spill.away(a)), 1000.0), load(700.0, 1000.0), load(100.0, 1000.0)]);
        }
        assert_eq!(spill.handover(a), Handover::None, "everybody is home again");
    }

    #[test]
    fn an_empty_region_keeps_its_users_when_all_are_empty() {
        let mut spill = Spill::new(RULES, ring(2));
        let empty = Load { refuses: true, ..load(500.0, 1000.0) };
        for _ in 0..5 {
            spill.step(&[empty, load(100.0, 1000.0)]);
        }
        assert!((spill.away(RegionIdx(0)) - 0.5).abs() < 0.01, "five steps: {}", spill.away(RegionIdx(0)));
        for _ in 0..10 {
            spill.step(&[empty, empty]);
        }
        assert_eq!(spill.away(RegionIdx(0)), 0.0, "no use in sending them where there is nothing either");
    }

    #[test]
    fn a_dead_regions_users_are_placed_at_once_and_by_room() {
        let mut spill = Spill::new(RULES, ring(3));
        spill.step(&[load(600.0, 1000.0), load(600.0, 1000.0), load(100.0, 1000.0)]);
        spill.step(&[Load { usable: false, ..load(0.0, 1000.0) }, load(600.0, 1000.0), load(100.0, 1000.0)]);
        let (b, c) = (spill.share(RegionIdx(0), RegionIdx(1)), spill.share(RegionIdx(0), RegionIdx(2)));
        assert!((b - 200.0 / 600.0).abs() < 1e-9 && (c - 400.0 / 600.0).abs() < 1e-9, "{b} {c}");
    }

    fn any_load() -> impl Strategy<Value = Load> {
        let rate = || proptest::option::weighted(0.9, 0.0f64..2000.0);
        (
            proptest::bool::weighted(0.8),
            rate(),
            proptest::option::weighted(0.9, 1.0f64..2000.0),
            proptest::bool::weighted(0.2),
        )
            .prop_map(|(usable, arrivals_per_s, capacity_per_s, refuses)| Load {
                usable,
                arrivals_per_s,
                capacity_per_s,
                refuses,
            })
    }

    proptest! {
        #[test]
        fn invariant_shares_are_shares_and_steps_are_small(
            steps in proptest::collection::vec(proptest::collection::vec(any_load(), 4), 1..30)
        ) {
            let mut spill = Spill::new(RULES, ring(4));
            for loads in steps {
                let before = spill.clone();
                spill.step(&loads);
                for (from, load) in loads.iter().enumerate() {
                    let at = RegionIdx(from as u8);
                    prop_assert!(spill.away(at) <= 1.0 + 1e-6, "{} of {from}", spill.away(at));
                    if load.usable {
                        prop_assert!(spill.away(at) <= before.away(at) + RULES.step_share + 1e-9);
                    }
                    for (to, other) in loads.iter().enumerate() {
                        let (now, was) = (spill.shares[from][to], before.shares[from][to]);
                        prop_assert!(now >= 0.0);
                        prop_assert!(from != to || now == 0.0, "nobody is handed over to himself");
                        prop_assert!(other.usable || now == 0.0, "{from} sends {now} to a region that is gone");
                        prop_assert!(!load.usable || !other.refuses || now <= was, "more sent to one that refuses");
                    }
                }
            }
        }
    }
}
