//! Writing a region off: its database can never commit again, an operator has said how that was made sure and counted
//! what it sold. Silence is not fencing, and no lease or clock replaces it: a restart resets clocks, and holds made
//! earlier still get paid.

use std::collections::BTreeMap;

use super::{Issuer, RegionState};
use crate::{
    command::{CommandRefused, Outcome, Sales, WriteOffRefused},
    counters::{Column, Counters, Tickets},
    ids::{PoolId, RegionId},
    limits::FENCE_NOTE_SIZE_MAX_BYTES,
};

impl Issuer {
    pub(super) fn write_off(&mut self, region: &RegionId, fenced: &str, sales: &[Sales]) -> Outcome {
        let Some(known) = self.regions.get(region) else {
            return Outcome::Refused(CommandRefused::NoSuchRegion(*region));
        };
        if known.state == RegionState::WrittenOff {
            return Outcome::Refused(CommandRefused::WrittenOff);
        }
        let sold = match self.check_write_off(region, fenced, sales) {
            Ok(sold) => sold,
            Err(refused) => return refused.into(),
        };
        let recovering = self.recovery.is_some();
        let unknown = self.waits_for(region);
        let mut back = Tickets::ZERO;
        for (id, sold) in sold {
            let Some(pool) = self.pools.get_mut(&id) else { continue };
            let slice = pool.slices.entry(*region).or_default();
            // The arbiters' backup may know of less than the region was granted; P is recomputed when they finish.
            if unknown {
                slice.granted = slice.granted.max(slice.accepted + sold);
            }
            let more = slice.granted - slice.accepted - sold;
            slice.accepted = slice.granted - sold;
            slice.floor = Counters::seed(slice.granted, sold);
            if !recovering {
                pool.pool += more;
            }
            back += more;
        }
        if let Some(known) = self.regions.get_mut(region) {
            known.begin(known.epoch.next());
            // No database of this epoch or an earlier one comes back: the next one starts empty, one epoch on.
            known.oldest = known.epoch.next();
            known.state = RegionState::WrittenOff;
            known.seeded = false;
            known.fenced = Some(fenced.to_owned());
        }
        if let Some(waiting) = &mut self.recovery {
            waiting.remove(region);
        }
        Outcome::WrittenOff(back)
    }

    /// What stays sold, by pool.
    fn check_write_off(
        &self,
        region: &RegionId,
        fenced: &str,
        sales: &[Sales],
    ) -> Result<BTreeMap<PoolId, Tickets>, WriteOffRefused> {
        if fenced.trim().is_empty() && !mutated!(WriteOffWithoutAFence) {
            return Err(WriteOffRefused::NotFenced);
        }
        if fenced.len() > FENCE_NOTE_SIZE_MAX_BYTES {
            return Err(WriteOffRefused::NoteTooLong);
        }
        let unknown = self.waits_for(region);
        let mut stays = BTreeMap::new();
        for Sales { pool, sold, refunded } in sales {
            let slice = self.slice(region, pool);
            let expected = self.pools.contains_key(pool) && (unknown || !slice.granted.is_zero());
            if !expected || stays.contains_key(pool) {
                return Err(WriteOffRefused::SalesUnexpected(*pool));
            }
            // A refund after the last report lowers the difference, but neither of the two.
            for (column, given, floor) in
                [(Column::Sold, *sold, slice.floor.sold), (Column::Refunded, *refunded, slice.floor.refunded)]
            {
                if given < floor {
                    return Err(WriteOffRefused::BelowFloor { pool: *pool, column, given, floor });
                }
            }
            let mut net = sold.minus(*refunded).ok_or(WriteOffRefused::MoreRefundedThanSold(*pool))?;
            if mutated!(SoldGrossOfRefunds) {
                net = *sold;
            }
            let had = slice.granted.minus_or_zero(slice.accepted);
            if net > had && !unknown {
                return Err(WriteOffRefused::SoldTooMany { pool: *pool, sold: net, had });
            }
            stays.insert(*pool, net);
        }
        for pool in self.pools.keys() {
            if (unknown || !self.slice(region, pool).granted.is_zero()) && !stays.contains_key(pool) {
                return Err(WriteOffRefused::SalesMissing(*pool));
            }
        }
        Ok(stays)
    }
}

#[cfg(test)]
impl super::Pool {
    /// A mutant's deed: take what a silent region seems not to have sold.
    pub(super) fn seize_from_others(&mut self, region: &RegionId) {
        let Self { pool, slices, .. } = self;
        for (_, slice) in slices.iter_mut().filter(|(id, _)| *id != region) {
            let seized = (slice.granted - slice.accepted).minus_or_zero(slice.floor.sold_net());
            slice.accepted += seized;
            *pool += seized;
        }
    }
}
