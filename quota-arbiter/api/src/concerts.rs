//! Concerts as the arbiters keep them: what is sold is the same everywhere, how much of it where is the quota's matter.

use quota_protocol::ConcertId;
use region_api::{Timestamp, wire::ConcertDefinition};
use serde::{Deserialize, Serialize};

use crate::meta::Meta;

/// One concert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcertOrder {
    /// Its name.
    pub concert: ConcertId,
    /// What an operator said of it last; `tiers[].total` are the totals over all regions.
    pub definition: ConcertDefinition,
    /// When an operator ended its sale, by the proposer's clock.
    pub closed_at: Option<Timestamp>,
}

/// `GET /v1/concerts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concerts {
    /// Where it was read.
    #[serde(flatten)]
    pub meta: Meta,
    /// Grows with every change of any concert.
    pub concerts_version: u64,
    /// All of them, by name.
    pub concerts: Vec<ConcertOrder>,
}
