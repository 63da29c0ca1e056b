//! Holds whose time is up while somebody may be paying.

use crate::world::{ID_TEXT, PRICE, World};
use serde_json::json;
use std::time::Duration;

const LONG: f64 = 600_000.0;

#[tokio::test]
async fn an_unpaid_hold_expires_after_its_intent_was_cancelled() {
    let w = World::new(3).await;
    let entry = w.hold(3, 200.0).await;
    let started = w.start(entry).await;
    w.becomes(entry, "expired").await;
    assert_eq!(w.provider().await[0].status, "canceled");
    assert_eq!(w.pay(&started, "pm_card_visa").await, 400, "it can no longer be paid");
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM outbox WHERE state = 'expired'").await, 1);
    assert_eq!(w.number("SELECT count(*) FROM payment WHERE status = 'cancelled'").await, 1);
}

#[tokio::test]
async fn a_payment_whose_webhook_was_lost_is_found_when_time_is_up() {
    let w = World::new(3).await;
    w.faults(json!({"webhook_drop": 1.0})).await;
    let entry = w.hold(1, 400.0).await;
    w.pay(&w.start(entry).await, "pm_card_visa").await;
    w.becomes(entry, "sold").await;
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM webhook_event").await, 0);
}

#[tokio::test]
async fn a_processing_payment_gets_one_extension_and_is_sold_when_the_money_comes() {
    let w = World::new(3).await;
    let entry = w.hold(1, 200.0).await;
    let started = w.start(entry).await;
    w.pay(&started, "pm_card_processing").await;
    w.holds("SELECT extended AND state = 'held' FROM reservation").await;
    w.happen(&started.intent, "succeed").await;
    w.becomes(entry, "sold").await;
    w.books_add_up().await;
}

#[tokio::test]
async fn a_payment_that_processes_for_ever_loses_its_tickets_and_its_late_money_goes_back() {
    let w = World::new(1).await;
    let entry = w.hold(1, 200.0).await;
    let started = w.start(entry).await;
    w.pay(&started, "pm_card_processing").await;
    w.becomes(entry, "expired").await;
    assert_eq!(w.number("SELECT count(*) FROM reservation WHERE extended").await, 1);
    assert_eq!(w.provider().await[0].status, "processing");
    w.hold(1, LONG).await;
    w.happen(&started.intent, "succeed").await;
    w.holds("SELECT count(*) = 1 FROM refund WHERE reason = 'late_payment' AND done_at IS NOT NULL").await;
    w.books_add_up().await;
}

#[tokio::test]
async fn a_processing_payment_that_fails_in_the_end_is_cancelled() {
    let w = World::new(1).await;
    let entry = w.hold(1, 200.0).await;
    let started = w.start(entry).await;
    w.pay(&started, "pm_card_processing").await;
    w.holds("SELECT extended FROM reservation").await;
    w.happen(&started.intent, "fail").await;
    w.becomes(entry, "expired").await;
    assert_eq!(w.provider().await[0].status, "canceled");
    w.books_add_up().await;
}

#[tokio::test]
async fn while_the_provider_is_down_a_hold_is_kept_for_a_while_and_then_recycled() {
    let w = World::new(3).await;
    let entry = w.hold(1, 200.0).await;
    let started = w.start(entry).await;
    w.faults(json!({"fail_before": 1.0, "operations": ["retrieve", "cancel"]})).await;
    w.becomes(entry, "expiring").await;
    w.becomes(entry, "expired").await;
    let kept = "SELECT (extract(epoch FROM changed_at - hold_expires_at) * 1000)::bigint FROM reservation";
    let kept_ms = w.number(kept).await;
    assert!(kept_ms >= 500, "kept only {kept_ms} ms past its end");
    assert_eq!(w.number("SELECT count(*) FROM reservation WHERE extended").await, 0, "nobody says that money comes");
    // Back again: what was left open is cancelled there.
    w.faults(json!({})).await;
    w.books_add_up().await;
    let provider = w.provider().await;
    assert_eq!((provider[0].intent.as_str(), provider[0].status.as_str()), (started.intent.as_str(), "canceled"));
}

#[tokio::test]
async fn no_payment_is_opened_while_the_provider_is_down_and_asking_again_is_safe() {
    let w = World::new(3).await;
    let entry = w.hold(1, LONG).await;
    w.faults(json!({"fail_after": 1.0, "operations": ["create"]})).await;
    let refused = w.payments.start(w.concert_id, entry, ID_TEXT).await;
    assert!(matches!(refused, Err(region_node::payments::StartError::Unavailable(_))), "{refused:?}");
    w.faults(json!({})).await;
    w.start(entry).await;
    assert_eq!(w.provider().await.len(), 1, "the intent that was made and not heard of is the one");
}

#[tokio::test]
async fn an_owners_cancel_cancels_the_intent_at_once() {
    let w = World::new(3).await;
    let entry = w.hold(1, LONG).await;
    let started = w.start(entry).await;
    assert!(w.cancel(entry).await);
    w.holds("SELECT count(*) = 1 FROM payment WHERE status = 'cancelled'").await;
    assert_eq!(w.pay(&started, "pm_card_visa").await, 400);
    w.books_add_up().await;
}

