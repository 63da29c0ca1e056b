//! Near the end: less is left than one batch for each region. Idle tickets go back to the pool and from there to the
//! queues, longest first, in quantities that the requests at their heads can use. A ticket must not stay where nobody
//! wants it while somebody elsewhere would take it.

use super::{Reckoned, Wish};
use crate::counters::Tickets;

pub(super) fn wishes(active: &[Reckoned<'_>], all: Tickets, pool: Tickets) -> Vec<Wish> {
    let mut order = (0..active.len()).collect::<Vec<_>>();
    order.sort_by_key(|at| (std::cmp::Reverse(active[*at].stock.demand.queued), active[*at].region));
    let mut left = all;
    let mut due = vec![Tickets::ZERO; active.len()];
    // What a region has and the head of its own queue can use stays there: moving it would only make people wait.
    for at in 0..active.len() {
        due[at] = usable_of(&active[at], active[at].free, false);
        left -= due[at];
    }
    // Then the heads of the other queues; and only then what is known of a queue's rest, which is no more than a sum.
    for beyond in [false, true] {
        for at in &order {
            let more = usable_of(&active[*at], due[*at] + left, beyond).minus_or_zero(due[*at]);
            due[*at] += more;
            left -= more;
        }
    }
    let wanting = active.iter().zip(&due).any(|(region, due)| *due > region.free);
    let mut wishes = Vec::with_capacity(active.len());
    for (region, due) in active.iter().zip(due) {
        wishes.push(match (due.minus(region.free), region.free.minus(due)) {
            (Some(more), _) if !more.is_zero() => Wish::More(more),
            // Idle tickets come back as soon as anybody waits anywhere, but not while the pool has enough anyway.
            (_, Some(spare)) if !spare.is_zero() && (wanting || pool.is_zero()) => Wish::Spare(spare),
            _ => Wish::Keep,
        });
    }
    wishes
}

/// Of `more` tickets, as many as the region's queue could use together with what it has.
pub(super) fn usable(region: &Reckoned<'_>, more: Tickets) -> Tickets {
    usable_of(region, region.free + more, true).minus_or_zero(region.free).min(more)
}

/// Of `tickets`, as many as the requests of the region's queue can use: those at its head one by one in their order,
/// passing over what is too large; and, with `beyond`, the rest of the queue, of which only the sum is known, and that
/// nobody in it asks for less than the least at its head.
fn usable_of(region: &Reckoned<'_>, tickets: Tickets, beyond: bool) -> Tickets {
    let demand = &region.stock.demand;
    let mut left = tickets;
    for quantity in &demand.head_quantities {
        left = left.minus(*quantity).unwrap_or(left);
    }
    let least = demand.head_quantities.iter().min().copied().unwrap_or_default();
    if beyond && left >= least {
        let rest = demand.queued.minus_or_zero(demand.head_quantities.iter().copied().sum());
        left = left.minus_or_zero(rest);
    }
    tickets - left
}
