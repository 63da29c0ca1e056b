//! Allocation of a batch: tables for each rule, properties against a naive one that rescans everything.
#![allow(clippy::unwrap_used, reason = "test code")]

use proptest::prelude::*;
use sale::allocate::{Allocation, Candidate, Decision, Limits, Stock, Tiers, allocate};

const LIMITS: Limits = Limits { per_order: 4, per_person: 6, per_identity: None };

fn wants(user: u8, quantity: u16, tiers: &[u8]) -> Candidate {
    Candidate {
        user: [user; 16],
        identity: None,
        quantity,
        tiers: Tiers::from_slice(tiers),
        any_quantity: false,
        owned_by_user: 0,
        owned_by_identity: 0,
    }
}
fn any(candidate: Candidate) -> Candidate {
    Candidate { any_quantity: true, ..candidate }
}
fn of(candidate: Candidate, identity: u8) -> Candidate {
    Candidate { identity: Some([identity; 16]), ..candidate }
}
fn hold(tier: u8, quantity: u16) -> Decision {
    Decision::Hold { tier, quantity }
}
fn stock<const N: usize>(tickets: [u64; N]) -> Stock {
    Stock::new(tickets)
}
fn run<const N: usize>(tickets: [u64; N], candidates: &[Candidate]) -> Vec<Decision> {
    allocate(&LIMITS, &stock(tickets), None, candidates).decisions
}

#[test]
fn the_first_preferred_tier_with_enough_is_taken() {
    assert_eq!(run([9, 9], &[wants(1, 2, &[1, 0])]), [hold(1, 2)]);
    assert_eq!(run([9, 1], &[wants(1, 2, &[1, 0])]), [hold(0, 2)]);
}

#[test]
fn all_or_nothing_never_splits() {
    assert_eq!(run([1, 1], &[wants(1, 2, &[0, 1])]), [Decision::Wait]);
}

#[test]
fn any_quantity_takes_what_the_preferred_tier_has() {
    assert_eq!(run([1, 9], &[any(wants(1, 4, &[0, 1]))]), [hold(0, 1)]);
    assert_eq!(run([0, 3], &[any(wants(1, 4, &[0, 1]))]), [hold(1, 3)]);
    assert_eq!(run([9, 9], &[any(wants(1, 4, &[0, 1]))]), [hold(0, 4)]);
}

#[test]
fn any_quantity_is_cut_to_the_limits() {
    let owns = Candidate { owned_by_user: 5, ..any(wants(1, 4, &[0])) };
    assert_eq!(run([9], &[owns]), [hold(0, 1)]);
    assert_eq!(run([9], &[any(wants(1, 90, &[0]))]), [hold(0, 4)]);
}

#[test]
fn limits_per_order_and_person_refuse() {
    assert_eq!(run([9], &[wants(1, 5, &[0])]), [Decision::RejectLimit]);
    let owned = |owned_by_user, quantity| Candidate { owned_by_user, ..wants(1, quantity, &[0]) };
    assert_eq!(run([9], &[owned(4, 2)]), [hold(0, 2)]);
    assert_eq!(run([9], &[owned(4, 3)]), [Decision::RejectLimit]);
    assert_eq!(run([9], &[any(owned(6, 1))]), [Decision::RejectLimit]);
    assert_eq!(run([9], &[owned(u16::MAX, 1)]), [Decision::RejectLimit]);
}

#[test]
fn the_limit_per_identity_refuses_across_users() {
    let limits = Limits { per_identity: Some(3), ..LIMITS };
    let decide = |candidates: &[Candidate]| allocate(&limits, &stock([9]), None, candidates).decisions;
    let owned = Candidate { owned_by_identity: 2, ..of(wants(1, 2, &[0]), 7) };
    assert_eq!(decide(&[owned]), [Decision::RejectLimit]);
    let two = [of(wants(1, 2, &[0]), 7), of(wants(2, 2, &[0]), 7), of(wants(3, 1, &[0]), 7), of(wants(4, 2, &[0]), 8)];
    assert_eq!(decide(&two), [hold(0, 2), Decision::RejectLimit, hold(0, 1), hold(0, 2)]);
}

