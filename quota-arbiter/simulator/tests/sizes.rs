//! The log does not grow without bound, and what is left of it is the whole state.

#![allow(clippy::print_stdout, reason = "the sizes are part of the test's output")]

use quota_arbiter::limits::LOG_SIZE_MAX_BYTES;

#[test]
fn the_log_is_compacted_and_a_snapshot_is_small() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = quota_simulator::log_sizes(folder.path(), 100_000).unwrap();
    println!("{sizes:#?}");
    assert!(sizes.log_bytes > LOG_SIZE_MAX_BYTES && sizes.snapshots > 0, "the log was never compacted: {sizes:?}");
    assert!(sizes.snapshot_bytes < 100_000, "{sizes:?}");
    // redb keeps the pages of a transaction until the next, and grows by doubling.
    assert!(sizes.file_max_bytes < 6 * LOG_SIZE_MAX_BYTES, "{sizes:?}");
}
