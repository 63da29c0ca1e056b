//! Invariants across regions and arbiters: the protocol's I1 to I4 over the arbiters' logs and the regions' ledgers, and
//! people who might have more in two regions than in one.
//!
//! The log was read before the ledgers and after them. What the arbiters had accepted *before* must have left its region
//! by then; what a region has must have been granted *after*: so that tickets on their way are no problem, whenever the
//! books are read.

use super::books::Books;
use super::history::{Accounts, Arbitration, PLACE};
use super::people::keeps_tickets;
use super::problem::Found;
use super::replay::Replay;
use super::tickets_move;
use quota_protocol::invariant::{
    invariant_agreement, invariant_growth, invariant_no_oversell, invariant_nothing_stranded, invariant_row,
};
use quota_protocol::issuer::{Issuer, RegionState, Slice};
use quota_protocol::{Counters, PoolId, RegionId, Tickets, TierId};
use region_api::wire::QuotaColumns;
use region_api::wire::books::RowState;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// I2 to I4 for every row of every region, recomputed from its ledger, and the database is the one that speaks for it.
pub fn invariant_regions(books: &[Books], accounts: &Accounts, found: &mut Found) {
    for books in books {
        let place = books.place();
        let Ok(region) = books.state.region.as_str().parse::<RegionId>() else { continue };
        let known = accounts.after.issuer.regions().get(&region);
        if known.is_none() {
            found.add("invariant_agreement", &place, "the arbiters do not know this region".to_owned());
        }
        if known.is_some_and(|known| known.state != RegionState::WrittenOff) {
            seeded(books, &region, &accounts.after, found);
        }
        let state = known.map(|known| known.state);
        let current = known.map(|known| known.epoch.get() as i64);
        for (tier, id, quota, row) in rows(books) {
            if let Err(broken) = invariant_row(&row) {
                found.add("invariant_row", &place, format!("{id}: {broken}"));
            }
            if state == Some(RegionState::WrittenOff) {
                written_off(&place, &id, &row, &accounts.after.issuer.slice(&region, &id), found);
                continue;
            }
            let (before, after) =
                (accounts.before.issuer.slice(&region, &id), accounts.after.issuer.slice(&region, &id));
            let slice = Slice { accepted: before.accepted, ..after };
            if let Err(broken) = invariant_agreement(&slice, &row) {
                found.add("invariant_agreement", &place, format!("{id}: {broken}"));
            }
            // The floor is of what the row says, which counts a sale when it is folded.
            if let Err(broken) = invariant_growth(&before.floor, &quota) {
                found.add("invariant_growth", &place, format!("{id}: below what was reported: {broken}"));
            }
            let epoch = books.state.quota.iter().find(|row| row.tier == tier).map(|row| row.epoch);
            if current.is_some() && epoch.is_some_and(|epoch| epoch != 0 && Some(epoch) > current) {
                let detail = format!("{id}: of epoch {epoch:?}, the arbiters gave out {current:?}");
                found.add("invariant_agreement", &place, detail);
            }
        }
        totals(books, &accounts.after, found);
    }
}

/// A row begins with sales of an earlier database only where the region was written off, and with as many as its operator
/// counted then. Where no log goes back that far, or arbiters were restored that may know nothing of it, the count is the
/// region's own (`proof.rs` says so).
fn seeded(books: &Books, region: &RegionId, replay: &Replay, found: &mut Found) {
    let fenced = replay.issuer.regions().get(region).is_some_and(|known| known.fenced.is_some());
    let never = !fenced && replay.issuer.incarnation().count() == 0;
    let counted = replay.written_off.get(region);
    for quota in &books.state.quota {
        let tier = usize::try_from(quota.tier).ok().and_then(|number| books.state.definition.tiers.get(number));
        let Some(id) = tier.and_then(|tier| pool_id(books, tier.tier.as_str())) else { continue };
        let expected = match counted {
            _ if never => 0,
            Some(counted) => counted.sold.get(&id).map_or(0, |sold| sold.get()),
            None => continue,
        };
        if quota.seeded.unsigned_abs() != expected {
            let detail = format!("{id}: begins with {} sales, the arbiters know of {expected}", quota.seeded);
            found.add("invariant_agreement", &books.place(), detail);
        }
    }
}

