//! Invariants of people: limits, one place each, and an answer for everybody.

use super::books::Books;
use super::problem::Found;
use region_api::Entry;
use region_api::wire::books::{ReservationRow, RowState};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Whether a reservation has tickets now.
pub(super) fn keeps_tickets(row: &ReservationRow) -> bool {
    matches!(row.state, RowState::Held | RowState::Expiring | RowState::Sold)
}

/// Nobody has more than the concert allows: in one order, per person over all orders, per identity over all users.
pub fn invariant_limits(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_limits";
    let place = books.place();
    let rules = &books.state.definition;
    let mut persons: HashMap<Uuid, i64> = HashMap::new();
    let mut identities: HashMap<Uuid, i64> = HashMap::new();
    for row in books.reservations.iter().filter(|row| keeps_tickets(row)) {
        let quantity = i64::from(row.quantity);
        if quantity > i64::from(rules.max_per_order) {
            let detail =
                format!("entry {} has {quantity} tickets, an order may have {}", row.entry, rules.max_per_order);
            found.add(NAME, &place, detail);
        }
        *persons.entry(row.user_hash).or_default() += quantity;
        if let Some(identity) = row.identity_hash {
            *identities.entry(identity).or_default() += quantity;
        }
    }
    for (person, tickets) in persons.into_iter().filter(|(_, tickets)| *tickets > i64::from(rules.max_per_person)) {
        found.add(NAME, &place, format!("person {person} has {tickets} tickets of at most {}", rules.max_per_person));
    }
    let Some(most) = rules.max_per_identity else { return };
    for (identity, tickets) in identities.into_iter().filter(|(_, tickets)| *tickets > i64::from(most)) {
        found.add(NAME, &place, format!("identity {identity} has {tickets} tickets of at most {most}"));
    }
}

/// One person has one active reservation, one request one place; an alias leads to that person's own reservation.
pub fn invariant_one_place(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_one_place";
    let place = books.place();
    let rows: HashMap<i64, &ReservationRow> = books.reservations.iter().map(|row| (row.entry, row)).collect();
    let mut active: HashSet<Uuid> = HashSet::new();
    let mut requests: HashSet<(Uuid, Uuid)> = HashSet::new();
    for row in &books.reservations {
        if matches!(row.state, RowState::Held | RowState::Expiring) && !active.insert(row.user_hash) {
            found.add(
                NAME,
                &place,
                format!("person {} has two active reservations, one is {}", row.user_hash, row.entry),
            );
        }
        if let (Some(alias_of), RowState::Alias) = (row.alias_of, row.state) {
            match rows.get(&alias_of) {
                Some(real) if real.user_hash == row.user_hash && real.state != RowState::Alias => {}
                _ => found.add(
                    NAME,
                    &place,
                    format!("entry {} is an alias of {alias_of}, which is not theirs", row.entry),
                ),
            }
            continue;
        }
        if row.request_id.is_some_and(|request| !requests.insert((row.user_hash, request))) {
            found.add(NAME, &place, format!("one request has two reservations, one is {}", row.entry));
        }
    }
    let waiting: HashSet<i64> = books.waiting.iter().map(|row| row.entry).collect();
    for entry in waiting.into_iter().filter(|entry| rows.contains_key(entry)) {
        found.add(NAME, &place, format!("entry {entry} is decided and still waits"));
    }
}

/// Whatever was decided lies before its shard's cursor, unless its owner ended it early; cursors lie before tails; and
/// everything before a cursor was decided, waits, or is in a rejected range (that is: nobody was skipped).
pub fn invariant_cursors(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_cursors";
    let place = books.place();
    let mut answered: HashSet<i64> = books.waiting.iter().map(|row| row.entry).collect();
    let mut decided_after_cursor = Vec::new();
    let cursors: HashMap<(u16, u16), i64> =
        books.state.generations.iter().map(|row| ((row.shard as u16, row.generation as u16), row.cursor_seq)).collect();
    for row in &books.reservations {
        answered.insert(row.entry);
        let Some(entry) = Entry::from_i64(row.entry) else { continue };
        let cursor = cursors.get(&(entry.shard(), entry.generation())).copied().unwrap_or(0);
        let early = matches!(row.state, RowState::Cancelled | RowState::Voided | RowState::Alias);
        if entry.sequence() as i64 > cursor && !early {
            decided_after_cursor.push(row.entry);
        }
    }
    for row in &books.state.generations {
        if row.cursor_seq > row.tail_seq && row.lost_at.is_none() {
            let (cursor, tail) = (row.cursor_seq, row.tail_seq);
            found.add(NAME, &place, format!("shard {} decided {cursor}, but gave out only {tail}", row.shard));
        }
        for sequence in 1..=row.cursor_seq {
            let Some(entry) = Entry::new(row.shard as u16, row.generation as u16, sequence as u64) else { continue };
            let in_range = || {
                books.ranges.iter().any(|range| {
                    (range.shard, range.generation) == (row.shard, row.generation)
                        && (range.from_seq..=range.to_seq).contains(&sequence)
                })
            };
            if !answered.contains(&entry.to_i64()) && !in_range() {
                found.add(NAME, &place, format!("entry {entry:?} was passed by its cursor and never decided"));
            }
        }
    }
    for entry in decided_after_cursor {
        // A reservation reclaimed from a lost generation is decided from `waiting`, beyond what its cursor reached.
        let lost = Entry::from_i64(entry).is_some_and(|entry| {
            books.state.generations.iter().any(|row| {
                row.lost_at.is_some()
                    && (row.shard as u16, row.generation as u16) == (entry.shard(), entry.generation())
            })
        });
        if !lost {
            found.add(NAME, &place, format!("entry {entry} is decided but lies after its cursor"));
        }
    }
}

/// After the closing nobody waits and nothing is on hold without an end.
pub fn invariant_closed(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_closed";
    if books.state.closed_at.is_some() && !books.waiting.is_empty() {
        found.add(NAME, &books.place(), format!("closed, and {} rows still wait", books.waiting.len()));
    }
}