#[tokio::test]
async fn money_that_comes_after_a_cancel_is_kept_for_tickets_or_given_back() {
    for fault in ["cancel_ok", "cancel_fails"] {
        let w = World::new(1).await;
        w.faults(json!({"paid_after_cancel": fault, "paid_after_cancel_ms": 300})).await;
        let entry = w.hold(1, LONG).await;
        w.start(entry).await;
        assert!(w.cancel(entry).await);
        // The only ticket goes to somebody else meanwhile.
        let other = w.hold(1, LONG).await;
        w.holds("SELECT count(*) = 1 FROM refund WHERE reason = 'late_payment' AND done_at IS NOT NULL").await;
        assert_eq!(w.state(entry).await, ("cancelled".into(), Some("late_payment".into())));
        assert_eq!(w.state(other).await.0, "held");
        w.books_add_up().await;
    }
}

/// The money of a cancelled payment comes, and nobody ever says so: the provider is asked again after a while.
#[tokio::test]
async fn money_after_a_cancel_is_found_without_its_webhook() {
    let w = World::new(2).await;
    w.faults(json!({"webhook_drop": 1.0})).await;
    let (early, late) = (w.hold(1, LONG).await, w.hold(1, 100.0).await);
    let (kept, lapsed) = (w.start(early).await, w.start(late).await);
    assert!(w.cancel(early).await);
    w.becomes(late, "expired").await;
    w.holds("SELECT count(*) = 2 FROM payment WHERE status = 'cancelled'").await;
    // One ticket is free for whom nobody waits, the other went to somebody else.
    let other = w.hold(1, LONG).await;
    w.happen(&kept.intent, "succeed").await;
    w.becomes(early, "sold").await;
    w.happen(&lapsed.intent, "succeed").await;
    w.holds("SELECT count(*) = 1 FROM refund WHERE reason = 'late_payment' AND done_at IS NOT NULL").await;
    assert_eq!(w.state(late).await, ("expired".into(), Some("late_payment".into())));
    assert_eq!(w.state(other).await.0, "held");
    assert_eq!(w.number("SELECT count(*) FROM webhook_event").await, 0);
    w.books_add_up().await;
}

#[tokio::test]
async fn a_cancelled_payment_is_asked_about_twice_more_and_then_left_alone() {
    let w = World::new(1).await;
    let entry = w.hold(1, LONG).await;
    w.start(entry).await;
    assert!(w.cancel(entry).await);
    w.holds("SELECT status = 'cancelled' AND check_after < 'infinity' FROM payment").await;
    // While the provider is down the question is not lost.
    w.faults(json!({"fail_before": 1.0, "operations": ["retrieve"]})).await;
    w.holds("SELECT now() > changed_at + interval '2 seconds' FROM payment").await;
    assert_eq!(w.number("SELECT count(*) FROM payment WHERE check_after < 'infinity'").await, 1);
    w.faults(json!({})).await;
    w.holds("SELECT check_after = 'infinity' FROM payment").await;
    w.books_add_up().await;
}

#[tokio::test]
async fn an_intent_that_was_opened_too_late_is_cancelled() {
    let w = World::still(3, |_| {}).await;
    w.faults(json!({"slow_ms": 300, "operations": ["create"]})).await;
    let entry = w.hold(1, 100.0).await;
    let refused = w.payments.start(w.concert_id, entry, ID_TEXT).await;
    assert!(matches!(refused, Err(region_node::payments::StartError::NotHeld)), "{refused:?}");
    w.go();
    w.holds("SELECT count(*) = 1 FROM payment WHERE status = 'cancelled'").await;
    assert_eq!(w.provider().await[0].status, "canceled");
}

/// Webhook, expiry, the owner's cancel and a second node, all at once, many times over.
#[tokio::test]
async fn whoever_wins_the_race_money_and_tickets_agree() {
    const BUYERS: usize = 120;
    let w = World::new(4 * BUYERS as i64).await;
    // Two more nodes on the same database.
    w.go();
    w.go();
    w.faults(json!({"webhook_jitter_ms": 150, "webhook_copies": 2})).await;
    let mut entries = Vec::new();
    for number in 0..BUYERS {
        // Times of 100..400 ms, so that payment and expiry meet.
        let entry = w.hold(1 + (number % 3) as i16, 100.0 + (number * 37 % 300) as f64).await;
        entries.push(entry);
    }
    let buying = entries.iter().enumerate().map(|(number, entry)| {
        let w = &w;
        async move {
            tokio::time::sleep(Duration::from_millis((number * 53 % 250) as u64)).await;
            let Ok(started) = w.payments.start(w.concert_id, *entry, ID_TEXT).await else { return };
            let method = if number % 7 == 0 { "pm_card_processing" } else { "pm_card_visa" };
            w.pay(&started, method).await;
            if number % 5 == 0 {
                w.cancel(*entry).await;
            }
            if number % 11 == 0 {
                w.happen(&started.intent, "succeed").await;
            }
        }
    });
    futures::future::join_all(buying).await;
    // Those who never began to pay are not this part's to recycle.
    w.holds("SELECT count(*) = 0 FROM reservation WHERE state IN ('held', 'expiring') AND intent IS NOT NULL").await;
    // What still processes is decided now: half of it is paid, half fails.
    for (number, row) in w.provider().await.iter().enumerate().filter(|(_, row)| row.status == "processing") {
        w.happen(&row.intent, if number % 2 == 0 { "succeed" } else { "fail" }).await;
    }
    w.books_add_up().await;
    let sold = w.number("SELECT count(*) FROM reservation WHERE state = 'sold'").await;
    assert!(sold > 0 && w.number("SELECT count(*) FROM reservation").await == BUYERS as i64);
    assert_eq!(w.number("SELECT count(*) FROM payment WHERE amount % 5000 <> 0").await, 0, "{PRICE}");
}
