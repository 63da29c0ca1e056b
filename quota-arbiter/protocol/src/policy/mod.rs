//! Which tickets are worth moving: a pure function from what is known of a pool to moves. Somebody else carries them
//! out, and the issuer checks each one again, so that a bad plan can be unfair or slow but never sell a ticket twice.
//!
//! In ordinary times each region gets a small hard grant out of its share and the rest stays in the pool, earmarked by
//! nothing but these targets. Near the end free tickets go to whoever has waited for longest, in whatever region, as one
//! queue for everybody would have it. The idea of a planner that only returns moves is FoundationDB's data distributor's.

mod endgame;
mod ordinary;
mod share;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use share::split;

use crate::{
    counters::{Counters, Tickets},
    ids::RegionId,
    message::Demand,
};

/// The tuning knobs. Large hard grants survive long partitions and strand more; small ones the reverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Tickets that an allocator decides in one batch.
    pub batch: Tickets,
    /// Weight that a region has without any demand, times its operator's weight; so none where that is 0.
    pub weight_floor: Tickets,
    /// How far ahead demand counts.
    pub horizon_ms: u64,
    /// Between two reports of a region.
    pub heartbeat_ms: u64,
    /// From a region to the arbiters and back.
    pub round_trip_ms: u64,
    /// How long a region should be able to sell without the arbiters.
    pub autonomy_target_ms: u64,
    /// A region is left alone while it is this close to its target, in percent.
    pub tolerance_percent: u64,
    /// After a region gave or got, it is left alone for so long, unless it is dry with a queue.
    pub cooldown_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            batch: Tickets::from_u32(200),
            weight_floor: Tickets::from_u32(10),
            horizon_ms: 30_000,
            heartbeat_ms: 1_000,
            round_trip_ms: 250,
            autonomy_target_ms: 10_000,
            tolerance_percent: 5,
            cooldown_ms: 2_000,
        }
    }
}

/// What is known of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// Now, on the planner's own clock.
    pub now_ms: u64,
    /// P, as far as it may be granted: zero while the pool is frozen.
    pub pool: Tickets,
    /// Do it now: an operator asked. Tolerance and cooldown do not count.
    pub at_once: bool,
    /// Every region that is not written off.
    pub regions: BTreeMap<RegionId, Stock>,
}

/// What is known of one region's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Nothing is granted to it, and everything is asked back.
    pub draining: bool,
    /// Not heard from lately: left alone, whatever it seems to have.
    pub silent: bool,
    /// The operator's weight. With 0 a region has no share but what its demand makes.
    pub weight: u32,
    /// G
    pub granted: Tickets,
    /// Its latest row.
    pub row: Counters,
    /// What people there want.
    pub demand: Demand,
}

/// One move. Both carry a cumulative target, so that doing it twice is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// Grant the region up to this many, ever.
    Grant {
        /// The region.
        region: RegionId,
        /// Granted, ever.
        granted: Tickets,
    },
    /// Ask the region to have returned this many, ever.
    Ask {
        /// The region.
        region: RegionId,
        /// Returned, ever.
        return_up_to: Tickets,
    },
}

/// What one plan leaves for the next. Losing it (a new leader) costs a round or two of patience, nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    regions: BTreeMap<RegionId, RegionMemory>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RegionMemory {
    /// Moving average of the demand, in thousandths of a ticket per minute.
    demand_milli_per_min: u64,
    /// Rounds in a row in which the region was off its target.
    off_rounds: u8,
    /// When it gave or got last.
    moved_at_ms: Option<u64>,
}

/// A region as the planner reckons with it.
struct Reckoned<'a> {
    region: RegionId,
    stock: &'a Stock,
    memory: RegionMemory,
    /// Free there, undelivered grants included.
    free: Tickets,
    /// Free there by its own report: what it could give back now.
    available: Tickets,
}

impl Reckoned<'_> {
    /// Its queue's first request cannot be served from what it has, and nothing is on its way.
    fn dry(&self) -> bool {
        let wants = self.stock.demand.head_quantities.iter().min().copied().unwrap_or(Tickets::from_u32(1));
        !self.stock.demand.queued.is_zero() && self.free < wants
    }

    fn cooling(&self, view: &PoolView, policy: &Policy) -> bool {
        self.memory.moved_at_ms.is_some_and(|at| view.now_ms.saturating_sub(at) < policy.cooldown_ms)
    }
}

/// What each region should have: by how much more or less than it has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Keep,
    /// So many more; of these, `need` for people who wait, and the rest to lie ready for the next ones.
    More {
        need: Tickets,
        more: Tickets,
    },
    /// It can spare so many.
    Spare(Tickets),
}

impl Wish {
    /// So many more, all of them needed.
    fn more(more: Tickets) -> Self {
        Self::More { need: more, more }
    }
}

