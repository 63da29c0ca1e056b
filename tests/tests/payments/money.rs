//! The decision table, row by row, and who may speak for the provider.

use crate::world::{ID_TEXT, PRICE, World};
use region_node::db::payments::settle::Tail;
use region_node::payments::{StartError, WebhookError};
use serde_json::json;
use uuid::Uuid;

const LONG: f64 = 600_000.0;

#[tokio::test]
async fn a_held_reservation_that_is_paid_is_sold_with_its_tickets() {
    let w = World::new(10).await;
    let entry = w.hold(2, LONG).await;
    let started = w.start(entry).await;
    assert_eq!(started.provider, "sandbox");
    assert_eq!(w.pay(&started, "pm_card_visa").await, 200);
    w.becomes(entry, "sold").await;
    assert_eq!(w.number("SELECT count(*) FROM ticket WHERE status = 'valid'").await, 2);
    assert_eq!(w.number("SELECT count(*) FROM outbox WHERE state = 'sold'").await, 1);
    assert!(w.around.noted.lock().is_empty(), "a sale does not take the book");
    w.books_add_up().await;
}

#[tokio::test]
async fn calls_at_once_get_one_intent_of_the_holds_amount() {
    let w = World::new(10).await;
    let entry = w.hold(2, LONG).await;
    let calls = (0..8).map(|_| w.payments.start(w.concert_id, entry, ID_TEXT));
    let started = futures::future::join_all(calls).await;
    let first = started[0].as_ref().unwrap();
    assert!(started.iter().all(|one| one.as_ref().unwrap() == first));
    assert_eq!(&w.start(entry).await, first);
    let provider = w.provider().await;
    assert_eq!((provider.len(), provider[0].amount, provider[0].currency.as_str()), (1, 2 * PRICE, "eur"));
    assert_eq!(provider[0].metadata["entry"], entry.to_i64().to_string());
}

#[tokio::test]
async fn only_what_is_held_can_be_paid() {
    let w = World::still(10, |_| {}).await;
    let (late, cancelled) = (w.hold(1, 0.0).await, w.hold(1, LONG).await);
    assert!(w.cancel(cancelled).await);
    let nobody = region_api::Entry::new(0, 1, 999).unwrap();
    for entry in [late, cancelled, nobody] {
        assert!(matches!(w.payments.start(w.concert_id, entry, ID_TEXT).await, Err(StartError::NotHeld)), "{entry:?}");
    }
    assert!(w.provider().await.is_empty());
}

#[tokio::test]
async fn an_alias_pays_for_the_reservation_that_it_stands_for() {
    let w = World::still(10, |_| {}).await;
    let entry = w.hold(1, LONG).await;
    let alias = region_api::Entry::new(0, 1, 500).unwrap();
    let insert = "INSERT INTO reservation (concert_id, entry, user_hash, arrival_ms, state, quantity, alias_of)
                  SELECT concert_id, $1, user_hash, 1, 'alias', 1, entry FROM reservation";
    w.sql.execute(insert, &[&alias.to_i64()]).await.unwrap();
    assert_eq!(w.start(alias).await, w.start(entry).await);
}

#[tokio::test]
async fn a_declined_card_leaves_the_hold_and_another_try_sells_it() {
    let w = World::new(10).await;
    let entry = w.hold(1, LONG).await;
    let started = w.start(entry).await;
    assert_eq!(w.pay(&started, "pm_card_visa_chargeDeclined").await, 402);
    w.holds("SELECT count(*) = 1 FROM webhook_event WHERE kind = 'failed' AND processed_at IS NOT NULL").await;
    assert_eq!(w.state(entry).await.0, "held");
    assert_eq!(w.start(entry).await, started);
    w.pay(&started, "pm_card_visa").await;
    w.becomes(entry, "sold").await;
    w.books_add_up().await;
}

