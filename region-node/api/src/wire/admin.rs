//! Admin bodies: `GET /v1/status`, health, and what operators send.

use crate::body::{Checked, InvalidField};
use crate::limits;
use crate::names::{ConcertName, RegionName, TierName};
use crate::units::Timestamp;
use crate::wire::concert::ConcertState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Region of the node that answers.
    pub region: RegionName,
    /// The node that answers.
    pub node: String,
    /// Its program's version.
    pub version: String,
    /// What it does: `intake`, `allocator`, `recycler`.
    pub roles: Vec<String>,
    /// Whether this node holds the allocator's lock.
    pub allocating: bool,
    /// Whether it takes no new reservations by an operator's wish.
    pub draining: bool,
    /// Whether it accepts reservations.
    pub ready: bool,
    /// What it lacks, when not ready.
    pub missing: Vec<String>,
    /// Identity of the region's database.
    pub identity: Option<Uuid>,
    /// When an arbiter was last heard; null in a standalone region.
    pub last_arbiter_contact: Option<Timestamp>,
    /// How the region stands with its arbiters; absent in a standalone region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arbiter: Option<ArbiterStatus>,
    /// What the region can take, and what is refused for want of room.
    pub intake: IntakeStatus,
    /// All concerts that are not over.
    pub concerts: Vec<ConcertStatus>,
    /// When this was true.
    pub as_of: Timestamp,
}

/// What a region can take, as the answering node knows: what an edge goes by when it hands users over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IntakeStatus {
    /// Reservations not yet decided, over all concerts of the region.
    pub queue: u64,
    /// At so many of them newcomers are refused.
    pub queue_max: u64,
    /// Joins per second that the region can take, all of its nodes together; null where nobody has said.
    pub capacity_per_s: Option<f64>,
    /// Joins that this node refused for want of room since it was started.
    pub refused: u64,
}

/// How a region stands with its arbiters, as the answering node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArbiterStatus {
    /// Whether this node's last exchange with them went well; of several nodes, one speaks with them.
    pub connected: bool,
    /// Who leads them, as far as this node knows.
    pub leader_url: Option<String>,
    /// When the region last had contact.
    pub last_contact: Option<Timestamp>,
    /// The newest incarnation of theirs that was heard of.
    pub incarnation: u64,
    /// The region's epoch; 0 before it is registered.
    pub epoch: u64,
    /// The database's identity: system, timeline, copy.
    pub identity: Option<String>,
    /// Whether this database is the registered one.
    pub registered: bool,
    /// How long the region goes on making holds without word from them.
    pub autonomy_left_ms: u64,
    /// Whether new holds are made.
    pub holding: bool,
    /// Why nothing is sold any more, and what to do, if so.
    pub halted: Option<String>,
}

/// One concert in one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConcertStatus {
    /// Its name.
    pub concert: ConcertName,
    /// Where its sale stands.
    pub state: ConcertState,
    /// Version of its definition.
    pub version: i64,
    /// The last book number.
    pub book: i64,
    /// Why nothing is sold, if so.
    pub halted: Option<String>,
    /// Reservations not yet decided: in the queues and in `waiting`.
    pub queued: u64,
    /// Of those, in `waiting`.
    pub waiting: u64,
    /// Queue shards.
    pub shards: Vec<ShardStatus>,
    /// Stock, one per tier.
    pub pools: Vec<PoolStatus>,
}

/// One shard of a concert's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u16,
    /// Its current generation.
    pub generation: u16,
    /// The last sequence number decided.
    pub cursor_seq: u64,
    /// The last sequence number given out.
    pub tail_seq: u64,
    /// Generations that were lost.
    pub lost_generations: Vec<u16>,
}

/// The holder's columns of one pool, as the quota protocol names them. Every one only ever grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaColumns {
    /// Tickets ever granted.
    pub granted: i64,
    /// Tickets ever returned.
    pub returned: i64,
    /// Tickets ever put on hold.
    pub held_in: i64,
    /// Of those, given up without a sale.
    pub released: i64,
    /// Of those, sold.
    pub sold: i64,
    /// Of the sold, refunded.
    pub refunded: i64,
}

impl QuotaColumns {
    /// Tickets on hold now.
    pub fn held(&self) -> i64 {
        self.held_in - self.released - self.sold
    }
    /// Tickets that may be held now. Does not depend on `sold`.
    pub fn available(&self) -> i64 {
        self.granted - self.returned - self.held_in + self.released + self.refunded
    }
}

/// One pool: a tier of a concert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// The tier.
    pub tier: TierName,
    /// Quota epoch; 0 in a standalone region.
    pub epoch: i64,
    /// Identity of the database that registered.
    pub registered_as: Uuid,
    /// The row's columns.
    #[serde(flatten)]
    pub columns: QuotaColumns,
    /// Sales not yet folded into `sold`.
    pub unfolded: i64,
    /// On hold now, sales not yet folded taken off.
    pub held: i64,
    /// May be held now.
    pub available: i64,
}

/// Answer to `GET /healthz`: alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `alive`.
    pub status: HealthStatus,
}

/// See [`Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// It answers.
    Alive,
}

/// Answer to `GET /readyz`: `200` when it accepts reservations, else `503`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Whether it accepts reservations.
    pub ready: bool,
    /// What it lacks, for people.
    pub missing: Vec<String>,
}

/// Body of `POST /v1/concerts/{concert}/accept-books`: go on with these books although a witness knew newer ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptBooks {
    /// Why that is right; kept for ever.
    pub reason: String,
}

impl Checked for AcceptBooks {
    fn check(&self) -> Result<(), InvalidField> {
        if self.reason.trim().is_empty() {
            return Err(InvalidField::new("reason", "must say why"));
        }
        if self.reason.len() > limits::REASON_MAX_BYTES {
            return Err(InvalidField::new("reason", format!("longer than {} bytes", limits::REASON_MAX_BYTES)));
        }
        Ok(())
    }
}
