//! What a region says about its load and stock: pushed to the edge, or read from the region's own status.
//!
//! The pushed form is strict (unknown fields are refused); a status is read leniently, since most of it is none of our
//! business. Pure: the time is an argument.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Load and stock of one region. All rates are per second, over about two steps of hand-overs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Joins that arrived per second, refused ones included.
    pub arrivals_per_s: f64,
    /// Joins per second that the region can take; the configured figure when absent.
    #[serde(default)]
    pub capacity_per_s: Option<f64>,
    /// People waiting in all queues.
    #[serde(default)]
    pub queue: u64,
    /// At how many waiting the region refuses; absent: never.
    #[serde(default)]
    pub queue_max: Option<u64>,
    /// Tickets that can still be had here, over all concerts on sale; absent: not known, or nothing on sale.
    #[serde(default)]
    pub stock: Option<u64>,
}

/// Why a report is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// Not the JSON of a report.
    #[error("not a report: {0}")]
    Shape(String),
    /// A number that no region can mean.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
}

impl Report {
    /// Reads a pushed report.
    ///
    /// # Errors
    /// [`ReportError`] naming the field.
    pub fn from_json(body: &[u8]) -> Result<Self, ReportError> {
        let report: Self = serde_json::from_slice(body).map_err(|e| ReportError::Shape(e.to_string()))?;
        report.checked()
    }

    fn checked(self) -> Result<Self, ReportError> {
        let sane = |v: f64| v.is_finite() && (0.0..=1e9).contains(&v);
        if !sane(self.arrivals_per_s) {
            return Err(ReportError::Bounds("arrivals_per_s"));
        }
        if !self.capacity_per_s.is_none_or(|c| sane(c) && c > 0.0) {
            return Err(ReportError::Bounds("capacity_per_s"));
        }
        Ok(self)
    }

    /// True when the queue is so full that newcomers should go elsewhere.
    pub fn is_queue_full(&self) -> bool {
        self.queue_max.is_some_and(|max| self.queue.saturating_mul(10) >= max.saturating_mul(9))
    }
}

/// What of a region's `GET /v1/status` the edge reads; the region may say more.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    concerts: Vec<Concert>,
    /// What the region says that it can take.
    #[serde(default)]
    intake: Option<Intake>,
    /// A report ready made, for regions of another make; it goes before what is reckoned from the rest.
    #[serde(default)]
    edge: Option<Report>,
}

#[derive(Deserialize)]
struct Intake {
    queue: u64,
    queue_max: u64,
    #[serde(default)]
    capacity_per_s: Option<f64>,
    #[serde(default)]
    refused: u64,
}

#[derive(Deserialize)]
struct Concert {
    concert: String,
    state: String,
    #[serde(default)]
    halted: Option<String>,
    #[serde(default)]
    queued: u64,
    #[serde(default)]
    shards: Vec<Shard>,
    #[serde(default)]
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Shard {
    shard: u64,
    generation: u64,
    tail_seq: u64,
}

#[derive(Deserialize)]
struct Pool {
    available: i64,
}

/// Makes reports out of a region's successive statuses: its queues count every join that was accepted, and the node that
/// answers those that it refused for want of room, so the joins per second are the growth of both.
#[derive(Debug)]
pub struct StatusMeter {
    window_ms: u64,
    refused: Option<u64>,
    tails: HashMap<(String, u64, u64), u64>,
    joins: VecDeque<(u64, u64)>,
}

impl StatusMeter {
    /// Joins are counted over `window_ms`: two steps of hand-overs, so that a step is seen before the next but one.
    pub fn new(window_ms: u64) -> Self {
        Self { window_ms, refused: None, tails: HashMap::new(), joins: VecDeque::new() }
    }

    /// Reads a status that came at `now_ms`; the first one makes no report yet, since a rate needs two.
    ///
    /// # Errors
    /// [`ReportError`] when it is none.
    pub fn read(&mut self, body: &[u8], now_ms: u64) -> Result<Option<Report>, ReportError> {
        let status: Status = serde_json::from_slice(body).map_err(|e| ReportError::Shape(e.to_string()))?;
        if let Some(report) = status.edge {
            return report.checked().map(Some);
        }
        let open = || status.concerts.iter().filter(|c| c.state == "open");
        let refused = status.intake.as_ref().map(|intake| intake.refused);
        // A node that was started anew counts from 0.
        let turned_away = refused.zip(self.refused).map_or(0, |(now, before)| now.saturating_sub(before));
        self.refused = refused;
        let grown = self.grown(open()).saturating_add(turned_away);
        self.joins.push_back((now_ms, grown));
        while self.joins.len() > 2 && self.joins.get(1).is_some_and(|(at, _)| at + self.window_ms <= now_ms) {
            self.joins.pop_front();
        }
        // The first entry only marks where the window begins: its joins came before it.
        let since_ms = self.joins.front().map_or(now_ms, |(at, _)| *at);
        if self.joins.len() < 2 || since_ms >= now_ms {
            return Ok(None);
        }
        let joins: u64 = self.joins.iter().skip(1).map(|(_, grown)| grown).sum();
        let selling = || open().filter(|c| c.halted.is_none()).flat_map(|c| &c.pools);
        let stock = selling().map(|p| u64::try_from(p.available).unwrap_or(0)).sum();
        let intake = status.intake.as_ref();
        let report = Report {
            arrivals_per_s: joins as f64 * 1000.0 / (now_ms - since_ms) as f64,
            capacity_per_s: intake.and_then(|intake| intake.capacity_per_s),
            queue: intake.map_or_else(|| open().map(|c| c.queued).sum(), |intake| intake.queue),
            queue_max: intake.map(|intake| intake.queue_max),
            stock: open().next().is_some().then_some(stock),
        };
        report.checked().map(Some)
    }

