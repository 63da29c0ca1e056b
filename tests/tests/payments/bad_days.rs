//! The provider and this process at their worst: calls that fail before or after they are done, webhooks late, doubled
//! and lost at once, and a death at every fail point.

use crate::world::{ID_TEXT, World};
use serde_json::json;
use std::time::Duration;

const LONG: f64 = 600_000.0;

/// Fail points on the way of a payment; each between two steps that a death may part.
const POINTS: &[&str] = &[
    "payments.webhook.after_claim",
    "payments.settle.before_book",
    "payments.settle.before_commit",
    "payments.settle.after_commit",
    "payments.expiry.after_mark",
    "payments.expiry.after_claim",
    "payments.expiry.after_ask",
    "payments.expiry.after_cancel",
    "payments.expiry.after_extend",
    "payments.expiry.before_expire",
    "payments.expire.before_commit",
    "payments.expiry.after_commit",
    "payments.refund.before_call",
    "payments.refund.after_call",
    "payments.refund.after_commit",
];

#[tokio::test]
async fn a_refund_is_asked_for_until_it_is_done_and_made_once() {
    let w = World::new(1).await;
    let entry = w.hold(1, LONG).await;
    let started = w.start(entry).await;
    assert!(w.cancel(entry).await);
    w.hold(1, LONG).await;
    w.holds("SELECT count(*) = 1 FROM payment WHERE status = 'cancelled'").await;
    w.faults(json!({"fail_before": 1.0, "operations": ["refund"]})).await;
    w.happen(&started.intent, "succeed").await;
    w.holds("SELECT max(attempts) >= 2 FROM refund").await;
    w.faults(json!({"fail_after": 1.0, "operations": ["refund"]})).await;
    w.holds("SELECT max(attempts) >= 4 FROM refund").await;
    assert_eq!(w.number("SELECT count(*) FROM refund WHERE done_at IS NOT NULL").await, 0);
    w.faults(json!({})).await;
    w.books_add_up().await;
    assert_eq!(w.provider().await[0].refunds.len(), 1);
    assert_eq!(w.number("SELECT count(*) FROM refund WHERE provider_refund IS NOT NULL").await, 1);
}

#[tokio::test]
async fn a_refund_that_somebody_made_by_hand_counts() {
    let w = World::new(1).await;
    w.faults(json!({"fail_before": 1.0, "operations": ["refund"]})).await;
    let entry = w.hold(2 - 1, LONG).await;
    let started = w.start(entry).await;
    assert!(w.cancel(entry).await);
    w.hold(1, LONG).await;
    w.happen(&started.intent, "succeed").await;
    w.holds("SELECT count(*) = 1 FROM refund").await;
    w.happen(&started.intent, "refund").await;
    w.faults(json!({})).await;
    w.books_add_up().await;
    assert_eq!(w.provider().await[0].refunds.len(), 1);
}

/// One crowd through a payment's every path; what goes wrong on the way is up to the caller. `strays`: some are paid
/// twice, by intents that this region can only hear of by webhook.
async fn crowd(w: &World, buyers: u64, strays: bool) {
    let mut opened = Vec::new();
    for number in 0..buyers {
        let entry = w.hold(1, 400.0 + (number * 31 % 200) as f64).await;
        if let Ok(started) = w.payments.start(w.concert_id, entry, ID_TEXT).await {
            opened.push((number, entry, started));
        }
    }
    for (number, entry, started) in &opened {
        match number % 6 {
            0 => drop(w.pay(started, "pm_card_visa").await),
            1 => {
                w.pay(started, "pm_card_visa").await;
                if strays {
                    w.stray_payment(*entry, crate::world::PRICE).await;
                }
            }
            2 => drop(w.pay(started, "pm_card_processing").await),
            3 => {
                w.cancel(*entry).await;
                w.happen(&started.intent, "succeed").await;
            }
            4 => drop(w.pay(started, "pm_card_visa_chargeDeclined").await),
            _ => {}
        }
    }
}

/// After everything is decided: the rest of the processing money comes, and the books add up.
async fn settled(w: &World) {
    w.faults(json!({})).await;
    w.holds("SELECT count(*) = 0 FROM reservation WHERE state IN ('held', 'expiring') AND intent IS NOT NULL").await;
    for row in w.provider().await.iter().filter(|row| row.status == "processing") {
        w.happen(&row.intent, "succeed").await;
    }
    w.books_add_up().await;
}

// No strays: money of an intent that this region never opened, and whose only webhook is lost for ever, cannot be found.
#[tokio::test]
async fn everything_at_once_and_the_books_add_up() {
    let w = World::new(100).await;
    w.go();
    w.faults(json!({
        "webhook_jitter_ms": 300, "webhook_copies": 3, "webhook_drop": 0.2, "fail_before": 0.2, "fail_after": 0.2,
        "slow_ms": 10,
    }))
    .await;
    crowd(&w, 48, false).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    settled(&w).await;
}

#[tokio::test]
async fn a_death_at_any_fail_point_loses_and_doubles_nothing() {
    let mut missed = Vec::new();
    for point in POINTS {
        let w = World::still(6, |_| {}).await;
        // The task dies there, its transaction is rolled back or its commit stands; another one takes over.
        fail::cfg(*point, "1*panic").unwrap();
        let first = w.go();
        crowd(&w, 6, true).await;
        let died = tokio::time::timeout(Duration::from_secs(4), first).await;
        if !died.is_ok_and(|ended| ended.is_err()) {
            missed.push(*point);
        }
        fail::remove(*point);
        w.go();
        settled(&w).await;
    }
    assert!(missed.is_empty(), "never came to {missed:?}");
}
