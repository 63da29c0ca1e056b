//! Invariants of the crowd: every `202` that a buyer holds is accounted for, and what buyers saw is what the books say.

use super::Evidence;
use super::books::Books;
use super::problem::Found;
use super::proof::Lost;
use crate::load::journal::Record;
use region_api::session::Subject;
use region_api::wire::books::{ReservationRow, RowState};
use region_api::wire::{NodeStatus, TicketStatus};
use region_api::{ConcertName, KeyRing, ReservationId, UserId, owns};
use std::collections::{HashMap, HashSet};

const NAME: &str = "invariant_accepted";

/// What became of a reservation according to the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate<'a> {
    /// Decided: its own row, or that of the reservation that it is an alias of.
    Row(&'a ReservationRow),
    /// Passed over, waiting for a tier.
    Waiting,
    /// In a rejected range that applies to it.
    Rejected,
    /// Not decided yet: its place lies between cursor and tail.
    Queued,
    /// Its generation was lost with it; its owner's next poll brings it back.
    Reclaimable,
    /// Nowhere.
    Lost,
}

/// Looks reservations up in the books of one concert.
pub struct Fates<'a> {
    rows: HashMap<i64, &'a ReservationRow>,
    waiting: HashSet<i64>,
    books: &'a Books,
    tails: HashMap<(u16, u16), u64>,
}

impl<'a> Fates<'a> {
    /// `status` of the region says how far its queues reach now.
    pub fn new(books: &'a Books, status: Option<&NodeStatus>) -> Self {
        let mut tails: HashMap<(u16, u16), u64> = HashMap::new();
        for row in &books.state.generations {
            let reach = row.survived_seq.unwrap_or(row.tail_seq);
            tails.insert((row.shard as u16, row.generation as u16), reach as u64);
        }
        let concert = status.and_then(|s| s.concerts.iter().find(|c| c.concert == books.state.concert));
        for shard in concert.map(|c| c.shards.as_slice()).unwrap_or_default() {
            let tail = tails.entry((shard.shard, shard.generation)).or_default();
            *tail = shard.tail_seq.max(*tail);
        }
        Self {
            rows: books.reservations.iter().map(|row| (row.entry, row)).collect(),
            waiting: books.waiting.iter().map(|row| row.entry).collect(),
            books,
            tails,
        }
    }

    /// What became of one.
    pub fn of(&self, id: &ReservationId) -> Fate<'a> {
        let entry = id.entry.to_i64();
        if let Some(row) = self.rows.get(&entry) {
            let real = row.alias_of.and_then(|real| self.rows.get(&real)).unwrap_or(row);
            return Fate::Row(real);
        }
        if self.waiting.contains(&entry) {
            return Fate::Waiting;
        }
        if self.rejected(id) {
            return Fate::Rejected;
        }
        let (shard, generation, sequence) = (id.entry.shard(), id.entry.generation(), id.entry.sequence());
        let row = self
            .books
            .state
            .generations
            .iter()
            .find(|row| (row.shard as u16, row.generation as u16) == (shard, generation));
        let cursor = row.map_or(0, |row| row.cursor_seq as u64);
        let tail = self.tails.get(&(shard, generation)).copied().unwrap_or(0);
        if sequence > cursor && sequence <= tail {
            return Fate::Queued;
        }
        if sequence > tail && row.is_some_and(|row| row.lost_at.is_some()) {
            return Fate::Reclaimable;
        }
        Fate::Lost
    }

    fn rejected(&self, id: &ReservationId) -> bool {
        let need = if id.any_quantity { 1 } else { i16::from(id.quantity) };
        self.books.ranges.iter().any(|range| {
            let unserved = |tier: &u8| match &range.unsold {
                None => true,
                Some(unsold) => unsold.get(usize::from(*tier)).is_none_or(|unsold| *unsold < need),
            };
            (range.shard as u16, range.generation as u16) == (id.entry.shard(), id.entry.generation())
                && (range.from_seq..=range.to_seq).contains(&(id.entry.sequence() as i64))
                && id.tiers.iter().all(unserved)
        })
    }
}

/// A reservation that the crowd holds.
struct Held {
    id: ReservationId,
    request: String,
    user: String,
    quantity: u8,
}