#[test]
fn a_user_twice_in_a_batch_counts_the_earlier_hold() {
    assert_eq!(
        run([99], &[wants(1, 4, &[0]), wants(1, 4, &[0]), wants(1, 2, &[0]), wants(1, 1, &[0])]),
        [hold(0, 4), Decision::RejectLimit, hold(0, 2), Decision::RejectLimit]
    );
    // Only holds count: whoever waited has nothing yet.
    assert_eq!(run([1, 9], &[wants(1, 4, &[0]), wants(1, 4, &[1])]), [Decision::Wait, hold(1, 4)]);
}

#[test]
fn a_certain_no_needs_every_named_tier_below_the_need() {
    let decide = |unsold: [u64; 2], candidate: Candidate| {
        allocate(&LIMITS, &stock([0, 0, 1]), Some(&stock(unsold)), &[candidate]).decisions
    };
    assert_eq!(decide([1, 1], wants(1, 2, &[0, 1])), [Decision::RejectSoldOut]);
    assert_eq!(decide([1, 2], wants(1, 2, &[0, 1])), [Decision::Wait]);
    assert_eq!(decide([1, 0], any(wants(1, 2, &[0, 1]))), [Decision::Wait]);
    assert_eq!(decide([0, 0], any(wants(1, 2, &[0, 1]))), [Decision::RejectSoldOut]);
    // A tier that the concert does not have can never serve anybody.
    assert_eq!(decide([9, 9], wants(1, 1, &[63])), [Decision::RejectSoldOut]);
    // Without reports nobody is told a certain no.
    assert_eq!(run([0, 1], &[wants(1, 1, &[0])]), [Decision::Wait]);
}

/// Limit before hold before certain no before waiting, each pair where both could be said.
#[test]
fn precedence_of_rejections() {
    let decide = |available: [u64; 2], unsold: [u64; 2], candidate: Candidate| {
        allocate(&LIMITS, &stock(available), Some(&stock(unsold)), &[candidate]).decisions[0]
    };
    let over = wants(1, 5, &[0]);
    assert_eq!(decide([9, 1], [9, 1], over.clone()), Decision::RejectLimit, "limit before hold");
    assert_eq!(decide([0, 1], [0, 1], over.clone()), Decision::RejectLimit, "limit before certain no");
    assert_eq!(decide([0, 1], [9, 1], over), Decision::RejectLimit, "limit before waiting");
    // Reports may be older than the stock at hand: a hold is a hold.
    assert_eq!(decide([2, 0], [0, 0], wants(1, 2, &[0])), hold(0, 2), "hold before certain no");
    assert_eq!(decide([0, 1], [1, 1], wants(1, 2, &[0])), Decision::RejectSoldOut, "certain no before waiting");
}

#[test]
fn decisions_stop_when_every_tier_is_dry() {
    let three = [wants(1, 2, &[0]), wants(2, 1, &[1]), wants(3, 1, &[0])];
    let all = allocate(&LIMITS, &stock([2, 1]), None, &three);
    assert_eq!((all.taken(), all.left.is_dry()), (2, true));
    assert_eq!(allocate(&LIMITS, &stock([0, 0]), None, &three).taken(), 0);
    assert_eq!(allocate(&LIMITS, &stock([2, 2]), None, &three).taken(), 3);
}

