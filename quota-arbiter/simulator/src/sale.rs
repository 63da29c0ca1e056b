//! A sale without accidents, most of whose buyers come to one region: how long it takes to sell out, beside the same
//! buyers at one region that has every ticket from the start. Virtual time, so the figures are the protocol's and not
//! the machine's.

use quota_protocol::{Holder, OrderId, PoolId, Tickets};

use crate::{
    Settings,
    dice::Dice,
    region::Buyer,
    world::{Event, World},
};

/// When regions and slices stand, and the sale opens.
const OPENS_MS: u64 = 10_000;
/// Over how long the buyers come.
const ARRIVALS_MS: u64 = 20_000;
/// How often it is looked whether somebody starves.
const LOOK_MS: u64 = 50;

/// What came of a sale.
#[derive(Clone, Debug, PartialEq)]
pub struct Sale {
    /// From the opening to the last sale.
    pub sold_out_ms: u64,
    /// Tickets left at the end.
    pub left: u64,
    /// The longest time that one region had a request and nothing that could serve it, while one other region had enough
    /// that nobody there asked for.
    pub starved_max_ms: u64,
    /// The longest time that a region had a request and nothing that could serve it, while any other region had enough: now
    /// this one, now that one, for in a sale tickets come back all the time, and go to who has waited for longer.
    pub passed_max_ms: u64,
    /// For each region that a buyer came to (or would have, with one pool).
    pub regions: Vec<Odds>,
    /// What was wrong; empty for a good sale.
    pub problems: Vec<String>,
}

/// How the buyers of one region fared, all who came there over the time of the sale. Everywhere they come over the same
/// time, want the same and are as ready to pay, so what differs is what the regions had for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// Buyers.
    pub came: usize,
    /// Of those, how many got a hold. Whether they then paid is their own affair.
    pub offered: usize,
}

impl Odds {
    /// The chance of a buyer.
    pub fn chance(&self) -> f64 {
        self.offered as f64 / self.came as f64
    }
}

/// By how much the odds of regions differ: the best less the worst, as a part of the mean over all buyers.
///
/// Odds are a probability, and this is what some buyers met with: it also has in it what chance gave to some regions in
/// these sales, which becomes less the more buyers there were. See [`scatter`].
pub fn spread(regions: &[Odds]) -> f64 {
    let chances = regions.iter().filter(|odds| odds.came > 0).map(Odds::chance);
    let (worst, best) = chances.fold((f64::MAX, 0.0), |(worst, best), chance| (chance.min(worst), chance.max(best)));
    let add = |sum: Odds, odds: &Odds| Odds { came: sum.came + odds.came, offered: sum.offered + odds.offered };
    (best - worst) / regions.iter().fold(Odds::default(), add).chance()
}

/// How far off chance leaves the odds of a region, typically, as a part of the mean: the standard error by how they
/// scatter from sale to sale, of the middle region of all.
pub fn scatter(sales: &[Vec<Odds>]) -> f64 {
    let count = sales.len() as f64;
    let regions = sales.first().map_or(0, Vec::len);
    let mut errors = Vec::with_capacity(regions);
    for region in 0..regions {
        let chances = sales.iter().map(|sale| sale[region].chance()).filter(|chance| chance.is_finite());
        let mean = chances.clone().sum::<f64>() / count;
        let squares = chances.map(|chance| (chance - mean).powi(2)).sum::<f64>();
        errors.push((squares / (count - 1.0) / count).sqrt() / mean);
    }
    errors.sort_by(f64::total_cmp);
    errors[regions / 2]
}

