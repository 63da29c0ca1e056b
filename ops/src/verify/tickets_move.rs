//! Invariants of the ledger: where every ticket of a region is, recomputed from what moved it.

use super::books::Books;
use super::problem::Found;
use region_api::wire::QuotaColumns;
use region_api::wire::books::{LedgerKind, LedgerRow, ReservationRow, RowState};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Sums of ledger rows by kind, for one tier or one reservation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    grant: i64,
    returned: i64,
    hold: i64,
    release: i64,
    sell: i64,
    refund: i64,
}

impl Sums {
    fn add(&mut self, row: &LedgerRow) {
        let tickets = i64::from(row.tickets);
        match row.kind {
            LedgerKind::Grant => self.grant += tickets,
            LedgerKind::Return => self.returned += tickets,
            LedgerKind::Hold => self.hold += tickets,
            LedgerKind::Release => self.release += tickets,
            LedgerKind::Sell => self.sell += tickets,
            LedgerKind::Refund => self.refund += tickets,
        }
    }
    fn held(&self) -> i64 {
        self.hold - self.release - self.sell
    }
    fn kept(&self) -> i64 {
        self.sell - self.refund
    }
}

/// Every quota column is the sum of its ledger rows; nothing is negative; no more is promised than was granted.
pub fn invariant_conservation(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_conservation";
    let place = books.place();
    let mut tiers: BTreeMap<i16, Sums> = BTreeMap::new();
    let folded: HashSet<i64> = books.folds.iter().map(|fold| fold.ledger_id).collect();
    let mut sold: BTreeMap<i16, i64> = BTreeMap::new();
    for row in &books.ledger {
        tiers.entry(row.tier).or_default().add(row);
        if row.kind == LedgerKind::Sell && folded.contains(&row.ledger_id) {
            *sold.entry(row.tier).or_default() += i64::from(row.tickets);
        }
    }
    for quota in &books.state.quota {
        let sums = tiers.remove(&quota.tier).unwrap_or_default();
        let from_ledger = QuotaColumns {
            granted: sums.grant,
            returned: sums.returned,
            held_in: sums.hold + quota.seeded,
            released: sums.release,
            sold: sold.get(&quota.tier).copied().unwrap_or(0) + quota.seeded,
            refunded: sums.refund,
        };
        if from_ledger != quota.columns {
            let detail = format!(
                "tier {}: the quota row says {:?}, the ledger adds up to {from_ledger:?}",
                quota.tier, quota.columns
            );
            found.add(NAME, &place, detail);
        }
        let promised = sums.held() + sums.kept() + quota.seeded;
        let slice = sums.grant - sums.returned;
        if promised > slice {
            found.add(NAME, &place, format!("tier {}: oversold: {promised} held or sold of {slice}", quota.tier));
        }
        if sums.held() < 0 || sums.kept() < 0 {
            found.add(NAME, &place, format!("tier {}: below zero: {sums:?}", quota.tier));
        }
    }
    for (tier, sums) in tiers {
        found.add(NAME, &place, format!("tier {tier} has ledger rows but no quota row: {sums:?}"));
    }
}

/// A region without arbiters was never written off, so no row of it began with sales of a database that is gone.
pub fn invariant_nothing_seeded(books: &Books, found: &mut Found) {
    for quota in books.state.quota.iter().filter(|quota| quota.seeded != 0) {
        let detail = format!("tier {}: {} sales of a database that there never was", quota.tier, quota.seeded);
        found.add("invariant_conservation", &books.place(), detail);
    }
}

/// Every reservation's ledger rows say what its state says, in its tier and quantity.
pub fn invariant_state_is_in_the_ledger(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_state_is_in_the_ledger";
    let place = books.place();
    let mut by_entry: HashMap<(i64, i16), Sums> = HashMap::new();
    for row in &books.ledger {
        if let Some(entry) = row.entry {
            by_entry.entry((entry, row.tier)).or_default().add(row);
        }
    }
    for row in &books.reservations {
        let sums = row.tier.and_then(|tier| by_entry.remove(&(row.entry, tier))).unwrap_or_default();
        let quantity = i64::from(row.quantity);
        let expected = match row.state {
            RowState::Held | RowState::Expiring => (quantity, 0),
            RowState::Sold => (0, quantity),
            _ => (0, 0),
        };
        if (sums.held(), sums.kept()) != expected {
            let detail = format!(
                "entry {} is {:?} with {quantity} tickets, but its ledger rows leave {} held and {} sold",
                row.entry,
                row.state,
                sums.held(),
                sums.kept()
            );
            found.add(NAME, &place, detail);
        }
        let moved_once_at_most = sums.hold <= quantity * if row.revived { 2 } else { 1 };
        if !moved_once_at_most {
            found.add(NAME, &place, format!("entry {} was held {} tickets for {quantity}", row.entry, sums.hold));
        }
    }
    for ((entry, tier), sums) in by_entry {
        found.add(NAME, &place, format!("entry {entry} moved tickets of tier {tier} without a reservation: {sums:?}"));
    }
}

