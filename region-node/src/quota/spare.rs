//! What a region can spare of a pool when the arbiters ask for tickets back. Pure.
//!
//! Whatever the queue can use now stays; what it cannot use goes, though people wait: a single ticket is of no use to
//! those who want two each, and may be to somebody elsewhere.

use quota_protocol::limits::HEAD_QUANTITIES_MAX;
use quota_protocol::message::Demand;

/// Of `available` tickets, those that are not needed by who waits here.
pub(super) fn spare(available: u64, demand: &Demand) -> u64 {
    let mut left = available;
    for quantity in demand.head_quantities.iter().map(|quantity| quantity.get()) {
        left -= if quantity <= left { quantity } else { 0 };
    }
    // Behind a full head there may be more who fit.
    if demand.head_quantities.len() >= HEAD_QUANTITIES_MAX && left > 0 {
        let head: u64 = demand.head_quantities.iter().map(|quantity| quantity.get()).sum();
        let smallest = demand.head_quantities.iter().map(|quantity| quantity.get()).min().unwrap_or(u64::MAX);
        if smallest <= left {
            left = left.saturating_sub(demand.queued.get().saturating_sub(head));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use quota_protocol::Tickets;

    fn demand(queued: u32, head: &[u32]) -> Demand {
        Demand {
            queued: Tickets::from_u32(queued),
            head_quantities: head.iter().map(|quantity| Tickets::from_u32(*quantity)).collect(),
            ..Demand::default()
        }
    }

    #[test]
    fn what_the_head_can_use_stays_and_the_rest_goes() {
        assert_eq!(spare(10, &demand(0, &[])), 10);
        assert_eq!(spare(10, &demand(6, &[4, 2])), 4);
        assert_eq!(spare(3, &demand(8, &[4, 4])), 3, "nobody here can use three");
        assert_eq!(spare(3, &demand(9, &[4, 4, 1])), 2, "the single one can be used");
        assert_eq!(spare(100, &demand(500, &[2; 32])), 0, "behind a full head there are more");
        assert_eq!(spare(100, &demand(74, &[2; 32])), 26);
        assert_eq!(spare(0, &demand(9, &[1])), 0);
    }
}
