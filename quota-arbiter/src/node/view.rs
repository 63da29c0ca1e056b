//! What a read sees: the replicated state, and what this node knows beside it.

use std::time::Instant;

use arbiter_api::Meta;
use quota_protocol::{Incarnation, RegionId};
use region_api::Timestamp;

use super::Leads;
use crate::{leader::Leader, raft::Driver, state::State};

/// What the node knows of itself and of the leader, without asking its thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: u64,
    /// Its term.
    pub term: u64,
    /// The last entry applied.
    pub applied: u64,
    /// Whether it leads.
    pub leads: bool,
    /// Who leads, as far as it knows.
    pub leader: Option<Leads>,
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// The arbiters were restored and wait for regions to register.
    pub recovering: bool,
}

/// A node's state, for the time of a read.
pub struct View<'a> {
    pub(super) driver: &'a Driver<State>,
    pub(super) leader: &'a Leader,
    pub(super) started: Instant,
}

impl View<'_> {
    /// The replicated state.
    pub fn state(&self) -> &State {
        self.driver.machine()
    }

    /// What this node heard as leader; empty on others.
    pub fn leader(&self) -> &Leader {
        self.leader
    }

    /// The raft driver: members, terms, places.
    pub fn driver(&self) -> &Driver<State> {
        self.driver
    }

    /// Which arbiter this is, and how far it has come.
    pub fn meta(&self) -> Meta {
        meta(self.driver)
    }

    /// When a region was heard last by this node as leader.
    pub fn last_report(&self, region: &RegionId) -> Option<Timestamp> {
        self.leader.heard_at_ms(region).map(|at_ms| self.instant(at_ms))
    }

    /// Whether nothing was heard of a region for too long.
    pub fn silent(&self, region: &RegionId) -> bool {
        self.leader.silent(region, now_ms(self.started))
    }

    /// A moment of the leader's own clock as one that people read.
    pub fn instant(&self, at_ms: u64) -> Timestamp {
        let ago = now_ms(self.started).saturating_sub(at_ms);
        Timestamp::from_ms(wall_ms().saturating_sub(ago))
    }
}

pub(super) fn meta(driver: &Driver<State>) -> Meta {
    Meta { node: driver.id(), term: driver.term(), index: driver.applied().index, as_of: Timestamp::from_ms(wall_ms()) }
}

/// Milliseconds since the node started: the leader's clock, which never jumps.
pub(super) fn now_ms(started: Instant) -> u64 {
    started.elapsed().as_millis() as u64
}

/// Milliseconds since 1970, for people and for the log's stamps.
pub(super) fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_millis() as u64).unwrap_or_default()
}
