//! What the policy promises, tried on many views: grants stay within the pool and asks within what is available; steady
//! demand comes to rest; nobody with a queue starves while another idles with stock; the same view gives the same plan.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 6] = ["east", "west", "south", "north", "isle", "cape"];

fn name(number: usize) -> RegionId {
    RegionId::new(NAMES[number]).unwrap()
}

fn tickets(number: u64) -> Tickets {
    Tickets::new(number).unwrap()
}

/// A region with `free` available out of `granted`, the difference sold.
fn stock(free: u64, sold: u64, queued: u64, rate: u64) -> Stock {
    let row = Counters { granted: tickets(free + sold), held_in: tickets(sold), sold: tickets(sold), ..Counters::ZERO };
    let heads = (0..queued.div_ceil(2).min(32)).map(|at| tickets(if at * 2 + 1 == queued { 1 } else { 2 })).collect();
    let demand = Demand { queued: tickets(queued), head_quantities: heads, rate_per_min: tickets(rate), waited_ms: 0 };
    Stock { granted: row.granted, row, demand, weight: 1, ..Stock::default() }
}

fn view(pool: u64, stocks: Vec<Stock>) -> PoolView {
    let regions = stocks.into_iter().enumerate().map(|(number, stock)| (name(number), stock)).collect();
    PoolView { now_ms: 0, pool: tickets(pool), at_once: false, regions }
}

fn any_stock() -> impl Strategy<Value = Stock> {
    let amounts = (0_u64..3_000, 0_u64..3_000, 0_u64..5_000, 0_u64..10_000);
    (amounts, 0_u64..50, any::<bool>(), any::<bool>()).prop_map(
        |((free, sold, queued, rate), due, draining, silent)| {
            let mut stock = stock(free, sold, queued, rate);
            stock.granted += tickets(due);
            Stock { draining: draining && silent, silent: silent && !draining, ..stock }
        },
    )
}

/// A perfect world: everything arrives between two rounds. Each region sells at most `sells` a round out of its queue.
struct World {
    view: PoolView,
    memory: Memory,
    policy: Policy,
}

impl World {
    fn new(view: PoolView) -> Self {
        Self { view, memory: Memory::default(), policy: Policy::default() }
    }

    fn round(&mut self) -> Vec<Move> {
        let (moves, memory) = plan(&self.view, &self.memory, &self.policy);
        self.memory = memory;
        for made in &moves {
            match made {
                Move::Grant { region, granted } => {
                    let stock = self.view.regions.get_mut(region).unwrap();
                    self.view.pool -= *granted - stock.granted;
                    stock.granted = *granted;
                    stock.row.granted = *granted;
                }
                Move::Ask { region, return_up_to } => {
                    let stock = self.view.regions.get_mut(region).unwrap();
                    let back = *return_up_to - stock.row.returned;
                    assert!(back <= stock.row.available());
                    stock.row.returned = *return_up_to;
                    self.view.pool += back;
                }
            }
        }
        self.view.now_ms += self.policy.heartbeat_ms;
        moves
    }

    fn sell(&mut self, region: RegionId, most: u64) -> u64 {
        let stock = self.view.regions.get_mut(&region).unwrap();
        let sold = stock.row.available().min(stock.demand.queued).min(tickets(most));
        stock.row.held_in += sold;
        stock.row.sold += sold;
        stock.demand.queued -= sold;
        let left = stock.demand.queued.get();
        stock.demand.head_quantities = (0..left.min(32)).map(|_| tickets(1)).collect();
        sold.get()
    }
}

