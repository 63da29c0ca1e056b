//! How long a region may go on making holds without word from the arbiters. This bounds what can go wrong; safety does
//! not rest on it, and so it may use a clock.

/// The default autonomy: half an hour since the last contact.
pub const AUTONOMY_DEFAULT_MS: u64 = 30 * 60 * 1_000;

/// Whether a region may make new holds. Payments and recycling never ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autonomy {
    /// It may, for so many more milliseconds.
    Sells {
        /// Until its autonomy ends.
        for_ms: u64,
    },
    /// It may not, until it has heard from the arbiters again.
    Ended,
}

/// Judges by the time of the last contact, which is stored with the region's rows, so that a restart does not extend
/// it. A region that never had contact has no autonomy; a last contact in the future (the clock jumped back) counts as
/// now.
pub fn autonomy(now_ms: u64, last_contact_ms: Option<u64>, autonomy_ms: u64) -> Autonomy {
    let Some(last) = last_contact_ms else { return Autonomy::Ended };
    match autonomy_ms.checked_sub(now_ms.saturating_sub(last)) {
        Some(0) | None => Autonomy::Ended,
        Some(for_ms) => Autonomy::Sells { for_ms },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_half_an_hour_after_the_last_contact() {
        assert_eq!(autonomy(0, None, AUTONOMY_DEFAULT_MS), Autonomy::Ended);
        assert_eq!(autonomy(1_000, Some(0), AUTONOMY_DEFAULT_MS), Autonomy::Sells { for_ms: 1_799_000 });
        assert_eq!(autonomy(1_800_000, Some(0), AUTONOMY_DEFAULT_MS), Autonomy::Ended);
        assert_eq!(autonomy(5, Some(10), 7), Autonomy::Sells { for_ms: 7 });
    }
}
