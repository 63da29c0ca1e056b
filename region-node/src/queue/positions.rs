//! How many places lie before an entry, without asking anybody. Pure.
//!
//! [`PositionTracker`] is owned by whoever refreshes a concert's snapshot (about once a second): it is fed with the
//! shards' states, the samples that Redis keeps (once, after a start), and the database's cursors. From it comes
//! [`Positions`], which never changes and answers a poll with one binary search per shard (some 30 ns each). Within an
//! entry's own shard the answer is exact; in the others it is interpolated between samples about a second apart. So
//! whoever came later to the same shard is never told a better position.

use super::types::{Sample, ShardState};
use region_api::Entry;
use std::collections::BTreeMap;

/// Points kept per generation; beyond it every second one goes. Two hours at one a second, then coarser.
const POINTS_MAX: usize = 8_192;

/// `count` entries have an arrival before `time_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    time_ms: u64,
    count: u64,
}

/// A growing count over time, linear between its points, constant outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Curve(Vec<Point>);

impl Curve {
    fn at(&self, time_ms: u64) -> u64 {
        let after = self.0.partition_point(|point| point.time_ms <= time_ms);
        let Some(low) = after.checked_sub(1).and_then(|at| self.0.get(at)) else { return 0 };
        let Some(high) = self.0.get(after) else { return low.count };
        let (run, rise) = (u128::from(high.time_ms - low.time_ms), u128::from(high.count - low.count));
        low.count + (rise * u128::from(time_ms - low.time_ms) / run) as u64
    }

    /// Keeps times strictly and counts weakly rising whatever comes in.
    fn add(&mut self, point: Point) {
        let at = self.0.partition_point(|known| known.time_ms < point.time_ms);
        let low = at.checked_sub(1).map_or(0, |before| self.0[before].count);
        match self.0.get_mut(at) {
            Some(same) if same.time_ms == point.time_ms => same.count = same.count.max(point.count),
            _ => self.0.insert(at, Point { count: point.count.max(low), ..point }),
        }
        let floor = self.0[at].count;
        for later in &mut self.0[at + 1..] {
            if later.count >= floor {
                break;
            }
            later.count = floor;
        }
        if self.0.len() > POINTS_MAX {
            thin(&mut self.0);
        }
    }

    /// Lets go of what lies before `count`, except the newest such point.
    fn forget_before(&mut self, count: u64) {
        let beyond = self.0.partition_point(|point| point.count <= count);
        self.0.drain(..beyond.saturating_sub(1));
    }
}

/// Keeps the first, every second, and the last point.
fn thin(points: &mut Vec<Point>) {
    let last = points.len() - 1;
    let mut at = 0;
    points.retain(|_| {
        at += 1;
        (at - 1) % 2 == 0 || at - 1 == last
    });
}

#[derive(Debug, Clone, Default)]
struct Generation {
    curve: Curve,
    cursor: u64,
    end: u64,
}

impl Generation {
    /// Undecided ones among the first `count`.
    fn undecided(&self, count: u64) -> u64 {
        count.clamp(self.cursor.min(self.end), self.end) - self.cursor.min(self.end)
    }
}

/// Collects what is known of a concert's shards. Its owner feeds it; see the head of this file.
#[derive(Debug, Clone, Default)]
pub struct PositionTracker {
    generations: BTreeMap<(u16, u16), Generation>,
}

impl PositionTracker {
    /// Takes a shard's samples (after a start, or when this node was long away).
    pub fn load(&mut self, shard: u16, samples: &[Sample]) {
        for sample in samples {
            let known = self.generations.entry((shard, sample.generation)).or_default();
            known.end = known.end.max(sample.sequence);
            known.curve.add(Point { time_ms: sample.arrival_ms, count: sample.sequence });
        }
    }

    /// Takes a shard's state as just read.
    pub fn observe(&mut self, state: &ShardState) {
        let known = self.generations.entry((state.shard, state.generation)).or_default();
        known.end = known.end.max(state.tail_seq);
        if state.tail_seq > 0 {
            known.curve.add(Point { time_ms: state.tail_arrival_ms + 1, count: state.tail_seq });
        }
    }

