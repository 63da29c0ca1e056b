//! What regions and arbiters tell each other. Cumulative counters only, never differences: any of these may be lost,
//! doubled, delayed or reordered, and can simply be sent again. The form on the wire is in [`crate::wire`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    counters::{Counters, Tickets},
    ids::{Epoch, Identity, Incarnation, PoolId, RegionId},
};

/// Arbiter to region, for ever: what was granted, and below what no row may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// The region's epoch.
    pub epoch: Epoch,
    /// The region's pools.
    pub slices: Vec<AnswerSlice>,
}

/// One pool of an [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AnswerSlice {
    /// The pool.
    pub pool: PoolId,
    /// G: granted, ever.
    pub granted: Tickets,
    /// The furthest that was reported under this epoch.
    pub floor: Counters,
    /// The arbiter would like the region to have returned this many, ever. Only a request: the region returns what it
    /// can spare. Zero asks for nothing.
    pub return_up_to: Tickets,
}

/// Region to arbiter, with every heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// The region.
    pub region: RegionId,
    /// The incarnation that registered it.
    pub incarnation: Incarnation,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its rows, and what its queues want.
    pub pools: Vec<PoolReport>,
}

/// One pool of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolReport {
    /// The pool.
    pub pool: PoolId,
    /// All columns of its row.
    pub counters: Counters,
    /// What waits for it.
    pub demand: Demand,
}

/// What people in a region want of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// Tickets that the queue asks for.
    pub queued: Tickets,
    /// The quantities that the first requests ask for, in order, at most [`crate::limits::HEAD_QUANTITIES_MAX`]. If the
    /// smallest quantity of the whole queue is not among them, it takes the last place: near the end, a single ticket
    /// has to find the one person who wants a single ticket.
    pub head_quantities: Vec<Tickets>,
    /// For how long the first of them has waited. Only compared with other regions', whose clocks need not agree with this
    /// one's; but a region's Redis and PostgreSQL should, since the one stamps arrivals and the other says what time it is.
    #[serde(default)]
    pub waited_ms: u64,
    /// Tickets asked for per minute, lately.
    pub rate_per_min: Tickets,
}

/// What a region learns before it registers: read from the arbiters, linearizably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionView {
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// The region's epoch.
    pub epoch: Epoch,
    /// The database registered for it.
    pub identity: Option<Identity>,
}

/// Arbiters that say less than a region knows: restored from a backup under an incarnation that is not above every
/// earlier one, or an answer that was under way for long. The region takes nothing from them and goes on as it is.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "the arbiters are of incarnation {arbiters}, and this region has heard of {known}, which is later: they were \
     restored from a backup by somebody who did not know of it. Begin their recovery again, above {known}; until then \
     this region keeps what it has and takes nothing from them"
)]
pub struct ArbitersBehind {
    /// What the region has heard of.
    pub known: Incarnation,
    /// What the arbiters are of.
    pub arbiters: Incarnation,
}

impl ArbitersBehind {
    /// Whether arbiters of an incarnation are behind what a region knows.
    pub fn judge(known: Incarnation, arbiters: Incarnation) -> Option<Self> {
        (known > arbiters).then_some(Self { known, arbiters })
    }
}

/// A database that is new to the arbiter asks to speak for its region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The region.
    pub region: RegionId,
    /// The database.
    pub identity: Identity,
    /// The latest incarnation that the database knows of, and not merely what was read: whoever knows of a later one
    /// registers with no earlier one.
    pub incarnation: Incarnation,
    /// The region's epoch as read.
    pub epoch_as_read: Epoch,
    /// What the database has, or nothing if it is empty.
    pub database: Option<DatabaseState>,
}

/// What a database that is not empty says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseState {
    /// The epoch that it stored last.
    pub epoch: Epoch,
    /// Its rows.
    pub rows: BTreeMap<PoolId, Counters>,
}

/// Arbiter to region: this database speaks for its region from now on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// The new epoch, to be stored before anything is spent.
    pub epoch: Epoch,
    /// The one database that this is for.
    pub identity: Identity,
    /// Rows for an empty database to start from, after a write-off; never written over a row.
    pub seeds: BTreeMap<PoolId, Counters>,
}
