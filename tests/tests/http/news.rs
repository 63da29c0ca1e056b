//! What a region tells by itself or is asked to put right: event streams, lost places, halted books, early noes.

use crate::world::World;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn tiers(total: u64) -> Value {
    json!([{ "tier": "A", "price": { "amount": 1, "currency": "EUR" }, "total": total }])
}

/// The next event of a stream; `None` at its end.
async fn event(stream: &mut reqwest::Response, rest: &mut String) -> Option<Value> {
    let deadline = Duration::from_secs(20);
    loop {
        if let Some((event, after)) = rest.split_once("\n\n") {
            let (event, after) = (event.to_owned(), after.to_owned());
            *rest = after;
            if event.starts_with(':') {
                continue;
            }
            let data = event.strip_prefix("event: reservation\ndata: ").unwrap_or_else(|| panic!("{event:?}"));
            return Some(serde_json::from_str(data).unwrap());
        }
        let chunk = tokio::time::timeout(deadline, stream.chunk()).await.expect("news in time").unwrap()?;
        rest.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_tells_every_change_once_and_ends_with_the_last() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({ "tiers": tiers(2) })).await;
    let (first, second, stranger) = (world.guest().await, world.guest().await, world.guest().await);
    let has_it = world.join("demo", &first).await;
    world.until(&first, &has_it, &["held"]).await;
    let waits = world.join("demo", &second).await;
    let path = format!("/v1/reservations/{waits}/events");
    assert_eq!(world.get(&path, Some(&stranger)).await.code(), "forbidden");
    let mut stream = world.request("GET", &path, Some(&second)).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut rest = String::new();
    let queued = event(&mut stream, &mut rest).await.unwrap();
    assert_eq!((queued["status"].as_str(), queued["reservation"].as_str()), (Some("queued"), Some(waits.as_str())));
    let cancel = world.send(world.request("DELETE", &format!("/v1/reservations/{has_it}"), Some(&first))).await;
    assert_eq!(cancel.status, 200);
    let mut last = queued;
    loop {
        let now = event(&mut stream, &mut rest).await.unwrap();
        let mut same = now.clone();
        same["as_of"] = last["as_of"].clone();
        assert_ne!(same, last, "an event without news");
        last = now;
        if last["status"] == "held" {
            break;
        }
        assert_eq!(last["status"], "queued");
    }
    world.send(world.request("DELETE", &format!("/v1/reservations/{waits}"), Some(&second))).await;
    let ended = event(&mut stream, &mut rest).await.unwrap();
    assert_eq!((ended["status"].as_str(), ended["poll_after_ms"].is_null()), (Some("cancelled"), true));
    assert_eq!(event(&mut stream, &mut rest).await, None, "nothing more will happen");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_of_a_lost_queue_is_put_back_by_its_owner_and_served() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({ "tiers": tiers(2) })).await;
    let (first, second, stranger) = (world.guest().await, world.guest().await, world.guest().await);
    let has_it = world.join("demo", &first).await;
    world.until(&first, &has_it, &["held"]).await;
    let lost = world.join("demo", &second).await;
    let mut redis = world.redis.connect().await.unwrap();
    let tails = "SELECT sum(tail_seq)::bigint FROM queue_generation WHERE lost_at IS NULL";
    until(async || world.number(tails).await >= 1).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    // Without the functions the queue cannot be read; the node loads them again, then finds the queue empty.
    until(async || world.number("SELECT count(*) FROM queue_generation WHERE lost_at IS NOT NULL").await > 0).await;
    let path = format!("/v1/reservations/{lost}/reclaim");
    assert_eq!(world.post(&path, Some(&stranger), &json!({})).await.code(), "forbidden");
    // The node learns of the loss within a second or so; nobody polls, so nothing but this call puts it back.
    let back = async || {
        let back = world.post(&path, Some(&second), &json!({})).await;
        assert_eq!((back.status, back.json()["status"].as_str()), (200, Some("queued")), "{back:?}");
        world.number("SELECT count(*) FROM waiting").await
    };
    until(async || back().await == 1).await;
    assert_eq!(back().await, 1, "once");
    world.send(world.request("DELETE", &format!("/v1/reservations/{has_it}"), Some(&first))).await;
    world.until(&second, &lost, &["held"]).await;
    let noop = world.post(&path, Some(&second), &json!({})).await;
    assert_eq!((noop.status, noop.json()["status"].as_str()), (200, Some("held")), "{noop:?}");
    world.stop().await;
}