/// Rescans all earlier decisions for everything that it wants to know.
fn naive(limits: &Limits, stock: &[u64], unsold: Option<&[u64]>, all: &[Candidate]) -> Vec<Decision> {
    let mut made: Vec<(usize, u8, u64)> = Vec::new();
    let mut decisions = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let left = |tier: u8, made: &[(usize, u8, u64)]| {
            let gone: u64 = made.iter().filter(|hold| hold.1 == tier).map(|hold| hold.2).sum();
            stock.get(usize::from(tier)).map_or(0, |there| there - gone)
        };
        if (0..stock.len()).all(|tier| left(tier as u8, &made) == 0) {
            break;
        }
        let user: u64 = made.iter().filter(|hold| all[hold.0].user == one.user).map(|hold| hold.2).sum();
        let same = |hold: &&(usize, u8, u64)| one.identity.is_some() && all[hold.0].identity == one.identity;
        let identity: u64 = made.iter().filter(same).map(|hold| hold.2).sum();
        let fits = |tickets: u64| {
            tickets <= u64::from(limits.per_order)
                && tickets + user + u64::from(one.owned_by_user) <= u64::from(limits.per_person)
                && limits
                    .per_identity
                    .is_none_or(|most| tickets + identity + u64::from(one.owned_by_identity) <= u64::from(most))
        };
        let asked = u64::from(one.quantity);
        let sizes: Vec<u64> = if one.any_quantity { (1..=asked).rev().collect() } else { vec![asked] };
        let allowed: Vec<u64> = sizes.iter().copied().filter(|&tickets| fits(tickets)).collect();
        let fitting = one.tiers.iter().find_map(|&tier| {
            let size = allowed.iter().copied().find(|&tickets| tickets <= left(tier, &made))?;
            Some((tier, size))
        });
        let smallest = sizes.last().copied().unwrap_or(0);
        let never = |unsold: &[u64]| {
            one.tiers.iter().all(|&tier| unsold.get(usize::from(tier)).is_none_or(|&there| there < smallest))
        };
        decisions.push(match fitting {
            _ if allowed.is_empty() => Decision::RejectLimit,
            Some((tier, size)) => {
                made.push((index, tier, size));
                Decision::Hold { tier, quantity: size as u16 }
            }
            None if unsold.is_some_and(never) => Decision::RejectSoldOut,
            None => Decision::Wait,
        });
    }
    decisions
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let who = (0u8..12, proptest::option::of(0u8..6));
    let tiers = proptest::sample::subsequence((0u8..5).collect::<Vec<u8>>(), 1..=5).prop_shuffle();
    (who, 1u16..8, tiers, any_bool(), 0u16..5, 0u16..4).prop_map(
        |((user, identity), quantity, tiers, any_quantity, owned_by_user, owned_by_identity)| Candidate {
            user: [user; 16],
            identity: identity.map(|identity| [identity; 16]),
            quantity,
            tiers: Tiers::from_vec(tiers),
            any_quantity,
            owned_by_user,
            owned_by_identity,
        },
    )
}
fn any_bool() -> impl Strategy<Value = bool> {
    proptest::bool::ANY
}
fn limits() -> impl Strategy<Value = Limits> {
    (1u16..8, 1u16..12, proptest::option::of(1u16..8)).prop_map(|(per_order, per_person, per_identity)| Limits {
        per_order,
        per_person,
        per_identity,
    })
}
fn held(allocation: &Allocation, tier: u8) -> u64 {
    let of_tier = |decision: &Decision| match decision {
        Decision::Hold { tier: held, quantity } if *held == tier => u64::from(*quantity),
        _ => 0,
    };
    allocation.decisions.iter().map(of_tier).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn allocation_equals_the_naive_one(
        limits in limits(),
        tickets in proptest::collection::vec(0u64..20, 1..5),
        unsold in proptest::option::of(proptest::collection::vec(0u64..25, 4)),
        candidates in proptest::collection::vec(candidate(), 0..40),
    ) {
        let stock = Stock::new(tickets.iter().copied());
        let known = unsold.as_ref().map(|unsold| Stock::new(unsold.iter().copied()));
        let allocation = allocate(&limits, &stock, known.as_ref(), &candidates);
        prop_assert_eq!(&allocation.decisions, &naive(&limits, &tickets, unsold.as_deref(), &candidates));
        for tier in 0..5 {
            prop_assert_eq!(allocation.left.of(tier) + held(&allocation, tier), stock.of(tier));
        }
        // Undecided only when nothing is left.
        prop_assert!(allocation.taken() == candidates.len() || allocation.left.is_dry());
    }

    #[test]
    fn a_batch_cut_in_two_decides_the_same(
        limits in limits(),
        tickets in proptest::collection::vec(0u64..20, 1..5),
        mut candidates in proptest::collection::vec(candidate(), 0..30),
        cut in 0usize..30,
    ) {
        // Across batches the caller counts what people have; here everybody comes once.
        for (index, candidate) in candidates.iter_mut().enumerate() {
            candidate.user = [index as u8; 16];
            candidate.identity = None;
        }
        let stock = Stock::new(tickets);
        let whole = allocate(&limits, &stock, None, &candidates);
        let (front, back) = candidates.split_at(cut.min(candidates.len()));
        let first = allocate(&limits, &stock, None, front);
        let mut decisions = first.decisions.clone();
        if first.taken() == front.len() {
            decisions.extend(allocate(&limits, &first.left, None, back).decisions);
        }
        prop_assert_eq!(whole.decisions, decisions);
    }
}
