//! The form of the messages on the wire, version 1, apart from the types that the protocol works with; the conversions
//! are here and nowhere else. What arrives is checked as a whole before anything of it is used: a malformed body must
//! be an error without effect.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    counters::{Counters, Tickets},
    holder::HaltReason,
    ids::{Epoch, Identity, Incarnation, PoolId, RegionId},
    invariant::{Broken, invariant_row},
    limits::{HEAD_QUANTITIES_MAX, POOLS_PER_MESSAGE_MAX, REPORTED_EPOCH_MAX, REPORTED_TICKETS_MAX},
    message::{Answer, AnswerSlice, Demand, PoolReport, RegionView, Register, Registered, Report},
};

/// The version that this speaks.
pub const VERSION: u32 = 1;

/// Why a message was not understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// Another version.
    #[error("version {0} is not spoken here, only {VERSION}")]
    Version(u32),
    /// Too many pools.
    #[error("{0} pools in one message; the limit is {POOLS_PER_MESSAGE_MAX}")]
    TooManyPools(usize),
    /// Too many quantities at a queue's head.
    #[error("{0} quantities at the head of a queue; the limit is {HEAD_QUANTITIES_MAX}")]
    TooManyQuantities(usize),
    /// A pool twice.
    #[error("{0} is there twice")]
    PoolTwice(PoolId),
    /// A row with a number beyond any sale.
    #[error("{0}: a counter is over {REPORTED_TICKETS_MAX}")]
    RowTooLarge(PoolId),
    /// An epoch that no region comes to.
    #[error("epoch {0} is over {REPORTED_EPOCH_MAX}")]
    EpochTooLarge(Epoch),
    /// A row that contradicts itself.
    #[error("{0}: {1}")]
    Row(PoolId, Box<Broken>),
}

/// A region's heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// [`VERSION`]
    pub version: u32,
    /// The region; the receiver compares it with the certificate.
    pub region: RegionId,
    /// The database that the region runs on.
    pub identity: Identity,
    /// The latest incarnation of the arbiters that the region has heard of; its report, if there is one, is under it.
    pub incarnation: Incarnation,
    /// Its epoch; absent before this database is registered.
    pub epoch: Option<Epoch>,
    /// Its rows and what its queues want; empty before this database is registered.
    pub pools: Vec<SyncPool>,
}

/// One pool of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncPool {
    /// The pool.
    pub pool: PoolId,
    /// All columns of its row.
    pub counters: Counters,
    /// What waits for it.
    pub demand: Demand,
}

/// What a heartbeat is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// The region's epoch.
    pub epoch: Epoch,
    /// The database registered for the region.
    pub identity: Option<Identity>,
    /// What was granted; empty for a region that is written off.
    pub slices: Vec<SyncSlice>,
}

/// One pool of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncSlice {
    /// The pool.
    pub pool: PoolId,
    /// Granted, ever.
    pub granted: Tickets,
    /// Below this, no column of the row may be.
    pub floor: Counters,
    /// Please have returned this many, ever, if you can spare them.
    pub return_up_to: Tickets,
}

/// A database asks to speak for its region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// [`VERSION`]
    pub version: u32,
    /// What it asks.
    pub register: Register,
}

/// What a registration is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RegisterAnswer {
    /// Store this, then sell.
    Registered(Registered),
    /// The region changed in between: read it again.
    ReadAgain,
    /// Halt, and show this.
    Refused(HaltReason),
}

impl SyncRequest {
    /// The message for a report, or for a database that has nothing to report yet. `incarnation` is the latest that the
    /// region has heard of; a report under an earlier one would be dropped by the arbiters, and is left out.
    pub fn new(region: RegionId, identity: Identity, incarnation: Incarnation, report: Option<Report>) -> Self {
        let report = report.filter(|report| report.incarnation == incarnation);
        let epoch = report.as_ref().map(|report| report.epoch);
        let pools = report.map(|report| report.pools).unwrap_or_default();
        let pools = pools.into_iter().map(|PoolReport { pool, counters, demand }| SyncPool { pool, counters, demand });
        Self { version: VERSION, region, identity, incarnation, epoch, pools: pools.collect() }
    }

