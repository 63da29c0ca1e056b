//! Names of all fail points, and how a process is told to die at one.
//!
//! A fail point stands between every two steps of the node's thread. With `BOXOFFICE_CRASH_AT="name"` or `"name:3"` the
//! process aborts the first (third) time it comes there: no destructor, no flush, as a SIGKILL would.

use std::sync::atomic::{AtomicU64, Ordering};

/// Every fail point there is; tests walk this list.
pub const ALL: &[&str] = &[
    "node.before_persist",
    "node.after_persist",
    "node.before_compact",
    "node.after_compact",
    "node.after_apply",
    "node.after_send",
];

/// Why a fail point could not be armed.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// No such name.
    #[error("BOXOFFICE_CRASH_AT names no fail point: {0:?}")]
    Unknown(String),
    /// Not a count, or zero.
    #[error("BOXOFFICE_CRASH_AT: the count must be a number from 1, got {0:?}")]
    Count(String),
    /// The `fail` crate's own refusal.
    #[error("BOXOFFICE_CRASH_AT: {0}")]
    Refused(String),
}

/// A place to die at.
pub fn fail_point(name: &str) {
    fail::fail_point!(name);
}

/// Arms what the text of `BOXOFFICE_CRASH_AT` says.
///
/// # Errors
/// When it names no fail point.
pub fn arm(text: &str) -> Result<(), ArmError> {
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    if !ALL.contains(&name) {
        return Err(ArmError::Unknown(name.into()));
    }
    let nth = nth.parse::<u64>().ok().filter(|nth| *nth >= 1).ok_or(ArmError::Count(nth.into()))?;
    let visits = AtomicU64::new(0);
    let named = name.to_owned();
    fail::cfg_callback(name, move || {
        if visits.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            tracing::error!(fail_point = named, "aborting as told by BOXOFFICE_CRASH_AT");
            std::process::abort();
        }
    })
    .map_err(ArmError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_listed_is_refused() {
        assert!(matches!(arm("node.nowhere"), Err(ArmError::Unknown(_))));
        assert!(matches!(arm("node.after_send:0"), Err(ArmError::Count(_))));
    }
}