    /// Takes how far a generation has been decided, and where a lost one ends (the database's `survived_seq`).
    pub fn cursor(&mut self, shard: u16, generation: u16, cursor_seq: u64, survived_seq: Option<u64>) {
        let known = self.generations.entry((shard, generation)).or_default();
        known.cursor = known.cursor.max(cursor_seq);
        match survived_seq {
            Some(survived) => known.end = survived,
            None => known.end = known.end.max(cursor_seq),
        }
        known.curve.forget_before(known.cursor);
    }

    /// What a poll needs, as of now.
    pub fn snapshot(&self) -> Positions {
        let open = self.generations.iter().filter(|(_, generation)| generation.cursor < generation.end);
        let waiting = open.clone().map(|(_, generation)| generation.end - generation.cursor).sum();
        let cursors = self.generations.iter().map(|(key, generation)| (*key, generation.cursor)).collect();
        Positions { open: open.map(|(key, generation)| (*key, generation.clone())).collect(), cursors, waiting }
    }
}

/// How many places lie before an entry; see [`PositionTracker::snapshot`].
#[derive(Debug, Clone, Default)]
pub struct Positions {
    /// By shard and generation, those with undecided entries.
    open: Vec<((u16, u16), Generation)>,
    cursors: BTreeMap<(u16, u16), u64>,
    waiting: u64,
}

impl Positions {
    /// Undecided entries before this one, by order of arrival. 0 for one that is decided already; an entry that was
    /// lost keeps the place that its number says.
    pub fn ahead(&self, entry: Entry, arrival_ms: u64) -> u64 {
        let own = (entry.shard(), entry.generation());
        let cursor = self.cursors.get(&own).copied().unwrap_or(0);
        if entry.sequence() <= cursor {
            return 0;
        }
        let others = self.open.iter().filter(|(key, _)| *key != own);
        let before: u64 = others.map(|(_, other)| other.undecided(other.curve.at(arrival_ms))).sum();
        before + entry.sequence() - 1 - cursor
    }

    /// Undecided entries in all shards.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tracker that saw every `every`-th arrival of each shard (before it, and the state right after it).
    fn tracker(shards: &[Vec<u64>], cursors: &[u64], every: usize) -> PositionTracker {
        let mut tracker = PositionTracker::default();
        for (shard, arrivals) in shards.iter().enumerate() {
            let number = shard as u16;
            let state = |tail_seq: usize| ShardState {
                shard: number,
                generation: 1,
                head_seq: 1,
                tail_seq: tail_seq as u64,
                tail_arrival_ms: tail_seq.checked_sub(1).map_or(0, |last| arrivals[last]),
            };
            let new_times = (0..arrivals.len()).filter(|k| *k == 0 || arrivals[k - 1] < arrivals[*k]);
            for k in new_times.step_by(every) {
                let sample = Sample { arrival_ms: arrivals[k], generation: 1, sequence: k as u64 };
                tracker.load(number, &[sample]);
                let same_time = arrivals[k..].iter().take_while(|time| **time == arrivals[k]).count();
                tracker.observe(&state(k + same_time));
            }
            tracker.observe(&state(arrivals.len()));
            tracker.cursor(number, 1, cursors[shard].min(arrivals.len() as u64), None);
        }
        tracker
    }

    fn arrivals() -> impl Strategy<Value = Vec<Vec<u64>>> {
        prop::collection::vec(prop::collection::vec(0u64..40, 0..200), 1..6).prop_map(|shards| {
            let rising = |gaps: Vec<u64>| {
                gaps.into_iter().scan(1_000u64, |now, gap| {
                    *now += gap;
                    Some(*now)
                })
            };
            shards.into_iter().map(|gaps| rising(gaps).collect()).collect()
        })
    }

