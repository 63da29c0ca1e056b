//! Counts and latencies of a crowd, and the report that `ops load` prints.

use super::client::{CallError, Reservation};
use super::compass::Found;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How a buyer's evening ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Has tickets.
    Sold,
    /// Told no after having been accepted.
    Rejected,
    /// Let the hold lapse.
    Expired,
    /// Cancelled.
    Cancelled,
    /// Polled too often.
    Voided,
    /// Paid too late and got the money back, or the tickets were refunded.
    Refunded,
    /// Still waiting or holding when everybody went home.
    Waiting,
    /// Never accepted: told so at once.
    Refused,
    /// Got no answer, or one that breaks the contract.
    Error,
}

impl Outcome {
    /// From the last state seen.
    pub fn of(seen: &Reservation) -> Result<Self, CallError> {
        Ok(match seen.status.as_str() {
            "sold" => Outcome::Sold,
            "rejected" => Outcome::Rejected,
            "expired" => Outcome::Expired,
            "cancelled" => Outcome::Cancelled,
            "voided" => Outcome::Voided,
            "refunded" => Outcome::Refunded,
            "queued" | "held" => Outcome::Waiting,
            other => return Err(CallError::Broken(format!("a state that the contract does not know: {other}"))),
        })
    }
}

/// Shared by all buyers; every field may be written by any of them at any time.
pub struct Tally {
    /// Joins answered `202`.
    pub accepted: AtomicU64,
    /// Calls repeated after a failure that allows it.
    pub repeats: AtomicU64,
    /// Polls sent.
    pub polls: AtomicU64,
    ended: Mutex<BTreeMap<Outcome, u64>>,
    problems: Mutex<BTreeMap<String, (u64, String)>>,
    latency_us: Mutex<Histogram<u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|e| unreachable!("bounds: {e}"));
        Self {
            accepted: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            ended: Mutex::default(),
            problems: Mutex::default(),
            latency_us: Mutex::new(latency),
        }
    }
}

impl Tally {
    /// Counts an end.
    pub fn ended(&self, outcome: Outcome) {
        *self.ended.lock().entry(outcome).or_default() += 1;
    }
    /// Counts a problem by its code and keeps the first text of each.
    pub fn problem(&self, error: &CallError) {
        let mut problems = self.problems.lock();
        problems.entry(error.code().to_owned()).or_insert_with(|| (0, error.to_string())).0 += 1;
    }
    /// Notes how long a join took.
    pub fn latency(&self, took: Duration) {
        self.latency_us.lock().saturating_record(took.as_micros() as u64);
    }
    /// How many ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.ended.lock().get(&outcome).copied().unwrap_or(0)
    }
    /// How many ended at all.
    pub fn ended_total(&self) -> u64 {
        self.ended.lock().values().sum()
    }
    /// Code, count and first text of every kind of problem.
    pub fn problems(&self) -> Vec<(String, u64, String)> {
        self.problems.lock().iter().map(|(code, (count, text))| (code.clone(), *count, text.clone())).collect()
    }
    /// The report.
    pub fn report(&self, users: u64, elapsed: Duration, books: &'static str) -> Report {
        let latency = self.latency_us.lock();
        let ms = |us: u64| us as f64 / 1000.0;
        Report {
            users,
            accepted: self.accepted.load(Relaxed),
            sold: self.count(Outcome::Sold),
            rejected: self.count(Outcome::Rejected),
            expired: self.count(Outcome::Expired),
            cancelled: self.count(Outcome::Cancelled),
            voided: self.count(Outcome::Voided),
            refunded: self.count(Outcome::Refunded),
            waiting: self.count(Outcome::Waiting),
            refused: self.count(Outcome::Refused),
            errors: self.count(Outcome::Error),
            repeats: self.repeats.load(Relaxed),
            polls: self.polls.load(Relaxed),
            latency_ms: LatencyMs {
                p50: ms(latency.value_at_quantile(0.5)),
                p99: ms(latency.value_at_quantile(0.99)),
                max: ms(latency.max()),
            },
            elapsed_ms: elapsed.as_millis() as u64,
            books,
            via_dns: None,
        }
    }
}

/// What `ops load --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Size of the crowd.
    pub users: u64,
    /// Joins answered `202`.
    pub accepted: u64,
    /// Buyers who ended with tickets.
    pub sold: u64,
    /// Buyers told no after having been accepted.
    pub rejected: u64,
    /// Buyers whose hold lapsed.
    pub expired: u64,
    /// Buyers who cancelled.
    pub cancelled: u64,
    /// Buyers who polled too often.
    pub voided: u64,
    /// Buyers whose money went back.
    pub refunded: u64,
    /// Buyers still queued or holding at the end.
    pub waiting: u64,
    /// Buyers told no at once.
    pub refused: u64,
    /// Buyers without a proper answer.
    pub errors: u64,
    /// Calls repeated.
    pub repeats: u64,
    /// Polls sent.
    pub polls: u64,
    /// Latency of joins, milliseconds.
    pub latency_ms: LatencyMs,
    /// From the first arrival to the last end, milliseconds.
    pub elapsed_ms: u64,
    /// `ok` or `broken`, as `verify` finds them after the crowd.
    pub books: &'static str,
    /// Where people landed who found their region by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via_dns: Option<Found>,
}

/// Quantiles in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LatencyMs {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}
