//! The heads of a concert's queues, read ahead and merged by arrival. Owned by the allocator's task.
//!
//! Must never: hand out somebody while somebody who came before may still be unread.

use crate::db::snapshot::Generation;
use crate::queue::{ConcertQueue, Queue, QueueEntry, QueueError};
use futures::future::try_join_all;
use std::collections::VecDeque;

/// Entries read from one shard at a time (a batch may come from a single one), and how few are left when more are read.
const READ: usize = super::BATCH_MAX;
const LOW: usize = 800;

/// The queues of a concert, from the cursors on.
#[derive(Debug)]
pub(crate) struct Feed {
    queue: ConcertQueue,
    lanes: Vec<Lane>,
    /// Whoever came up to here has been read, in every lane.
    horizon_ms: u64,
}

/// One shard's queue of one generation.
#[derive(Debug)]
struct Lane {
    shard: u16,
    generation: u16,
    /// The last sequence number read.
    read_seq: u64,
    /// Of a lost generation: the last one there is.
    end_seq: Option<u64>,
    buffer: VecDeque<QueueEntry>,
    /// The last read found less than it asked for.
    exhausted: bool,
}

impl Feed {
    /// From the cursors on.
    pub(crate) fn new(queue: ConcertQueue, generations: &[Generation]) -> Self {
        let unfinished = generations.iter().filter(|g| g.survived_seq.is_none_or(|end| g.cursor_seq < end));
        let lane = |g: &Generation| Lane {
            shard: g.shard,
            generation: g.generation,
            read_seq: g.cursor_seq,
            end_seq: g.survived_seq,
            buffer: VecDeque::new(),
            exhausted: false,
        };
        Self { queue, lanes: unfinished.map(lane).collect(), horizon_ms: 0 }
    }

    /// Whether nothing is read ahead.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.buffer.is_empty())
    }

    /// Whether the lanes are those of these generations, so that it need not be made anew.
    pub(crate) fn covers(&self, generations: &[Generation]) -> bool {
        generations.iter().filter(|g| g.survived_seq.is_none_or(|end| g.cursor_seq < end)).all(|g| {
            let same = |lane: &&Lane| (lane.shard, lane.generation) == (g.shard, g.generation);
            self.lanes.iter().find(same).is_some_and(|lane| lane.end_seq == g.survived_seq)
        })
    }

    /// Reads more where little is left. Whoever was known before is then certain to be merged in order: places are
    /// given out in order of time, so what a lane got later came later.
    pub(crate) async fn refill(&mut self, source: &Queue) -> Result<(), QueueError> {
        let known = self.lanes.iter().filter_map(|lane| lane.buffer.back()).map(|entry| entry.arrival_ms).max();
        let queue = self.queue;
        let low = self.lanes.iter().filter(|lane| lane.buffer.len() < LOW);
        let reads = low.map(|lane| async move {
            let found = source.peek(queue, lane.shard, lane.generation, lane.read_seq, READ).await?;
            Ok::<_, QueueError>((lane.shard, lane.generation, found))
        });
        let found = try_join_all(reads).await?;
        for (shard, generation, entries) in found {
            let Some(lane) = self.lanes.iter_mut().find(|l| (l.shard, l.generation) == (shard, generation)) else {
                continue;
            };
            lane.exhausted = entries.len() < READ;
            lane.read_seq = entries.last().map_or(lane.read_seq, |entry| entry.entry.sequence());
            lane.buffer.extend(entries);
        }
        self.horizon_ms = self.horizon_ms.max(known.unwrap_or(0));
        Ok(())
    }

    /// The next ones by arrival, at most `most`.
    pub(crate) fn take(&mut self, most: usize) -> Vec<QueueEntry> {
        let mut taken = Vec::with_capacity(most.min(1_000));
        while taken.len() < most {
            // A lane of which nothing is in memory may hide somebody earlier than every head that is.
            let unread = self.lanes.iter().any(|lane| lane.buffer.is_empty() && !lane.exhausted);
            let some_empty = self.lanes.iter().any(|lane| lane.buffer.is_empty());
            let heads = self.lanes.iter_mut().filter(|lane| !lane.buffer.is_empty());
            let first = heads.min_by_key(|lane| lane.buffer.front().map(|head| (head.arrival_ms, head.entry)));
            let Some(lane) = first else { break };
            let in_order = lane.buffer.front().is_some_and(|head| !some_empty || head.arrival_ms <= self.horizon_ms);
            if unread || !in_order {
                break;
            }
            taken.extend(lane.buffer.pop_front());
        }
        taken
    }

    /// Puts back what was not decided, in the order in which it was taken.
    pub(crate) fn put_back(&mut self, entries: Vec<QueueEntry>) {
        for entry in entries.into_iter().rev() {
            let of = (entry.entry.shard(), entry.entry.generation());
            if let Some(lane) = self.lanes.iter_mut().find(|lane| (lane.shard, lane.generation) == of) {
                lane.buffer.push_front(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::JoinItem;
    use region_api::{Entry, UserHash};

    fn entry(shard: u16, sequence: u64, arrival_ms: u64) -> QueueEntry {
        let item = JoinItem {
            user: UserHash([0; 16]),
            request_id: uuid::Uuid::nil(),
            quantity: 1,
            tiers: [0].into_iter().collect(),
            any_quantity: false,
            identity: None,
        };
        QueueEntry { entry: Entry::new(shard, 1, sequence).unwrap(), arrival_ms, item }
    }

    fn feed(shards: u16) -> Feed {
        let generation = |shard| Generation { shard, generation: 1, cursor_seq: 0, tail_seq: 0, survived_seq: None };
        let generations: Vec<_> = (0..shards).map(generation).collect();
        Feed::new(ConcertQueue { concert_id: 1, shards }, &generations)
    }

    fn sequences(taken: &[QueueEntry]) -> Vec<(u16, u64)> {
        taken.iter().map(|entry| (entry.entry.shard(), entry.entry.sequence())).collect()
    }

    #[test]
    fn heads_are_merged_by_arrival_and_put_back_in_order() {
        let mut feed = feed(2);
        feed.lanes[0].buffer.extend([entry(0, 1, 10), entry(0, 2, 30), entry(0, 3, 50)]);
        feed.lanes[1].buffer.extend([entry(1, 1, 20), entry(1, 2, 40), entry(1, 3, 60)]);
        let taken = feed.take(4);
        assert_eq!(sequences(&taken), [(0, 1), (1, 1), (0, 2), (1, 2)]);
        feed.put_back(taken[2..].to_vec());
        assert_eq!(sequences(&feed.take(2)), [(0, 2), (1, 2)]);
    }

    #[test]
    fn nobody_is_taken_past_a_lane_that_was_not_read() {
        let mut feed = feed(2);
        feed.lanes[0].buffer.extend([entry(0, 1, 10)]);
        assert!(feed.take(9).is_empty(), "lane 1 may hide somebody earlier");
        feed.lanes[1].exhausted = true;
        assert!(feed.take(9).is_empty(), "lane 1 was read, but perhaps before somebody came at 9");
        feed.horizon_ms = 10;
        assert_eq!(sequences(&feed.take(9)), [(0, 1)]);
    }
}