/// Sells `tickets` to twice as many buyers' wishes, `skew_per_mille` of whom come to the first of `regions`. With
/// `one_pool`, the same buyers at the same moments all come to one region that has everything.
///
/// A region's buyers come evenly over the time, each at a moment of his own within his share of it: with one queue for
/// everybody, all regions would have the same odds. So a difference is the system's doing and not the arrivals'.
pub fn skewed_sale(regions: usize, tickets: u32, skew_per_mille: u64, one_pool: bool, seed: u64) -> Sale {
    let count = if one_pool { 1 } else { regions };
    let settings = Settings { regions: count, tickets, chaos_ms: 0 };
    let batch = if one_pool { tickets } else { (tickets / 50).max(4) };
    let mut world = World::new(settings, batch, seed, false);
    (world.calm, world.refunds, world.to_arrive) = (true, false, 0);
    let pool = world.pools[0];
    let homes = arrivals(&mut world, regions, skew_per_mille, one_pool, seed);
    for region in &mut world.regions {
        region.batch_orders = 500;
    }
    world.run_until(OPENS_MS);
    let mut starving = Starving::new(count);
    for _ in 0..(ARRIVALS_MS + 60_000) / LOOK_MS {
        let until_ms = world.now_ms + LOOK_MS;
        world.run_until(until_ms);
        starving.look(&world, &pool);
        let rows = world.regions.iter().filter_map(|region| region.database.as_ref());
        if rows.map(|database| database.counters(&pool).sold).sum::<Tickets>() == world.total {
            break;
        }
    }
    let state = world.state().map(|state| state.issuer().clone()).unwrap_or_default();
    let rows = world.regions.iter().filter_map(|region| region.database.as_ref());
    let left = state.pools().get(&pool).map(|book| book.pool).unwrap_or_default()
        + rows.map(|database| database.counters(&pool).available()).sum();
    let mut fared = vec![Odds::default(); regions];
    for (order, home) in homes {
        let orders = world.regions.iter().filter_map(|region| region.database.as_ref()).map(Holder::orders);
        fared[home].came += 1;
        fared[home].offered += usize::from(orders.into_iter().any(|orders| orders.contains_key(&order)));
    }
    Sale {
        sold_out_ms: world.last_sale_ms.saturating_sub(OPENS_MS),
        left: left.get(),
        starved_max_ms: starving.max_ms,
        passed_max_ms: starving.passed_max_ms,
        regions: fared,
        problems: std::mem::take(&mut world.auditor.problems),
    }
}

/// For how long regions have starved.
struct Starving {
    /// For each region, because of each other.
    because_of_ms: Vec<Vec<u64>>,
    at_all_ms: Vec<u64>,
    max_ms: u64,
    passed_max_ms: u64,
}

impl Starving {
    fn new(count: usize) -> Self {
        Self { because_of_ms: vec![vec![0; count]; count], at_all_ms: vec![0; count], max_ms: 0, passed_max_ms: 0 }
    }

    /// To be called every [`LOOK_MS`].
    fn look(&mut self, world: &World, pool: &PoolId) {
        let mut regions = Vec::with_capacity(world.regions.len());
        for region in &world.regions {
            let free = region.database.as_ref().map(|database| database.counters(pool).available()).unwrap_or_default();
            let queued = region.queue.iter().map(|buyer| buyer.quantity).sum::<Tickets>();
            let least = region.queue.iter().map(|buyer| buyer.quantity).min();
            // What it has beyond what its own queue would take.
            regions.push((least.filter(|least| free < *least), free.minus_or_zero(queued)));
        }
        for (at, (wants, _)) in regions.iter().enumerate() {
            let mut starves = false;
            for (other, (_, idle)) in regions.iter().enumerate() {
                let because = other != at && wants.is_some_and(|least| *idle >= least);
                starves |= because;
                let for_ms = &mut self.because_of_ms[at][other];
                *for_ms = if because { *for_ms + LOOK_MS } else { 0 };
                self.max_ms = self.max_ms.max(*for_ms);
            }
            self.at_all_ms[at] = if starves { self.at_all_ms[at] + LOOK_MS } else { 0 };
            self.passed_max_ms = self.passed_max_ms.max(self.at_all_ms[at]);
        }
    }
}

/// Lays out the buyers, and says to which region each of them comes.
fn arrivals(
    world: &mut World,
    regions: usize,
    skew_per_mille: u64,
    one_pool: bool,
    seed: u64,
) -> Vec<(OrderId, usize)> {
    let mut dice = Dice::new(seed ^ 0xA11);
    let mut queues = vec![Vec::new(); regions];
    let (mut wanted, mut homes) = (0, Vec::new());
    while wanted < u64::from(world.settings.tickets) * 2 {
        let skewed = dice.per_mille(skew_per_mille);
        let home = if skewed { 0 } else { dice.below(regions as u64) as usize };
        let quantity = dice.between(1, 4);
        wanted += quantity;
        let order = OrderId::new(homes.len() as u128 + 1);
        homes.push((order, home));
        queues[home].push((order, Tickets::from_u32(quantity as u32)));
    }
    for (home, queue) in queues.into_iter().enumerate() {
        let share_ms = ARRIVALS_MS as f64 / queue.len() as f64;
        for (place, (order, quantity)) in queue.into_iter().enumerate() {
            let chance = dice.below(1_000) as f64 / 1_000.0;
            let joined_ms = OPENS_MS + (share_ms * (place as f64 + chance)) as u64;
            let buyer = Buyer { order, pool: world.pools[0], quantity, joined_ms };
            world.after(joined_ms, Event::Join(if one_pool { 0 } else { home }, buyer));
        }
    }
    homes
}
