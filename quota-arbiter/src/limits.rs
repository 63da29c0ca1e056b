//! Every bound of the arbiter, each with the reason for it.

use std::time::Duration;

/// Bytes of entries in one raft message: small enough that a heartbeat is never stuck behind a long append.
pub const RAFT_MESSAGE_SIZE_MAX_BYTES: u64 = 64 * 1024;

/// Bytes of proposals that are not committed yet; past it, proposals are refused at once instead of piling up behind a
/// majority that is away.
pub const RAFT_UNCOMMITTED_SIZE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Appends under way to one follower.
pub const RAFT_INFLIGHT_MAX: usize = 256;

/// Bytes of log after which a snapshot is made and the log before it dropped. A million commands are some 290 MB of
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

/// Requests and batches of messages that wait for the node's thread; past it, requests are refused and messages dropped.
pub const MAIL_MAX: usize = 4_096;

/// Of these, how many go into one transaction: enough that a full mailbox costs few syncs.
pub const MAIL_PER_TURN_MAX: usize = 1_024;

/// Ticks that a process makes up for after it was stopped: less than an election timeout.
pub const TICKS_AT_ONCE_MAX: u32 = 5;

/// Between two rounds of a leader, however dry somebody is.
pub const ROUND_MIN_MS: u64 = 20;

/// Entries of the leader's own that are under way; past it no new ones are made.
pub const BACKGROUND_ENTRIES_MAX: usize = 64;

/// How old the sums over all regions may be that are told with a heartbeat.
pub const STOCK_REFRESH_MS: u64 = 100;

/// Heartbeats of one region that wait at once: its nodes, and connections that broke without a word.
pub const POLLS_PER_REGION_MAX: usize = 8;

/// How long a proposal is waited for. An election takes two seconds.
pub const PROPOSAL_WAIT_MAX_MS: u64 = 5_000;

/// After this long a linearizable read is asked for again.
pub const READ_AGAIN_MS: u64 = 300;

/// How long a linearizable read may take in all.
pub const READ_WAIT_MAX_MS: u64 = 3_000;

/// Bytes of committed commands that are kept behind the last snapshot unless configured otherwise: some 3.7 million
/// commands.
pub const HISTORY_SIZE_DEFAULT_BYTES: u64 = 1024 * 1024 * 1024;

/// Open connections of one port: a thousand regions with a few nodes each.
pub const CONNECTIONS_MAX: usize = 8_192;

/// A TLS handshake must be complete this long after the connection opened.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers must be complete this long after the handshake or the last answer. Arbiters and regions ask every second.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of request line and headers.
pub const HEADER_SIZE_MAX_BYTES: usize = 16 * 1024;

/// A body must be there this long after its headers.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// How long requests under way may take once the process is told to end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long another arbiter may take to be connected to.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long another arbiter may take to answer a batch of raft messages: an election timeout.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for a snapshot.
pub const PEER_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Messages that wait to be sent to one arbiter; past it the oldest are dropped, which raft takes for lost ones.
pub const PEER_QUEUE_MAX: usize = 1_024;

/// Bytes of raft messages in one request, unless a single one is larger.
pub const PEER_BATCH_MAX_BYTES: usize = 1024 * 1024;

/// How often certificate files are looked at.
pub const CERTIFICATES_LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a process that is told to end waits for another leader to take over.
pub const TRANSFER_WAIT: Duration = Duration::from_secs(3);

/// Between two attempts to reach an arbiter that is away: less than a heartbeat.
pub const PEER_PAUSE: Duration = Duration::from_millis(50);

/// Raft messages in one request; a sender's queue holds no more.
pub const RAFT_MESSAGES_PER_REQUEST_MAX: usize = 2 * PEER_QUEUE_MAX;

/// When to ask again after no leader was known, or too much was under way.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Between two attempts to finish a recovery: each is an entry in the log.
pub const FINISH_AGAIN_MS: u64 = 5_000;

/// People with tokens of their own: each is compared with every request's.
pub const OPERATORS_MAX: usize = 1_000;
