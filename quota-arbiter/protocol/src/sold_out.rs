//! When it may be said that a pool is sold out: never a moment too early, since nobody comes back after hearing it.

use crate::{
    counters::Tickets,
    ids::PoolId,
    issuer::{Issuer, RegionState},
};

/// What can be said of a pool's stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// Some may still come: unallocated, in a slice, on hold, or in a region that is silent.
    MayCome {
        /// At most so many, by what was reported: `P + Σ(G − R − sold + refunded)`.
        at_most: Tickets,
    },
    /// Never again, except for refunds.
    SoldOut,
}

/// Judges by the floors. Within one epoch a database's rows only grow, so the floor *is* its latest row that was heard,
/// and `g = G` says that it was made after the last grant. `None` for an unknown pool.
pub fn stock(issuer: &Issuer, pool: &PoolId) -> Option<Stock> {
    let book = issuer.pools().get(pool)?;
    if issuer.recovering().is_some() {
        // P is the backup's: tickets that were returned since would be missing from it, and a no would be too early.
        return Some(Stock::MayCome { at_most: book.total });
    }
    let mut at_most = book.pool;
    let mut settled = book.pool.is_zero() && issuer.recovering().is_none() && book.forgotten.is_none();
    for (region, slice) in &book.slices {
        let state = issuer.regions().get(region).map(|region| region.state);
        if state == Some(RegionState::WrittenOff) {
            continue;
        }
        let row = &slice.floor;
        at_most += (slice.granted - slice.accepted).minus_or_zero(row.sold_net());
        settled &= row.granted == slice.granted
            && row.returned == slice.accepted
            && row.held().is_zero()
            && row.available().is_zero();
    }
    Some(if settled { Stock::SoldOut } else { Stock::MayCome { at_most } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::{Command, Outcome},
        ids::Incarnation,
    };

    #[test]
    fn while_recovering_everything_may_still_come() {
        let (pool, region) = ("demo/A".parse().unwrap(), "east".parse().unwrap());
        let mut issuer = Issuer::default();
        assert_eq!(stock(&issuer, &pool), None);
        issuer.apply(&Command::CreatePool { pool, total: Tickets::ZERO });
        issuer.apply(&Command::AddRegion { region });
        assert_eq!(stock(&issuer, &pool), Some(Stock::SoldOut));
        issuer.apply(&Command::SetTotal { pool, from: Tickets::ZERO, to: Tickets::from_u32(7) });
        let incarnation = Incarnation::default().following(5);
        assert_eq!(issuer.apply(&Command::BeginRecovery { incarnation, regions: vec![region] }), Outcome::Done);
        assert_eq!(stock(&issuer, &pool), Some(Stock::MayCome { at_most: Tickets::from_u32(7) }));
    }
}
