//! Invariants across regions and arbiters: the protocol's I1 to I4 over the arbiters' logs and the regions' ledgers, and
//! people who might have more in two regions than in one.
//!
//! The log was read before the ledgers and after them. What the arbiters had accepted *before* must have left its region
//! by then; what a region has must have been granted *after*: so that tickets on their way are no problem, whenever the
//! books are read.

use super::books::Books;
use super::log::ArbiterLog;
use super::people::keeps_tickets;
use super::problem::Found;
use super::replay::Replay;
use super::tickets_move;
use arbiter_api::QuotaView;
use quota_protocol::invariant::{
    invariant_agreement, invariant_growth, invariant_no_oversell, invariant_nothing_stranded, invariant_row,
};
use quota_protocol::issuer::RegionState;
use quota_protocol::{Counters, PoolId, RegionId, Tickets, TierId};
use region_api::wire::QuotaColumns;
use region_api::wire::books::RowState;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Where problems of the arbiters are noted.
const PLACE: &str = "arbiters";

/// What was read of the arbiters.
#[derive(Debug, Clone)]
pub struct Arbitration {
    /// Logs of all that answered.
    pub logs: Vec<ArbiterLog>,
    /// Those that did not, and why.
    pub silent: Vec<(u64, String)>,
    /// Where the log was before any ledger was read.
    pub before: u64,
    /// What the leader says of every concert, read after the ledgers.
    pub views: Vec<QuotaView>,
    /// Nothing moved while all of this was read.
    pub at_rest: bool,
}

/// What the logs add up to: before and after the ledgers were read.
pub struct Accounts {
    before: Replay,
    /// After.
    pub after: Replay,
}

/// Arbiters agree with each other entry by entry, the whole log can be replayed without breaking a rule, and what it
/// adds up to is what the leader says.
pub fn invariant_logs(arbitration: &Arbitration, found: &mut Found) -> Option<Accounts> {
    const NAME: &str = "invariant_logs";
    let mut known: BTreeMap<u64, (u64, &arbiter_api::LogItem)> = BTreeMap::new();
    for log in &arbitration.logs {
        for item in &log.entries {
            let (first, seen) = known.entry(item.index).or_insert((log.id, item));
            if (seen.term, &seen.work) != (item.term, &item.work) {
                let detail = format!("entry {} differs between arbiters {first} and {}", item.index, log.id);
                found.add(NAME, PLACE, detail);
            }
        }
        let mut last = 0;
        for item in &log.entries {
            if item.index <= last {
                found.add(NAME, PLACE, format!("arbiter {}: entry {} after entry {last}", log.id, item.index));
            }
            last = item.index;
        }
    }
    lacks(arbitration, &known, found);
    let whole = arbitration.logs.iter().filter(|log| log.is_whole()).max_by_key(|log| log.read_to);
    let Some(log) = whole else {
        found.add(NAME, PLACE, "no arbiter that answers has the log from its beginning".to_owned());
        return None;
    };
    let mut before = Replay::default();
    let mut replayed = before.advance(log, arbitration.before);
    let mut after = before.clone();
    for view in &arbitration.views {
        replayed = replayed.and_then(|()| after.advance(log, view.meta.index));
        if replayed.is_ok() && log.read_to >= view.meta.index {
            compare(view, &after, found);
        }
    }
    replayed = replayed.and_then(|()| after.advance(log, u64::MAX));
    if let Err(why) = replayed {
        found.add(NAME, PLACE, why);
        return None;
    }
    Some(Accounts { before, after })
}

/// No arbiter lacks an entry in the middle of what it has.
fn lacks(arbitration: &Arbitration, known: &BTreeMap<u64, (u64, &arbiter_api::LogItem)>, found: &mut Found) {
    for log in &arbitration.logs {
        let has: std::collections::HashSet<u64> = log.entries.iter().map(|item| item.index).collect();
        let within = known.keys().filter(|index| (log.first_index..=log.read_to).contains(*index));
        for index in within.filter(|index| !has.contains(*index)) {
            found.add("invariant_logs", PLACE, format!("arbiter {} lacks entry {index}", log.id));
        }
    }
}

