//! What others ask of the node's thread.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use arbiter_api::{ConcertOrder, Meta, PoolStock};
use quota_protocol::{Epoch, Identity, Incarnation, PoolId, RegionId, Report, Tickets, wire::SyncAnswer};
use tokio::sync::oneshot;

use super::{Consistency, Unavailable, View};
use crate::{
    command::Work,
    leader::ReportRefused,
    raft::{At, Membership, MembershipRefused, Message},
    state::Applied,
};

pub(super) type Reply<T> = oneshot::Sender<Result<T, Unavailable>>;
pub(super) type Read = Box<dyn FnOnce(Result<&View<'_>, Unavailable>) + Send>;

pub(super) enum Mail {
    Raft(Vec<Message>),
    Unreachable(u64),
    Propose { work: Box<Work>, reply: Reply<(At, Applied)> },
    Sync(Box<(AskSync, Reply<Synced>)>),
    Read { consistency: Consistency, read: Read },
    Members { change: Membership, reply: Reply<Result<(), MembershipRefused>> },
    Transfer { to: Option<u64>, reply: Reply<Option<u64>> },
    Stop { reply: Reply<()> },
}

/// A region's heartbeat, as the node's thread needs it.
#[derive(Debug)]
pub struct AskSync {
    /// The region, as its certificate says.
    pub region: RegionId,
    /// What it reports; nothing before it is registered.
    pub report: Option<Report>,
    /// How it knows itself.
    pub knows: Knows,
    /// The version of the concerts that it has.
    pub concerts_version: u64,
    /// Until when it may wait for news.
    pub wait_until: Option<Instant>,
    /// The answer has to be linearizable.
    pub look: bool,
}

/// What a region knows, so that news can be told from what it has heard.
#[derive(Clone, Debug)]
pub struct Knows {
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// Its epoch.
    pub epoch: Option<Epoch>,
    /// Its database.
    pub identity: Identity,
    /// By pool: granted and returned.
    pub rows: BTreeMap<PoolId, (Tickets, Tickets)>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug)]
pub struct Synced {
    /// From where.
    pub meta: Meta,
    /// Grants, floors and requests to return; or why the report was not taken.
    pub answer: Result<SyncAnswer, ReportRefused>,
    /// What is left anywhere.
    pub stock: Arc<BTreeMap<PoolId, PoolStock>>,
    /// The version of the concerts.
    pub concerts_version: u64,
    /// All concerts, if the region has another version.
    pub concerts: Option<Vec<ConcertOrder>>,
}
