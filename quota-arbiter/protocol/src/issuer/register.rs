//! Registration: which database speaks for a region. Everything is checked when it is applied, because a backup, a
//! standby and the database they replace may all be asking. A database that may have forgotten something that others
//! rely on must never pass.

use std::collections::BTreeMap;

use super::{Issuer, Region, RegionState};
use crate::{
    command::{Ignored, Outcome, RegisterRefused},
    counters::Counters,
    ids::{Identity, RegionId},
    invariant::invariant_row,
    message::{DatabaseState, Register, Registered},
};

impl Issuer {
    pub(super) fn register(&mut self, register: &Register) -> Outcome {
        if register.incarnation != self.incarnation {
            return Ignored::OtherIncarnation.into();
        }
        let mut region = self.regions.get(&register.region).cloned().unwrap_or_else(Region::new);
        if register.epoch_as_read != region.epoch && !mutated!(RegisterWithoutEpochAsRead) {
            return Ignored::OtherEpoch.into();
        }
        let checked = match &register.database {
            None => self.check_empty(&register.region, &region),
            Some(database) => self.check_database(&register.region, &region, database),
        };
        if let Err(refused) = checked {
            return refused.into();
        }
        let waiting = self.waits_for(&register.region);
        match &register.database {
            None => {
                region.seeded = region.state == RegionState::WrittenOff;
                if region.seeded {
                    region.state = RegionState::Active;
                }
                region.begin(region.epoch.next());
            }
            Some(database) => {
                region.seeded = false;
                region.oldest = region.oldest.max(database.epoch);
                region.begin(region.epoch.max(database.epoch).next());
                self.take_rows(&register.region, database, waiting);
            }
        }
        region.identity = Some(register.identity);
        self.regions.insert(register.region, region);
        if let Some(waiting) = &mut self.recovery {
            waiting.remove(&register.region);
        }
        match self.registration(&register.region, &register.identity) {
            Some(registered) => Outcome::Registered(registered),
            None => Ignored::OtherEpoch.into(),
        }
    }

    /// What the database registered for a region was told, to be told again as often as it asks. Nothing for any
    /// other database.
    pub fn registration(&self, region: &RegionId, identity: &Identity) -> Option<Registered> {
        let known = self.regions.get(region)?;
        if known.identity != Some(*identity) || known.state == RegionState::WrittenOff {
            return None;
        }
        let mut seeds = BTreeMap::new();
        // Once the database was heard from it has its rows, and the floor is no seed any more.
        if known.seeded && !known.heard {
            for (id, pool) in &self.pools {
                if let Some(slice) = pool.slices.get(region).filter(|slice| !slice.floor.granted.is_zero()) {
                    seeds.insert(*id, slice.floor);
                }
            }
        }
        Some(Registered { incarnation: self.incarnation, epoch: known.epoch, identity: *identity, seeds })
    }

    /// Whether the arbiters are recovering and do not know yet what this region was granted.
    pub(super) fn waits_for(&self, region: &RegionId) -> bool {
        self.recovery.as_ref().is_some_and(|waiting| waiting.contains(region))
    }

    fn check_empty(&self, id: &RegionId, region: &Region) -> Result<(), RegisterRefused> {
        if region.state == RegionState::WrittenOff {
            return Ok(());
        }
        if self.waits_for(id) {
            return Err(RegisterRefused::EmptyInRecovery);
        }
        for pool in self.pools.keys() {
            let granted = self.slice(id, pool).granted;
            if !granted.is_zero() && !mutated!(RegisterWithoutRowUnchecked) {
                return Err(RegisterRefused::WithoutRow { pool: *pool, granted });
            }
        }
        Ok(())
    }

    fn check_database(&self, id: &RegionId, region: &Region, database: &DatabaseState) -> Result<(), RegisterRefused> {
        if region.state == RegionState::WrittenOff {
            return Err(RegisterRefused::WrittenOff);
        }
        let waiting = self.waits_for(id);
        if database.epoch < region.oldest {
            return Err(RegisterRefused::OlderDatabase { database: database.epoch, heard: region.oldest });
        }
        // In recovery, the region may have been through epochs that the backup knows nothing of.
        if database.epoch > region.epoch && !waiting {
            return Err(RegisterRefused::UnknownEpoch { database: database.epoch, current: region.epoch });
        }
        if let Some(unknown) = database.rows.keys().find(|pool| !self.pools.contains_key(pool)) {
            return Err(RegisterRefused::UnknownPool(*unknown));
        }
        for pool in self.pools.keys() {
            let slice = self.slice(id, pool);
            // A pool whose first grant has not arrived has no row yet. That is a row of zeros, and judged as one: a
            // standby promoted at that moment has lost nothing.
            let row = &database.rows.get(pool).copied().unwrap_or_default();
            if invariant_row(row).is_err() {
                return Err(RegisterRefused::BrokenRow(*pool));
            }
            if row.granted > slice.granted && !waiting {
                let (database, granted) = (row.granted, slice.granted);
                return Err(RegisterRefused::GrantedTooMuch { pool: *pool, database, granted });
            }
            if row.returned < slice.accepted && !mutated!(RegisterWithoutReturnedCheck) {
                let (database, accepted) = (row.returned, slice.accepted);
                return Err(RegisterRefused::ReturnForgotten { pool: *pool, database, accepted });
            }
            if let Some((column, database, floor)) = row.below(&slice.floor) {
                return Err(RegisterRefused::BelowFloor { pool: *pool, column, database, floor });
            }
        }
        Ok(())
    }

    fn take_rows(&mut self, region: &RegionId, database: &DatabaseState, waiting: bool) {
        for (id, row) in &database.rows {
            let Some(pool) = self.pools.get_mut(id) else { continue };
            if *row == Counters::ZERO && !pool.slices.contains_key(region) {
                continue;
            }
            let slice = pool.slices.entry(*region).or_default();
            slice.floor = slice.floor.max(row);
            if waiting {
                slice.granted = slice.granted.max(row.granted);
                slice.accepted = slice.accepted.max(row.returned);
            }
        }
    }
}
