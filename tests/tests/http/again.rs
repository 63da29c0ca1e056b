//! Who asks again gets what they have, whatever the region takes from others then; what is free; how many are left.

use crate::world::{Setup, World};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const JOIN: &str = "/v1/concerts/demo/reservations";

fn free(total: u64) -> Value {
    json!({ "tiers": [{ "tier": "A", "price": { "amount": 0, "currency": "EUR" }, "total": total }] })
}

fn id(answer: &crate::world::Answer) -> String {
    answer.json()["reservation"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_join_gets_its_place_while_nobody_else_is_taken() {
    let world = World::start(&[], "").await;
    // The second one waits: there is nothing for them.
    world
        .concert("demo", json!({ "tiers": [{ "tier": "A", "price": { "amount": 1, "currency": "EUR" }, "total": 2 }] }))
        .await;
    let (first, second, stranger) = (world.guest().await, world.guest().await, world.guest().await);
    let (wish, other_wish) = (World::wish(2), World::wish(2));
    let held = id(&world.post(JOIN, Some(&first), &wish).await);
    world.until(&first, &held, &["held"]).await;
    let waits = id(&world.post(JOIN, Some(&second), &other_wish).await);

    assert_eq!(world.operator("POST", "/v1/drain", None).await.status, 200);
    for (session, wish, had, status) in [(&first, &wish, &held, "held"), (&second, &other_wish, &waits, "queued")] {
        let again = world.post(JOIN, Some(session), wish).await;
        assert_eq!((again.status, &id(&again), again.json()["status"].as_str()), (200, had, Some(status)), "{again:?}");
        let mut changed = wish.clone();
        changed["quantity"] = json!(1);
        let changed = world.post(JOIN, Some(session), &changed).await;
        assert_eq!((changed.status, changed.code().as_str()), (409, "conflict"), "{changed:?}");
    }
    let refused = world.post(JOIN, Some(&stranger), &World::wish(1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"), "{refused:?}");
    assert_eq!(world.operator("POST", "/v1/resume", None).await.status, 200);

    assert_eq!(world.operator("POST", "/v1/concerts/demo/close", None).await.status, 200);
    let again = world.post(JOIN, Some(&first), &wish).await;
    assert_eq!((again.status, id(&again), again.json()["status"].as_str()), (200, held, Some("held")), "{again:?}");
    let told = world.until(&second, &waits, &["rejected"]).await;
    assert_eq!(told["reason"], "sale_closed");
    let refused = world.post(JOIN, Some(&stranger), &World::wish(1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "sale_closed"), "{refused:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_intake_takes_nobody_and_says_so() {
    let world = World::with(Setup { first: "roles = ['allocator', 'recycler']", ..Setup::east().await }).await;
    world.concert("demo", json!({})).await;
    let session = world.guest().await;
    let refused = world.post(JOIN, Some(&session), &World::wish(1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"), "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("role intake"), "{refused:?}");
    let unready = world.get("/readyz", None).await;
    assert_eq!(unready.status, 503);
    assert!(unready.text.contains("role intake"), "{unready:?}");
    assert_eq!(world.number("SELECT sum(tail_seq)::bigint FROM queue_generation").await, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_free_is_bought_by_one_call_and_its_ticket_names_the_reservation_as_its_buyer_does() {
    let world = World::start(&[], "").await;
    world.concert("demo", free(10)).await;
    let session = world.guest().await;
    let reservation = world.join("demo", &session).await;
    let held = world.until(&session, &reservation, &["held"]).await;
    assert_eq!(held["amount"], json!({ "amount": 0, "currency": "EUR" }));
    let path = format!("/v1/reservations/{reservation}/payment");
    let (first, again) =
        (world.post(&path, Some(&session), &json!({})).await, world.post(&path, Some(&session), &json!({})).await);
    assert_eq!((first.status, again.status), (200, 200), "{first:?} {again:?}");
    let payment: region_api::wire::Payment = serde_json::from_str(&first.text).unwrap();
    assert_eq!((payment.intent.as_str(), payment.client_secret.as_str()), ("free", ""));
    assert_eq!((payment.checkout_url, first.json()), (None, again.json()));
    let sold = world.until(&session, &reservation, &["sold"]).await;
    let tickets = sold["tickets"].as_array().unwrap();
    assert_eq!(tickets.len(), 2);
    let ticket = world.get(&format!("/v1/tickets/{}", tickets[0].as_str().unwrap()), Some(&session)).await;
    assert_eq!((ticket.status, id(&ticket)), (200, reservation), "{ticket:?}");
    world.stop().await;
}

/// Who has bought is told at the next join how many are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_bought_before_is_told_how_many_are_left() {
    let world = World::start(&[], "").await;
    world.concert("demo", free(100)).await;
    let session = world.guest().await;
    let reservation = world.join("demo", &session).await;
    world.until(&session, &reservation, &["held"]).await;
    assert_eq!(
        world.post(&format!("/v1/reservations/{reservation}/payment"), Some(&session), &json!({})).await.status,
        200
    );
    world.until(&session, &reservation, &["sold"]).await;
    let begun = Instant::now();
    let refused = loop {
        let answer = world.post(JOIN, Some(&session), &World::wish(3)).await;
        // Until this node has read who bought, the allocator says no.
        match answer.status {
            422 => break answer,
            // (A moment after the sale the queue may not know of it: then that is still the answer.)
            200 | 202 => drop(world.until(&session, &id(&answer), &["rejected", "sold"]).await),
            _ => panic!("{answer:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "never told");
        // Slowly enough not to be polling too often.
        tokio::time::sleep(Duration::from_millis(600)).await;
    };
    assert_eq!(refused.code(), "limit_exceeded");
    assert!(refused.json()["detail"].as_str().unwrap().contains("2 are left"), "{refused:?}");
    let allowed = world.post(JOIN, Some(&session), &World::wish(2)).await;
    assert!(matches!(allowed.status, 200 | 202), "{allowed:?}");
    let held = id(&allowed);
    world.until(&session, &held, &["held"]).await;
    let again = world.post(JOIN, Some(&session), &World::wish(1)).await;
    assert_eq!((again.status, id(&again)), (200, held), "one at a time: what is held is the answer");
    world.stop().await;
}
