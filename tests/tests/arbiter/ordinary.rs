//! Arbiters on a good day: concerts, regions, moves, the log, handing over.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{PEOPLE, Region, TOKEN, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_concert_reaches_a_region_and_its_queue_gets_tickets() {
    let world = World::start(3, "").await;
    assert_eq!(world.concert("demo", 1000).await["changed"], true);
    assert_eq!(world.concert("demo", 1000).await["changed"], false);
    let mut east = Region::new(&world, "east");
    east.register(&world).await;
    let (status, heard) = east.post(&world, "sync", &east.sync_body(json!([]))).await;
    assert_eq!(status, 200, "{heard}");
    assert_eq!(heard["concerts"][0]["definition"]["title"], "A night");
    assert_eq!(heard["stock"]["demo/A"]["unsold_at_most"], 1000);
    // A queue and nothing to sell: the answer comes when there is something.
    let mut body = east.sync_body(json!([Region::row("demo/A", 0, 80)]));
    body["concerts_version"] = heard["concerts_version"].clone();
    body["wait_ms"] = json!(10_000);
    let since = Instant::now();
    let (_, heard) = east.post(&world, "sync", &body).await;
    let granted = heard["sync"]["slices"][0]["granted"].as_u64().unwrap();
    assert!(granted >= 2 && since.elapsed() < Duration::from_secs(3), "{granted} after {:?}", since.elapsed());
    let quota = world.get("/v1/quota/demo").await;
    let tier = &quota["tiers"][0];
    assert_eq!(tier["pool"].as_u64().unwrap() + granted, 1000, "{quota}");
    assert_eq!(tier["regions"]["east"]["queue"], 80);
    assert_eq!(quota["moves"][0]["to"], "east");
    assert_eq!(quota["moves"][0]["who"], "policy");
    let regions = world.get("/v1/regions").await;
    assert_eq!(regions["regions"][0]["region"], "east");
    assert_eq!(regions["regions"][0]["silent"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_order_and_the_log_says_who_did() {
    let world = World::start(1, "").await;
    world.concert("demo", 100).await;
    let mut east = Region::new(&world, "east");
    east.register(&world).await;
    let id = uuid::Uuid::new_v4().to_string();
    let order = json!({"from": "pool", "to": "east", "tickets": 10, "request_id": id});
    let post = reqwest::Method::POST;
    let (status, acted) = world.ask(post.clone(), "/v1/quota/demo/A/move", Some(&order)).await;
    assert_eq!((status, &acted["changed"]), (200, &json!(true)), "{acted}");
    let (_, again) = world.ask(post.clone(), "/v1/quota/demo/A/move", Some(&order)).await;
    assert_eq!(again["changed"], false);
    let other = json!({"from": "pool", "to": "east", "tickets": 11, "request_id": id});
    assert_eq!(world.ask(post.clone(), "/v1/quota/demo/A/move", Some(&other)).await.0, 409);
    for (path, status) in [
        ("/v1/quota/demo/freeze", 200),
        ("/v1/quota/demo/thaw", 200),
        ("/v1/quota/demo/rebalance", 200),
        ("/v1/quota/nothing/rebalance", 404),
        ("/v1/regions/east/drain", 200),
        ("/v1/regions/east/resume", 200),
        ("/v1/regions/nowhere/drain", 404),
        ("/v1/concerts/demo/close", 200),
    ] {
        let (answered, body) = world.ask(post.clone(), path, None).await;
        assert_eq!(answered, status, "{path}: {body}");
    }
    let total = json!({"from": 100, "to": 120});
    assert_eq!(world.ask(reqwest::Method::PUT, "/v1/quota/demo/A/total", Some(&total)).await.0, 200);
    assert_eq!(world.ask(reqwest::Method::PUT, "/v1/quota/demo/A/total", Some(&total)).await.0, 409);
    assert_eq!(world.ask(reqwest::Method::PUT, "/v1/regions/south", None).await.0, 200);
    assert_eq!(world.ask(reqwest::Method::PUT, "/v1/regions/pool", None).await.0, 400);
    let concerts = world.get("/v1/concerts").await;
    assert_eq!(concerts["concerts"][0]["definition"]["tiers"][0]["total"], 120);
    assert!(concerts["concerts"][0]["closed_at"].is_string());
    let log = world.get("/v1/log?after=0").await;
    let moved =
        log["entries"].as_array().unwrap().iter().find(|entry| entry["work"]["request"]["order"]["move"].is_object());
    assert_eq!(moved.unwrap()["who"], "ann", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_come_in_with_a_token_and_followers_point_to_the_leader() {
    let world = World::start(3, "").await;
    let leader = world.leader().await;
    let nobody = world.authority.client(None);
    let people = &world.arbiters[&leader];
    for path in ["/healthz", "/readyz"] {
        assert_eq!(nobody.get(people.people_url(path)).send().await.unwrap().status(), 200, "{path}");
    }
    for path in ["/metrics", "/v1/cluster"] {
        assert_eq!(nobody.get(people.people_url(path)).send().await.unwrap().status(), 401, "{path}");
        let wrong = nobody.get(people.people_url(path)).bearer_auth("wrong").send().await.unwrap();
        assert_eq!(wrong.status(), 401, "{path}");
        let right = nobody.get(people.people_url(path)).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(right.status(), 200, "{path}");
    }
    // Each is named in the audit by their own name, with when; the common token's holders are `operator`.
    let before = time::OffsetDateTime::now_utc() - Duration::from_secs(60);
    for (name, token) in PEOPLE.into_iter().chain([("operator", TOKEN)]) {
        let put = nobody.put(people.people_url(&format!("/v1/regions/of-{name}"))).bearer_auth(token);
        assert_eq!(put.send().await.unwrap().status(), 200, "{name}");
        let log = world.get("/v1/log?after=0").await;
        let entry = log["entries"].as_array().unwrap().iter().rfind(|entry| entry["who"].is_string()).cloned().unwrap();
        assert_eq!(entry["work"]["request"]["order"]["quota"]["add_region"]["region"], format!("of-{name}"), "{entry}");
        assert_eq!((&entry["who"], &entry["work"]["request"]["who"]), (&json!(name), &json!(name)));
        let at = entry["proposed_at"].as_str().unwrap();
        let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).unwrap();
        assert!(at > before && at <= time::OffsetDateTime::now_utc() + Duration::from_secs(1), "{entry}");
    }
    for wrong in ["the-token-of-be", "the-token-of-beaa", "bea", ""] {
        let asked = nobody.get(people.people_url("/v1/cluster")).bearer_auth(wrong).send().await.unwrap();
        assert_eq!(asked.status(), 401, "{wrong:?}");
    }
    // What is between machines is not served to people at all.
    let raft = nobody.post(people.people_url("/raft")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(raft.status(), 404);
    let follower = world.arbiters.values().find(|arbiter| arbiter.id != leader).unwrap();
    let answer = world.operator.get(follower.url("/v1/regions")).send().await.unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!(answer.headers()["location"].to_str().unwrap(), people.url("/v1/regions"));
    let answer = nobody.get(follower.people_url("/v1/regions")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(answer.headers()["location"].to_str().unwrap(), people.people_url("/v1/regions"));
    let stale = world.operator.get(follower.url("/v1/cluster?stale=true")).send().await.unwrap();
    let stale: Value = stale.json().await.unwrap();
    assert_eq!((&stale["node"], &stale["leader"]), (&json!(follower.id), &json!(leader)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_end_hands_over_first() {
    let mut world = World::start(3, "").await;
    world.concert("demo", 10).await;
    let old = world.leader().await;
    world.arbiters.get_mut(&old).unwrap().stop();
    let since = Instant::now();
    let new = world.leader().await;
    assert!(new != old && since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    assert!(world.arbiters[&old].log().contains("handed over"));
    world.has(new, "demo").await;
}
