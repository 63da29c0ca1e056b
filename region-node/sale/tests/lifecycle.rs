//! The lifecycle's whole table, and what must be so of every walk through it.
#![allow(clippy::unwrap_used, reason = "test code")]

use expect_test::expect;
use proptest::prelude::*;
use sale::again::SettleOutcome;
use sale::invariants::{Columns, Move, fold, invariant_life, invariant_pool, invariant_rows_match_ledger};
use sale::lifecycle::{Event, NotAllowed, State, Tickets, next};
use std::fmt::Write as _;

/// Nothing but these rows: every other pair of state and event is refused.
#[test]
fn the_whole_table() {
    let mut table = String::new();
    for state in State::ALL {
        for event in Event::ALL {
            match next(state, event) {
                Ok(step) => {
                    let settle = step.settle.map_or("-".to_owned(), |outcome| format!("{outcome:?}"));
                    let _ = writeln!(table, "{state:?} {event:?} → {:?} {:?} {settle}", step.to, step.tickets);
                }
                Err(refused) => assert_eq!(refused, NotAllowed { state, event }),
            }
        }
    }
    expect![[r#"
        Queued Hold → Held Hold -
        Queued Reject → Rejected Stay Done
        Queued Cancel → Cancelled Stay Done
        Queued Void → Voided Stay Voided
        Held Cancel → Cancelled Release Done
        Held TimeUp → Expired Release Lapsed
        Held TimeUpWithIntent → Expiring Stay -
        Held Pay → Sold Sell Done
        Expiring Cancel → Cancelled Release Done
        Expiring Extend → Held Stay -
        Expiring Recycle → Expired Release Lapsed
        Expiring Pay → Sold Sell Done
        Sold Refund → Refunded Refund -
        Expired Revive → Sold HoldAndSell Done
        Cancelled Revive → Sold HoldAndSell Done
    "#]]
    .assert_eq(&table);
}

#[test]
fn refusals_are_sentences() {
    let refused = next(State::Sold, Event::Cancel).unwrap_err();
    assert_eq!(refused.to_string(), "a reservation that is sold cannot be cancelled");
}

#[test]
fn spellings_round_trip() {
    for state in State::ALL {
        assert_eq!(State::parse(state.as_str()), Some(state));
    }
    assert_eq!(State::parse("alias"), None);
}

#[test]
fn whoever_leaves_the_queue_or_a_hold_is_settled_exactly_then() {
    for state in State::ALL {
        for event in Event::ALL {
            let Ok(step) = next(state, event) else { continue };
            let becomes_final = !state.is_final() && step.to.is_final();
            let revived = event == Event::Revive;
            assert_eq!(step.settle.is_some(), becomes_final || revived, "{state:?} {event:?}");
            let lapsed = matches!(event, Event::TimeUp | Event::Recycle);
            assert_eq!(step.settle == Some(SettleOutcome::Lapsed), lapsed, "{state:?} {event:?}");
        }
    }
}

fn moves_of(tickets: Tickets) -> &'static [Move] {
    match tickets {
        Tickets::Stay => &[],
        Tickets::Hold => &[Move::Hold],
        Tickets::Release => &[Move::Release],
        Tickets::Sell => &[Move::Sell],
        Tickets::HoldAndSell => &[Move::Hold, Move::Sell],
        Tickets::Refund => &[Move::Refund],
    }
}

fn event() -> impl Strategy<Value = Event> {
    proptest::sample::select(Event::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// Whatever happens to a reservation in whatever order, its ledger rows are a life, and they add up.
    #[test]
    fn every_walk_leaves_a_life_in_the_ledger(events in proptest::collection::vec(event(), 0..60), tickets in 1i64..5) {
        let (mut state, mut moves, mut revived) = (State::Queued, Vec::new(), false);
        for event in events {
            // Once, as the payment table has it.
            if event == Event::Revive && revived {
                continue;
            }
            let Ok(step) = next(state, event) else { continue };
            revived |= event == Event::Revive;
            state = step.to;
            moves.extend(moves_of(step.tickets).iter().map(|&moved| (moved, tickets)));
            prop_assert_eq!(invariant_life(state, &moves), Ok(()));
            let granted = [(Move::Grant, tickets)];
            let columns: Columns = fold(granted.into_iter().chain(moves.iter().copied()));
            prop_assert_eq!(invariant_pool(&columns), Ok(()));
            prop_assert_eq!(invariant_rows_match_ledger(&columns, [(state, tickets)]), Ok(()));
        }
    }
}