#[tokio::test]
async fn the_same_event_again_and_another_event_of_the_same_payment_do_nothing() {
    let w = World::new(10).await;
    w.faults(json!({"webhook_copies": 5})).await;
    let entry = w.hold(2, LONG).await;
    let started = w.start(entry).await;
    w.pay(&started, "pm_card_visa").await;
    w.becomes(entry, "sold").await;
    let object = json!({"id": started.intent, "amount_received": 2 * PRICE, "currency": "eur"});
    for id in ["evt_x", "evt_x", "evt_y"] {
        w.webhook(id, "payment_intent.succeeded", object.clone()).await.unwrap();
    }
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM webhook_event").await, 3);
    assert_eq!(w.number("SELECT count(*) FROM ledger WHERE kind = 'sell'").await, 1);
    assert_eq!(w.number("SELECT count(*) FROM refund").await, 0);
}

#[tokio::test]
async fn a_second_payment_is_refunded_and_the_first_kept() {
    let w = World::new(10).await;
    let entry = w.hold(1, LONG).await;
    w.pay(&w.start(entry).await, "pm_card_visa").await;
    w.becomes(entry, "sold").await;
    let stray = w.stray_payment(entry, PRICE).await;
    w.holds("SELECT count(*) = 1 FROM refund WHERE reason = 'second_payment' AND done_at IS NOT NULL").await;
    assert_eq!(w.state(entry).await, ("sold".into(), None));
    w.books_add_up().await;
    let provider = w.provider().await;
    assert_eq!(provider.iter().find(|row| row.intent == stray).unwrap().kept, 0);
}

#[tokio::test]
async fn whichever_of_two_payments_comes_first_sells_and_the_other_goes_back() {
    let w = World::new(10).await;
    let entry = w.hold(1, LONG).await;
    let started = w.start(entry).await;
    w.stray_payment(entry, PRICE).await;
    w.becomes(entry, "sold").await;
    // The intent that the buyer was given is cancelled at the provider, or refunded if it was paid first.
    w.pay(&started, "pm_card_visa").await;
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM ledger WHERE kind = 'sell'").await, 1);
}

#[tokio::test]
async fn another_amount_than_asked_for_sells_nothing_and_goes_back() {
    let w = World::new(10).await;
    let entry = w.hold(2, LONG).await;
    w.stray_payment(entry, PRICE).await;
    w.holds("SELECT count(*) = 1 FROM refund WHERE reason = 'wrong_amount' AND done_at IS NOT NULL").await;
    assert_eq!(w.state(entry).await.0, "held");
    w.books_add_up().await;
}

/// An expired hold whose buyer pays all the same.
async fn late(w: &World, user: Uuid, quantity: i16) -> region_api::Entry {
    let entry = w.hold_for(user, quantity, 150.0).await;
    let started = w.start(entry).await;
    w.becomes(entry, "expired").await;
    w.happen(&started.intent, "succeed").await;
    entry
}

#[tokio::test]
async fn a_late_payment_takes_free_tickets_that_nobody_waits_for_once() {
    let w = World::new(10).await;
    let entry = late(&w, Uuid::new_v4(), 2).await;
    w.becomes(entry, "sold").await;
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM ledger WHERE kind = 'hold'").await, 2);
    assert_eq!(w.number("SELECT count(*) FROM reservation WHERE revived").await, 1);
    let book = w.number("SELECT book FROM book").await;
    assert!(w.around.noted.lock().contains(&book), "the witnesses are told");
    // A second late payment of it goes back.
    w.stray_payment(entry, 2 * PRICE).await;
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM refund").await, 1);
}

/// A late payment with nothing to be had: refunded in full, once, and told why.
async fn goes_back(w: &World, entry: region_api::Entry) {
    w.holds("SELECT count(*) = 1 FROM refund WHERE reason = 'late_payment' AND done_at IS NOT NULL").await;
    assert_eq!(w.state(entry).await, ("expired".into(), Some("late_payment".into())));
    w.books_add_up().await;
}

#[tokio::test]
async fn a_late_payment_goes_back_where_no_new_holds_are_made_and_a_hold_that_lasts_is_sold_all_the_same() {
    let w = World::new(10).await;
    w.around.no_new_holds.store(true, std::sync::atomic::Ordering::Relaxed);
    let held = w.hold(2, LONG).await;
    let started = w.start(held).await;
    w.happen(&started.intent, "succeed").await;
    w.becomes(held, "sold").await;
    let entry = late(&w, Uuid::new_v4(), 2).await;
    goes_back(&w, entry).await;
    assert_eq!(w.number("SELECT count(*) FROM reservation WHERE revived").await, 0);
}