proptest! {
    #[test]
    fn moves_never_exceed_what_is_there(
        pool in 0_u64..5_000,
        stocks in prop::collection::vec(any_stock(), 1..6),
        rounds in 1_usize..4,
        at_once: bool,
    ) {
        let view = PoolView { at_once, ..view(pool, stocks) };
        let mut memory = Memory::default();
        for _ in 0..rounds {
            let (moves, next) = plan(&view, &memory, &Policy::default());
            memory = next;
            let mut granted_sum = Tickets::ZERO;
            for made in &moves {
                let stock = &view.regions[&made.region()];
                prop_assert!(!stock.silent, "a silent region is left alone: {made:?}");
                match made {
                    Move::Grant { granted, .. } => {
                        prop_assert!(!stock.draining && *granted > stock.granted, "{made:?}");
                        granted_sum += *granted - stock.granted;
                    }
                    Move::Ask { return_up_to, .. } => {
                        prop_assert!(*return_up_to > stock.row.returned, "{made:?}");
                        prop_assert!(*return_up_to - stock.row.returned <= stock.row.available(), "{made:?}");
                    }
                }
            }
            prop_assert!(granted_sum <= view.pool, "{granted_sum} of {}", view.pool);
            let mut regions = moves.iter().map(Move::region).collect::<Vec<_>>();
            regions.dedup();
            prop_assert_eq!(regions.len(), moves.len(), "one move for each region: {:?}", moves);
        }
    }

    #[test]
    fn the_same_view_gives_the_same_plan(
        pool in 0_u64..5_000,
        stocks in prop::collection::vec(any_stock(), 1..6),
    ) {
        let view = view(pool, stocks);
        let first = plan(&view, &Memory::default(), &Policy::default());
        prop_assert_eq!(first, plan(&view, &Memory::default(), &Policy::default()));
    }

    #[test]
    fn steady_demand_comes_to_rest(
        pool in 0_u64..50_000,
        demands in prop::collection::vec((0_u64..20_000, 0_u64..600, 0_u64..10_000), 2..6),
    ) {
        let stocks = demands.iter().map(|(free, queued, rate)| stock(*free, 0, *queued, *rate)).collect();
        let mut world = World::new(view(pool, stocks));
        for _ in 0..60 {
            world.round();
        }
        let before = world.view.clone();
        for _ in 0..10 {
            let moves = world.round();
            prop_assert!(moves.is_empty(), "still moving after a minute: {moves:?} in {before:?}");
        }
    }

    #[test]
    fn tickets_do_not_go_to_and_fro_under_steady_sales(
        pool in 5_000_u64..50_000,
        rates in prop::collection::vec(1_u64..40, 2..6),
    ) {
        // Each region gets as many new requests a round as it sells.
        let stocks = rates.iter().map(|rate| stock(0, 0, 10 * rate, 60 * rate)).collect();
        let mut world = World::new(view(pool, stocks));
        let mut last_ask = BTreeMap::new();
        for round in 0..100_u64 {
            for made in world.round() {
                match made {
                    Move::Ask { region, .. } => { last_ask.insert(region, round); }
                    Move::Grant { region, .. } => {
                        let asked = last_ask.get(&region).is_some_and(|at| round - at <= 10);
                        let stock = &world.view.regions[&region];
                        prop_assert!(!asked, "{region} gave, and got again, in round {round}: {stock:?}");
                    }
                }
            }
            for (number, rate) in rates.iter().enumerate() {
                let sold = world.sell(name(number), *rate);
                world.view.regions.get_mut(&name(number)).unwrap().demand.queued += tickets(sold);
            }
            let left = world.view.pool + world.view.regions.values().map(|stock| stock.row.available()).sum();
            if left < tickets(200 * rates.len() as u64) {
                break;
            }
        }
    }

    #[test]
    fn nobody_starves_while_another_idles(
        free in prop::collection::vec(1_u64..3_000, 1..5),
        queued in 1_u64..4_000,
    ) {
        let mut stocks = free.iter().map(|free| stock(*free, 0, 0, 0)).collect::<Vec<_>>();
        stocks.push(stock(0, 0, queued, 0));
        let dry = name(free.len());
        let mut world = World::new(view(0, stocks));
        let mut waited = 0;
        for _ in 0..2_000 {
            world.round();
            let sold = world.sell(dry, 500);
            waited = if sold == 0 { waited + 1 } else { 0 };
            let idle = world.view.regions.values().map(|stock| stock.row.available()).sum::<Tickets>();
            let queue = world.view.regions[&dry].demand.queued;
            if queue.is_zero() || (idle + world.view.pool).is_zero() {
                return Ok(());
            }
            prop_assert!(waited <= 3, "dry for {waited} rounds with {idle} idle elsewhere");
        }
        prop_assert!(false, "still selling after 2,000 rounds: {:?}", world.view);
    }
}

#[test]
fn slices_before_the_opening_follow_the_weights() {
    let mut view = view(100_000, vec![stock(0, 0, 0, 0), stock(0, 0, 0, 0), stock(0, 0, 0, 0)]);
    view.regions.get_mut(&name(0)).unwrap().weight = 2;
    let mut world = World::new(view);
    for _ in 0..5 {
        world.round();
    }
    // Two batches each: the rest stays in the pool until there is demand.
    let granted = world.view.regions.values().map(|stock| stock.granted.get()).collect::<Vec<_>>();
    assert_eq!(granted, [400, 400, 400]);
}

#[test]
fn a_pair_is_put_together_from_two_regions_that_cannot_use_their_single_tickets() {
    let mut stocks = vec![stock(1, 9, 2, 0), stock(1, 9, 2, 0)];
    for stock in &mut stocks {
        stock.demand.head_quantities = vec![tickets(2)];
    }
    let mut world = World::new(view(0, stocks));
    for _ in 0..4 {
        world.round();
    }
    let free = world.view.regions.values().map(|stock| stock.row.available().get()).collect::<Vec<_>>();
    assert!(free.contains(&2), "{free:?}");
}

