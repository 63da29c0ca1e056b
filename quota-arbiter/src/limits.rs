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

/// Rows in one entry that raises floors: some 300 bytes each, so well below an entry's size.
pub const FLOORS_PER_ENTRY_MAX: usize = 2_000;

/// Heartbeats without a word after which a region counts as silent and is left alone by the policy. Three may be lost.
pub const SILENT_AFTER_HEARTBEATS: u64 = 4;

/// Tickets that a queue may say it asks for: beyond any crowd, and so low that sums over all regions stay in bounds.
pub const DEMAND_MAX_TICKETS: u32 = 1 << 31;

/// Moves that a leader remembers to show.
pub const MOVES_REMEMBERED_MAX: usize = 1_000;

/// Moves that operators ordered and that are under way.
pub const ERRANDS_MAX: usize = 1_000;

/// How long a region is asked for what an operator wants moved: several heartbeats, since it may be selling meanwhile.
pub const ERRAND_MAX_MS: u64 = 30_000;

/// Tickets in one tier, as the operators' interface bounds them: so low that no sum of counters leaves its bounds.
pub const TOTAL_MAX_TICKETS: u32 = 10_000_000;
