//! `GET /v1/log?after=`: the committed commands, for `verify` and for whoever asks who did what.

use region_api::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meta::Meta;

/// A page of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogPage {
    /// Where it was read.
    #[serde(flatten)]
    pub meta: Meta,
    /// The first index that this arbiter still has. A member that came in by a snapshot has not everything before it.
    pub first_index: u64,
    /// Committed entries after the index asked for, in order; raft's own empty ones and changes of members are left out.
    pub entries: Vec<LogItem>,
    /// Ask again after this index; `None` at the end.
    pub next_after: Option<u64>,
}

/// The state from which an arbiter's log can be replayed: that of its beginning (empty, or restored from a backup), or,
/// once entries after that one were dropped, the oldest snapshot that its entries follow on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogBase {
    /// Where it was read.
    #[serde(flatten)]
    pub meta: Meta,
    /// The last entry that is in the state; 1 at a cluster's beginning.
    pub base_index: u64,
    /// The state, as it is in snapshots.
    pub state: Value,
}

/// One committed entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogItem {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// When it was proposed, by the proposer's clock.
    pub proposed_at: Timestamp,
    /// The operator who asked for it; absent for the arbiters' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// What was committed, as it is in the log.
    pub work: Value,
}