    /// The report in it, checked; `None` from a database that is not registered.
    ///
    /// # Errors
    /// [`WireError`]; nothing of it may be used then.
    pub fn report(self) -> Result<Option<Report>, WireError> {
        check_version(self.version)?;
        check_pools(self.pools.iter().map(|pool| &pool.pool))?;
        for SyncPool { pool, counters, demand } in &self.pools {
            check_bounds(pool, counters)?;
            invariant_row(counters).map_err(|broken| WireError::Row(*pool, Box::new(broken)))?;
            if demand.head_quantities.len() > HEAD_QUANTITIES_MAX {
                return Err(WireError::TooManyQuantities(demand.head_quantities.len()));
            }
        }
        let Some(epoch) = self.epoch else { return Ok(None) };
        let pools =
            self.pools.into_iter().map(|SyncPool { pool, counters, demand }| PoolReport { pool, counters, demand });
        Ok(Some(Report { region: self.region, incarnation: self.incarnation, epoch, pools: pools.collect() }))
    }
}

impl SyncAnswer {
    /// The message for what the arbiters know of a region.
    pub fn new(view: &RegionView, answer: Option<Answer>) -> Self {
        let slices = answer.map(|answer| answer.slices).unwrap_or_default();
        let slices = slices.into_iter().map(|AnswerSlice { pool, granted, floor, return_up_to }| SyncSlice {
            pool,
            granted,
            floor,
            return_up_to,
        });
        Self {
            version: VERSION,
            incarnation: view.incarnation,
            epoch: view.epoch,
            identity: view.identity,
            slices: slices.collect(),
        }
    }

    /// How the arbiters know the region, and what they grant it, checked.
    ///
    /// # Errors
    /// [`WireError`]; nothing of it may be used then.
    pub fn parts(self) -> Result<(RegionView, Answer), WireError> {
        check_version(self.version)?;
        check_pools(self.slices.iter().map(|slice| &slice.pool))?;
        let view = RegionView { incarnation: self.incarnation, epoch: self.epoch, identity: self.identity };
        let slices = self.slices.into_iter().map(|SyncSlice { pool, granted, floor, return_up_to }| AnswerSlice {
            pool,
            granted,
            floor,
            return_up_to,
        });
        Ok((view, Answer { incarnation: self.incarnation, epoch: self.epoch, slices: slices.collect() }))
    }
}

impl RegisterRequest {
    /// The message for a registration.
    pub fn new(register: Register) -> Self {
        Self { version: VERSION, register }
    }

    /// The registration in it, checked.
    ///
    /// # Errors
    /// [`WireError`]; nothing of it may be used then.
    pub fn register(self) -> Result<Register, WireError> {
        check_version(self.version)?;
        check_epoch(self.register.epoch_as_read)?;
        if let Some(database) = &self.register.database {
            check_epoch(database.epoch)?;
            check_pools(database.rows.keys())?;
            for (pool, counters) in &database.rows {
                check_bounds(pool, counters)?;
            }
        }
        Ok(self.register)
    }
}

fn check_version(version: u32) -> Result<(), WireError> {
    if version == VERSION { Ok(()) } else { Err(WireError::Version(version)) }
}

/// The next epoch follows on a reported one, while arbiters recover: on all of them alike, so it must exist.
fn check_epoch(epoch: Epoch) -> Result<(), WireError> {
    if epoch.get() <= REPORTED_EPOCH_MAX { Ok(()) } else { Err(WireError::EpochTooLarge(epoch)) }
}

fn check_bounds(pool: &PoolId, counters: &Counters) -> Result<(), WireError> {
    if counters.in_bounds() { Ok(()) } else { Err(WireError::RowTooLarge(*pool)) }
}

