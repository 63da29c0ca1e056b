//! Everything sent twice, asked again, asked too often, asked too much.

use ops::load::Options;
use ops::load::plan::Curve;
use ops::stage::{Spec, Stage};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::buyers::{Buyer, reservation};
use super::ground::*;
use super::wire::{Answer, must_refuse};

/// A concert of one tier and one ticket: who is second waits in the queue.
pub(crate) fn one_ticket() -> Value {
    let price = json!({ "amount": 5000, "currency": "EUR" });
    json!({ "tiers": [{ "tier": "A", "title": "Front", "price": price, "total": 1 }] })
}

/// A crowd that arrives within a few seconds; holds must last longer than the pause between two polls.
pub(crate) fn crowd(users: u64, double: f64) -> Options {
    Options {
        concert: "demo".to_owned(),
        users,
        seed: 7,
        spread: None,
        via: None,
        over: Duration::from_secs(4),
        curve: Curve::Flat,
        lapse: 0.1,
        cancel: 0.1,
        double,
        poll_every: None,
        until: Duration::from_secs(45),
    }
}

/// The books must add up, over something.
pub(crate) async fn must_add_up(stage: &Stage) {
    let verdict = stage.verify().await.unwrap();
    assert!(verdict.ok, "{:#?}", verdict.problems);
    assert!(verdict.looked_at.ledger_rows > 0, "{:?}", verdict.looked_at);
}

/// A verdict in `status` with a reservation.
#[track_caller]
fn must_be(answer: &Answer, status: u16, expected: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(reservation(answer), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_repeated_is_one_request() {
    let mut stage = region_of(Spec::default(), 10, json!({ "max_per_person": 10 })).await;
    let buyer = Buyer::new(&stage).await;
    let request = Uuid::new_v4();
    let answers = futures::future::join_all((0..20).map(|_| buyer.ask(request, 1))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
    let place = reservation(&answers[0]);
    for answer in &answers {
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
        assert_eq!(reservation(answer), place);
    }
    must_refuse(&buyer.ask(request, 2).await, 409, "conflict", "other content");
    must_be(&buyer.ask(Uuid::new_v4(), 1).await, 200, &place);

    buyer.until(&place, &["held"]).await;
    let payments = futures::future::join_all((0..4).map(|_| buyer.payment(&place))).await;
    assert!(payments.iter().all(|payment| payment["intent"] == payments[0]["intent"]), "{payments:?}");
    buyer.confirm(&stage, &payments[0]).await;
    buyer.until(&place, &["sold"]).await;
    // Final: told so for the same request, for as long as anybody asks; another one begins anew.
    let told = Instant::now();
    while told.elapsed() < Duration::from_secs(2) {
        let again = buyer.ask(request, 1).await;
        must_be(&again, 200, &place);
        assert_eq!(again.json()["status"], "sold");
        must_refuse(&buyer.ask(request, 2).await, 409, "conflict", "other content after the sale");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let next = buyer.ask(Uuid::new_v4(), 1).await;
    assert_eq!(next.status, 202, "{}", next.text());
    let next = reservation(&next);
    buyer.until(&next, &["held"]).await;
    let cancelled = futures::future::join_all((0..4).map(|_| buyer.cancel(&next))).await;
    for answer in cancelled {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["status"], "cancelled");
    }
    must_refuse(&buyer.cancel(&place).await, 409, "conflict", "cancelling what is sold");
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_sends_every_join_twice_gets_every_ticket_once() {
    let mut stage = region_of(Spec::default(), 300, json!({ "hold_ms": 12_000 })).await;
    let done = stage.crowd(&crowd(250, 1.0)).await.unwrap();
    let report = done.report(250, true);
    assert_eq!(report.errors, 0, "{report:?}");
    assert!(report.sold > 50, "{report:?}");
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cancels_or_polls_too_fast_loses_the_place_and_nobody_else_does() {
    let mut stage = region_of(Spec::default(), 1, one_ticket()).await;
    let [first, quitter, hasty, last] =
        [Buyer::new(&stage).await, Buyer::new(&stage).await, Buyer::new(&stage).await, Buyer::new(&stage).await];
    let held = first.hold(1).await;
    let (left, voided, waits) = (quitter.join(1).await, hasty.join(1).await, last.join(1).await);
    let cancelled = quitter.cancel(&left).await;
    assert_eq!((cancelled.status, cancelled.json()["status"].clone()), (200, json!("cancelled")));

    let mut polls = 0;
    let refused = loop {
        let answer = hasty.poll(&voided).await;
        polls += 1;
        if answer.status != 200 {
            break answer;
        }
        assert!(polls < 40, "never refused");
    };
    must_refuse(&refused, 429, "rate_limited", "the poll that is one too many");
    assert_eq!(polls, 21);
    // The queue's server is told a moment later; from then on there is no place for a minute.
    let begun = Instant::now();
    let refused = loop {
        let answer = hasty.ask(Uuid::new_v4(), 1).await;
        if answer.status == 429 {
            break answer;
        }
        must_be(&answer, 200, &voided);
        assert_eq!(answer.json()["status"], "voided");
        assert!(begun.elapsed() < Duration::from_secs(5), "the cool-down never begins");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    must_refuse(&refused, 429, "rate_limited", "joining again at once");
    let wait_ms = refused.json()["retry_after_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&wait_ms), "{wait_ms}");

    // A held one goes back at once, to the one who still waits.
    assert_eq!(first.cancel(&held).await.json()["status"], "cancelled");
    last.until(&waits, &["held"]).await;
    assert_eq!(quitter.poll(&left).await.json()["status"], "cancelled");
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_more_than_the_limits_allow() {
    let mut stage = region_of(Spec::default(), 50, json!({ "max_per_order": 4, "max_per_person": 6 })).await;
    let buyer = Buyer::new(&stage).await;
    let refused = buyer.ask(Uuid::new_v4(), 5).await;
    must_refuse(&refused, 422, "limit_exceeded", "over the order");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("per order") && detail.contains("4 are left"), "{detail}");
    buyer.buy(&stage, 4).await;
    // The allocator says no until the node has heard what was bought; from then on, the node does.
    let mut over = buyer.ask(Uuid::new_v4(), 3).await;
    for _ in 0..20 {
        if over.status != 202 {
            break;
        }
        let told = buyer.until(&reservation(&over), &["rejected", "held"]).await;
        assert_eq!((&told["status"], &told["reason"]), (&json!("rejected"), &json!("limit")));
        over = buyer.ask(Uuid::new_v4(), 3).await;
    }
    must_refuse(&over, 422, "limit_exceeded", "over the person's limit");
    assert!(over.json()["detail"].as_str().unwrap().contains("2 are left"), "{}", over.text());
    let rest = buyer.buy(&stage, 2).await;
    assert_eq!(rest["tickets"].as_array().unwrap().len(), 2);
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}
