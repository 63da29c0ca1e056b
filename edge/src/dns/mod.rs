//! From query bytes to answer bytes: one function, under UDP and TCP alike.
//!
//! Pure: the time, the client's address and the snapshot come in as arguments. Must never panic on any bytes, never answer
//! for a name outside the zone, and never send an unverified address more than a fixed multiple of what it sent.

mod answer;
mod cookie;
mod opt;
mod rate;
mod sale;

pub use answer::{Asked, Kind, Mode, Outcome, Transport, answer};
pub use cookie::{CookieError, CookieSecrets};
pub use rate::{RateLimiter, RateVerdict};
pub use sale::https_content;

/// How answers are given; checked when a snapshot is built.
#[derive(Clone, Debug)]
pub struct AnswerRules {
    /// Shortest life of a chosen address, in seconds.
    pub ttl_min_s: u32,
    /// Longest, in seconds.
    pub ttl_max_s: u32,
    /// Use client subnets.
    pub client_subnet: bool,
    /// Largest answer over UDP, in bytes.
    pub udp_max_bytes: usize,
    /// Answer bytes per query byte for an unverified address.
    pub amplification_max: f64,
    /// NSID content.
    pub nsid: Option<Box<[u8]>>,
    /// TXT content of the version in class CHAOS.
    pub chaos_version: Option<Box<[u8]>>,
    /// Idle time of TCP connections in units of 100 ms, as told to clients (RFC 7828).
    pub tcp_idle_100ms: u16,
}

impl AnswerRules {
    /// Life of an answer, in seconds: until the earliest moment at which it could change, within the bounds.
    pub fn ttl_s(&self, pick: &crate::choice::Pick) -> u32 {
        let until_s = u32::try_from(pick.change_ms / 1000).unwrap_or(u32::MAX);
        until_s.clamp(self.ttl_min_s, self.ttl_max_s)
    }
}
