//! Every bound of the arbiter, each with the reason for it.

/// Bytes of entries in one raft message: small enough that a heartbeat is never stuck behind a long append.
pub const RAFT_MESSAGE_SIZE_MAX_BYTES: u64 = 64 * 1024;

/// Bytes of proposals that are not committed yet; past it, proposals are refused at once instead of piling up behind a
/// majority that is away.
pub const RAFT_UNCOMMITTED_SIZE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Appends under way to one follower.
pub const RAFT_INFLIGHT_MAX: usize = 256;

/// Bytes of log after which a snapshot is made and the log before it dropped. A million commands are some 200 MB of
/// log; this keeps a restart under a second.
pub const LOG_SIZE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Entries kept in the log behind a snapshot, so that a follower a moment behind needs no snapshot.
pub const LOG_TRAIL_ENTRIES: u64 = 1_000;

/// Administrative requests remembered, so that one that is sent again is answered and not done again. An operator
/// retries within minutes.
pub const REQUESTS_REMEMBERED_MAX: usize = 1_000;

/// Commands in one log entry.
pub const COMMANDS_PER_ENTRY_MAX: usize = 1_000;

/// Bytes of one log entry: a tick's floors of a thousand regions with a hundred pools each stay below it in several
/// entries.
pub const ENTRY_SIZE_MAX_BYTES: usize = 1024 * 1024;