/// Every `202` is accounted for, once, with the content that was asked for; every end that a buyer saw is true.
pub fn invariant_accepted(evidence: &Evidence, lost: &mut Lost, found: &mut Found) -> u64 {
    let Evidence { books, status, records, ring, .. } = evidence;
    let fates: HashMap<(&str, &ConcertName), Fates<'_>> = books
        .iter()
        .map(|books| {
            let status = status.iter().find(|status| status.region == books.state.region);
            ((books.state.region.as_str(), &books.state.concert), Fates::new(books, status))
        })
        .collect();
    let mut crowd: HashMap<&str, Held> = HashMap::new();
    let mut requests: HashMap<(&str, &str), &str> = HashMap::new();
    for record in records {
        let Record::Accepted { reservation, user, request_id, quantity, .. } = record else { continue };
        let id = match ReservationId::parse(reservation, ring) {
            Ok(id) => id,
            Err(error) => {
                found.add(
                    NAME,
                    "crowd",
                    format!("a 202 with an id that no key of ours signed ({error}): {reservation}"),
                );
                continue;
            }
        };
        if let Some(other) = requests.insert((user, request_id), reservation).filter(|other| other != reservation) {
            found.add(NAME, "crowd", format!("request {request_id} was given two places: {other} and {reservation}"));
        }
        let held = Held { id, request: request_id.clone(), user: user.clone(), quantity: *quantity };
        if crowd.insert(reservation, held).is_some() {
            found.add(NAME, "crowd", format!("one place was given twice: {reservation}"));
        }
    }
    let gone: HashSet<String> = crowd
        .iter()
        .filter(|(_, held)| lost.has(held.id.region.as_str(), held.id.arrival_ms))
        .map(|(reservation, _)| (*reservation).to_owned())
        .collect();
    lost.requests += gone.len() as u64;
    for (_, held) in crowd.iter().filter(|(reservation, _)| !gone.contains(**reservation)) {
        if let Some(fates) = fates.get(&(held.id.region.as_str(), &held.id.concert)) {
            check_accepted(held, fates, ring, found);
        } else {
            found.add(NAME, "crowd", format!("{:?} is of a concert whose books were not read", held.id));
        }
    }
    for record in records.iter().filter(|record| !gone.contains(record.reservation())) {
        check_end(record, &crowd, &fates, found);
    }
    crowd.len() as u64
}

fn check_accepted(held: &Held, fates: &Fates<'_>, ring: &KeyRing, found: &mut Found) {
    let place = fates.books.place();
    let id = &held.id;
    let theirs = user_id(&held.user).is_some_and(|user| owns(ring, &user, id.user));
    if !theirs || id.quantity != held.quantity {
        found.add(NAME, &place, format!("entry {:?}: the id is not about what user {} asked for", id.entry, held.user));
    }
    match fates.of(id) {
        Fate::Lost => {
            found.add(NAME, &place, format!("entry {:?} was acknowledged and is nowhere", id.entry));
        }
        Fate::Row(row) if row.user_hash != id.user.to_uuid() => {
            found.add(NAME, &place, format!("entry {:?} was decided for somebody else", id.entry));
        }
        Fate::Row(row) if row.entry == id.entry.to_i64() => {
            let same = row.request_id.is_none_or(|request| request.to_string() == held.request);
            if !same || row.quantity > i16::from(id.quantity) || row.arrival_ms != id.arrival_ms as i64 {
                found.add(NAME, &place, format!("entry {:?}: its row is about another request", id.entry));
            }
        }
        _ => {}
    }
}

/// From the text of a session answer: `guest:<uuid>`, or a subject.
fn user_id(text: &str) -> Option<UserId> {
    match text.strip_prefix("guest:").and_then(|guest| uuid::Uuid::parse_str(guest).ok()) {
        Some(guest) => Some(UserId::Guest(guest.into_bytes())),
        None => Subject::new(text).ok().map(UserId::Subject),
    }
}

fn check_end(
    record: &Record,
    crowd: &HashMap<&str, Held>,
    fates: &HashMap<(&str, &ConcertName), Fates<'_>>,
    found: &mut Found,
) {
    let (reservation, saw) = match record {
        Record::Accepted { .. } => return,
        Record::Ended { reservation, status, .. } => (reservation, status.as_str()),
        Record::Paid { reservation, .. } => (reservation, "paid"),
    };
    let Some(held) = crowd.get(reservation.as_str()) else { return };
    let Some(fates) = fates.get(&(held.id.region.as_str(), &held.id.concert)) else { return };
    let fate = fates.of(&held.id);
    let state = match &fate {
        Fate::Row(row) => Some(row.state),
        _ => None,
    };
    use RowState::{Cancelled, Expired, Refunded, Rejected, Sold, Voided};
    let agrees = match saw {
        "sold" => matches!(state, Some(Sold | Refunded)),
        "rejected" => fate == Fate::Rejected || state == Some(Rejected),
        // A payment that came late may have bought the tickets after all.
        "expired" => matches!(state, Some(Expired | Sold | Refunded)),
        "cancelled" => matches!(state, Some(Cancelled | Sold | Refunded)),
        "voided" => state == Some(Voided),
        "refunded" => state == Some(Refunded),
        "paid" => paid_is_known(record, fates.books),
        _ => true,
    };
    if !agrees {
        let place = fates.books.place();
        found.add(NAME, &place, format!("entry {:?}: the buyer saw {saw}, the books say {fate:?}", held.id.entry));
    }
    if let Record::Ended { status, tickets, .. } = record
        && status == "sold"
    {
        check_tickets(held, tickets, fates.books, found);
    }
}

fn paid_is_known(record: &Record, books: &Books) -> bool {
    let Record::Paid { intent, .. } = record else { return false };
    books.payments.iter().any(|row| row.intent == *intent)
}

fn check_tickets(held: &Held, seen: &[String], books: &Books, found: &mut Found) {
    let issued: HashMap<String, TicketStatus> = books
        .tickets
        .iter()
        .filter(|ticket| ticket.entry == held.id.entry.to_i64())
        .map(|ticket| (ticket.ticket_id.to_string(), ticket.status))
        .collect();
    for ticket in seen.iter().filter(|ticket| !issued.contains_key(*ticket)) {
        let detail = format!("entry {:?}: the buyer holds ticket {ticket}, which was never issued", held.id.entry);
        found.add(NAME, &books.place(), detail);
    }
}
