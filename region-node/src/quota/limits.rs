//! Bounds of the talk with the arbiters, each with why it is what it is.

use std::time::Duration;

/// A connection that is not there by then goes to the next arbiter: a new leader serves within three seconds.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_millis(1_500);
/// An answer that is not there so long after it was due counts as lost.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Redirects followed in one exchange: to the leader, and once more when it has just changed.
pub(super) const HOPS_MAX: usize = 3;
/// How often certificate files are looked at.
pub(super) const CERTIFICATES_EVERY: Duration = Duration::from_secs(3);
/// Heartbeats, whatever an arbiter says.
pub(super) const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
/// See [`HEARTBEAT_MIN`]. What is left elsewhere counts as fresh for longer than this.
pub(super) const HEARTBEAT_MAX: Duration = Duration::from_secs(5);
/// Between two reports, also when there is news every time.
pub(super) const GAP_MIN: Duration = Duration::from_millis(10);
/// Between two reports that could not wait for the heartbeat: each ends the long poll of the one before.
pub(super) const URGENT_GAP: Duration = Duration::from_millis(50);
/// The last contact is written down this often: precise enough for half an hour, one small write.
pub(super) const CONTACT_EVERY: Duration = Duration::from_secs(2);
/// What is left elsewhere is written down this often when nothing changed: well within what counts as fresh.
pub(super) const STOCK_EVERY: Duration = Duration::from_secs(2);
/// How often a node that does not sync reads how the region stands, and whether nobody syncs.
pub(super) const WATCH_EVERY: Duration = Duration::from_secs(1);
/// After a failed exchange the next one waits at least so long, doubling, …
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// … up to this, so that a leader that is back is found within a second.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Entries of a shard's queue that are read for a report.
pub(super) const HEAD_READ: usize = 200;
/// Entries of a shard's queue, beyond those, that are looked at with each report while the queue stands still.
pub(super) const SCAN_READ: usize = 1_000;
