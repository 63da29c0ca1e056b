//! The payment tables: every row of the design by name, then every combination of facts.

use sale::lifecycle::State;
use sale::payment::{Action, Answer, Expiry, Facts, News, RefundReason, decide, expiring};

const GOOD: Facts = Facts {
    state: State::Held,
    sold_by_this: false,
    money_back: false,
    amount_right: true,
    revived: false,
    free_for_it: true,
    limits_allow: true,
    selling: true,
};

fn all_facts() -> impl Iterator<Item = Facts> {
    State::ALL.into_iter().flat_map(|state| {
        (0u8..128).map(move |bits| {
            let bit = |at: u8| bits >> at & 1 == 1;
            Facts {
                state,
                sold_by_this: bit(0),
                money_back: bit(1),
                amount_right: bit(2),
                revived: bit(3),
                free_for_it: bit(4),
                limits_allow: bit(5),
                selling: bit(6),
            }
        })
    })
}

#[test]
fn held_and_paid_is_sold() {
    for state in [State::Held, State::Expiring] {
        assert_eq!(decide(News::Succeeded, &Facts { state, ..GOOD }), Action::Sell);
    }
}

#[test]
fn held_and_declined_stays_held() {
    assert_eq!(decide(News::Failed, &GOOD), Action::Nothing);
}

#[test]
fn ended_and_paid_is_revived_when_tickets_are_free() {
    for state in [State::Expired, State::Cancelled] {
        assert_eq!(decide(News::Succeeded, &Facts { state, ..GOOD }), Action::Revive);
    }
}

#[test]
fn ended_and_paid_is_refunded_otherwise() {
    let expired = Facts { state: State::Expired, ..GOOD };
    let late = Action::Refund(RefundReason::Late);
    for facts in [
        Facts { free_for_it: false, ..expired },
        Facts { limits_allow: false, ..expired },
        Facts { revived: true, ..expired },
        Facts { selling: false, ..expired },
    ] {
        assert_eq!(decide(News::Succeeded, &facts), late, "{facts:?}");
    }
    for state in [State::Queued, State::Rejected, State::Voided] {
        assert_eq!(decide(News::Succeeded, &Facts { state, ..GOOD }), late);
    }
}

#[test]
fn sold_and_the_same_event_again_is_nothing() {
    let sold = Facts { state: State::Sold, sold_by_this: true, ..GOOD };
    assert_eq!(decide(News::Succeeded, &sold), Action::Nothing);
}

#[test]
fn sold_and_a_second_payment_refunds_the_second() {
    for state in [State::Sold, State::Refunded] {
        let facts = Facts { state, ..GOOD };
        assert_eq!(decide(News::Succeeded, &facts), Action::Refund(RefundReason::Second));
        let wrong = Facts { amount_right: false, ..facts };
        assert!(matches!(decide(News::Succeeded, &wrong), Action::Refund(_)));
    }
}

#[test]
fn sold_and_taken_back_voids_the_tickets_once() {
    let sold = Facts { state: State::Sold, sold_by_this: true, ..GOOD };
    assert_eq!(decide(News::TakenBack, &sold), Action::TakeBack);
    assert_eq!(decide(News::TakenBack, &Facts { state: State::Refunded, ..sold }), Action::Nothing);
    // The refund of a second payment must not take the tickets of the first.
    assert_eq!(decide(News::TakenBack, &Facts { sold_by_this: false, ..sold }), Action::Nothing);
}

#[test]
fn a_success_heard_of_after_its_refund_buys_nothing() {
    for facts in all_facts().filter(|facts| facts.money_back) {
        assert_eq!(decide(News::Succeeded, &facts), Action::Nothing, "{facts:?}");
    }
}

#[test]
fn a_wrong_amount_is_refunded() {
    let wrong = Facts { amount_right: false, ..GOOD };
    assert_eq!(decide(News::Succeeded, &wrong), Action::Refund(RefundReason::WrongAmount));
}

#[test]
fn only_success_moves_anything_before_a_sale() {
    for facts in all_facts() {
        for news in [News::Failed, News::Processing, News::Cancelled] {
            assert_eq!(decide(news, &facts), Action::Nothing, "{news:?} {facts:?}");
        }
    }
}

/// What must be so whatever the table says.
#[test]
fn every_action_fits_the_state_and_no_money_is_kept_for_nothing() {
    for facts in all_facts() {
        for news in News::ALL {
            let action = decide(news, &facts);
            let context = format!("{news:?} {facts:?}: {action:?}");
            match action {
                Action::Sell => assert!(facts.state.is_hold() && facts.amount_right, "{context}"),
                Action::Revive => {
                    assert!(matches!(facts.state, State::Expired | State::Cancelled), "{context}");
                    assert!(
                        facts.amount_right && facts.free_for_it && facts.limits_allow && facts.selling,
                        "{context}"
                    );
                    assert!(!facts.revived, "{context}");
                }
                Action::TakeBack => assert!(facts.state == State::Sold && facts.sold_by_this, "{context}"),
                Action::Refund(_) => {
                    assert!(!facts.money_back && !facts.sold_by_this, "{context}");
                    assert_eq!(news, News::Succeeded, "{context}");
                }
                Action::Nothing if news == News::Succeeded => {
                    assert!(facts.money_back || facts.sold_by_this, "money kept for nothing: {context}");
                }
                Action::Nothing => {}
            }
        }
    }
}

#[test]
fn an_expiring_hold_is_asked_about_cancelled_and_recycled() {
    let table = [
        // answer, extended, past the cap, what to do
        (Answer::Open, false, false, Expiry::CancelIntent),
        (Answer::Open, true, true, Expiry::CancelIntent),
        (Answer::Cancelled, false, false, Expiry::Recycle),
        (Answer::Succeeded, true, true, Expiry::Paid),
        (Answer::Processing, false, false, Expiry::Extend),
        (Answer::Processing, true, false, Expiry::CancelIntent),
        (Answer::Processing, true, true, Expiry::Recycle),
        (Answer::CannotCancel, false, false, Expiry::Keep),
        (Answer::CannotCancel, true, false, Expiry::Keep),
        (Answer::CannotCancel, true, true, Expiry::Recycle),
        (Answer::Unreachable, false, false, Expiry::Keep),
        (Answer::Unreachable, true, false, Expiry::Keep),
        (Answer::Unreachable, true, true, Expiry::Recycle),
    ];
    for (answer, extended, past_cap, expected) in table {
        assert_eq!(expiring(answer, extended, past_cap), expected, "{answer:?} {extended} {past_cap}");
    }
}

#[test]
fn an_expiring_hold_is_extended_once_and_never_kept_past_the_cap() {
    for answer in Answer::ALL {
        assert_ne!(expiring(answer, true, false), Expiry::Extend, "{answer:?}");
        assert!(!matches!(expiring(answer, false, true), Expiry::Extend | Expiry::Keep), "{answer:?}");
        assert!(!matches!(expiring(answer, true, true), Expiry::Extend | Expiry::Keep), "{answer:?}");
        // After an attempt to cancel, whatever the answer, another attempt is never the next step at once.
        if !matches!(answer, Answer::Open | Answer::Processing) {
            assert_ne!(expiring(answer, true, false), Expiry::CancelIntent, "{answer:?}");
        }
    }
}
