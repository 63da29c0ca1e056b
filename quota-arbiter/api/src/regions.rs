//! `GET /v1/regions` and what an operator may do to one.

use std::collections::BTreeMap;

use quota_protocol::{Epoch, Identity, PoolId, RegionId, Tickets, command::Sales, issuer::RegionState};
use region_api::{InvalidField, Timestamp, body::Checked};
use serde::{Deserialize, Serialize};

use crate::{limits::TEXT_MAX_CHARS, meta::Meta};

/// Every region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionsView {
    /// Where it was read.
    #[serde(flatten)]
    pub meta: Meta,
    /// All of them, by name.
    pub regions: Vec<RegionStatus>,
}

/// One region as the arbiters know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStatus {
    /// Its name.
    pub region: RegionId,
    /// Whether it takes grants.
    pub state: RegionState,
    /// Its epoch.
    pub epoch: Epoch,
    /// The database that speaks for it.
    pub identity: Option<Identity>,
    /// When its latest report came, if one came to the arbiter that leads now.
    pub last_report: Option<Timestamp>,
    /// Not heard from for longer than it should be.
    pub silent: bool,
    /// The arbiters were restored from a backup and wait for it to register.
    pub awaited: bool,
    /// It has heard of a later life of the arbiters than this one and takes nothing from them: why, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// What it has that is not known to be sold, by pool; while it is silent, nobody else gets these.
    pub unsold: BTreeMap<PoolId, Tickets>,
    /// How it was fenced when it was written off.
    pub fenced: Option<String>,
}

/// Body of `POST /v1/regions/{region}/write-off`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteOffRequest {
    /// How its database was made unable ever to commit again, in the operator's words.
    pub fenced: String,
    /// What it sold, counted after that, over all its databases; every pool that it was granted of.
    pub sales: Vec<Sales>,
    /// The client's UUID, one per intent.
    pub request_id: String,
}

impl Checked for WriteOffRequest {
    fn check(&self) -> Result<(), InvalidField> {
        if self.fenced.trim().is_empty() {
            return Err(InvalidField::new("fenced", "say how the database was fenced: silence is not fencing"));
        }
        if self.fenced.chars().count() > TEXT_MAX_CHARS {
            return Err(InvalidField::new("fenced", format!("must be at most {TEXT_MAX_CHARS} characters")));
        }
        Ok(())
    }
}