fn check_pools<'a>(pools: impl Iterator<Item = &'a PoolId>) -> Result<(), WireError> {
    let mut seen = std::collections::BTreeSet::new();
    for pool in pools {
        if !seen.insert(pool) {
            return Err(WireError::PoolTwice(*pool));
        }
    }
    if seen.len() > POOLS_PER_MESSAGE_MAX { Err(WireError::TooManyPools(seen.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Option<Report>, String> {
        let request: SyncRequest = serde_json::from_str(text).map_err(|error| error.to_string())?;
        request.report().map_err(|error| error.to_string())
    }

    const ROW: &str = r#"{"granted":5,"returned":1,"held_in":3,"released":0,"sold":2,"refunded":1}"#;

    fn body(version: u32, pools: &str) -> String {
        let identity = "7:1:000102030405060708090a0b0c0d0e0f";
        format!(
            r#"{{"version":{version},"region":"east","identity":"{identity}","incarnation":0,"epoch":3,"pools":[{pools}]}}"#
        )
    }

    fn pool(row: &str) -> String {
        format!(
            r#"{{"pool":"demo/A","counters":{row},"demand":{{"queued":9,"head_quantities":[2,4],"waited_ms":700,"rate_per_min":60}}}}"#
        )
    }

    #[test]
    fn a_heartbeat_is_read_as_it_was_written() {
        let report = request(&body(1, &pool(ROW))).unwrap().unwrap();
        assert_eq!(report.epoch, Epoch::new(3));
        assert_eq!(report.pools[0].counters.available().get(), 2);
        let identity = "7:1:000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let again = SyncRequest::new(report.region, identity, report.incarnation, Some(report.clone()));
        let again = serde_json::to_string(&again).unwrap();
        assert_eq!(again, body(1, &pool(ROW)));
        // A region that does not say for how long its first has waited.
        let without = body(1, &pool(ROW)).replace("\"waited_ms\":700,", "");
        assert_eq!(request(&without).unwrap().unwrap().pools[0].demand.waited_ms, 0);
    }

    #[test]
    fn a_registration_under_an_epoch_that_nobody_comes_to_is_an_error() {
        let register = |as_read: u64, database: u64| {
            let identity = "7:1:000102030405060708090a0b0c0d0e0f";
            let text = format!(
                r#"{{"version":1,"register":{{"region":"east","identity":"{identity}","incarnation":0,
                    "epoch_as_read":{as_read},"database":{{"epoch":{database},"rows":{{}}}}}}}}"#
            );
            serde_json::from_str::<RegisterRequest>(&text).unwrap().register().map(|_| ())
        };
        assert_eq!(register(REPORTED_EPOCH_MAX, REPORTED_EPOCH_MAX), Ok(()));
        for (as_read, database) in [(u64::MAX, 1), (1, u64::MAX), (1, REPORTED_EPOCH_MAX + 1)] {
            assert!(matches!(register(as_read, database), Err(WireError::EpochTooLarge(_))), "{as_read} {database}");
        }
    }

    #[test]
    fn a_malformed_heartbeat_is_an_error() {
        assert!(request(&body(2, &pool(ROW))).unwrap_err().contains("version 2"));
        assert!(request(&body(1, &format!("{0},{0}", pool(ROW)))).unwrap_err().contains("twice"));
        assert!(request(&body(1, &pool(&ROW.replace("\"sold\":2", "\"sold\":9")))).unwrap_err().contains("held ≥ 0"));
        assert!(request(&body(1, &pool(&ROW.replace('5', "-5")))).is_err());
        assert!(request(&body(1, &pool(&ROW.replace('5', "9007199254740992")))).unwrap_err().contains("limit"));
        assert!(request(&body(1, &pool(&ROW.replace("sold", "soiled")))).is_err());
        // Added up, these would leave the bounds of a counter.
        let huge = ROW.replace('3', "9007199254740991").replace(":1", ":9007199254740991");
        assert!(request(&body(1, &pool(&huge))).unwrap_err().contains("over"));
    }
}
