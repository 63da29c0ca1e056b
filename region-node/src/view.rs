//! One concert as a node sees it: definition, stock, how far the queue is decided, who was told no. Answers from memory
//! what most polls ask. Pure: built once a second from what the database and Redis said, never changed after.
//!
//! It may be a second old; what it says is then a second old, not wrong. Whatever it cannot know it does not answer.

use region_api::wire::{Availability, Chance, Concert, ConcertState, QueueInfo, Reason, Tier};
use region_api::{Entry, Money, RegionName, ReservationId, TierName, Timestamp};
use sale::early_no::{self, Outlook};
use sale::pace;
use std::collections::{HashMap, HashSet};

use crate::db::concerts::ConcertRow;
use crate::db::snapshot::{RangeReason, Snapshot, TierStock};
use crate::queue::ConcertQueue;
use crate::queue::positions::Positions;

/// Fewer than this many tickets, or than a twentieth of what was granted, are `few`.
const FEW_TICKETS: u64 = 20;
/// Holds taken to be paid, per thousand: what a sale with ten minutes to pay usually sees.
const PAID_PERMILLE: u16 = 800;
/// One shard's current queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shard {
    /// Current generation; 0 when none has begun.
    pub generation: u16,
    /// Last sequence number that was decided.
    pub cursor_seq: u64,
    /// Last sequence number given out.
    pub tail_seq: u64,
}

/// What a view is made of.
pub struct Parts {
    /// This region.
    pub region: RegionName,
    /// The definition.
    pub concert: ConcertRow,
    /// What the database says.
    pub snapshot: Snapshot,
    /// Per shard.
    pub shards: Vec<Shard>,
    /// How many lie before an entry.
    pub positions: Positions,
    /// Who left the queue before being decided: rows that a cursor does not tell of.
    pub left: HashSet<Entry>,
    /// Decisions per second of late; 0 when there were none.
    pub decided_per_s: f64,
}

/// What can be said without reading a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Not decided yet.
    Queued,
    /// Told no.
    Rejected(Reason),
    /// Its row has to be read.
    AskRow,
}

/// One concert as a node sees it.
pub struct View {
    parts: Parts,
    tiers: Vec<(TierName, Money)>,
    stock: Vec<TierStock>,
    ranges: HashMap<u16, Vec<usize>>,
    waiting: u64,
    as_of: Timestamp,
}

impl View {
    /// Takes the parts.
    pub fn new(parts: Parts) -> Self {
        let tiers: Vec<_> = parts.concert.definition.tiers.iter().map(|t| (t.tier.clone(), t.price)).collect();
        let mut stock = vec![TierStock::default(); tiers.len()];
        for row in &parts.snapshot.stock {
            if let Some(place) = stock.get_mut(usize::from(row.tier)) {
                *place = *row;
            }
        }
        let mut ranges: HashMap<u16, Vec<usize>> = HashMap::new();
        for (index, range) in parts.snapshot.ranges.iter().enumerate() {
            ranges.entry(range.shard).or_default().push(index);
        }
        let undecided: u64 = parts.shards.iter().map(|s| s.tail_seq.saturating_sub(s.cursor_seq)).sum();
        let told: u64 = parts.shards.iter().enumerate().map(|(no, shard)| told_no(&parts, no as u16, shard)).sum();
        let waiting = undecided.saturating_sub(told) + parts.snapshot.waiting.count;
        let as_of = Timestamp::from_ms(parts.snapshot.now_ms);
        Self { parts, tiers, stock, ranges, waiting, as_of }
    }

    /// Everything that it was made of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }
    /// The database's number of the concert.
    pub fn concert_id(&self) -> i32 {
        self.parts.concert.concert_id
    }
    /// For how long tickets are held.
    pub fn hold_ms(&self) -> u64 {
        self.parts.concert.definition.hold_ms
    }
    /// The queue's name for it.
    pub fn queue(&self) -> ConcertQueue {
        self.parts.concert.queue()
    }
    /// Not yet decided, in the queue and in `waiting`.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }
    /// When this was true, by the database's clock.
    pub fn as_of(&self) -> Timestamp {
        self.as_of
    }
    /// A tier's number.
    pub fn tier_no(&self, tier: &TierName) -> Option<u8> {
        self.tiers.iter().position(|(name, _)| name == tier).map(|no| no as u8)
    }
    /// A tier's name and price.
    pub fn tier(&self, no: u8) -> Option<&(TierName, Money)> {
        self.tiers.get(usize::from(no))
    }
    /// A tier's stock.
    pub fn stock(&self, no: u8) -> TierStock {
        self.stock.get(usize::from(no)).copied().unwrap_or_default()
    }

    /// Where the sale stands at a time of the database's clock.
    pub fn state(&self, now_ms: u64) -> ConcertState {
        let concert = &self.parts.concert;
        if concert.cancelled_at_ms.is_some() {
            ConcertState::Cancelled
        } else if concert.closed_at_ms.is_some()
            || concert.definition.sale_closes_at.is_some_and(|at| at.ms() <= now_ms)
        {
            ConcertState::Closed
        } else if now_ms < concert.definition.sale_opens_at.ms() {
            ConcertState::Announced
        } else {
            ConcertState::Open
        }
    }

    /// Whether none of these tiers can ever serve so many.
    pub fn sold_out(&self, tiers: &[u8], need: u64) -> bool {
        tiers.iter().all(|&tier| self.stock(tier).unsold_anywhere().is_some_and(|unsold| unsold < need))
    }