#[test]
fn tickets_that_nobody_can_use_alone_are_put_together_long_before_the_end() {
    let mut stocks = vec![stock(50, 9, 60, 0), stock(50, 9, 70, 0)];
    for (stock, quantity) in stocks.iter_mut().zip([60, 70]) {
        stock.demand.head_quantities = vec![tickets(quantity)];
    }
    let mut world = World::new(view(0, stocks));
    world.policy.batch = tickets(10);
    let served = (0..4).any(|_| {
        world.round();
        // The next moment, an allocator would have sold them.
        world.view.regions.values().any(|stock| stock.row.available() >= stock.demand.head_quantities[0])
    });
    assert!(served, "{:?}", world.view);
}

#[test]
fn what_lies_ready_for_nobody_comes_after_everybody_who_waits() {
    // The first two wait for two each; the third has a hundred that nobody there wants. There are ten in the pool.
    let mut stocks = vec![stock(0, 0, 2, 600), stock(0, 0, 2, 0), stock(100, 0, 0, 0)];
    for (stock, waited_ms) in stocks.iter_mut().zip([9_000, 8_000, 0]) {
        stock.demand.waited_ms = waited_ms;
        stock.demand.head_quantities = vec![tickets(2)];
    }
    stocks[2].demand.head_quantities.clear();
    let (moves, _) = plan(&view(10, stocks), &Memory::default(), &Policy::default());
    let granted = |number| {
        let of = |made: &Move| match made {
            Move::Grant { region, granted } if *region == name(number) => Some(granted.get()),
            _ => None,
        };
        moves.iter().find_map(of).unwrap_or(0)
    };
    assert!(granted(0) >= 2 && granted(1) >= 2, "{moves:?}");
    assert_eq!(granted(0) + granted(1), 10, "{moves:?}");
}

#[test]
fn a_draining_region_is_asked_for_everything() {
    let mut leaving = stock(70, 30, 500, 100);
    leaving.draining = true;
    let (moves, _) = plan(&view(10, vec![leaving, stock(5, 0, 0, 0)]), &Memory::default(), &Policy::default());
    let ask = Move::Ask { region: name(0), return_up_to: tickets(70) };
    assert!(moves.contains(&ask), "{moves:?}");
}

#[test]
fn near_the_end_who_has_waited_for_longest_comes_first_in_whatever_region() {
    // Many wait in the first region, one person in each of the others; four tickets are left.
    let mut stocks = vec![stock(0, 90, 400, 9_000), stock(0, 9, 2, 60), stock(0, 9, 2, 60)];
    for (stock, waited_ms) in stocks.iter_mut().zip([1_000, 1_200, 300]) {
        stock.demand.waited_ms = waited_ms;
    }
    let (moves, _) = plan(&view(4, stocks), &Memory::default(), &Policy::default());
    let grant = |number, granted| Move::Grant { region: name(number), granted: tickets(granted) };
    let mut expected = vec![grant(0, 92), grant(1, 11)];
    expected.sort();
    assert_eq!(moves, expected);
}

#[test]
fn near_the_end_what_nobody_waits_for_lies_where_the_next_will_come() {
    // The second region has far more than will be asked for there; in the first it will be gone in a moment.
    let mut stocks = vec![stock(30, 90, 10, 5_400), stock(200, 9, 0, 600)];
    stocks[0].demand.waited_ms = 10;
    let mut world = World::new(view(0, stocks));
    for _ in 0..3 {
        world.round();
    }
    let free = |number| world.view.regions[&name(number)].row.available().get();
    assert!(free(0) > 180 && free(1) > 10, "{:?}", world.view);
}

#[test]
fn a_region_of_weight_zero_has_a_share_only_by_its_demand() {
    let mut view = view(100_000, vec![stock(0, 0, 0, 0), stock(0, 0, 0, 0)]);
    view.regions.get_mut(&name(0)).unwrap().weight = 0;
    let mut world = World::new(view);
    for _ in 0..5 {
        world.round();
    }
    let granted = |world: &World, number| world.view.regions[&name(number)].granted.get();
    assert_eq!((granted(&world, 0), granted(&world, 1)), (0, 400));
    world.view.regions.get_mut(&name(0)).unwrap().demand = stock(0, 0, 20, 600).demand;
    world.round();
    assert!(granted(&world, 0) >= 20, "{:?}", world.view);
}
