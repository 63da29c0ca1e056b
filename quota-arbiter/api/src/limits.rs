//! Bounds of the arbiter's API, each with the reason for it.

/// How long a sync may wait for news: a heartbeat at the slowest setting. A longer wait would look like a dead link.
pub const WAIT_MS_MAX: u64 = 10_000;

/// Bytes of a body from a region: 64 pools of each of some hundred concerts, with what their queues want.
pub const REGION_BODY_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of a body from an operator: the largest concert definition several times over.
pub const OPERATOR_BODY_MAX_BYTES: usize = 256 * 1024;

/// Bytes of a batch of raft messages: a snapshot of a large cluster fits.
pub const RAFT_BODY_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Entries in one page of the log.
pub const LOG_PAGE_MAX: usize = 1_000;

/// Characters of an operator's name, and of what they say about a fence.
pub const TEXT_MAX_CHARS: usize = 500;

/// The largest raft id: whatever reads it as JSON's number gets the same one.
pub const MEMBER_ID_MAX: u64 = (1 << 53) - 1;
