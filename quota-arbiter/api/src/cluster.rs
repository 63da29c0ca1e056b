//! `GET /v1/cluster` and changes of who the arbiters are.

use std::collections::BTreeMap;

use quota_protocol::{Incarnation, RegionId};
use region_api::{InvalidField, body::Checked};
use serde::{Deserialize, Serialize};

use crate::{
    limits::{MEMBER_ID_MAX, TEXT_MAX_CHARS},
    meta::Meta,
};

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
    /// The first sign that these arbiters have forgotten something, and what to do, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<String>,
    /// Regions that have heard of a later life of the arbiters than this one, and what to do about each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind: BTreeMap<RegionId, String>,
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

/// `https://host:port`, and nothing after that.
fn is_base(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("https://") else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "443"),
    };
    let named = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let numbered = |host: &str| host.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => !host.is_empty() && numbered(host),
        None => !host.is_empty() && named(host),
    };
    host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Checked for AddMember {
    fn check(&self) -> Result<(), InvalidField> {
        if self.id == 0 {
            return Err(InvalidField::new("id", "must be at least 1"));
        }
        if self.id > MEMBER_ID_MAX {
            return Err(InvalidField::new("id", format!("must be at most {MEMBER_ID_MAX}")));
        }
        for (field, url) in [("address", &self.address), ("people", &self.people)] {
            if url.len() > TEXT_MAX_CHARS || !is_base(url) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arbiter_is_found_at_a_host_and_port_and_nothing_else() {
        for right in ["https://127.0.24.1:7400", "https://arbiter-4.example:9080", "https://[::1]:7400", "https://a"] {
            assert!(is_base(right), "{right}");
        }
        for wrong in [
            "",
            "https://",
            "http://a:1",
            "https://a:",
            "https://a:0",
            "https://a:70000",
            "https://a:1/",
            "https://a:+1",
            "https://a b:1",
            "https://a@b:1",
            "https://a?b:1",
            "https://:1",
            "https://[]:1",
            "https://[::1:1",
            "https://1.2.3:4:5",
        ] {
            assert!(!is_base(wrong), "{wrong}");
        }
    }
}
