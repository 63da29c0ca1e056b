//! The shapes that cross the queue's boundary: what goes in, what comes out, and what can go wrong. Only data.

use region_api::{Entry, IdentityHash, UserHash};
use sale::allocate::Tiers;
use std::time::Duration;
use uuid::Uuid;

/// A concert as the queue sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConcertQueue {
    /// The region database's number of the concert.
    pub concert_id: i32,
    /// Logical shards, fixed when the concert was created.
    pub shards: u16,
}

/// What somebody asks for; also what a queue entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinItem {
    /// Who.
    pub user: UserHash,
    /// The client's id of this intent.
    pub request_id: Uuid,
    /// Tickets, 1..=100.
    pub quantity: u8,
    /// Tier numbers in order of preference, at most 8.
    pub tiers: Tiers,
    /// Down to one ticket is welcome.
    pub any_quantity: bool,
    /// Hashed identity where the concert asks for one.
    pub identity: Option<IdentityHash>,
}

/// Answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The place: new, or the first one of this user.
    pub entry: Entry,
    /// Redis's time when that place was given, milliseconds since 1970.
    pub arrival_ms: u64,
    /// What the place is for: a repeat gets the first request's content, with its identity where it names the same.
    pub item: JoinItem,
    /// `Fresh`: newly on disk. `Repeat`: same or another request while one is waiting or held. `Final`: the same
    /// request as one that has already reached a final state.
    pub outcome: JoinOutcome,
}

/// See [`Joined::outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinOutcome {
    /// A new place, durable.
    Fresh,
    /// The place that this user has already.
    Repeat,
    /// The place that this very request had; it has reached a final state.
    Final,
}

/// Why a join was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The same request id with other content. Nothing stored.
    #[error("this request_id was used with other content")]
    Conflict,
    /// Too soon after a void or after two lapsed holds. Nothing stored.
    #[error("too soon after the last reservation; wait {0:?}")]
    CoolDown(Duration),
    /// Redis holds no usable generation of this shard (emptied, restored, or behind what this node has seen
    /// acknowledged). Nothing stored. Ensure the generations, then try again.
    #[error("the queue's shard {shard} has no current generation")]
    NoGeneration {
        /// The shard.
        shard: u16,
    },
    /// A bound was reached. Nothing stored.
    #[error("the queue is full")]
    Overloaded,
    /// Redis is away and nothing was stored.
    #[error("the queue's server is away: {0}")]
    Unavailable(String),
    /// Redis did not confirm: it may or may not be stored. Ask again with the same request_id.
    #[error("the queue's server did not confirm: {0}")]
    Unknown(String),
}

/// One entry as the allocator reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    /// Its place.
    pub entry: Entry,
    /// When, by Redis's clock, milliseconds since 1970.
    pub arrival_ms: u64,
    /// What it asks for.
    pub item: JoinItem,
}

/// State of one shard of a concert in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardState {
    /// The shard.
    pub shard: u16,
    /// Its current generation.
    pub generation: u16,
    /// First sequence number still in the list (tail + 1 when empty).
    pub head_seq: u64,
    /// Last sequence number given out.
    pub tail_seq: u64,
    /// Arrival of the last one, milliseconds since 1970.
    pub tail_arrival_ms: u64,
}

/// Why another operation of the queue failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The configuration cannot work.
    #[error("the queue's configuration: {0}")]
    Config(String),
    /// The server would lose what it confirms; the text says which setting and how to change it.
    #[error("{server} is not fit for the queue: {problem}")]
    Unfit {
        /// Its address.
        server: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Redis is away, or refused; nothing was changed.
    #[error("the queue's server is away: {0}")]
    Unavailable(String),
    /// Redis did not confirm; the operation may have happened. All operations of the queue may be repeated.
    #[error("the queue's server did not confirm: {0}")]
    Unknown(String),
    /// The shard has no such generation.
    #[error("shard {shard} has no generation {generation}")]
    NoGeneration {
        /// The shard.
        shard: u16,
        /// What was asked for.
        generation: u16,
    },
    /// Redis holds something that this version cannot read.
    #[error("the queue holds something unreadable: {0}")]
    Corrupt(&'static str),
}

/// A reservation that reached a final state, for its place in the dedupe table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// Whose.
    pub user: UserHash,
    /// Which place; nothing happens when the user has another one by now.
    pub entry: Entry,
    /// How it ended.
    pub outcome: SettleOutcome,
}

/// How a reservation ended, as far as the next join of the same user is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleOutcome {
    /// Sold, rejected, cancelled, refunded: may join again at once.
    Done,
    /// A hold that was not paid for in time: the second one brings a cool-down.
    Lapsed,
    /// Voided: a short cool-down.
    Voided,
}

/// How far a shard's numbers had come at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Redis's time, milliseconds since 1970.
    pub arrival_ms: u64,
    /// Generation then.
    pub generation: u16,
    /// The last sequence number given out before that time.
    pub sequence: u64,
}

/// What is known about the queue's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueHealth {
    /// One per server that should hold shards.
    pub servers: Vec<ServerHealth>,
    /// Every slot has a server that is up.
    pub ready: bool,
    /// Joins under way in this node.
    pub joins_in_flight: usize,
}

/// One Redis server as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHealth {
    /// host:port
    pub address: String,
    /// Connected and checked.
    pub up: bool,
    /// Why not, or what an operator should know although it works.
    pub note: Option<String>,
}
