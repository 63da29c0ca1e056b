//! What all sockets share: the snapshot in force, the rate limiter, counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::dns::{Kind, RateLimiter, Transport};
use crate::snapshot::Snapshot;

const KINDS: [(Kind, &str); 4] =
    [(Kind::Silent, "silent"), (Kind::Answer, "answer"), (Kind::Negative, "negative"), (Kind::Error, "error")];

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Stats {
    answers: [[AtomicU64; 4]; 2],
    /// Answers that the rate limit held back.
    pub rate_dropped: AtomicU64,
    /// Answers that it let through truncated.
    pub rate_slipped: AtomicU64,
    /// Datagrams that the kernel would not send.
    pub send_failed: AtomicU64,
    /// TCP connections taken.
    pub tcp_accepted: AtomicU64,
    /// TCP connections refused because there were too many.
    pub tcp_refused: AtomicU64,
    /// TCP connections open now.
    pub tcp_open: AtomicU64,
    /// Times that a listener had to be started again.
    pub restarts: AtomicU64,
}

impl Stats {
    /// Adds counts of one thread's batch, by [`Kind`].
    pub fn add(&self, transport: Transport, counts: &[u64; 4]) {
        for (to, count) in self.answers[transport as usize].iter().zip(counts).filter(|(_, count)| **count > 0) {
            to.fetch_add(*count, Ordering::Relaxed);
        }
    }

    /// Copies everything to the metrics recorder.
    pub fn publish(&self) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (transport, name) in [(Transport::Udp, "udp"), (Transport::Tcp, "tcp")] {
            for (kind, label) in KINDS {
                let count = read(&self.answers[transport as usize][kind as usize]);
                metrics::counter!("edge_dns_answers_total", "transport" => name, "kind" => label).absolute(count);
            }
        }
        metrics::counter!("edge_dns_rate_limited_total", "verdict" => "drop").absolute(read(&self.rate_dropped));
        metrics::counter!("edge_dns_rate_limited_total", "verdict" => "slip").absolute(read(&self.rate_slipped));
        metrics::counter!("edge_dns_send_failed_total").absolute(read(&self.send_failed));
        metrics::counter!("edge_dns_tcp_connections_total", "verdict" => "accepted").absolute(read(&self.tcp_accepted));
        metrics::counter!("edge_dns_tcp_connections_total", "verdict" => "refused").absolute(read(&self.tcp_refused));
        metrics::counter!("edge_dns_listener_restarts_total").absolute(read(&self.restarts));
        metrics::gauge!("edge_dns_tcp_connections").set(read(&self.tcp_open) as f64);
    }
}

/// What all sockets share.
#[derive(Debug)]
pub struct Shared {
    /// What answers are made from now.
    pub snapshot: ArcSwap<Snapshot>,
    /// The rate limiter of the configuration in force.
    pub rate: ArcSwap<RateLimiter>,
    /// Counts.
    pub stats: Stats,
    started: Instant,
}

impl Shared {
    /// Begins with a snapshot.
    pub fn new(snapshot: Snapshot, rate: RateLimiter) -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            rate: ArcSwap::from_pointee(rate),
            stats: Stats::default(),
            started: Instant::now(),
        })
    }

    /// Microseconds since the start, on a clock that never goes back.
    pub fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// Unix time in seconds modulo 2³², for cookies.
pub(super) fn unix_s() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32)
}
