//! Response-rate limiting over UDP: a network gets so many answers of one kind a second, and of those held back every n-th
//! truncated, so that a real client behind a forged flood comes back over TCP or with a cookie.
//!
//! One table for all threads, of single atomic words, without locks: each word holds the time up to which a network has
//! used its allowance (the generic cell rate algorithm). Two networks that meet in a word share an allowance: stricter,
//! never laxer. The time is an argument.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use super::Kind;
use crate::config::RateConfig;
use crate::geo::NetworkMap;

/// Allowance that may be used at once, in microseconds: a second's worth.
const BURST_US: u64 = 1_000_000;

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateVerdict {
    /// Send it.
    Send,
    /// Send it truncated.
    Slip,
    /// Send nothing.
    Drop,
}

/// The limiter.
pub struct RateLimiter {
    slots: Box<[AtomicU64]>,
    held_back: AtomicU32,
    seed: u64,
    cost_us: [u64; 2],
    slip: u32,
    exempt: NetworkMap,
}

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimiter")
            .field("slots", &self.slots.len())
            .field("cost_us", &self.cost_us)
            .finish_non_exhaustive()
    }
}

impl RateLimiter {
    /// A limiter with `slots` words; `seed` keeps others from choosing addresses that meet in one word.
    pub fn new(config: &RateConfig, slots: usize, seed: u64) -> Self {
        let cost = |per_s: u32| BURST_US.checked_div(u64::from(per_s)).unwrap_or(0);
        let mut exempt = NetworkMap::default();
        config.exempt.iter().for_each(|network: &IpNet| exempt.insert(*network, 0));
        Self {
            slots: (0..slots.max(1)).map(|_| AtomicU64::new(0)).collect(),
            held_back: AtomicU32::new(0),
            seed,
            cost_us: [cost(config.responses_per_s), cost(config.errors_per_s)],
            slip: config.slip,
            exempt,
        }
    }

    /// Counts an answer to an address.
    pub fn check(&self, address: IpAddr, kind: Kind, now_us: u64) -> RateVerdict {
        let cost_us = self.cost_us[usize::from(kind == Kind::Error)];
        if cost_us == 0 || self.exempt.find(address).0.is_some() {
            return RateVerdict::Send;
        }
        let slot = &self.slots[(self.slot_hash(address, kind) % self.slots.len() as u64) as usize];
        let mut seen = slot.load(Ordering::Relaxed);
        loop {
            let used_until = seen.max(now_us) + cost_us;
            if used_until > now_us + BURST_US.max(cost_us) {
                return self.hold_back();
            }
            match slot.compare_exchange_weak(seen, used_until, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return RateVerdict::Send,
                Err(other) => seen = other,
            }
        }
    }

    fn hold_back(&self) -> RateVerdict {
        let count = self.held_back.fetch_add(1, Ordering::Relaxed);
        if self.slip > 0 && count.is_multiple_of(self.slip) { RateVerdict::Slip } else { RateVerdict::Drop }
    }

    /// Networks of /24 and /56: what one attacker's victim, or one real resolver farm, usually is.
    fn slot_hash(&self, address: IpAddr, kind: Kind) -> u64 {
        let network = match address {
            IpAddr::V4(a) => u64::from(a.to_bits() >> 8),
            IpAddr::V6(a) => (a.to_bits() >> 72) as u64 | 1 << 63,
        };
        let mut hasher = SipHasher13::new_with_keys(self.seed, kind as u64);
        hasher.write_u64(network);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(responses_per_s: u32, slip: u32) -> RateLimiter {
        let exempt = vec!["192.0.2.0/24".parse().unwrap()];
        RateLimiter::new(&RateConfig { responses_per_s, errors_per_s: 5, slip, exempt }, 1 << 12, 7)
    }

    fn sent(limiter: &RateLimiter, address: &str, kind: Kind, from_us: u64, every_us: u64, count: u64) -> usize {
        let address = address.parse().unwrap();
        (0..count).filter(|i| limiter.check(address, kind, from_us + i * every_us) == RateVerdict::Send).count()
    }

    #[test]
    fn a_network_gets_its_allowance_and_no_more() {
        let limiter = limiter(100, 0);
        let one_second = sent(&limiter, "203.0.113.9", Kind::Answer, 0, 100, 10_000);
        assert!((195..=201).contains(&one_second), "a burst of 100 and 100 a second: {one_second}");
        assert_eq!(sent(&limiter, "203.0.113.200", Kind::Answer, 999_950, 1, 1), 0, "the same /24");
        assert_eq!(sent(&limiter, "203.0.113.9", Kind::Error, 1_000_000, 1, 10), 5, "errors have a limit of their own");
        assert_eq!(sent(&limiter, "198.51.100.1", Kind::Answer, 1_000_000, 1, 50), 50, "others are not touched");
        assert_eq!(sent(&limiter, "192.0.2.1", Kind::Answer, 0, 1, 1000), 1000, "exempt");
        assert_eq!(sent(&limiter, "203.0.113.9", Kind::Answer, 3_000_000, 1, 50), 50, "forgiven after a while");
    }

    #[test]
    fn every_second_one_held_back_slips() {
        let limiter = limiter(1, 2);
        let address = "203.0.113.9".parse().unwrap();
        let verdicts: Vec<_> = (0..5).map(|i| limiter.check(address, Kind::Answer, i)).collect();
        use RateVerdict::{Drop, Send, Slip};
        assert_eq!(verdicts, [Send, Slip, Drop, Slip, Drop]);
    }

    #[test]
    fn no_limit_when_configured_so() {
        assert_eq!(sent(&limiter(0, 2), "203.0.113.9", Kind::Answer, 0, 0, 10_000), 10_000);
    }
}