    proptest! {
        /// Where every arrival was seen there is nothing to guess.
        #[test]
        fn exact_where_every_arrival_was_seen(shards in arrivals(), cursors in prop::collection::vec(0u64..150, 6)) {
            let positions = tracker(&shards, &cursors, 1).snapshot();
            for (shard, own) in shards.iter().enumerate() {
                for (k, arrival) in own.iter().enumerate().skip(cursors[shard] as usize) {
                    let elsewhere = shards.iter().enumerate().filter(|(other, _)| *other != shard);
                    let before: u64 = elsewhere.map(|(other, list)| {
                        let earlier = list.iter().filter(|time| *time < arrival).count() as u64;
                        earlier.saturating_sub(cursors[other])
                    }).sum();
                    let exact = before + k as u64 - cursors[shard];
                    let entry = Entry::new(shard as u16, 1, k as u64 + 1).unwrap();
                    prop_assert_eq!(positions.ahead(entry, *arrival), exact, "{:?}", entry);
                }
            }
        }

        /// However coarse the samples: later in the same shard is never further ahead, and nobody is beyond the end.
        #[test]
        fn later_means_further_back(shards in arrivals(), cursors in prop::collection::vec(0u64..150, 6), every in 1usize..60) {
            let positions = tracker(&shards, &cursors, every).snapshot();
            let waiting: u64 = shards.iter().zip(&cursors).map(|(s, c)| (s.len() as u64).saturating_sub(*c)).sum();
            prop_assert_eq!(positions.waiting(), waiting);
            for (shard, own) in shards.iter().enumerate() {
                let mut before = 0;
                for (k, arrival) in own.iter().enumerate() {
                    let ahead = positions.ahead(Entry::new(shard as u16, 1, k as u64 + 1).unwrap(), *arrival);
                    prop_assert!(ahead >= before || k as u64 <= cursors[shard], "{} then {}", before, ahead);
                    prop_assert!(ahead <= waiting);
                    before = ahead;
                }
            }
        }

        #[test]
        fn whatever_is_fed_a_curve_only_rises(points in prop::collection::vec((0u64..500, 0u64..500), 0..100)) {
            let mut curve = Curve::default();
            points.iter().for_each(|(time_ms, count)| curve.add(Point { time_ms: *time_ms, count: *count }));
            prop_assert!(curve.0.windows(2).all(|w| w[0].time_ms < w[1].time_ms && w[0].count <= w[1].count));
        }
    }

    #[test]
    fn an_older_generation_goes_before_and_only_its_survivors_count() {
        let mut tracker = PositionTracker::default();
        let state = |generation, tail_seq, tail_arrival_ms| ShardState {
            shard: 0,
            generation,
            head_seq: 1,
            tail_seq,
            tail_arrival_ms,
        };
        tracker.observe(&state(1, 100, 5_000));
        tracker.cursor(0, 1, 20, Some(60));
        tracker.observe(&state(2, 10, 9_000));
        let positions = tracker.snapshot();
        assert_eq!(positions.waiting(), 40 + 10);
        assert_eq!(positions.ahead(Entry::new(0, 2, 3).unwrap(), 8_000), 40 + 2);
        assert_eq!(positions.ahead(Entry::new(0, 1, 20).unwrap(), 100), 0);
        // Lost ones keep the place that their number says.
        assert_eq!(positions.ahead(Entry::new(0, 1, 31).unwrap(), 5_000), 10);
    }

    #[test]
    fn points_stay_bounded() {
        let mut tracker = PositionTracker::default();
        for second in 1..100_000u64 {
            let (tail_seq, tail_arrival_ms) = (second * 100, second * 1_000);
            tracker.observe(&ShardState { shard: 0, generation: 1, head_seq: 1, tail_seq, tail_arrival_ms });
        }
        let points = tracker.generations[&(0, 1)].curve.0.len();
        assert!(points <= POINTS_MAX, "{points}");
        let positions = tracker.snapshot();
        let ahead = positions.ahead(Entry::new(1, 1, 1).unwrap(), 50_000_000);
        assert!(ahead.abs_diff(5_000_000) < 2_000, "{ahead}");
    }
}
