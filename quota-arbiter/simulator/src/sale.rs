//! A sale without accidents, most of whose buyers come to one region: how long it takes to sell out, beside the same
//! buyers at one region that has every ticket from the start. Virtual time, so the figures are the protocol's and not
//! the machine's.

use quota_protocol::{OrderId, Tickets};

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
    /// The longest time that a region had a request and nothing that could serve it, while another region had enough
    /// that nobody there asked for.
    pub starved_max_ms: u64,
    /// For each region, orders sold and orders that came.
    pub regions: Vec<(usize, usize)>,
    /// What was wrong; empty for a good sale.
    pub problems: Vec<String>,
}

/// Sells `tickets` to twice as many buyers' wishes, `skew_per_mille` of whom come to the first of `regions`. With
/// `one_pool`, the same buyers at the same moments all come to one region that has everything.
pub fn skewed_sale(regions: usize, tickets: u32, skew_per_mille: u64, one_pool: bool, seed: u64) -> Sale {
    let count = if one_pool { 1 } else { regions };
    let settings = Settings { regions: count, tickets, chaos_ms: 0 };
    let mut world = World::new(settings, seed, false);
    (world.calm, world.refunds, world.to_arrive) = (true, false, 0);
    world.policy.batch = Tickets::from_u32(if one_pool { tickets } else { (tickets / 50).max(4) });
    let pool = world.pools[0];
    let mut came = vec![0; count];
    let mut dice = Dice::new(seed ^ 0xA11);
    let (mut wanted, mut number) = (0, 0);
    while wanted < u64::from(tickets) * 2 {
        let skewed = dice.per_mille(skew_per_mille);
        let home = if skewed { 0 } else { dice.below(regions as u64) as usize };
        let home = if one_pool { 0 } else { home };
        let quantity = dice.between(1, 4);
        wanted += quantity;
        number += 1;
        came[home] += 1;
        let quantity = Tickets::from_u32(quantity as u32);
        let buyer = Buyer { order: OrderId::new(number), pool, quantity };
        let at = OPENS_MS + dice.below(ARRIVALS_MS);
        world.after(at, Event::Join(home, buyer));
    }
    for region in &mut world.regions {
        region.batch_orders = 500;
    }
    world.run_until(OPENS_MS);
    let (mut starving, mut starved_max_ms) = (vec![0_u64; count], 0);
    for _ in 0..(ARRIVALS_MS + 60_000) / LOOK_MS {
        let until_ms = world.now_ms + LOOK_MS;
        world.run_until(until_ms);
        let free = |number: usize| {
            let database = world.regions[number].database.as_ref();
            database.map(|database| database.counters(&pool).available()).unwrap_or_default()
        };
        // What others have beyond what their own queue would take.
        let idle = |number: usize| {
            let queued = world.regions[number].queue.iter().map(|buyer| buyer.quantity).sum();
            free(number).minus_or_zero(queued)
        };
        for (at, starving) in starving.iter_mut().enumerate() {
            let least = world.regions[at].queue.iter().map(|buyer| buyer.quantity).min();
            let starves = least
                .is_some_and(|least| free(at) < least && (0..count).any(|other| other != at && idle(other) >= least));
            *starving = if starves { *starving + LOOK_MS } else { 0 };
            starved_max_ms = starved_max_ms.max(*starving);
        }
    }
    let state = world.state().map(|state| state.issuer().clone()).unwrap_or_default();
    let rows = world.regions.iter().filter_map(|region| region.database.as_ref());
    let left = state.pools().get(&pool).map(|book| book.pool).unwrap_or_default()
        + rows.map(|database| database.counters(&pool).available()).sum();
    let ids = world.regions.iter().map(|region| region.id).collect::<Vec<_>>();
    Sale {
        sold_out_ms: world.last_sale_ms.saturating_sub(OPENS_MS),
        left: left.get(),
        starved_max_ms,
        regions: ids.into_iter().zip(came).map(|(id, came)| (world.auditor.orders_sold(id), came)).collect(),
        problems: std::mem::take(&mut world.auditor.problems),
    }
}