/// A database that was written off and can be read all the same: it must not have sold more than its operator counted,
/// since the rest is somebody else's now.
fn written_off(place: &str, id: &PoolId, row: &Counters, slice: &Slice, found: &mut Found) {
    let counted = slice.granted.minus_or_zero(slice.accepted);
    if row.sold_net() > counted {
        let sold = row.sold_net();
        let detail = format!("{id}: the database that was written off sold {sold}, {counted} were counted then");
        found.add("invariant_no_oversell", place, detail);
    }
}

/// A region's definition states the arbiters' totals. One that is cut off may be behind, never ahead.
fn totals(books: &Books, replay: &Replay, found: &mut Found) {
    for tier in &books.state.definition.tiers {
        let Some(id) = pool_id(books, tier.tier.as_str()) else { continue };
        if !replay.issuer.pools().contains_key(&id) {
            let detail = format!("{id} is sold here, and the arbiters do not know it");
            found.add("invariant_agreement", &books.place(), detail);
        }
    }
}

/// What a look at all regions together came to.
#[derive(Debug, Default)]
pub struct Together {
    /// Tickets that lie stranded, by pool.
    pub stranded: BTreeMap<PoolId, u64>,
    /// Pools of which it cannot be said that nothing does, and why.
    pub open: BTreeMap<PoolId, &'static str>,
}

/// No more is promised over all regions than there is, and at rest every ticket can be found and nobody waits for one
/// that lies somewhere.
pub fn invariant_all_tickets(
    books: &[Books],
    arbitration: &Arbitration,
    accounts: &Accounts,
    found: &mut Found,
) -> Together {
    let mut together = Together::default();
    if !arbitration.at_rest {
        return together;
    }
    let issuer = &accounts.after.issuer;
    let mut by_pool: BTreeMap<PoolId, Vec<(RegionId, Counters)>> = BTreeMap::new();
    for books in books {
        let Ok(region) = books.state.region.as_str().parse::<RegionId>() else { continue };
        if is_written_off(issuer, &region) {
            continue;
        }
        for (_, id, _, row) in rows(books) {
            by_pool.entry(id).or_default().push((region, row));
        }
    }
    let silent = anybody_silent(arbitration);
    for (id, rows) in by_pool {
        let Some(pool) = issuer.pools().get(&id) else { continue };
        // What a region sold that is no more, as it was counted when it was written off.
        let gone: Tickets = pool
            .slices
            .iter()
            .filter(|(region, _)| is_written_off(issuer, region))
            .map(|(_, slice)| slice.granted.minus_or_zero(slice.accepted))
            .sum();
        let promised = gone + rows.iter().map(|(_, row)| row.held() + row.sold_net()).sum::<Tickets>();
        if let Err(broken) = invariant_no_oversell(promised, pool.total) {
            found.add("invariant_no_oversell", PLACE, format!("{id}: {broken}"));
        }
        let settled =
            pool.slices.iter().filter(|(region, _)| !is_written_off(issuer, region)).all(|(region, slice)| {
                rows.iter()
                    .any(|(of, row)| of == region && (row.granted, row.returned) == (slice.granted, slice.accepted))
            });
        if !settled || issuer.recovering().is_some() {
            together.open.insert(id, "tickets are on their way, or the arbiters wait for a region");
            continue;
        }
        let all = rows.iter().map(|(_, row)| *row);
        if let Err(broken) = invariant_nothing_stranded(pool.pool + gone, all, pool.total) {
            found.add("invariant_nothing_stranded", PLACE, format!("{id}: {broken}"));
        }
        let free = pool.pool + rows.iter().map(|(_, row)| row.available()).sum::<Tickets>();
        if smallest_wish(books, &id).is_none_or(|least| least > free.get()) {
            continue;
        }
        // Where one drains or is cut off, or grants are stopped, tickets lie still on purpose.
        let draining = issuer.regions().values().any(|region| region.state == RegionState::Draining);
        let why = match () {
            () if draining => "a region drains",
            () if silent => "a region is silent",
            () if pool.frozen || pool.forgotten.is_some() => "grants are stopped",
            () => {
                let detail = format!("{id}: {free} tickets lie free and somebody waits for as many or fewer");
                found.add("invariant_nothing_stranded", PLACE, detail);
                together.stranded.insert(id, free.get());
                continue;
            }
        };
        together.open.insert(id, why);
    }
    together
}

fn is_written_off(issuer: &Issuer, region: &RegionId) -> bool {
    issuer.regions().get(region).is_some_and(|known| known.state == RegionState::WrittenOff)
}

