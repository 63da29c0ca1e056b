//! Counts how often each reservation is polled by its owner, to void those polled far too often.
//!
//! What too often means is `sale::pace`'s to say. A reservation polled as told costs a few dozen bytes for one window;
//! shards are swept as they grow, by whoever comes along. Counted per node.

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use region_api::Entry;
use sale::pace;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::time::Instant;

/// Locks; many more than threads, so that they rarely meet.
const SHARDS: usize = 64;
/// A shard is not swept before it has this many.
const SWEEP_FROM: usize = 1024;

struct Shard {
    polls: HashMap<(i32, Entry), pace::Polls, RandomState>,
    sweep_at: usize,
}

/// Polls per reservation within the last window.
pub struct Polls {
    started: Instant,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

impl Default for Polls {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { polls: HashMap::default(), sweep_at: SWEEP_FROM });
        Self {
            started: Instant::now(),
            hasher: RandomState::default(),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }
}

impl Polls {
    /// Counts a poll; true when it is one too many.
    pub fn too_many(&self, concert_id: i32, entry: Entry) -> bool {
        self.too_many_at(concert_id, entry, self.started.elapsed().as_millis() as u64)
    }

    fn too_many_at(&self, concert_id: i32, entry: Entry, now_ms: u64) -> bool {
        let key = (concert_id, entry);
        let which = self.hasher.hash_one(key) as usize % SHARDS;
        let mut shard = self.shards[which].lock();
        if shard.polls.len() >= shard.sweep_at {
            let window_ms = sale::limits::POLL_WINDOW_MS;
            shard.polls.retain(|_, polls| polls.last_ms().is_some_and(|last| now_ms.saturating_sub(last) < window_ms));
            shard.sweep_at = (shard.polls.len() * 2).max(SWEEP_FROM);
        }
        shard.polls.entry(key).or_default().one_too_many(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64) -> Entry {
        Entry::new(3, 1, sequence).unwrap()
    }

    #[test]
    fn the_twenty_first_poll_in_ten_seconds_is_too_many() {
        let polls = Polls::default();
        let over: Vec<bool> = (0..21).map(|i| polls.too_many_at(1, entry(1), i * 100)).collect();
        assert_eq!(over.iter().position(|&over| over), Some(20));
        assert!(!polls.too_many_at(1, entry(2), 2_100) && !polls.too_many_at(2, entry(1), 2_100));
        assert!(!polls.too_many_at(1, entry(1), 30_000));
    }

    #[test]
    fn polling_as_told_is_never_too_much() {
        let polls = Polls::default();
        assert!((0..10_000).all(|i| !polls.too_many_at(1, entry(7), i * 501)));
    }

    #[test]
    fn memory_stays_bounded() {
        let polls = Polls::default();
        for second in 0..100 {
            for i in 0..2_000 {
                assert!(!polls.too_many_at(1, entry(second * 2_000 + i + 1), second * 1_000));
            }
        }
        let kept: usize = polls.shards.iter().map(|s| s.lock().polls.len()).sum();
        assert!(kept <= 2 * SHARDS * SWEEP_FROM, "{kept} kept");
    }
}
