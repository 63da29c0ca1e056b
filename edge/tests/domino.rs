//! A simulation of regions that fall over when too many people come: naming the nearest one, the fall of the first brings
//! down the rest one after the other; with hand-overs by room it stops at the first.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use edge::choice::RegionIdx;
use edge::live::{Load, Spill, SpillRules};
use proptest::prelude::*;

const RULES: SpillRules = SpillRules { step_share: 0.1, high_water: 0.9, low_water: 0.8, share_max: 0.9 };
/// A region dies when it has had more than this times its capacity for three steps.
const BREAKING: f64 = 1.2;
const PATIENCE: u32 = 3;

struct World {
    capacity: Vec<f64>,
    demand: Vec<f64>,
    alive: Vec<bool>,
    strained: Vec<u32>,
    arrivals: Vec<f64>,
    /// Where users of each region went in the step before: half of them still have that answer in a cache.
    cached: Vec<Vec<f64>>,
}

/// Regions in a row, each next to the following ones.
fn row(n: usize) -> Vec<Vec<RegionIdx>> {
    let near = |at: usize| {
        let mut others: Vec<usize> = (0..n).filter(|o| *o != at).collect();
        others.sort_by_key(|o| (at.abs_diff(*o), *o));
        others.into_iter().map(|o| RegionIdx(o as u8)).collect()
    };
    (0..n).map(near).collect()
}

impl World {
    fn new(capacity: Vec<f64>, demand: Vec<f64>) -> Self {
        let n = capacity.len();
        let home = (0..n).map(|at| (0..n).map(|to| f64::from(u8::from(at == to))).collect()).collect();
        Self { arrivals: demand.clone(), capacity, demand, alive: vec![true; n], strained: vec![0; n], cached: home }
    }

    fn loads(&self) -> Vec<Load> {
        let one = |at: usize| Load {
            usable: self.alive[at],
            arrivals_per_s: self.alive[at].then(|| self.arrivals[at]),
            capacity_per_s: Some(self.capacity[at]),
            refuses: false,
        };
        (0..self.capacity.len()).map(one).collect()
    }

    /// Users follow `routes`, half of them one step late; who is sent to a dead region gets no service and asks again.
    fn step(&mut self, routes: Vec<Vec<f64>>) {
        let n = self.capacity.len();
        let going = |from: usize, to: usize| self.demand[from] * (routes[from][to] + self.cached[from][to]) / 2.0;
        self.arrivals = (0..n).map(|to| (0..n).map(|from| going(from, to)).sum()).collect();
        self.cached = routes;
        for at in 0..n {
            let too_many = self.alive[at] && self.arrivals[at] > BREAKING * self.capacity[at];
            self.strained[at] = if too_many { self.strained[at] + 1 } else { 0 };
            if self.strained[at] >= PATIENCE {
                self.alive[at] = false;
            }
        }
    }

    fn deaths(&self) -> usize {
        self.alive.iter().filter(|alive| !**alive).count()
    }
}

fn by_nearest(world: &World, neighbours: &[Vec<RegionIdx>]) -> Vec<Vec<f64>> {
    let n = world.alive.len();
    let route = |from: usize| {
        let order = std::iter::once(from).chain(neighbours[from].iter().map(|r| r.at()));
        let to = order.into_iter().find(|to| world.alive[*to]).unwrap_or(from);
        (0..n).map(|at| f64::from(u8::from(at == to))).collect()
    };
    (0..n).map(route).collect()
}

fn by_spill(world: &World, spill: &Spill) -> Vec<Vec<f64>> {
    let n = world.alive.len();
    let idx = |at: usize| RegionIdx(at as u8);
    let route = |from: usize| {
        let to = |to: usize| if from == to { 1.0 - spill.away(idx(from)) } else { spill.share(idx(from), idx(to)) };
        (0..n).map(to).collect()
    };
    (0..n).map(route).collect()
}

/// Lets a world run, kills its first region after ten steps, and counts the dead in the end.
fn run(mut world: World, with_spill: bool) -> usize {
    let neighbours = row(world.capacity.len());
    let mut spill = Spill::new(RULES, neighbours.clone());
    for step in 0..100 {
        if step == 10 {
            world.alive[0] = false;
        }
        spill.step(&world.loads());
        let routes = if with_spill { by_spill(&world, &spill) } else { by_nearest(&world, &neighbours) };
        world.step(routes);
    }
    world.deaths()
}

#[test]
fn the_nearest_alone_falls_like_dominoes_and_hand_overs_stop_it() {
    let world = || World::new(vec![1000.0; 6], vec![700.0; 6]);
    assert_eq!(run(world(), false), 6, "700 on top of 700 is more than 1,200: each takes the next one along");
    assert_eq!(run(world(), true), 1, "the others have 500 to spare at the low water and 200 more between the marks");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whenever those who are left could serve everybody, nobody else falls.
    #[test]
    fn invariant_a_fall_stops_where_there_is_room(
        regions in proptest::collection::vec((200.0f64..2000.0, 0.2f64..0.85), 3..8)
    ) {
        let capacity: Vec<f64> = regions.iter().map(|(c, _)| *c).collect();
        let demand: Vec<f64> = regions.iter().map(|(c, part)| c * part).collect();
        prop_assume!(demand.iter().sum::<f64>() <= 0.95 * capacity[1..].iter().sum::<f64>());
        prop_assert_eq!(run(World::new(capacity, demand), true), 1);
    }

    /// A crowd that comes to one region alone is spread until nobody is strained, without anybody else falling.
    #[test]
    fn invariant_a_crowd_at_one_door_is_spread(crowd in 1.0f64..1.15, others in 0.1f64..0.5, n in 3usize..7) {
        let capacity = vec![1000.0; n];
        let mut demand = vec![1000.0 * others; n];
        demand[0] = 1000.0 * crowd;
        let neighbours = row(n);
        let mut world = World::new(capacity, demand);
        let mut spill = Spill::new(RULES, neighbours);
        for _ in 0..60 {
            spill.step(&world.loads());
            let routes = by_spill(&world, &spill);
            world.step(routes);
        }
        prop_assert_eq!(world.deaths(), 0);
        prop_assert!(world.arrivals.iter().all(|a| *a <= 930.0), "{:?}", world.arrivals);
    }
}
