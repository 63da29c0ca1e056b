//! The arbiters' logs, read page by page from each arbiter itself.
//!
//! Entries are read as JSON and understood here, not by the arbiter's own code: what it makes of an entry is what is
//! being checked. An entry that is not understood is an error, never skipped.

use crate::cluster::Arbiter;
use crate::cluster::arbiters::Arbiters;
use anyhow::{Context as _, Result};
use arbiter_api::{LogItem, LogPage, Place};
use quota_protocol::{Command, ConcertId, PoolId, RegionId, Tickets};
use region_api::wire::ConcertDefinition;
use serde::Deserialize;
use serde_json::Value;

/// The first entry that there ever is: index 1 is the beginning that every first member starts with.
const FIRST_ENTRY: u64 = 2;

/// One arbiter's log.
#[derive(Debug, Clone)]
pub struct ArbiterLog {
    /// Whose.
    pub id: u64,
    /// The first index that it still has.
    pub first_index: u64,
    /// What was committed, in order; raft's own entries left out.
    pub entries: Vec<LogItem>,
    /// The last index that it had applied when its log was read.
    pub read_to: u64,
}

impl ArbiterLog {
    /// Whether nothing is missing before its first entry.
    pub fn is_whole(&self) -> bool {
        self.first_index <= FIRST_ENTRY
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

/// Reads one arbiter's log from its beginning to where it is now.
pub async fn read(arbiters: &Arbiters, arbiter: &Arbiter) -> Result<ArbiterLog> {
    let mut after = 0;
    let mut log = ArbiterLog { id: arbiter.id, first_index: 0, entries: Vec::new(), read_to: 0 };
    loop {
        let path = format!("/v1/log?after={after}&stale=true");
        let page: LogPage = arbiters
            .get_from(&arbiter.address, &path)
            .await
            .with_context(|| format!("reading the log of arbiter {}", arbiter.id))?;
        if after == 0 {
            log.first_index = page.first_index;
        }
        log.entries.extend(page.entries);
        log.read_to = page.meta.index;
        match page.next_after {
            // Whatever it is: a page that leads back would be read for ever.
            Some(next) if next > after => after = next,
            _ => return Ok(log),
        }
    }
}