/// Waits for something.
async fn until(is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "never so");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_behind_a_witness_halt_until_an_operator_accepts_them() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let session = world.guest().await;
    let mut redis = world.redis.connect().await.unwrap();
    let id = world.number("SELECT concert_id::bigint FROM concert").await;
    let () = redis::cmd("SET").arg(format!("bq{{{id}}}book")).arg(1_000_000).query_async(&mut redis).await.unwrap();
    // Books are held against their witnesses whenever the database was connected anew.
    let sql = world.database.connect().await.unwrap();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sql.query_one(cut, &[]).await.unwrap();
    until(async || world.number("SELECT count(*) FROM book WHERE halted IS NOT NULL").await == 1).await;
    until(async || world.get("/readyz", None).await.text.contains("halted")).await;
    let waits = world.join("demo", &session).await;
    let path = "/v1/concerts/demo/accept-books";
    let reason = json!({ "reason": "the newer database is lost for good" });
    assert_eq!(world.post(path, Some(&session), &reason).await.status, 404, "not for buyers");
    let answer = world.operator("POST", path, Some(&json!({}))).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "a reason is asked for");
    assert_eq!(world.number("SELECT count(*) FROM reservation").await, 0, "nothing is held meanwhile");
    let accepted = world.operator("POST", path, Some(&reason)).await;
    assert_eq!(accepted.status, 200, "{accepted:?}");
    assert!(accepted.json()["book"].as_i64().unwrap() > 1_000_000, "above every witness: {accepted:?}");
    world.until(&session, &waits, &["held"]).await;
    let written = "SELECT count(*) FROM operator_act WHERE who LIKE '%lost for good%'";
    assert_eq!(world.number(written).await, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_waiting_list_keeps_the_first_and_tells_the_rest() {
    let world = World::start(&[], "").await;
    let factor = json!({ "tiers": tiers(2), "waitlist_factor": 2.0, "max_per_order": 1, "max_per_person": 1 });
    world.concert("demo", factor).await;
    let mut people = Vec::new();
    for number in 0..14 {
        let session = world.guest().await;
        let answer = world.post("/v1/concerts/demo/reservations", Some(&session), &World::wish(1)).await;
        if answer.status == 202 {
            people.push((session, answer.json()["reservation"].as_str().unwrap().to_owned()));
        } else {
            assert_eq!((answer.code().as_str(), number > 4), ("sold_out", true), "{answer:?}");
        }
        // The bound goes by samples of the queue, one a second.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let statuses = async || {
        let mut statuses = Vec::new();
        for (session, reservation) in &people {
            let seen = world.get(&format!("/v1/reservations/{reservation}"), Some(session)).await.json();
            statuses.push((seen["status"].as_str().unwrap().to_owned(), seen["reason"].clone()));
        }
        statuses
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let seen = loop {
        let seen = statuses().await;
        if seen.iter().any(|(status, _)| status == "rejected") {
            break seen;
        }
        assert!(Instant::now() < deadline, "nobody was told: {seen:?}");
        tokio::time::sleep(Duration::from_millis(1_000)).await;
    };
    let count = |wanted: &str| seen.iter().filter(|(status, _)| status == wanted).count();
    assert_eq!(count("held"), 2, "{seen:?}");
    assert!(count("queued") >= 2, "as many as the factor says are kept: {seen:?}");
    assert!(seen.iter().filter(|(status, _)| status == "rejected").all(|(_, reason)| reason == "sold_out"), "{seen:?}");
    assert_eq!(seen[0].0, "held");
    world.stop().await;
}
