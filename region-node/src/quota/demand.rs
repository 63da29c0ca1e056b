//! What people in this region want of each pool, for the report: tickets queued, the quantities at the head, for how long
//! the first has waited, the rate.
//!
//! Measured with every report from what is in Redis and in `waiting`: the first entries of each shard one by one, the
//! rest estimated from them. While a queue stands still (nothing to hold) a little more of it is looked at each time, so
//! that in the end the smallest quantity in it is known: near the end of a sale a single ticket has to find the one
//! person who wants a single ticket. Somebody counts for the first tier of theirs that is not gone everywhere.

use crate::books::Books;

use crate::catalog::Catalog;
use crate::db::DbError;
use crate::db::holder::{Own, pool_id};
use crate::db::snapshot::Generation;
use crate::db::wanted;
use crate::queue::{ConcertQueue, QueueEntry, QueueError, ShardState};
use crate::view::View;
use foldhash::HashMap;
use quota_protocol::limits::HEAD_QUANTITIES_MAX;
use quota_protocol::message::Demand;
use quota_protocol::{PoolId, Tickets};
use region_api::TierNo;
use region_api::wire::ConcertState;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::limits::{HEAD_READ, SCAN_READ};

/// A rate is worked out over at least this long.
const RATE_OVER: Duration = Duration::from_millis(500);
/// How much of a new rate counts.
const RATE_NEW: f64 = 0.2;

/// What is remembered between reports. Owned by the sync task.
#[derive(Default)]
pub(super) struct Demands {
    scans: HashMap<(i32, u16, u16), Scan>,
    rates: BTreeMap<PoolId, Rate>,
}

/// How far into a queue that stands still somebody has looked.
struct Scan {
    cursor_seq: u64,
    read_seq: u64,
    least: HashMap<Vec<TierNo>, u64>,
}

struct Rate {
    at: Instant,
    asked: u64,
    per_min: f64,
}

/// One tier's part, while it is being put together.
#[derive(Default)]
struct Part {
    tickets: f64,
    head: Vec<u64>,
    least: Option<u64>,
    /// When the first of them came, by the queue's clock.
    first_ms: Option<u64>,
}

impl Part {
    fn note_arrival(&mut self, arrival_ms: u64) {
        self.first_ms = Some(self.first_ms.map_or(arrival_ms, |first_ms| first_ms.min(arrival_ms)));
    }

    fn note_least(&mut self, least: u64) {
        self.least = Some(self.least.map_or(least, |known| known.min(least)));
    }

    /// The smallest takes the last place at the head, if it is not there anyway.
    fn head_quantities(mut self) -> Vec<u64> {
        self.head.truncate(HEAD_QUANTITIES_MAX);
        match self.least {
            Some(least) if !self.head.contains(&least) => {
                self.head.truncate(HEAD_QUANTITIES_MAX - 1);
                self.head.push(least);
            }
            _ => {}
        }
        self.head
    }
}

impl Demands {
    /// What is wanted now, of every pool of which anything is.
    pub(super) async fn measure(
        &mut self,
        books: &Books,
        catalog: &Catalog,
        own: &Own,
    ) -> Result<BTreeMap<PoolId, Demand>, DbError> {
        let mut all = BTreeMap::new();
        let views: Vec<_> = catalog.views().values().cloned().collect();
        for view in views {
            if view.state(catalog.now_ms()) != ConcertState::Open {
                continue;
            }
            let parts = self.parts(books, &view).await?;
            for (tier, part) in parts {
                let Some((name, _)) = view.tier(tier) else { continue };
                let pool = pool_id(&view.parts().concert.concert, name)?;
                let queued = part.tickets.round() as u64;
                let held_in = own.stored.rows.get(&pool).map_or(0, |row| row.counters.held_in.get());
                let rate_per_min = self.rate(pool, held_in + queued);
                let waited_ms = part.first_ms.map_or(0, |first_ms| catalog.now_ms().saturating_sub(first_ms));
                let head_quantities = part.head_quantities().into_iter().map(tickets).collect();
                all.insert(pool, Demand { queued: tickets(queued), head_quantities, waited_ms, rate_per_min });
            }
        }
        Ok(all)
    }

    /// Tickets asked for per minute: what was put on hold and what waits, together, only grow by people who ask.
    fn rate(&mut self, pool: PoolId, asked: u64) -> Tickets {
        let now = Instant::now();
        let rate = self.rates.entry(pool).or_insert(Rate { at: now, asked, per_min: 0.0 });
        let passed = now.duration_since(rate.at);
        if passed >= RATE_OVER {
            let lately = asked.saturating_sub(rate.asked) as f64 * 60.0 / passed.as_secs_f64();
            *rate = Rate { at: now, asked, per_min: rate.per_min * (1.0 - RATE_NEW) + lately * RATE_NEW };
        }
        tickets(rate.per_min.round() as u64)
    }