/// The moves worth making now. Grants never add up to more than the pool, and no region is asked for more than it has
/// available. The same view and memory give the same moves.
pub fn plan(view: &PoolView, memory: &Memory, policy: &Policy) -> (Vec<Move>, Memory) {
    let mut active = Vec::new();
    let mut moves = Vec::new();
    let mut next = Memory::default();
    for (id, stock) in &view.regions {
        let mut remembered = memory.regions.get(id).copied().unwrap_or_default();
        let milli = u128::from(stock.demand.rate_per_min.get()) * 1_000;
        remembered.demand_milli_per_min = ((u128::from(remembered.demand_milli_per_min) * 3 + milli) / 4) as u64;
        let available = stock.row.available();
        if stock.draining && !stock.silent && !available.is_zero() {
            moves.push(Move::Ask { region: *id, return_up_to: stock.row.returned + available });
        }
        if stock.draining || stock.silent {
            next.regions.insert(*id, remembered);
            continue;
        }
        let free = available + stock.granted.minus_or_zero(stock.row.granted);
        active.push(Reckoned { region: *id, stock, memory: remembered, free, available });
    }
    let all = view.pool + active.iter().map(|region| region.free).sum::<Tickets>();
    let queues = active.iter().any(|region| !region.stock.demand.queued.is_zero());
    let mut near_end = all.get() < policy.batch.get().saturating_mul(active.len() as u64) && queues;
    let mut wishes = Vec::new();
    if !near_end {
        wishes = ordinary::wishes(&mut active, all, view, policy);
        near_end = queues && stuck(&active, &wishes, view.pool);
    }
    if near_end {
        // With nothing left anywhere there is nothing to sort out, and this is how a sold-out pool stays for hours.
        wishes = if all.is_zero() { vec![Wish::Keep; active.len()] } else { endgame::wishes(&active, all, policy) };
    }
    moves.extend(moves_for(&active, &wishes, view, policy, near_end));
    for region in &mut active {
        let moved = moves.iter().any(|made| made.region() == region.region);
        if moved {
            region.memory.moved_at_ms = Some(view.now_ms);
            region.memory.off_rounds = 0;
        }
        next.regions.insert(region.region, region.memory);
    }
    moves.sort();
    (moves, next)
}

/// Somebody waits for more than their region has, the pool does not have it either, and nobody has any to spare: each
/// has a few that its own queue cannot use. Only together are they of use, and putting them together is the endgame.
fn stuck(active: &[Reckoned<'_>], wishes: &[Wish], pool: Tickets) -> bool {
    let spare = wishes.iter().any(|wish| matches!(wish, Wish::Spare(_)));
    let needs = active.iter().zip(wishes).any(|(region, wish)| match wish {
        Wish::More { more, .. } => region.dry() && *more > pool,
        Wish::Keep | Wish::Spare(_) => false,
    });
    needs && !spare
}

impl Move {
    /// The region that it concerns.
    pub fn region(&self) -> RegionId {
        match self {
            Self::Grant { region, .. } | Self::Ask { region, .. } => *region,
        }
    }
}

/// Grants from the pool first; what is missing then is asked of those who can spare it.
fn moves_for(active: &[Reckoned<'_>], wishes: &[Wish], view: &PoolView, policy: &Policy, near_end: bool) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut pool = view.pool;
    let mut missing = Tickets::ZERO;
    let mut urgent = false;
    // Those who have nothing for their queue come first, then who has waited for longest, then the longest queue.
    let mut order = (0..active.len()).collect::<Vec<_>>();
    order.sort_by_key(|at| {
        let region = &active[*at];
        let Demand { waited_ms, queued, .. } = region.stock.demand;
        (!region.dry(), std::cmp::Reverse((waited_ms, queued)), region.region)
    });
    let mut given = vec![Tickets::ZERO; active.len()];
    for &at in &order {
        let (region, Wish::More { need, .. }) = (&active[at], wishes[at]) else { continue };
        let now = need.min(pool);
        // A part that no waiting request can use would only strand tickets in another place.
        let now = if near_end && now < need { endgame::usable(region, now) } else { now };
        pool -= now;
        given[at] = now;
        urgent |= now < need && region.dry();
    }
    // What is to lie ready for the next ones comes after everybody who waits.
    for at in order {
        let (region, Wish::More { need, more }) = (&active[at], wishes[at]) else { continue };
        if given[at] >= need {
            let ready = (more - need).min(pool);
            pool -= ready;
            given[at] += ready;
        }
        if !given[at].is_zero() {
            moves.push(Move::Grant { region: region.region, granted: region.stock.granted + given[at] });
        }
        missing += more - given[at];
    }
    let mut donors = (0..active.len())
        .filter_map(|at| match wishes[at] {
            Wish::Spare(spare) => Some((at, spare)),
            Wish::Keep | Wish::More { .. } => None,
        })
        .filter(|(at, _)| near_end || urgent || view.at_once || !active[*at].cooling(view, policy))
        .collect::<Vec<_>>();
    donors.sort_by_key(|(at, spare)| (std::cmp::Reverse(*spare), active[*at].region));
    let mut wanted = missing;
    if near_end {
        // Who has more than twice what is due there gives the rest back before anybody misses it: from the pool it is
        // soonest where it will be wanted.
        let surplus = donors.iter().filter(|(at, spare)| *spare > active[*at].free - *spare).map(|(_, spare)| *spare);
        wanted = wanted.max(surplus.sum());
    }
    for (at, spare) in donors {
        let region = &active[at];
        let half = Tickets::from_u32(1).max(half(region.available));
        let most = if near_end { region.available } else { half.min(region.available) };
        let asked = spare.min(most).min(wanted);
        if !asked.is_zero() {
            wanted -= asked;
            moves.push(Move::Ask { region: region.region, return_up_to: region.stock.row.returned + asked });
        }
    }
    moves
}

fn half(tickets: Tickets) -> Tickets {
    Tickets::new(tickets.get() / 2).unwrap_or(Tickets::ZERO)
}
