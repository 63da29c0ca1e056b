//! Each invariant finds what it is there to find: a book that is right passes, and every single corruption is named.

use sale::allocate::Limits;
use sale::invariants::{
    Columns, Move, Violation, fold, invariant_counters_match_ledger, invariant_life, invariant_no_oversell,
    invariant_one_active, invariant_one_payment_kept, invariant_only_grows, invariant_pool,
    invariant_rows_match_ledger, invariant_within_limit, invariant_within_order,
};
use sale::lifecycle::State;

const GOOD: Columns = Columns { granted: 10, returned: 1, held_in: 8, released: 2, sold: 4, refunded: 1 };

fn named(found: Result<(), Violation>) -> &'static str {
    found.err().map_or("nothing", |violation| violation.invariant)
}

#[test]
fn a_pool_that_is_wrong_is_found() {
    assert_eq!((GOOD.available(), GOOD.held()), (4, 2));
    assert_eq!(invariant_pool(&GOOD), Ok(()));
    for wrong in [
        Columns { granted: 5, ..GOOD },
        Columns { returned: 6, ..GOOD },
        Columns { held_in: 13, ..GOOD },
        Columns { released: 5, ..GOOD },
        Columns { sold: 7, ..GOOD },
        Columns { refunded: 5, ..GOOD },
        Columns { returned: -1, ..GOOD },
    ] {
        assert_eq!(named(invariant_pool(&wrong)), "invariant_pool", "{wrong:?}");
    }
}

#[test]
fn a_column_that_went_down_is_found() {
    assert_eq!(invariant_only_grows(&GOOD, &GOOD), Ok(()));
    for lower in [
        Columns { granted: 9, ..GOOD },
        Columns { returned: 0, ..GOOD },
        Columns { held_in: 7, ..GOOD },
        Columns { released: 1, ..GOOD },
        Columns { sold: 3, ..GOOD },
        Columns { refunded: 0, ..GOOD },
    ] {
        assert_eq!(named(invariant_only_grows(&GOOD, &lower)), "invariant_only_grows", "{lower:?}");
        assert_eq!(invariant_only_grows(&lower, &GOOD), Ok(()));
    }
}

#[test]
fn an_oversell_is_found_against_the_grant_and_against_the_total() {
    assert_eq!(invariant_no_oversell(10, &GOOD), Ok(()));
    assert_eq!(named(invariant_no_oversell(8, &GOOD)), "invariant_no_oversell");
    let over = Columns { sold: 10, held_in: 14, ..GOOD };
    assert_eq!(named(invariant_no_oversell(10, &over)), "invariant_no_oversell");
}

#[test]
fn counters_and_rows_that_differ_from_the_ledger_are_found() {
    let moves = [
        (Move::Grant, 10),
        (Move::Return, 1),
        (Move::Hold, 5),
        (Move::Hold, 3),
        (Move::Release, 2),
        (Move::Sell, 4),
        (Move::Refund, 1),
    ];
    let ledger = fold(moves);
    assert_eq!(ledger, GOOD);
    let unfolded = Columns { sold: 3, ..GOOD };
    assert_eq!(invariant_counters_match_ledger(&GOOD, 0, &ledger), Ok(()));
    assert_eq!(invariant_counters_match_ledger(&unfolded, 1, &ledger), Ok(()));
    for (counters, missing) in [(unfolded, 0), (GOOD, 1), (Columns { held_in: 9, ..GOOD }, 0)] {
        let found = named(invariant_counters_match_ledger(&counters, missing, &ledger));
        assert_eq!(found, "invariant_counters_match_ledger", "{counters:?} {missing}");
    }
    let rows = [(State::Held, 1), (State::Expiring, 1), (State::Sold, 3), (State::Refunded, 1), (State::Expired, 2)];
    assert_eq!(invariant_rows_match_ledger(&ledger, rows), Ok(()));
    for at in 0..rows.len() - 1 {
        let mut wrong = rows;
        wrong[at].1 += 1;
        let found = named(invariant_rows_match_ledger(&ledger, wrong));
        assert_eq!(found, "invariant_rows_match_ledger", "{wrong:?}");
    }
}

