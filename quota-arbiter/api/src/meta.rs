//! What every answer carries: who answered, from which state, how old it is.

use region_api::Timestamp;
use serde::{Deserialize, Serialize};

/// Which arbiter answered, and from which place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Its raft id.
    pub node: u64,
    /// Its term.
    pub term: u64,
    /// The last log entry that it had applied.
    pub index: u64,
    /// When, by its clock.
    pub as_of: Timestamp,
}

/// What became of an operator's command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    /// Where it was answered.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whether it changed anything. A command that was carried out before, or has nothing to change, changes nothing.
    pub changed: bool,
    /// What happened, for a person.
    pub said: String,
}
