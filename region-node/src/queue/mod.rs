//! The queue of a region: Redis, its function library, group commit, generations, positions.
//!
//! Skeleton of the interface; see each file's head.

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
    /// What the place is for (a repeat gets the first request's content, except `identity` and `request_id`).
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
