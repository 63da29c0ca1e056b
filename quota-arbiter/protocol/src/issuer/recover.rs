//! Arbiters restored from a backup: they have forgotten grants and returns, so nothing is granted until every region
//! has registered again under a new incarnation and said what it was granted and gave back.

use super::{Issuer, RegionState};
use crate::{
    command::{Outcome, RecoveryRefused},
    counters::Tickets,
    ids::{Incarnation, RegionId},
};

impl Issuer {
    pub(super) fn begin_recovery(&mut self, incarnation: Incarnation, regions: &[RegionId]) -> Outcome {
        if incarnation <= self.incarnation {
            return RecoveryRefused::OldIncarnation(self.incarnation).into();
        }
        for region in regions {
            self.add_region(*region);
        }
        self.incarnation = incarnation;
        for (id, region) in &mut self.regions {
            region.begin(region.epoch.next());
            if region.state == RegionState::WrittenOff && !regions.contains(id) {
                region.oldest = region.epoch.next();
            } else {
                // Written off in the backup and running again since: what it was granted since is out there. Databases
                // from before the write-off are still too old.
                if region.state == RegionState::WrittenOff {
                    region.state = RegionState::Active;
                }
                // Whichever database speaks for it has to register, and so to say what it was granted.
                region.identity = None;
            }
        }
        let waiting = self.regions.iter().filter(|(_, region)| region.state != RegionState::WrittenOff);
        self.recovery = Some(waiting.map(|(id, _)| *id).collect());
        Outcome::Done
    }

    pub(super) fn finish_recovery(&mut self) -> Outcome {
        let Some(waiting) = &self.recovery else {
            return RecoveryRefused::NotRecovering.into();
        };
        if !waiting.is_empty() {
            return RecoveryRefused::Waiting(waiting.iter().copied().collect()).into();
        }
        let mut pools = Vec::new();
        for (id, pool) in &self.pools {
            let out = pool.slices.values().map(|slice| slice.granted - slice.accepted).sum::<Tickets>();
            let Some(rest) = pool.total.minus(out) else {
                return RecoveryRefused::TotalTooSmall { pool: *id, out, total: pool.total }.into();
            };
            pools.push(rest);
        }
        for (pool, rest) in self.pools.values_mut().zip(pools) {
            pool.pool = rest;
        }
        self.recovery = None;
        Outcome::Done
    }
}
