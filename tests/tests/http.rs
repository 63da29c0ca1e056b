//! The public and the operators' interface of a node with a real PostgreSQL and a real Redis: what is refused and how,
//! who may do what, and that nothing is stored by what is refused.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

#[path = "http/again.rs"]
mod again;
#[path = "http/news.rs"]
mod news;
#[path = "http/regions.rs"]
mod regions;
#[path = "http/who.rs"]
mod who;
#[path = "http/world.rs"]
mod world;

use region_api::session::Session;
use region_api::{KeyRing, RegionName, UserId};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::{DOOR, World};

fn now_ms() -> u64 {
    region_node::clock::now_ms()
}

fn east() -> RegionName {
    RegionName::new("east").unwrap()
}

async fn queued(world: &World, concert: &str) -> u64 {
    let concert = world.get(&format!("/v1/concerts/{concert}"), None).await.json();
    concert["queue"]["waiting"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_given_once_shown_to_its_owner_and_cancelled() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let session = world.guest().await;
    let wish = World::wish(2);
    let first = world.post("/v1/concerts/demo/reservations", Some(&session), &wish).await;
    assert_eq!(first.status, 202, "{first:?}");
    let first = first.json();
    assert_eq!((first["status"].as_str(), first["region"].as_str()), (Some("queued"), Some("east")));
    let id = first["reservation"].as_str().unwrap();
    assert_eq!(first["url"], format!("{}/v1/reservations/{id}", world.public));
    assert!(first["position"].as_u64().unwrap() >= 1 && first["poll_after_ms"].as_u64().unwrap() >= 5_000);
    let again = world.post("/v1/concerts/demo/reservations", Some(&session), &wish).await;
    assert_eq!((again.status, again.json()["reservation"].as_str()), (200, Some(id)));
    let other = world.post("/v1/concerts/demo/reservations", Some(&session), &World::wish(2)).await;
    assert_eq!((other.status, other.json()["reservation"].as_str()), (200, Some(id)));
    let mut changed = wish.clone();
    changed["quantity"] = json!(1);
    let changed = world.post("/v1/concerts/demo/reservations", Some(&session), &changed).await;
    assert_eq!((changed.status, changed.code().as_str()), (409, "conflict"));

    let path = format!("/v1/reservations/{id}");
    let shown = world.get(&path, Some(&session)).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let typed: region_api::wire::Reservation = serde_json::from_str(&shown.text).unwrap();
    assert_eq!(typed.reservation, id);
    let routed = world.get(&format!("/v1/%72eservations/{id}"), Some(&session)).await;
    assert_eq!(routed.status, 404, "only the last segment may be spelled otherwise");

    let cancelled = world.send(world.request("DELETE", &path, Some(&session))).await;
    assert_eq!((cancelled.status, cancelled.json()["status"].as_str()), (200, Some("cancelled")), "{cancelled:?}");
    let shown = world.get(&path, Some(&session)).await.json();
    assert_eq!((shown["status"].as_str(), shown["poll_after_ms"].is_null()), (Some("cancelled"), true));
    let twice = world.send(world.request("DELETE", &path, Some(&session))).await;
    assert_eq!(twice.status, 200, "{twice:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_is_refused_by_name_and_stores_nothing() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let session = world.guest().await;
    let id = uuid::Uuid::new_v4().to_string();
    let with = |key: &str, value: Value| {
        let mut wish = json!({ "request_id": id, "quantity": 1, "tiers": ["A"] });
        wish[key] = value;
        wish.to_string()
    };
    let cases: Vec<(String, u16, &str, &str)> = vec![
        (String::new(), 400, "invalid_request", ""),
        ("{".into(), 400, "invalid_request", ""),
        ("[]".into(), 400, "invalid_request", ""),
        ("null".into(), 400, "invalid_request", ""),
        ("\u{0}".into(), 400, "invalid_request", ""),
        ("{}".into(), 400, "invalid_request", "request_id"),
        (with("quantity", json!(0)), 400, "invalid_request", "quantity"),
        (with("quantity", json!(-1)), 400, "invalid_request", "quantity"),
        (with("quantity", json!(1.5)), 400, "invalid_request", "quantity"),
        (with("quantity", json!("1")), 400, "invalid_request", "quantity"),
        (with("quantity", json!(1e300)), 400, "invalid_request", "quantity"),
        (with("quantity", json!(101)), 400, "invalid_request", "quantity"),
        (with("quantity", json!(5)), 422, "limit_exceeded", "4 are left"),
        (with("request_id", json!("x")), 400, "invalid_request", "request_id"),
        (with("tiers", json!([])), 400, "invalid_request", "tiers"),
        (with("tiers", json!("A")), 400, "invalid_request", "tiers"),
        (with("tiers", json!(["A", "A"])), 400, "invalid_request", "tiers[1]"),
        (with("tiers", json!(["Z"])), 400, "invalid_request", "tiers[0]"),
        (with("tiers", json!(["\u{e9}"])), 400, "invalid_request", "tiers[0]"),
        (with("any_quantity", json!("yes")), 400, "invalid_request", "any_quantity"),
        (with("identity", json!("")), 400, "invalid_request", "identity"),
        (with("colour", json!("red")), 400, "invalid_request", "colour"),
        (with("identity", json!("x".repeat(20_000))), 413, "too_large", ""),
        ("[".repeat(10_000), 400, "invalid_request", ""),
    ];
    for (body, status, code, named) in cases {
        let request = world.request("POST", "/v1/concerts/demo/reservations", Some(&session));
        let answer = world.send(request.header("content-type", "application/json").body(body.clone())).await;
        let short: String = body.chars().take(60).collect();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{short}: {answer:?}");
        let refused = answer.json();
        assert!(refused["detail"].as_str().unwrap().contains(named), "{short}: {refused}");
        assert_eq!(refused["side_effects"], "none", "{short}");
    }
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(queued(&world, "demo").await, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_refuses_what_it_does_not_have() {
    let world = World::start(&[], "").await;
    let session = world.guest().await;
    for path in ["/nothing", "/v1", "/v1/concerts/none", "/v1/concerts/%00", "/v1/concerts/%ff", "/v1/reservations/"] {
        let answer = world.get(path, Some(&session)).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        answer.code();
    }
    for (method, path, allow) in [
        ("PUT", "/v1/session", "POST"),
        ("DELETE", "/v1/concerts", "GET,HEAD"),
        ("PATCH", "/v1/reservations/x", "GET,HEAD,DELETE"),
        ("GET", "/v1/reservations/x/payment", "POST"),
        ("POST", "/healthz", "GET,HEAD"),
    ] {
        let answer = world.send(world.request(method, path, Some(&session))).await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method} {path}");
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
    }
    let long = "A".repeat(8_000);
    for id in ["x", "AAAA", "..", long.as_str()] {
        for (method, more) in
            [("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/payment"), ("POST", "/reclaim")]
        {
            let path = format!("/v1/reservations/{id}{more}");
            let answer = world.send(world.request(method, &path, Some(&session))).await;
            assert!(answer.status == 404, "{method} {}: {answer:?}", &path[..path.len().min(60)]);
        }
    }
    for ticket in ["x", "x.svg", "00000000-0000-0000-0000-000000000000"] {
        let answer = world.get(&format!("/v1/tickets/{ticket}"), Some(&session)).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_gets_at_a_reservation() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let (owner, other) = (world.guest().await, world.guest().await);
    let id = world.join("demo", &owner).await;
    for (method, more) in [("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/payment"), ("POST", "/reclaim")]
    {
        let path = format!("/v1/reservations/{id}{more}");
        let answer = world.send(world.request(method, &path, Some(&other))).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{method} {more}");
        let answer = world.send(world.request(method, &path, None)).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{method} {more}");
    }
    assert_eq!(world.get(&format!("/v1/reservations/{id}"), Some(&owner)).await.json()["status"], "queued");
    let mut forged = id.clone().into_bytes();
    let last = forged.len() - 5;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    assert_eq!(world.get(&format!("/v1/reservations/{forged}"), Some(&owner)).await.status, 404);
    let pay = world.post(&format!("/v1/reservations/{id}/payment"), Some(&owner), &json!({})).await;
    assert_eq!((pay.status, pay.code().as_str()), (409, "conflict"), "only what is held can be paid");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_expired_and_foreign_sessions_are_refused() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let good = world.guest().await;
    let guest = || UserId::Guest([9; 16]);
    let other_ring = KeyRing::new(&[[11; 32], [12; 32], [13; 32], [14; 32]]).unwrap();
    let expired = Session::begin(guest(), false, east(), now_ms() - 31 * 60_000).sign(&world.ring);
    let ancient = Session::begin(guest(), false, east(), now_ms() - 26 * 3_600_000).sign(&world.ring);
    let foreign = Session::begin(guest(), false, east(), now_ms()).sign(&other_ring);
    let mut forged = good.clone().into_bytes();
    forged[20] ^= 1;
    let forged = String::from_utf8_lossy(&forged).into_owned();
    let long = "A".repeat(8_000);
    for token in ["", "x", &expired, &ancient, &foreign, &forged, &long] {
        let answer = world.post("/v1/concerts/demo/reservations", Some(token), &World::wish(1)).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"));
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    // Half an hour too old can be renewed, by the same user; a day cannot.
    let renewed = world.post("/v1/session", Some(&expired), &json!({})).await;
    assert_eq!((renewed.status, renewed.json()["user_id"].clone()), (201, json!(guest().to_string())));
    for token in [&ancient, &foreign, &forged] {
        assert_eq!(world.post("/v1/session", Some(token), &json!({})).await.status, 401);
    }
    for body in [json!({ "id_token": 1 }), json!({ "x": 1 }), json!([]), json!({ "id_token": "a.b.c" })] {
        let answer = world.post("/v1/session", None, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{body}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_serves_our_own_pages_only_and_finds_a_guest_again() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let begun = world.post("/v1/session", None, &json!({})).await;
    let cookies: Vec<&str> = begun.headers.get_all("set-cookie").iter().map(|c| c.to_str().unwrap()).collect();
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    assert!(cookies.iter().all(|c| c.contains("; HttpOnly; SameSite=Lax") && !c.contains("Secure")), "{cookies:?}");
    let pair = |cookie: &str| cookie.split(';').next().unwrap().to_owned();
    let (session, recovery) = (pair(cookies[0]), pair(cookies[1]));
    let join = |cookie: &str| {
        let request = world.request("POST", "/v1/concerts/demo/reservations", None);
        request.header("cookie", cookie).json(&World::wish(1))
    };
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example"), ("x-nothing", "1")] {
        let answer = world.send(join(&session).header(name, value)).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{name}");
    }
    let own = world.send(join(&session).header("origin", world.public.as_str())).await;
    assert_eq!(own.status, 202, "{own:?}");
    // The session is gone, the guest is not.
    let request = world.request("POST", "/v1/session", None).header("cookie", recovery);
    let again = world.send(request.header("sec-fetch-site", "same-origin").json(&json!({}))).await;
    assert_eq!((again.status, again.json()["user_id"].clone()), (201, begun.json()["user_id"].clone()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sale_window_guests_challenge_and_identity_are_kept_to() {
    let world = World::start(&[], "").await;
    let guest = world.guest().await;
    let tomorrow = region_api::Timestamp::from_ms(now_ms() + 86_400_000).to_string();
    world.concert("later", json!({ "sale_opens_at": tomorrow })).await;
    world.concert("over", json!({})).await;
    world.concert("known", json!({ "guests": false })).await;
    world.concert("hard", json!({ "challenge": true })).await;
    world.concert("named", json!({ "max_per_identity": 1 })).await;
    world
        .concert("none", json!({ "tiers": [{ "tier": "A", "price": { "amount": 1, "currency": "EUR" }, "total": 0 }] }))
        .await;
    assert_eq!(world.operator("POST", "/v1/concerts/over/close", None).await.status, 200);
    for (concert, quantity, status, code) in [
        ("later", 1, 409, "sale_not_open"),
        ("over", 1, 409, "sale_closed"),
        ("known", 1, 403, "forbidden"),
        ("hard", 1, 401, "challenge_required"),
        ("named", 1, 400, "invalid_request"),
        ("none", 1, 409, "sold_out"),
        ("nobody", 1, 404, "not_found"),
    ] {
        let path = format!("/v1/concerts/{concert}/reservations");
        let answer = world.post(&path, Some(&guest), &World::wish(quantity)).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{concert}: {answer:?}");
    }
    let mut wish = World::wish(1);
    wish["identity"] = json!("0f");
    assert_eq!(world.post("/v1/concerts/named/reservations", Some(&guest), &wish).await.status, 202);
    let states = world.get("/v1/concerts", None).await.json();
    let state = |name: &str| {
        let concerts = states["concerts"].as_array().unwrap();
        concerts.iter().find(|c| c["concert"] == name).unwrap()["state"].clone()
    };
    assert_eq!((state("later"), state("over"), state("hard")), (json!("announced"), json!("closed"), json!("open")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_is_solved_once() {
    let world = World::start(&[], "").await;
    world.concert("hard", json!({ "challenge": true })).await;
    let challenge = world.get("/v1/challenge", None).await.json();
    let nonce = challenge["nonce"].as_str().unwrap();
    let bits = challenge["difficulty_bits"].as_u64().unwrap() as u8;
    let solution = (0_u64..).map(|n| n.to_string()).find(|s| region_api::challenge::solves(nonce, s, bits)).unwrap();
    let body = |nonce: &str, solution: &str| json!({ "challenge": { "nonce": nonce, "solution": solution } });
    for (nonce, solution) in [(nonce, "wrong"), ("AAAA", solution.as_str()), ("", "")] {
        let answer = world.post("/v1/session", None, &body(nonce, solution)).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{answer:?}");
    }
    let solved = world.post("/v1/session", None, &body(nonce, &solution)).await;
    assert_eq!(solved.status, 201, "{solved:?}");
    let session = solved.json()["session"].as_str().unwrap().to_owned();
    assert_eq!(world.post("/v1/session", None, &body(nonce, &solution)).await.status, 400, "used once");
    world.join("hard", &session).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_twenty_polls_in_ten_seconds_void_the_reservation() {
    let world = World::start(&[], "").await;
    // Nothing that could be held: the reservation stays queued whatever the allocator does.
    world.concert("demo", json!({ "max_per_order": 100, "max_per_person": 100 })).await;
    let (first, session) = (world.guest().await, world.guest().await);
    let take_all = world.post("/v1/concerts/demo/reservations", Some(&first), &World::wish(100)).await;
    assert_eq!(take_all.status, 202);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let path = format!("/v1/reservations/{}", world.join("demo", &session).await);
    for poll in 0..20 {
        let answer = world.get(&path, Some(&session)).await;
        assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("queued")), "poll {poll}");
    }
    let answer = world.get(&path, Some(&session)).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"));
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    let shown = world.get(&path, Some(&session)).await.json();
    assert_eq!((shown["status"].as_str(), shown["reason"].as_str()), (Some("voided"), Some("too_many_polls")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_port_is_closed_without_credentials() {
    let world = World::start(&[], "").await;
    let routes = [
        ("GET", "/v1/status"),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
        ("GET", "/v1/ledger?concert=x"),
        ("POST", "/v1/drain"),
        ("PUT", "/v1/concerts/demo"),
        ("POST", "/v1/concerts/demo/accept-books"),
        ("GET", "/no"),
    ];
    for (method, path) in routes {
        for token in [None, Some(""), Some("wrong"), Some(DOOR), Some(&world::OPERATOR[1..])] {
            let mut request = world.client.request(method.parse().unwrap(), format!("{}{path}", world.admin));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = world.send(request).await;
            assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{method} {path} {token:?}");
        }
    }
    // Nothing of it is on the public port.
    for path in ["/metrics", "/v1/status", "/v1/ledger?concert=x"] {
        assert_eq!(world.get(path, None).await.status, 404, "{path}");
    }
    let door = |token: &'static str| {
        let request = world.request("POST", "/v1/tickets/check", Some(token));
        request.json(&json!({ "code": "x" }))
    };
    assert_eq!(world.send(door("wrong")).await.status, 401);
    let checked = world.send(door(DOOR)).await;
    assert_eq!((checked.status, checked.json()["valid"].clone()), (200, json!(false)), "{checked:?}");

    let drained = world.operator("POST", "/v1/drain", None).await;
    assert_eq!(drained.status, 200);
    assert_eq!(world.get("/readyz", None).await.status, 503);
    world.concert("demo", json!({})).await;
    let session = world.guest().await;
    let refused = world.post("/v1/concerts/demo/reservations", Some(&session), &World::wish(1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    assert_eq!(world.operator("POST", "/v1/resume", None).await.status, 200);
    world.join("demo", &session).await;
    let status = world.operator("GET", "/v1/status", None).await;
    let status: region_api::wire::NodeStatus = serde_json::from_str(&status.text).unwrap();
    assert_eq!((status.concerts.len(), status.concerts[0].pools[0].columns.granted), (1, 100));
    let page = world.operator("GET", "/v1/ledger?concert=demo", None).await;
    let page: region_api::wire::LedgerPage = serde_json::from_str(&page.text).unwrap();
    assert_eq!(page.state.quota.len(), 1);
    for (query, status) in
        [("", 400), ("?concert=demo&x=1", 400), ("?concert=none", 404), ("?concert=demo&after=x", 400)]
    {
        let answer = world.operator("GET", &format!("/v1/ledger{query}"), None).await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        answer.code();
    }
    let metrics = world.operator("GET", "/metrics", None).await;
    assert!(metrics.text.contains("boxoffice_http_requests_total"), "{}", metrics.text);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concerts_have_an_etag_and_the_description_is_complete() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    for path in ["/v1/concerts/demo", "/v1/concerts"] {
        let answer = world.get(path, None).await;
        assert_eq!((answer.status, &answer.headers["cache-control"]), (200, &"public, max-age=1".parse().unwrap()));
        let tag = answer.headers["etag"].clone();
        let again = world.send(world.request("GET", path, None).header("if-none-match", tag)).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""));
    }
    let concert = world.get("/v1/concerts/demo", None).await;
    let concert: region_api::wire::Concert = serde_json::from_str(&concert.text).unwrap();
    assert_eq!(concert.tiers[0].availability, region_api::wire::Availability::Plenty);
    let api = world.get("/openapi.json", None).await.json();
    for (path, methods) in api["paths"].as_object().unwrap() {
        let path = path.replace("{concert}", "demo").replace("{id}", "x").replace("{ticket}", "x");
        for method in methods.as_object().unwrap().keys() {
            let answer = world.send(world.request(&method.to_uppercase(), &path, None)).await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(!answer.text.contains("no such route"), "{method} {path}");
        }
    }
    assert_eq!(world.get("/docs", None).await.status, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_joins_are_refused_and_polls_go_on() {
    let mut world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let (session, other) = (world.guest().await, world.guest().await);
    let id = world.join("demo", &session).await;
    world.redis.kill();
    let refused = world.post("/v1/concerts/demo/reservations", Some(&other), &World::wish(1)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "unavailable"));
    assert_eq!(world.get(&format!("/v1/reservations/{id}"), Some(&session)).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let ready = world.get("/readyz", None).await;
    assert!(ready.status == 503 && ready.text.contains("redis"), "{ready:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_regions_calls_are_passed_on_once_and_a_dead_home_is_unavailable() {
    let world = World::start(&[("west", "http://127.0.0.1:9")], "").await;
    world.concert("demo", json!({})).await;
    let west = RegionName::new("west").unwrap();
    let session = Session::begin(UserId::Guest([7; 16]), false, west.clone(), now_ms()).sign(&world.ring);
    let answer = world.post("/v1/concerts/demo/reservations", Some(&session), &World::wish(1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"), "{answer:?}");
    assert_eq!(answer.json()["side_effects"], "none");
    let north = Session::begin(UserId::Guest([7; 16]), false, RegionName::new("north").unwrap(), now_ms());
    let answer = world.post("/v1/concerts/demo/reservations", Some(&north.sign(&world.ring)), &World::wish(1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    // East as west's peer: a session at home in east, sent to west, ends in east's queue.
    let second = World::start(&[("west", &world.public)], "").await;
    let passed = second.post("/v1/concerts/demo/reservations", Some(&session), &World::wish(1)).await;
    assert_eq!((passed.status, passed.code().as_str()), (503, "unavailable"), "a second hop is refused: {passed:?}");
    assert_eq!(passed.headers["x-boxoffice-home"], "west");
    second.stop().await;
    world.stop().await;
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_logged() {
    let log = Log::default();
    let writer = log.clone();
    let level = tracing_subscriber::EnvFilter::new("trace,hyper=info,h2=info");
    tracing_subscriber::fmt().with_env_filter(level).with_ansi(false).with_writer(move || writer.clone()).init();
    let mut world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let session = world.guest().await;
    let id = world.join("demo", &session).await;
    world.get(&format!("/v1/reservations/{id}"), Some(&session)).await;
    world.get("/v1/reservations/x", Some("a-token-that-is-wrong")).await;
    world.post("/v1/session", None, &json!({ "id_token": "a-token-that-is-wrong" })).await;
    world.operator("GET", "/v1/status", None).await;
    world.redis.kill();
    world.post("/v1/concerts/demo/reservations", Some(&world.guest().await), &World::wish(1)).await;
    let mut secrets = world.secrets.clone();
    secrets.extend([session, "a-token-that-is-wrong".to_owned()]);
    world.stop().await;
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("serving"), "nothing was captured");
    for secret in secrets {
        let line = text.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "a secret in the log: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_cut_off_or_lies_about_its_length_stores_nothing() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({})).await;
    let session = world.guest().await;
    let address = world.public.trim_start_matches("http://").to_owned();
    let head = |more: &str| {
        format!(
            "POST /v1/concerts/demo/reservations HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {session}\r\n\
             content-type: application/json\r\n{more}\r\n"
        )
    };
    let wish = World::wish(1).to_string();
    let cut = format!("{}{wish}", head(&format!("content-length: {}\r\n", wish.len() + 10)));
    let twice = format!("{}{wish}", head("content-length: 5\r\ncontent-length: 90\r\n"));
    let chunk = format!("{}zz\r\n{wish}\r\n0\r\n\r\n", head("transfer-encoding: chunked\r\n"));
    let huge = head("content-length: 99999999999\r\n");
    for sent in [cut, twice, chunk, huge] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await.unwrap();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(queued(&world, "demo").await, 0);
    world.stop().await;
}
