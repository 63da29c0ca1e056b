//! The node's own clock: for session expiry, caches and polling cadence only.
//!
//! Never used for hold times (the database's) or arrivals (Redis's).

use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// Milliseconds since 1970 by this machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Milliseconds since 1970 as a UTC time; the end of time for what no calendar holds.
pub fn utc(ms: u64) -> OffsetDateTime {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok())
        .unwrap_or(time::UtcDateTime::MAX.into())
}

/// A UTC time as milliseconds since 1970; 0 for what was before.
pub fn ms_of(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(ms_of(utc(1_750_000_000_123)), 1_750_000_000_123);
        assert_eq!(utc(u64::MAX).year(), 9999);
    }
}