    /// What can be said about an entry without reading its row.
    pub fn known(&self, id: &ReservationId) -> Known {
        let entry = id.entry;
        let Some(shard) = self.parts.shards.get(usize::from(entry.shard())) else { return Known::AskRow };
        let decided = entry.generation() == shard.generation && entry.sequence() <= shard.cursor_seq;
        // A generation newer than this view has begun since; an older one may be lost.
        if decided || entry.generation() < shard.generation || self.parts.left.contains(&entry) {
            return Known::AskRow;
        }
        self.range(id).map_or(Known::Queued, Known::Rejected)
    }

    /// Whether somebody without a row of their own was told no.
    pub fn range(&self, id: &ReservationId) -> Option<Reason> {
        self.range_for(id.entry, early_no::need(u16::from(id.quantity), id.any_quantity), &id.tiers)
    }

    /// The same for somebody who would take so many tickets at least, of these tiers.
    pub fn range_for(&self, entry: Entry, need: u16, tiers: &[u8]) -> Option<Reason> {
        let mut of_shard = self.ranges.get(&entry.shard())?.iter().map(|&index| &self.parts.snapshot.ranges[index]);
        of_shard.find(|range| range.rejects(entry, need, tiers)).map(|range| match range.reason {
            RangeReason::SoldOut => Reason::SoldOut,
            RangeReason::SaleClosed => Reason::SaleClosed,
        })
    }

    /// Whether an entry without any row was in a part of the queue that is lost.
    pub fn is_lost(&self, entry: Entry) -> bool {
        let mut generations = self.parts.snapshot.generations.iter();
        let found = generations.find(|g| g.shard == entry.shard() && g.generation == entry.generation());
        found.and_then(|generation| generation.survived_seq).is_some_and(|survived| entry.sequence() > survived)
    }

    /// How many are before somebody who is queued.
    pub fn ahead(&self, id: &ReservationId) -> u64 {
        let queued = self.parts.positions.ahead(id.entry, id.arrival_ms);
        let waiting = &self.parts.snapshot.waiting;
        let samples = waiting.arrivals_ms.partition_point(|&at| at < id.arrival_ms) as u64;
        queued + (samples * waiting.step).min(waiting.count)
    }

    /// How long until so many are decided, milliseconds; `None` while nothing is being decided.
    pub fn wait_ms(&self, ahead: u64) -> Option<u64> {
        pace::estimated_wait_ms(ahead, self.parts.decided_per_s)
    }

    /// How likely tickets are for somebody with so many before them.
    pub fn chance(&self, id: &ReservationId, ahead: u64) -> Chance {
        let outlook = |&tier: &u8| {
            let stock = self.stock(tier);
            let (available, held) = (stock.available(), stock.held());
            // Those before them are taken to want as much as they do, which is all that is known here.
            let wanted = ahead.saturating_mul(u64::from(id.quantity));
            let elsewhere = stock.unsold_anywhere().unwrap_or(0).saturating_sub(stock.unsold());
            (wanted, Outlook { available, held, elsewhere, paid_permille: PAID_PERMILLE })
        };
        let need = early_no::need(u16::from(id.quantity), id.any_quantity);
        match early_no::best_chance(need, id.tiers.iter().map(outlook)) {
            early_no::Chance::Likely => Chance::Likely,
            early_no::Chance::Unlikely => Chance::Unlikely,
            early_no::Chance::Slight => Chance::Slight,
        }
    }

    /// As buyers see it, at a time of the database's clock.
    pub fn concert(&self, now_ms: u64) -> Concert {
        let definition = &self.parts.concert.definition;
        let tier = |(no, (name, price)): (usize, &(TierName, Money))| Tier {
            tier: name.clone(),
            title: definition.tiers[no].title().to_owned(),
            price: *price,
            availability: availability(self.stock[no]),
        };
        Concert {
            concert: self.parts.concert.concert.clone(),
            title: definition.title.clone(),
            venue: definition.venue.clone(),
            starts_at: definition.starts_at,
            sale_opens_at: definition.sale_opens_at,
            sale_closes_at: definition.sale_closes_at,
            state: self.state(now_ms),
            hold_ms: definition.hold_ms,
            max_per_order: definition.max_per_order,
            max_per_person: definition.max_per_person,
            max_per_identity: definition.max_per_identity,
            guests: definition.guests,
            challenge: definition.challenge,
            tiers: self.tiers.iter().enumerate().map(tier).collect(),
            queue: QueueInfo { waiting: self.waiting, estimated_wait_ms: self.wait_ms(self.waiting) },
            as_of: self.as_of,
            region: self.parts.region.clone(),
        }
    }
}

/// How many of a shard's undecided ones were told no whatever they want.
fn told_no(parts: &Parts, no: u16, shard: &Shard) -> u64 {
    let whole = |range: &&crate::db::snapshot::RejectedRange| {
        range.shard == no && range.generation == shard.generation && range.unsold.is_none()
    };
    let up_to = parts.snapshot.ranges.iter().filter(whole).map(|range| range.to_seq).max().unwrap_or(0);
    up_to.min(shard.tail_seq).saturating_sub(shard.cursor_seq)
}

fn availability(stock: TierStock) -> Availability {
    let available = stock.available();
    if stock.is_sold_out() {
        Availability::SoldOut
    } else if available == 0 {
        Availability::NoneHere
    } else if available < FEW_TICKETS.max(stock.granted / 20) {
        Availability::Few
    } else {
        Availability::Plenty
    }
}