/// Whether there is a region that the leader has not heard of for too long.
fn anybody_silent(arbitration: &Arbitration) -> bool {
    let tiers = arbitration.views.iter().flat_map(|view| &view.tiers);
    tiers.flat_map(|tier| tier.regions.values()).any(|row| row.silent && row.state != RegionState::WrittenOff)
}

/// The fewest tickets of a pool that somebody would take who waits, in a region's database or still in its queue,
/// anywhere where the sale goes on.
fn smallest_wish(books: &[Books], id: &PoolId) -> Option<u64> {
    let of_concert = books.iter().filter(|books| {
        books.state.concert.as_str() == id.concert.as_str()
            && books.state.closed_at.is_none()
            && books.state.halted.is_none()
    });
    let wishes = of_concert.flat_map(|books| {
        let tiers = books.state.definition.tiers.iter();
        let number = tiers.map(|tier| tier.tier.as_str()).position(|tier| tier == id.tier.as_str());
        let waiting = books.waiting.iter().filter(move |row| Some(row.tier as usize) == number);
        let queued = books.queued.iter().flat_map(|queued| &queued.wishes);
        let queued = queued.filter(move |wish| number.is_some_and(|no| wish.tiers.contains(&(no as u8))));
        waiting.map(|row| row.need as u64).chain(queued.map(|wish| wish.least))
    });
    wishes.min()
}

/// Nobody has more over all regions than in one, and nobody is active in two.
pub fn invariant_people(books: &[Books], found: &mut Found) {
    let mut persons: HashMap<(&str, Uuid), (i64, u16)> = HashMap::new();
    let mut identities: HashMap<(&str, Uuid), (i64, u16)> = HashMap::new();
    let mut active: HashMap<(&str, Uuid), &str> = HashMap::new();
    for books in books {
        let (concert, rules) = (books.state.concert.as_str(), &books.state.definition);
        let region = books.state.region.as_str();
        for row in books.reservations.iter().filter(|row| keeps_tickets(row)) {
            let quantity = i64::from(row.quantity);
            persons.entry((concert, row.user_hash)).or_insert((0, rules.max_per_person)).0 += quantity;
            if let (Some(identity), Some(most)) = (row.identity_hash, rules.max_per_identity) {
                identities.entry((concert, identity)).or_insert((0, most)).0 += quantity;
            }
            if matches!(row.state, RowState::Held | RowState::Expiring)
                && let Some(other) = active.insert((concert, row.user_hash), region).filter(|other| *other != region)
            {
                let detail = format!("person {} holds in {other} and in {region}", row.user_hash);
                found.add("invariant_one_place", concert, detail);
            }
        }
    }
    for (kind, counts) in [("person", persons), ("identity", identities)] {
        for ((concert, who), (tickets, most)) in counts {
            if tickets > i64::from(most) {
                let detail = format!("{kind} {who} has {tickets} tickets over all regions, of at most {most}");
                found.add("invariant_limits", concert, detail);
            }
        }
    }
}

/// Every pool of a region's books: tier number, pool, its row as it stands, and the row that its ledger adds up to.
fn rows(books: &Books) -> Vec<(i16, PoolId, Counters, Counters)> {
    let sums = tickets_move::tier_columns(books);
    let tiers = books.state.definition.tiers.iter().enumerate();
    tiers
        .filter_map(|(number, tier)| {
            let (number, id) = (number as i16, pool_id(books, tier.tier.as_str())?);
            let quota = books.state.quota.iter().find(|row| row.tier == number).map(|row| row.columns);
            let ledger = sums.get(&number).copied().unwrap_or_default();
            Some((number, id, counters(quota.unwrap_or_default())?, counters(ledger)?))
        })
        .collect()
}

fn pool_id(books: &Books, tier: &str) -> Option<PoolId> {
    Some(PoolId { concert: books.state.concert.as_str().parse().ok()?, tier: TierId::new(tier).ok()? })
}

/// `None` below zero, which the checks of a single region have found already.
fn counters(columns: QuotaColumns) -> Option<Counters> {
    let tickets = |number: i64| u64::try_from(number).ok().and_then(|number| Tickets::new(number).ok());
    Some(Counters {
        granted: tickets(columns.granted)?,
        returned: tickets(columns.returned)?,
        held_in: tickets(columns.held_in)?,
        released: tickets(columns.released)?,
        sold: tickets(columns.sold)?,
        refunded: tickets(columns.refunded)?,
    })
}
