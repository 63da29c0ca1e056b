//! Between a region and the arbiters: `POST /v1/regions/{region}/sync` and `…/register`. The protocol's own messages in
//! an envelope of what is useful beside them and never decides what may be sold.

use std::collections::BTreeMap;

use quota_protocol::{
    PoolId, Tickets,
    wire::{RegisterAnswer, SyncAnswer, SyncRequest},
};
use serde::{Deserialize, Serialize};

use region_api::{InvalidField, body::Checked};

use crate::{concerts::ConcertOrder, limits::WAIT_MS_MAX, meta::Meta};

/// Body of a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncBody {
    /// The report.
    pub sync: SyncRequest,
    /// The version of the concerts that this region has; 0 for none.
    #[serde(default)]
    pub concerts_version: u64,
    /// Wait at most so long for something that this region has not heard yet (a higher grant, a request to return,
    /// another concert); 0 answers at once. At most [`crate::limits::WAIT_MS_MAX`].
    #[serde(default)]
    pub wait_ms: u64,
    /// The answer's state is to be read linearizably, as a region that is about to register needs it. Such a sync
    /// never waits for news.
    #[serde(default)]
    pub look: bool,
}

impl Checked for SyncBody {
    fn check(&self) -> Result<(), InvalidField> {
        if self.wait_ms > WAIT_MS_MAX {
            return Err(InvalidField::new("wait_ms", format!("must be at most {WAIT_MS_MAX}")));
        }
        Ok(())
    }
}

/// Answer to a sync.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncReply {
    /// Who answered.
    #[serde(flatten)]
    pub meta: Meta,
    /// Grants, floors, requests to return.
    pub sync: SyncAnswer,
    /// How often to report.
    pub heartbeat_ms: u64,
    /// What is left anywhere, by pool.
    pub stock: BTreeMap<PoolId, PoolStock>,
    /// The version of `concerts`, or of what the region has.
    pub concerts_version: u64,
    /// All concerts, if the region has another version of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concerts: Option<Vec<ConcertOrder>>,
}

/// What is left of a pool in all regions together ([`quota_protocol::sold_out`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStock {
    /// At most so many can still be sold anywhere, those on hold included.
    pub unsold_at_most: Tickets,
    /// Never again, except for refunds: every region has reported since its last grant and has nothing.
    pub sold_out: bool,
}

/// Answer to a registration ([`quota_protocol::wire::RegisterRequest`] is the body).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// Who answered.
    #[serde(flatten)]
    pub meta: Meta,
    /// What became of it.
    pub answer: RegisterAnswer,
}
