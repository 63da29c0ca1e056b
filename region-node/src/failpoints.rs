//! Names of all fail points, and how a process is told to die at one.
//!
//! A fail point stands between every two steps of allocator, recycler and payments. With
//! `BOXOFFICE_CRASH_AT="name"` or `"name:3"` the process aborts the first (third) time it comes there: no destructor,
//! no flush, as a SIGKILL would. Without it a fail point does nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Every fail point there is; tests walk this list.
pub const ALL: &[&str] = &[
    "payments.expire.before_commit",
    "payments.expiry.after_ask",
    "payments.expiry.after_cancel",
    "payments.expiry.after_claim",
    "payments.expiry.after_commit",
    "payments.expiry.after_extend",
    "payments.expiry.after_mark",
    "payments.expiry.before_expire",
    "payments.refund.after_call",
    "payments.refund.after_commit",
    "payments.refund.before_call",
    "payments.settle.after_commit",
    "payments.settle.before_book",
    "payments.settle.before_commit",
    "payments.start.after_commit",
    "payments.start.after_intent",
    "payments.start.before_commit",
    "payments.start.before_intent",
    "payments.webhook.after_claim",
    "payments.webhook.after_store",
    "payments.webhook.before_store",
    "allocator.before_open",
    "allocator.after_open",
    "allocator.after_booked",
    "allocator.after_holds",
    "allocator.before_commit",
    "allocator.after_commit",
    "allocator.after_note",
    "allocator.between_trims",
    "house.before_commit",
    "generations.after_record",
    "recycler.before_expire",
    "recycler.before_commit",
    "recycler.after_commit",
    "folder.after_lock",
    "folder.before_commit",
    "folder.after_commit",
    "finals.before_insert",
    "finals.before_commit",
    "reclaim.before_commit",
    "quota.before_register",
    "quota.before_report",
    "quota.deliver.before_commit",
    "quota.deliver.after_commit",
    "quota.adopt.before_commit",
    "quota.adopt.after_commit",
    "quota.return.before_commit",
    "quota.return.after_commit",
    "outbox.between_tell_and_forget",
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

/// Splits `name[:nth]`.
fn parse(text: &str) -> Result<(&str, u64), ArmError> {
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    if !ALL.contains(&name) {
        return Err(ArmError::Unknown(name.into()));
    }
    match nth.parse() {
        Ok(nth) if nth >= 1 => Ok((name, nth)),
        _ => Err(ArmError::Count(nth.into())),
    }
}

/// Arms what the text of `BOXOFFICE_CRASH_AT` says.
pub fn arm(text: &str) -> Result<(), ArmError> {
    let (name, nth) = parse(text)?;
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
        assert!(matches!(parse("allocator.nowhere"), Err(ArmError::Unknown(_))));
    }

    #[test]
    fn names_are_listed_once() {
        let mut names = ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
