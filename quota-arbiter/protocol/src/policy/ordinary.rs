//! Ordinary times: a share for each region by its demand, of which only as much is granted as it can sell before it
//! could be helped again.

use super::{Policy, PoolView, Reckoned, Wish, split};
use crate::counters::Tickets;

pub(super) fn wishes(active: &mut [Reckoned<'_>], all: Tickets, view: &PoolView, policy: &Policy) -> Vec<Wish> {
    let weights = active.iter().map(|region| weight(region, policy)).collect::<Vec<_>>();
    let shares = split(all, &weights);
    let mut wishes = Vec::with_capacity(active.len());
    for (region, share) in active.iter_mut().zip(shares) {
        let target = share.min(hard(region, policy));
        let off = region.free.max(target) - region.free.min(target);
        let far = off >= policy.batch
            && u128::from(off.get()) * 100 > u128::from(target.get()) * u128::from(policy.tolerance_percent);
        region.memory.off_rounds = if far { region.memory.off_rounds.saturating_add(1) } else { 0 };
        let patient = !view.at_once && (region.memory.off_rounds < 2 || region.cooling(view, policy));
        wishes.push(match (target.minus(region.free), region.free.minus(target)) {
            // Dry with a queue: at once, and at least what the first in line wants.
            _ if region.dry() => {
                let first = region.stock.demand.head_quantities.first().copied().unwrap_or(Tickets::from_u32(1));
                Wish::more(target.minus_or_zero(region.free).max(first.minus_or_zero(region.free)))
            }
            // Below half of what it should have it is refilled without waiting for a second round.
            (Some(more), _) if !more.is_zero() && (!patient || region.free.get() < target.get() / 2) => {
                Wish::more(more)
            }
            // Who may give is not who must: donors are asked only for what somebody misses.
            (_, Some(spare)) if !spare.is_zero() && region.stock.demand.queued <= target => Wish::Spare(spare),
            (_, Some(spare)) if !spare.is_zero() && !patient => Wish::Spare(spare),
            _ => Wish::Keep,
        });
    }
    wishes
}

/// Queue + moving average of the demand × horizon, with a floor.
fn weight(region: &Reckoned<'_>, policy: &Policy) -> u64 {
    let floor = policy.weight_floor.get().saturating_mul(u64::from(region.stock.weight));
    region.stock.demand.queued.get().saturating_add(expected(region, policy)).max(floor)
}

/// What will be asked for there within the horizon, if it goes on like this.
pub(super) fn expected(region: &Reckoned<'_>, policy: &Policy) -> u64 {
    let demand = u128::from(region.memory.demand_milli_per_min) * u128::from(policy.horizon_ms) / 60_000_000;
    demand as u64
}

/// What a region can sell in a round trip, a heartbeat and its autonomy target, at the current rate, plus two batches.
pub(super) fn hard(region: &Reckoned<'_>, policy: &Policy) -> Tickets {
    let span_ms = policy.round_trip_ms + policy.heartbeat_ms + policy.autonomy_target_ms;
    let sells = u128::from(region.memory.demand_milli_per_min) * u128::from(span_ms) / 60_000_000;
    let sells = Tickets::new(sells as u64).unwrap_or(Tickets::ZERO);
    sells + policy.batch + policy.batch
}