#[tokio::test]
async fn a_late_payment_goes_back_when_the_tickets_are_gone() {
    let w = World::new(2).await;
    let entry = w.hold(2, 150.0).await;
    let started = w.start(entry).await;
    w.becomes(entry, "expired").await;
    w.hold(1, LONG).await;
    w.happen(&started.intent, "succeed").await;
    goes_back(&w, entry).await;
}

#[tokio::test]
async fn a_late_payment_goes_back_when_somebody_waits() {
    let w = World::new(10).await;
    let insert =
        "INSERT INTO waiting (concert_id, entry, tier, need, arrival_ms, user_hash, quantity, any_quantity, tiers)
                  VALUES ($1, 900, 0, 4, 1, gen_random_uuid(), 4, false, '{0}')";
    w.sql.execute(insert, &[&w.concert_id]).await.unwrap();
    let entry = late(&w, Uuid::new_v4(), 1).await;
    goes_back(&w, entry).await;
}

#[tokio::test]
async fn a_late_payment_goes_back_while_the_queue_is_not_decided() {
    let w = World::new(10).await;
    *w.around.tails.lock() = vec![Tail { shard: 0, generation: 1, tail_seq: 50 }];
    let entry = late(&w, Uuid::new_v4(), 1).await;
    goes_back(&w, entry).await;
}

#[tokio::test]
async fn those_who_were_told_no_do_not_wait() {
    let w = World::new(10).await;
    *w.around.tails.lock() = vec![Tail { shard: 0, generation: 1, tail_seq: 50 }];
    let insert = "INSERT INTO rejected_range (concert_id, shard, generation, from_seq, to_seq, reason, book)
                  VALUES ($1, 0, 1, 1, 50, 'sale_closed', 1)";
    w.sql.execute(insert, &[&w.concert_id]).await.unwrap();
    let entry = late(&w, Uuid::new_v4(), 1).await;
    w.becomes(entry, "sold").await;
    w.books_add_up().await;
}

#[tokio::test]
async fn a_late_payment_goes_back_when_its_user_has_bought_enough() {
    let w = World::new(10).await;
    let user = Uuid::new_v4();
    let first = w.hold_for(user, 3, LONG).await;
    w.pay(&w.start(first).await, "pm_card_visa").await;
    w.becomes(first, "sold").await;
    let entry = late(&w, user, 2).await;
    goes_back(&w, entry).await;
}

#[tokio::test]
async fn a_late_payment_of_a_concert_called_off_goes_back() {
    let w = World::new(10).await;
    w.sql.execute("UPDATE concert SET cancelled_at = now()", &[]).await.unwrap();
    let entry = late(&w, Uuid::new_v4(), 1).await;
    goes_back(&w, entry).await;
}

#[tokio::test]
async fn a_refund_or_dispute_at_the_provider_voids_the_tickets_and_frees_the_stock() {
    for what in ["refund", "dispute"] {
        let w = World::new(3).await;
        let entry = w.hold(3, LONG).await;
        let started = w.start(entry).await;
        w.pay(&started, "pm_card_visa").await;
        w.becomes(entry, "sold").await;
        w.happen(&started.intent, what).await;
        w.becomes(entry, "refunded").await;
        w.books_add_up().await;
        assert_eq!(w.number("SELECT count(*) FROM fold").await, 1, "the sale is folded first");
        assert_eq!(w.number("SELECT granted - returned - held_in + released + refunded FROM quota").await, 3);
        assert_eq!(w.number("SELECT count(*) FROM refund").await, 0, "nothing is given back twice");
    }
}

#[tokio::test]
async fn a_refund_that_is_heard_of_before_its_success_sells_nothing() {
    let w = World::new(3).await;
    w.faults(json!({"webhook_drop": 1.0})).await;
    let entry = w.hold(1, 800.0).await;
    let started = w.start(entry).await;
    w.pay(&started, "pm_card_visa").await;
    w.happen(&started.intent, "refund").await;
    let charge =
        json!({"id": "ch_1", "payment_intent": started.intent, "amount": PRICE, "currency": "eur", "refunded": true});
    w.webhook("evt_refund", "charge.refunded", charge).await.unwrap();
    w.holds("SELECT count(*) = 1 FROM payment WHERE status = 'refunded'").await;
    let paid = json!({"id": started.intent, "amount_received": PRICE, "currency": "eur"});
    w.webhook("evt_success", "payment_intent.succeeded", paid).await.unwrap();
    w.becomes(entry, "expired").await;
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM ticket").await, 0);
}

