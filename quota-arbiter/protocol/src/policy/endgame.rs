//! Near the end: less is left than one batch for each region. Now it matters whom each ticket goes to, and the order is
//! that of one queue for everybody: whoever has waited for longest, in whatever region, if there are enough for them.
//! What nobody waits for lies where the next buyers will come. A ticket must not stay where nobody wants it while
//! somebody elsewhere would take it.

use super::{Policy, Reckoned, Wish, ordinary, split};
use crate::counters::Tickets;

/// The part of a queue of which only the sum is known is taken in so many pieces, each with a moment of its own.
const PIECES: u64 = 16;

pub(super) fn wishes(active: &[Reckoned<'_>], all: Tickets, policy: &Policy) -> Vec<Wish> {
    let (mut due, mut unserved) = (Vec::with_capacity(active.len()), Vec::new());
    // What a region has and its own queue can use stays there: moving it would only make people wait.
    for (at, region) in active.iter().enumerate() {
        due.push(serve_at_home(at, region, &mut unserved));
    }
    let mut left = all - due.iter().copied().sum();
    unserved.sort_by_key(|request| (std::cmp::Reverse(request.waited_ms), request.region));
    for request in unserved {
        if request.least <= left {
            let given = request.tickets.min(left);
            due[request.region] += given;
            left -= given;
        }
    }
    // Nobody who waits can use the rest: it goes where the next will come.
    let weights = active.iter().map(|region| ordinary::expected(region, policy)).collect::<Vec<_>>();
    let cushions = split(left, &weights);
    let mut wishes = Vec::with_capacity(active.len());
    for ((region, due), cushion) in active.iter().zip(due).zip(cushions) {
        let target = due + cushion.min(ordinary::hard(region, policy));
        // Somebody waits for it; or less than half is there of what will soon be wanted.
        let lacks = region.free < due || region.free.get() < target.get() / 2;
        wishes.push(match (target.minus(region.free), region.free.minus(target)) {
            (Some(more), _) if !more.is_zero() && lacks => Wish::More { need: due.minus_or_zero(region.free), more },
            (_, Some(spare)) if !spare.is_zero() => Wish::Spare(spare),
            _ => Wish::Keep,
        });
    }
    wishes
}

/// Somebody who waits for what is not there, or a piece of the queue behind its head.
struct Unserved {
    /// Its place among the active regions.
    region: usize,
    waited_ms: u64,
    tickets: Tickets,
    /// Fewer are of no use.
    least: Tickets,
}

/// Serves a region's queue from what the region has. Returns what that takes, and adds who is left over.
///
/// Of the arrivals only the first one's is known: the others are taken to have come evenly since.
fn serve_at_home(at: usize, region: &Reckoned<'_>, unserved: &mut Vec<Unserved>) -> Tickets {
    let demand = &region.stock.demand;
    let (mut left, mut before) = (region.free, Tickets::ZERO);
    let waited_ms = |before: Tickets| {
        let behind = u128::from(demand.queued.minus_or_zero(before).get()) * u128::from(demand.waited_ms);
        (behind / u128::from(demand.queued.get().max(1))) as u64
    };
    for quantity in &demand.head_quantities {
        match left.minus(*quantity) {
            Some(less) => left = less,
            None => {
                let (waited_ms, tickets) = (waited_ms(before), *quantity);
                unserved.push(Unserved { region: at, waited_ms, tickets, least: tickets });
            }
        }
        before += *quantity;
    }
    let least = demand.head_quantities.iter().min().copied().unwrap_or_default();
    let mut rest = demand.queued.minus_or_zero(before);
    if left >= least {
        let here = rest.min(left);
        (left, rest, before) = (left - here, rest - here, before + here);
    }
    let piece = Tickets::from_u32(1).max(Tickets::new(rest.get().div_ceil(PIECES)).unwrap_or(rest));
    while !rest.is_zero() {
        let tickets = piece.min(rest);
        unserved.push(Unserved { region: at, waited_ms: waited_ms(before), tickets, least });
        (rest, before) = (rest - tickets, before + tickets);
    }
    region.free - left
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