#[test]
fn a_life_that_cannot_be_is_found() {
    use Move::{Grant, Hold, Refund, Release, Sell};
    let life = |state, moves: &[Move]| {
        let moves: Vec<(Move, i64)> = moves.iter().map(|&moved| (moved, 2)).collect();
        named(invariant_life(state, &moves))
    };
    for (state, moves) in [
        (State::Rejected, &[][..]),
        (State::Cancelled, &[]),
        (State::Cancelled, &[Hold, Release]),
        (State::Held, &[Hold]),
        (State::Expiring, &[Hold]),
        (State::Expired, &[Hold, Release]),
        (State::Sold, &[Hold, Sell]),
        (State::Sold, &[Hold, Release, Hold, Sell]),
        (State::Refunded, &[Hold, Sell, Refund]),
        (State::Refunded, &[Hold, Release, Hold, Sell, Refund]),
    ] {
        assert_eq!(life(state, moves), "nothing", "{state:?} {moves:?}");
    }
    for (state, moves) in [
        (State::Rejected, &[Hold][..]),
        (State::Voided, &[Hold, Release]),
        (State::Held, &[]),
        (State::Held, &[Hold, Hold]),
        (State::Held, &[Hold, Release, Hold]),
        (State::Expired, &[Hold]),
        (State::Expired, &[Hold, Release, Release]),
        (State::Expired, &[Release]),
        (State::Cancelled, &[Hold]),
        (State::Sold, &[Sell]),
        (State::Sold, &[Hold]),
        (State::Sold, &[Hold, Sell, Sell]),
        (State::Sold, &[Hold, Sell, Release]),
        (State::Sold, &[Hold, Release, Hold, Release, Hold, Sell]),
        (State::Refunded, &[Hold, Sell]),
        (State::Refunded, &[Hold, Sell, Refund, Refund]),
        (State::Sold, &[Grant]),
    ] {
        assert_eq!(life(state, moves), "invariant_life", "{state:?} {moves:?}");
    }
    assert_eq!(named(invariant_life(State::Sold, &[(Hold, 2), (Sell, 1)])), "invariant_life");
    assert_eq!(named(invariant_life(State::Held, &[(Hold, 0)])), "invariant_life");
}

#[test]
fn people_over_a_limit_or_twice_in_the_queue_are_found() {
    let rows = [("a", 2, State::Sold), ("a", 2, State::Held), ("b", 4, State::Expiring), ("a", 9, State::Expired)];
    assert_eq!(invariant_within_limit(4, rows), Ok(()));
    assert_eq!(named(invariant_within_limit(3, rows)), "invariant_within_limit");
    let limits = Limits { per_order: 4, per_person: 6, per_identity: None };
    assert_eq!(invariant_within_order(&limits, 4), Ok(()));
    assert_eq!(named(invariant_within_order(&limits, 5)), "invariant_within_order");
    assert_eq!(named(invariant_within_order(&limits, 0)), "invariant_within_order");
    assert_eq!(invariant_one_active(["a", "b"]), Ok(()));
    assert_eq!(named(invariant_one_active(["a", "b", "a"])), "invariant_one_active");
}

#[test]
fn money_kept_twice_or_for_nothing_is_found() {
    assert_eq!(invariant_one_payment_kept(State::Sold, 1), Ok(()));
    assert_eq!(invariant_one_payment_kept(State::Expired, 0), Ok(()));
    for (state, kept) in
        [(State::Sold, 0), (State::Sold, 2), (State::Expired, 1), (State::Refunded, 1), (State::Held, 1)]
    {
        assert_eq!(named(invariant_one_payment_kept(state, kept)), "invariant_one_payment_kept", "{state:?} {kept}");
    }
}