/// Book numbers never go back along the ledger, none is above the book's own, and a reservation's hold carries its
/// reservation's book number.
pub fn invariant_book_numbers(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_book_numbers";
    let place = books.place();
    let mut last = 0;
    let mut holds: HashMap<i64, i64> = HashMap::new();
    for row in &books.ledger {
        let Some(book) = row.book else { continue };
        if book < last {
            found.add(NAME, &place, format!("ledger row {} has book {book} after book {last}", row.ledger_id));
        }
        last = last.max(book);
        if let (LedgerKind::Hold, Some(entry)) = (row.kind, row.entry) {
            holds.insert(entry, book);
        }
    }
    let newest = books.folds.iter().map(|fold| fold.book).chain(books.ranges.iter().map(|range| range.book)).max();
    let newest = newest.unwrap_or(0).max(last);
    if newest > books.state.book {
        found.add(NAME, &place, format!("rows carry book {newest}, but the book stands at {}", books.state.book));
    }
    for row in &books.reservations {
        match (row.book, holds.get(&row.entry)) {
            (Some(book), Some(hold)) if book == *hold => {}
            (None, None) => {}
            (book, hold) => {
                found.add(
                    NAME,
                    &place,
                    format!("entry {}: held by book {book:?}, its ledger row says {hold:?}", row.entry),
                );
            }
        }
    }
}

/// Every sale is either folded or waiting to be, once, and nothing else is.
pub fn invariant_folds(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_folds";
    let place = books.place();
    let sales: HashMap<i64, &LedgerRow> =
        books.ledger.iter().filter(|row| row.kind == LedgerKind::Sell).map(|row| (row.ledger_id, row)).collect();
    let mut seen: HashSet<i64> = HashSet::new();
    for id in books.folds.iter().map(|fold| fold.ledger_id).chain(books.unfolded.iter().map(|row| row.ledger_id)) {
        if !sales.contains_key(&id) {
            found.add(NAME, &place, format!("ledger row {id} is folded or to be folded, but is no sale"));
        }
        if !seen.insert(id) {
            found.add(NAME, &place, format!("sale {id} counts twice"));
        }
    }
    for row in &books.unfolded {
        if sales.get(&row.ledger_id).is_some_and(|sale| (sale.tier, sale.tickets) != (row.tier, row.tickets)) {
            found.add(NAME, &place, format!("sale {} waits to be folded with other numbers", row.ledger_id));
        }
    }
    for id in sales.keys().filter(|id| !seen.contains(id)) {
        found.add(NAME, &place, format!("sale {id} is neither folded nor waiting to be"));
    }
}

/// A sold reservation has exactly its tickets, numbered, its holder's; nobody else has a valid one.
pub fn invariant_tickets(books: &Books, found: &mut Found) {
    use region_api::wire::TicketStatus;
    const NAME: &str = "invariant_tickets";
    let place = books.place();
    let reservations: HashMap<i64, &ReservationRow> = books.reservations.iter().map(|row| (row.entry, row)).collect();
    let mut good: HashMap<i64, Vec<i16>> = HashMap::new();
    for ticket in &books.tickets {
        let Some(row) = reservations.get(&ticket.entry) else {
            found.add(NAME, &place, format!("ticket {} is of no reservation", ticket.ticket_id));
            continue;
        };
        if ticket.status != TicketStatus::Void {
            good.entry(ticket.entry).or_default().push(ticket.number);
        }
        if ticket.holder_hash != row.user_hash || Some(ticket.tier) != row.tier {
            found.add(
                NAME,
                &place,
                format!("ticket {} has another holder or tier than its reservation", ticket.ticket_id),
            );
        }
    }
    for row in &books.reservations {
        let mut numbers = good.remove(&row.entry).unwrap_or_default();
        numbers.sort_unstable();
        let expected: Vec<i16> = if row.state == RowState::Sold { (1..=row.quantity).collect() } else { Vec::new() };
        if numbers != expected {
            found.add(
                NAME,
                &place,
                format!(
                    "entry {} is {:?} with {} tickets and has valid ones {numbers:?}",
                    row.entry, row.state, row.quantity
                ),
            );
        }
    }
}

/// The quota columns of each tier, from the ledger alone, and from what a row began with where a region started again
/// on an empty database. Every sale counts, folded or not.
pub fn tier_columns(books: &Books) -> BTreeMap<i16, QuotaColumns> {
    let mut tiers: BTreeMap<i16, Sums> = BTreeMap::new();
    for row in &books.ledger {
        tiers.entry(row.tier).or_default().add(row);
    }
    let seeded = |tier: i16| books.state.quota.iter().find(|row| row.tier == tier).map_or(0, |row| row.seeded);
    let columns = |tier: i16, sums: Sums| QuotaColumns {
        granted: sums.grant,
        returned: sums.returned,
        held_in: sums.hold + seeded(tier),
        released: sums.release,
        sold: sums.sell + seeded(tier),
        refunded: sums.refund,
    };
    tiers.into_iter().map(|(tier, sums)| (tier, columns(tier, sums))).collect()
}

/// Where the tickets of each tier are, from the ledger alone.
pub fn tier_sums(books: &Books) -> BTreeMap<i16, super::RegionTier> {
    let tier = |columns: QuotaColumns| super::RegionTier {
        granted: columns.granted,
        returned: columns.returned,
        held: columns.held(),
        sold: columns.sold,
        refunded: columns.refunded,
        available: columns.available(),
    };
    tier_columns(books).into_iter().map(|(number, columns)| (number, tier(columns))).collect()
}