fn compare(view: &QuotaView, replay: &Replay, found: &mut Found) {
    const NAME: &str = "invariant_logs";
    for tier in &view.tiers {
        let Ok(concert) = view.concert.as_str().parse() else { continue };
        let id = PoolId { concert, tier: tier.tier };
        let Some(pool) = replay.issuer.pools().get(&id) else {
            found.add(NAME, PLACE, format!("{id} is not in the log"));
            continue;
        };
        if (pool.total, pool.pool) != (tier.total, tier.pool) {
            let detail = format!(
                "{id}: arbiter {} says {} of {} in the pool, its log adds up to {} of {}",
                view.meta.node, tier.pool, tier.total, pool.pool, pool.total
            );
            found.add(NAME, PLACE, detail);
        }
        for (region, theirs) in &tier.regions {
            let slice = pool.slices.get(region).copied().unwrap_or_default();
            if (slice.granted, slice.accepted) != (theirs.granted, theirs.returned) {
                let detail = format!(
                    "{id}: arbiter {} says {region} was granted {} and gave back {}, its log adds up to {} and {}",
                    view.meta.node, theirs.granted, theirs.returned, slice.granted, slice.accepted
                );
                found.add(NAME, PLACE, detail);
            }
        }
    }
}

/// I2 to I4 for every row of every region, recomputed from its ledger, and the database is the one that speaks for it.
pub fn invariant_regions(books: &[Books], accounts: &Accounts, found: &mut Found) {
    for books in books {
        let place = books.place();
        let Ok(region) = books.state.region.as_str().parse::<RegionId>() else { continue };
        let known = accounts.after.issuer.regions().get(&region);
        if known.is_none() {
            found.add("invariant_agreement", &place, "the arbiters do not know this region".to_owned());
        }
        let state = known.map(|known| known.state);
        let current = known.map(|known| known.epoch.get() as i64);
        for (tier, id, quota, row) in rows(books) {
            if let Err(broken) = invariant_row(&row) {
                found.add("invariant_row", &place, format!("{id}: {broken}"));
            }
            if state == Some(RegionState::WrittenOff) {
                continue;
            }
            let (before, after) =
                (accounts.before.issuer.slice(&region, &id), accounts.after.issuer.slice(&region, &id));
            let slice = quota_protocol::issuer::Slice { accepted: before.accepted, ..after };
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

/// No more is promised over all regions than there is, and at rest every ticket can be found and nobody waits for one
/// that lies somewhere. Says how many lie stranded, by pool.
pub fn invariant_all_tickets(
    books: &[Books],
    arbitration: &Arbitration,
    accounts: &Accounts,
    found: &mut Found,
) -> BTreeMap<PoolId, u64> {
    let mut stranded = BTreeMap::new();
    if !arbitration.at_rest {
        return stranded;
    }
    let issuer = &accounts.after.issuer;
    let mut by_pool: BTreeMap<PoolId, Vec<(RegionId, Counters)>> = BTreeMap::new();
    for books in books {
        let Ok(region) = books.state.region.as_str().parse::<RegionId>() else { continue };
        for (_, id, _, row) in rows(books) {
            by_pool.entry(id).or_default().push((region, row));
        }
    }
    for (id, rows) in by_pool {
        let Some(pool) = issuer.pools().get(&id) else { continue };
        let promised = rows.iter().map(|(_, row)| row.held() + row.sold_net()).sum::<Tickets>();
        if let Err(broken) = invariant_no_oversell(promised, pool.total) {
            found.add("invariant_no_oversell", PLACE, format!("{id}: {broken}"));
        }
        let settled = pool.slices.iter().all(|(region, slice)| {
            rows.iter().any(|(of, row)| of == region && (row.granted, row.returned) == (slice.granted, slice.accepted))
        });
        if !settled || issuer.recovering().is_some() {
            continue;
        }
        let all = rows.iter().map(|(_, row)| *row);
        if let Err(broken) = invariant_nothing_stranded(pool.pool, all, pool.total) {
            found.add("invariant_nothing_stranded", PLACE, format!("{id}: {broken}"));
        }
        let free = pool.pool + rows.iter().map(|(_, row)| row.available()).sum::<Tickets>();
        let active = issuer.regions().values().all(|region| region.state == RegionState::Active);
        if active && !pool.frozen && smallest_wish(books, &id).is_some_and(|least| least <= free.get()) {
            let detail = format!("{id}: {free} tickets lie free and somebody waits for as many or fewer");
            found.add("invariant_nothing_stranded", PLACE, detail);
            stranded.insert(id, free.get());
        }
    }
    stranded
}

/// The fewest tickets of a pool that somebody who waits would take, anywhere where the sale goes on.
fn smallest_wish(books: &[Books], id: &PoolId) -> Option<u64> {
    let of_concert = books.iter().filter(|books| {
        books.state.concert.as_str() == id.concert.as_str()
            && books.state.closed_at.is_none()
            && books.state.halted.is_none()
    });
    let wishes = of_concert.flat_map(|books| {
        let tiers = books.state.definition.tiers.iter();
        let number = tiers.map(|tier| tier.tier.as_str()).position(|tier| tier == id.tier.as_str());
        books.waiting.iter().filter(move |row| Some(row.tier as usize) == number).map(|row| row.need as u64)
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