#[tokio::test]
async fn events_of_payments_that_are_not_ours_are_let_pass() {
    let w = World::new(3).await;
    let stranger = json!({"id": "pi_stranger", "amount_received": 5, "currency": "eur"});
    w.webhook("evt_1", "payment_intent.succeeded", stranger.clone()).await.unwrap();
    let mut nowhere = stranger.clone();
    nowhere["metadata"] = json!({"region": "east", "concert": "demo", "entry": "77"});
    w.webhook("evt_2", "payment_intent.succeeded", nowhere).await.unwrap();
    w.webhook("evt_3", "customer.created", json!({})).await.unwrap();
    let mut elsewhere = stranger;
    elsewhere["metadata"] = json!({"region": "west", "concert": "demo", "entry": "7"});
    let passed_on = w.webhook("evt_4", "payment_intent.succeeded", elsewhere).await;
    assert!(matches!(passed_on, Err(WebhookError::Foreign(region)) if region == "west"));
    w.books_add_up().await;
    assert_eq!(w.number("SELECT count(*) FROM payment").await, 0);
    assert_eq!(w.number("SELECT count(*) FROM webhook_event").await, 2);
}

#[tokio::test]
async fn a_wrong_signature_changes_nothing() {
    let w = World::new(3).await;
    let entry = w.hold(1, LONG).await;
    let started = w.start(entry).await;
    let object = json!({"id": started.intent, "amount_received": PRICE, "currency": "eur"});
    let body = json!({"id": "evt_1", "type": "payment_intent.succeeded", "data": {"object": object}}).to_string();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let sign = |secret: &str, t: i64, text: &str| ops::sandbox::signature(&[secret.to_owned()], t, text);
    let secret = crate::world::SECRET;
    for header in [
        String::new(),
        sign("guess", now, &body),
        sign(secret, now - 301, &body),
        sign(secret, now + 301, &body),
        sign(secret, now, &format!("{body} ")),
        sign(secret, now, &body).replace("v1=", "v0="),
    ] {
        let refused = w.payments.webhook(body.as_bytes(), &header, region_node::clock::now_ms()).await;
        assert!(matches!(refused, Err(WebhookError::Signature(_))), "{header}");
    }
    assert!(matches!(
        w.payments.webhook(b"{", &sign(secret, now, "{"), region_node::clock::now_ms()).await,
        Err(WebhookError::Malformed(_))
    ));
    assert_eq!(w.number("SELECT count(*) FROM webhook_event").await, 0);
    assert_eq!(w.state(entry).await.0, "held");
    w.payments.webhook(body.as_bytes(), &sign(secret, now, &body), region_node::clock::now_ms()).await.unwrap();
    w.becomes(entry, "sold").await;
}

#[tokio::test]
async fn what_costs_nothing_is_sold_at_once_and_the_provider_hears_nothing_of_it() {
    let w = World::new(6).await;
    let (entry, late) = (w.hold(2, 600_000.0).await, w.hold(1, 0.0).await);
    w.sql.execute("UPDATE reservation SET amount = 0", &[]).await.unwrap();
    let calls = (0..8).map(|_| w.payments.start(w.concert_id, entry, ID_TEXT));
    let answers = futures::future::join_all(calls).await;
    let first = answers[0].as_ref().unwrap();
    assert_eq!((first.intent.as_str(), first.client_secret.as_str()), ("free", ""));
    assert_eq!(first.checkout_url, None);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == first), "again: the same answer");
    assert_eq!(w.state(entry).await.0, "sold");
    assert_eq!(w.number("SELECT count(*) FROM ticket WHERE status = 'valid'").await, 2);
    let refused = w.payments.start(w.concert_id, late, ID_TEXT).await;
    assert!(matches!(refused, Err(StartError::NotHeld)), "its time is up: {refused:?}");
    assert!(w.provider().await.is_empty());
    w.books_add_up().await;
}