    /// By how much all queues together have grown since the last status. A queue not seen before has not grown.
    fn grown<'a>(&mut self, concerts: impl Iterator<Item = &'a Concert>) -> u64 {
        let mut tails = HashMap::new();
        let mut grown = 0u64;
        for concert in concerts {
            for shard in &concert.shards {
                let key = (concert.concert.clone(), shard.shard, shard.generation);
                let before = self.tails.get(&key).copied().unwrap_or(shard.tail_seq);
                grown = grown.saturating_add(shard.tail_seq.saturating_sub(before));
                tails.insert(key, shard.tail_seq);
            }
        }
        self.tails = tails;
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_when_pushed() {
        let report = Report::from_json(br#"{"arrivals_per_s":12.5,"queue":950,"queue_max":1000,"stock":0}"#).unwrap();
        assert!(report.is_queue_full());
        assert_eq!((report.stock, report.capacity_per_s), (Some(0), None));
        assert!(matches!(Report::from_json(br#"{"arrivals_per_s":1,"x":1}"#), Err(ReportError::Shape(_))));
        assert_eq!(Report::from_json(br#"{"arrivals_per_s":-1}"#), Err(ReportError::Bounds("arrivals_per_s")));
    }

    /// A status as the region's own types write it.
    fn status(tails: [u64; 2], available: i64) -> Vec<u8> {
        status_refusing(tails, available, 0)
    }

    fn status_refusing(tails: [u64; 2], available: i64, refused: u64) -> Vec<u8> {
        use region_api::wire::{
            ConcertState, ConcertStatus, IntakeStatus, NodeStatus, PoolStatus, QuotaColumns, ShardStatus,
        };
        let shard =
            |(shard, tail_seq)| ShardStatus { shard, generation: 1, cursor_seq: 0, tail_seq, lost_generations: vec![] };
        let pool = PoolStatus {
            tier: "A".parse().unwrap(),
            epoch: 1,
            registered_as: Default::default(),
            columns: QuotaColumns::default(),
            unfolded: 0,
            held: 0,
            available,
        };
        let concert = ConcertStatus {
            concert: "demo".parse().unwrap(),
            state: ConcertState::Open,
            version: 1,
            book: 1,
            halted: None,
            queued: 41,
            waiting: 0,
            shards: (0u16..).zip(tails).map(shard).collect(),
            pools: vec![pool],
        };
        let status = NodeStatus {
            region: "east".parse().unwrap(),
            node: "n1".to_owned(),
            version: "0".to_owned(),
            roles: vec![],
            allocating: true,
            draining: false,
            ready: true,
            missing: vec![],
            identity: None,
            last_arbiter_contact: None,
            arbiter: None,
            intake: IntakeStatus { queue: 42, queue_max: 1_000, capacity_per_s: Some(150.0), refused },
            concerts: vec![concert],
            as_of: serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap(),
        };
        serde_json::to_vec(&status).unwrap()
    }

    #[test]
    fn who_is_refused_for_want_of_room_has_arrived_all_the_same() {
        let mut meter = StatusMeter::new(10_000);
        assert_eq!(meter.read(&status_refusing([100, 50], 7, 400), 1_000), Ok(None));
        let report = meter.read(&status_refusing([110, 50], 7, 430), 2_000).unwrap().unwrap();
        assert_eq!(report.arrivals_per_s, 40.0);
        let report = meter.read(&status_refusing([110, 50], 7, 5), 3_000).unwrap().unwrap();
        assert_eq!(report.arrivals_per_s, 20.0, "a node that was started anew has not taken anything back");
    }

    #[test]
    fn joins_per_second_are_the_growth_of_the_queues() {
        let mut meter = StatusMeter::new(10_000);
        assert_eq!(meter.read(&status([100, 50], 7), 1_000), Ok(None));
        let report = meter.read(&status([150, 100], 0), 2_000).unwrap().unwrap();
        assert_eq!((report.arrivals_per_s, report.queue, report.stock), (100.0, 42, Some(0)));
        assert_eq!((report.queue_max, report.capacity_per_s), (Some(1_000), Some(150.0)), "as the region says");
        for second in 3..30 {
            meter.read(&status([150, 100 + 10 * second], 3), second * 1_000).unwrap();
        }
        let report = meter.read(&status([150, 400], 3), 30_000).unwrap().unwrap();
        assert!(
            (9.0..12.0).contains(&report.arrivals_per_s),
            "the crowd of the start is forgotten: {}",
            report.arrivals_per_s
        );
        assert_eq!(
            meter
                .read(b"{\"region\":\"east\",\"edge\":{\"arrivals_per_s\":3}}", 31_000)
                .unwrap()
                .unwrap()
                .arrivals_per_s,
            3.0
        );
        assert!(meter.read(b"no", 32_000).is_err());
    }
}