    async fn parts(&mut self, books: &Books, view: &View) -> Result<BTreeMap<TierNo, Part>, DbError> {
        let gone = |tier: TierNo| {
            let stock = view.stock(tier);
            stock.is_sold_out() || stock.unsold_anywhere() == Some(0)
        };
        let counts_for = |tiers: &[TierNo]| tiers.iter().copied().find(|tier| !gone(*tier));
        let tiers = view.parts().concert.definition.tiers.len();
        let mut parts: BTreeMap<TierNo, Part> = (0..tiers).map(|tier| (tier as TierNo, Part::default())).collect();
        // Whoever waits in SQL came first.
        for wanted in wanted::waiting(&books.db, view.concert_id(), HEAD_QUANTITIES_MAX as u32).await? {
            let Some(part) = counts_for(&wanted.tiers).and_then(|tier| parts.get_mut(&tier)) else { continue };
            part.tickets += wanted.tickets as f64;
            part.note_least(wanted.least);
            part.note_arrival(wanted.first_ms);
            part.head.extend(wanted.head);
        }
        let generations = crate::db::generations::load(&books.db, view.concert_id()).await?;
        let seen = match self.queued(books, view.queue(), generations).await {
            Ok(seen) => seen,
            // While Redis is away the rows are reported all the same.
            Err(error) => {
                tracing::debug!(%error, "what the queue wants is not known");
                return Ok(parts);
            }
        };
        let mut heads: Vec<(u64, TierNo, u64)> = Vec::new();
        for seen in seen {
            for (tiers, least) in seen.least {
                if let Some(part) = counts_for(&tiers).and_then(|tier| parts.get_mut(&tier)) {
                    part.note_least(least);
                }
            }
            let each = seen.undecided as f64 / seen.entries.len().max(1) as f64;
            for entry in seen.entries {
                let Some(tier) = counts_for(&entry.item.tiers) else { continue };
                let Some(part) = parts.get_mut(&tier) else { continue };
                part.tickets += f64::from(entry.item.quantity) * each;
                let need = need(&entry);
                part.note_least(need);
                part.note_arrival(entry.arrival_ms);
                heads.push((entry.arrival_ms, tier, need));
            }
        }
        heads.sort_unstable();
        for (_, tier, need) in heads {
            if let Some(part) = parts.get_mut(&tier) {
                part.head.push(need);
            }
        }
        Ok(parts)
    }

    async fn queued(
        &mut self,
        books: &Books,
        queue: ConcertQueue,
        generations: Vec<Generation>,
    ) -> Result<Vec<Seen>, QueueError> {
        let tails = books.queue.shards(queue).await?;
        let mut seen = Vec::with_capacity(generations.len());
        for generation in generations {
            seen.push(self.look(books, queue, generation, &tails).await?);
        }
        Ok(seen)
    }

    async fn look(
        &mut self,
        books: &Books,
        queue: ConcertQueue,
        generation: Generation,
        tails: &[ShardState],
    ) -> Result<Seen, QueueError> {
        let Generation { shard, generation: number, cursor_seq, tail_seq, survived_seq } = generation;
        let here = |state: &&ShardState| (state.shard, state.generation) == (shard, number);
        let known = tails.iter().find(here).map_or(tail_seq, |state| state.tail_seq.max(tail_seq));
        let undecided = survived_seq.unwrap_or(known).saturating_sub(cursor_seq);
        let key = (queue.concert_id, shard, number);
        if undecided == 0 {
            self.scans.remove(&key);
            return Ok(Seen::default());
        }
        let entries = books.queue.peek(queue, shard, number, cursor_seq, HEAD_READ).await?;
        let Some(last) = entries.last().filter(|_| entries.len() >= HEAD_READ) else {
            self.scans.remove(&key);
            return Ok(Seen { undecided, entries, least: HashMap::default() });
        };
        let begin = Scan { cursor_seq, read_seq: last.entry.sequence(), least: HashMap::default() };
        let scan = self.scans.entry(key).or_insert(begin);
        if scan.cursor_seq != cursor_seq {
            *scan = Scan { cursor_seq, read_seq: last.entry.sequence(), least: HashMap::default() };
        }
        let more = books.queue.peek(queue, shard, number, scan.read_seq, SCAN_READ).await?;
        for entry in &more {
            let need = need(entry);
            let least = scan.least.entry(entry.item.tiers.to_vec()).or_insert(need);
            *least = need.min(*least);
            scan.read_seq = entry.entry.sequence();
        }
        Ok(Seen { undecided, entries, least: scan.least.clone() })
    }
}

/// What was seen of one shard's queue.
#[derive(Default)]
struct Seen {
    undecided: u64,
    entries: Vec<QueueEntry>,
    least: HashMap<Vec<TierNo>, u64>,
}

fn need(entry: &QueueEntry) -> u64 {
    sale::early_no::need(entry.item.quantity.into(), entry.item.any_quantity).into()
}

fn tickets(count: u64) -> Tickets {
    Tickets::new(count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_quantity_is_always_at_the_head() {
        let part = |head: &[u64], least| Part { head: head.to_vec(), least, ..Part::default() };
        assert_eq!(part(&[4, 2], Some(2)).head_quantities(), [4, 2]);
        assert_eq!(part(&[4, 2], Some(1)).head_quantities(), [4, 2, 1]);
        let full = part(&[4; 40], Some(1)).head_quantities();
        assert_eq!((full.len(), full.last()), (HEAD_QUANTITIES_MAX, Some(&1)));
        assert!(part(&[], None).head_quantities().is_empty());
    }
}
