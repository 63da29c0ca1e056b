//! The arbiters' logs, read page by page from each arbiter itself.
//!
//! Entries are read as JSON and understood here, not by the arbiter's own code: what it makes of an entry is what is
//! being checked. An entry that is not understood is an error, never skipped. The state that a log follows on is read
//! too: only a cluster that was never restored and never dropped an entry begins with nothing.

use crate::cluster::Arbiter;
use crate::cluster::arbiters::Arbiters;
use anyhow::{Context as _, Result, ensure};
use arbiter_api::{ConcertOrder, LogBase, LogItem, LogPage, Place};
use quota_protocol::{Command, ConcertId, Issuer, PoolId, RegionId, Tickets};
use region_api::wire::ConcertDefinition;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

/// What every first member starts with: no entry, but a state.
pub const BEGINNING: u64 = 1;
/// The form of a snapshot that is understood here.
const SNAPSHOT_VERSION: u64 = 1;

/// One arbiter's log.
#[derive(Debug, Clone)]
pub struct ArbiterLog {
    /// Whose.
    pub id: u64,
    /// The state that its entries follow on.
    pub base: Base,
    /// The first index that it still has.
    pub first_index: u64,
    /// What was committed, in order; raft's own entries left out.
    pub entries: Vec<LogItem>,
    /// The last index that it had applied when its log was read.
    pub read_to: u64,
}

impl ArbiterLog {
    /// Whether nothing is missing between its state and its entries.
    pub fn is_whole(&self) -> bool {
        self.first_index <= self.base.index + 1
    }
}

/// A state from which a log can be replayed. Nothing, before the first entry, by default.
#[derive(Debug, Clone)]
pub struct Base {
    /// The last entry that is in it.
    pub index: u64,
    /// A leader has said how the cluster begins. At the beginning: it was restored from a backup.
    pub founded: bool,
    /// The issuer.
    pub issuer: Issuer,
    /// The concerts.
    pub concerts: BTreeMap<ConcertId, ConcertDefinition>,
    /// Ids of requests that were carried out.
    pub done: HashSet<String>,
}

impl Default for Base {
    fn default() -> Self {
        let (issuer, concerts, done) = (Issuer::default(), BTreeMap::new(), HashSet::new());
        Self { index: BEGINNING, founded: false, issuer, concerts, done }
    }
}

impl Base {
    fn read(page: LogBase) -> Result<Self> {
        /// Of a snapshot's state, what a replay needs; what else is in it is the arbiter's own.
        #[derive(Deserialize)]
        struct State {
            issuer: Issuer,
            founded: bool,
            concerts: BTreeMap<ConcertId, ConcertOrder>,
            requests: BTreeMap<String, Value>,
        }
        let version = page.state.get("version").and_then(Value::as_u64);
        ensure!(version == Some(SNAPSHOT_VERSION), "a snapshot of version {version:?} is not understood here");
        let state = State::deserialize(page.state.get("state").unwrap_or(&Value::Null))?;
        Ok(Self {
            index: page.base_index,
            founded: state.founded,
            issuer: state.issuer,
            concerts: state.concerts.into_iter().map(|(name, order)| (name, order.definition)).collect(),
            done: state.requests.into_keys().map(|id| Value::String(id).to_string()).collect(),
        })
    }

    /// One arbiter's, from itself.
    pub async fn of(arbiters: &Arbiters, address: &str) -> Result<Self> {
        Self::read(arbiters.get_from(address, "/v1/log/base").await?)
    }
}

/// What an entry carries.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Quota commands, in order.
    Quota(Vec<Command>),
    /// An operator's request, done once however often it is there.
    Request(Request),
    /// How the cluster began.
    Found(Founding),
    /// Arbiters that have had the log; moves nothing.
    Seen(Value),
}

/// A request with the id under which it was remembered.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The client's id of it.
    pub id: Value,
    /// Who asked.
    pub who: String,
    /// What to do.
    pub order: Order,
}

/// What an operator ordered.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// One quota command.
    Quota(Command),
    /// A concert made or changed, totals included.
    PutConcert {
        /// Its name.
        concert: ConcertId,
        /// What is known of it.
        definition: Box<ConcertDefinition>,
    },
    /// A sale ended.
    CloseConcert {
        /// The concert.
        concert: ConcertId,
    },
    /// Grants of all its pools stopped or allowed.
    FreezeConcert {
        /// The concert.
        concert: ConcertId,
        /// Stopped, or allowed.
        frozen: bool,
    },
    /// Tickets moved by hand.
    Move {
        /// The pool.
        pool: PoolId,
        /// From where.
        from: Place,
        /// To where.
        to: Place,
        /// How many.
        tickets: Tickets,
    },
    /// A plan without patience; moves nothing by itself.
    Rebalance {
        /// The concert.
        concert: ConcertId,
    },
    /// Where an arbiter is found.
    PutMember {
        /// Its raft id.
        id: u64,
        /// Where.
        address: Value,
    },
    /// Another arbiter was to lead; moves nothing.
    Transfer {
        /// Which.
        to: Option<u64>,
    },
    /// An arbiter that left.
    ForgetMember {
        /// Its raft id.
        id: u64,
    },
}

/// How a cluster began.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// Where the first members were found.
    pub members: Value,
    /// Regions known from the start.
    pub regions: Vec<RegionId>,
}

impl Work {
    /// What an entry carries.
    pub fn read(item: &LogItem) -> Result<Self, serde_json::Error> {
        Self::deserialize(&item.work)
    }
}

/// Reads one arbiter's log from its beginning to where it is now. `base` was read from it before.
pub async fn read(arbiters: &Arbiters, arbiter: &Arbiter, base: Base) -> Result<ArbiterLog> {
    let mut after = 0;
    let mut log = ArbiterLog { id: arbiter.id, base, first_index: 0, entries: Vec::new(), read_to: 0 };
    loop {
        let path = format!("/v1/log?after={after}&stale=true");
        let page: LogPage = arbiters
            .get_from(&arbiter.address, &path)
            .await
            .with_context(|| format!("reading the log of arbiter {}", arbiter.id))?;
        if after == 0 {
            log.first_index = page.first_index;
        }
        // Each page begins after the one before it, or with the oldest entry that there still is.
        ensure!(page.first_index <= after.max(log.first_index) + 1, "its log was cut while it was read: read it again");
        log.entries.extend(page.entries);
        log.read_to = page.meta.index;
        match page.next_after {
            // Whatever it is: a page that leads back would be read for ever.
            Some(next) if next > after => after = next,
            _ => return Ok(log),
        }
    }
}
