//! `GET /v1/cluster` and changes of who the arbiters are.

use quota_protocol::{Incarnation, RegionId};
use region_api::{InvalidField, body::Checked};
use serde::{Deserialize, Serialize};

use crate::{limits::TEXT_MAX_CHARS, meta::Meta};

/// The arbiters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Where it was read.
    #[serde(flatten)]
    pub meta: Meta,
    /// Who leads, as far as the answering arbiter knows.
    pub leader: Option<u64>,
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// After a restore: the regions that have not registered yet. Nothing is granted while there are any.
    pub awaited: Option<Vec<RegionId>>,
    /// The members.
    pub members: Vec<Member>,
}

/// One arbiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its raft id, never used again once it was removed.
    pub id: u64,
    /// Base URL for machines (`https://…:7400`).
    pub address: String,
    /// Base URL for people (`https://…:9080`).
    pub people: String,
    /// Its part.
    pub role: MemberRole,
    /// How far the leader knows it to have the log; only the leader says.
    pub matched: Option<u64>,
    /// It has had the log once: an empty folder under its id was wiped.
    #[serde(default)]
    pub seen: bool,
}

/// A member's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// It leads.
    Leader,
    /// It votes.
    Follower,
    /// It receives the log and does not vote yet.
    Learner,
}

/// Body of `POST /v1/cluster/members`: join as a learner, and vote once it has caught up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// A raft id that was never used.
    pub id: u64,
    /// Base URL for machines.
    pub address: String,
    /// Base URL for people.
    pub people: String,
}

/// Body of `POST /v1/cluster/transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Who should lead; left out: whichever voter has most of the log.
    #[serde(default)]
    pub to: Option<u64>,
}

impl Checked for AddMember {
    fn check(&self) -> Result<(), InvalidField> {
        if self.id == 0 {
            return Err(InvalidField::new("id", "must be at least 1"));
        }
        for (field, url) in [("address", &self.address), ("people", &self.people)] {
            if !url.starts_with("https://") || url.len() > TEXT_MAX_CHARS || url.ends_with('/') {
                return Err(InvalidField::new(field, "must be an https address without a path"));
            }
        }
        Ok(())
    }
}

impl Checked for Transfer {
    fn check(&self) -> Result<(), InvalidField> {
        Ok(())
    }
}
