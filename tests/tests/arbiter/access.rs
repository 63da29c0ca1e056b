//! Who is let in: nobody without a certificate of the cluster's authority, and nobody as somebody else.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::world::{Authority, Region, World, write_certificates};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_the_right_certificate_is_refused() {
    let world = World::start(1, "").await;
    let arbiter = &world.arbiters[&1];
    let url = arbiter.url("/v1/cluster");
    assert!(world.authority.client(None).get(&url).send().await.is_err(), "no certificate");
    let foreign = Authority::new("another").issue(&["boxoffice://operator/ann"], &[]);
    assert!(world.authority.client(Some(&foreign)).get(&url).send().await.is_err(), "a foreign authority");
    let expired = world.authority.issue_until(&["boxoffice://operator/ann"], &[], 2020);
    assert!(world.authority.client(Some(&expired)).get(&url).send().await.is_err(), "an expired certificate");
    let mut plain = std::net::TcpStream::connect(arbiter.machines()).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Closed or reset, with an alert at most.
    drop(plain.read_to_end(&mut answer));
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));
    for (uris, status) in [
        (vec!["boxoffice://operator/ann"], 200),
        (vec!["boxoffice://arbiter/9"], 200),
        (vec!["boxoffice://region/east"], 403),
        (vec!["boxoffice://king/ann"], 403),
        (vec!["boxoffice://operator/ann", "boxoffice://region/east"], 403),
        (vec![], 403),
    ] {
        let client = world.authority.client(Some(&world.authority.issue(&uris, &[])));
        assert_eq!(client.get(&url).send().await.unwrap().status(), status, "{uris:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_gives_one_role_and_no_other() {
    let world = World::start(1, "").await;
    world.concert("demo", 100).await;
    let arbiter = &world.arbiters[&1];
    let east = Region::new(&world, "east");
    let body = east.sync_body(json!([]));
    let as_west = arbiter.url("/v1/regions/west/sync");
    assert_eq!(east.client.post(&as_west).json(&body).send().await.unwrap().status(), 403);
    let mut about_west = body.clone();
    about_west["sync"]["region"] = json!("west");
    let own = arbiter.url("/v1/regions/east/sync");
    assert_eq!(east.client.post(&own).json(&about_west).send().await.unwrap().status(), 400);
    assert_eq!(world.operator.post(&own).json(&body).send().await.unwrap().status(), 403, "an operator is no region");
    for path in ["/v1/regions/east/drain", "/v1/concerts/demo/close", "/v1/quota/demo/freeze", "/v1/cluster/transfer"] {
        assert_eq!(east.client.post(arbiter.url(path)).send().await.unwrap().status(), 403, "{path}");
    }
    let other = world.authority.client(Some(&world.authority.issue(&["boxoffice://arbiter/2"], &[])));
    assert_eq!(other.post(arbiter.url("/v1/concerts/demo/close")).send().await.unwrap().status(), 403);
    let raft = || other.post(arbiter.url("/raft")).header("x-boxoffice-incarnation", 0);
    assert_eq!(raft().body("").send().await.unwrap().status(), 204);
    // From 1 to 1, by 2: field 2 is `to`, field 3 `from`.
    let from_1 = vec![4_u8, 0x10, 1, 0x18, 1];
    assert_eq!(raft().body(from_1).send().await.unwrap().status(), 403);
    let to_9 = vec![4_u8, 0x10, 9, 0x18, 2];
    assert_eq!(raft().body(to_9).send().await.unwrap().status(), 400);
    let as_operator = world.operator.post(arbiter.url("/raft")).header("x-boxoffice-incarnation", 0).body("");
    assert_eq!(as_operator.send().await.unwrap().status(), 403);
    let older = other.post(arbiter.url("/raft")).header("x-boxoffice-incarnation", 7).body("");
    assert_eq!(older.send().await.unwrap().status(), 409, "arbiters of another incarnation have no say");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_are_errors_without_effect() {
    let world = World::start(1, "").await;
    world.concert("demo", 100).await;
    let mut east = Region::new(&world, "east");
    east.register(&world).await;
    let before = world.get("/v1/quota/demo").await["tiers"].clone();
    let arbiter = &world.arbiters[&1];
    let row = |counters: serde_json::Value| json!([{"pool": "demo/A", "counters": counters, "demand": {"queued": 0, "head_quantities": [], "rate_per_min": 0}}]);
    let counters = |granted: u64, returned: u64, held_in: u64, sold: u64| json!({"granted": granted, "returned": returned, "held_in": held_in, "released": 0, "sold": sold, "refunded": 0});
    let huge = (1_u64 << 53) - 1;
    for rows in [
        row(counters(5, 0, 3, 4)),
        row(counters(huge, huge, huge, 0)),
        row(json!({"granted": -1})),
        json!("rows"),
        json!([{"pool": "demo"}]),
    ] {
        let (status, body) = east.post(&world, "sync", &east.sync_body(rows.clone())).await;
        assert_eq!(status, 400, "{rows}: {body}");
    }
    // More than was ever granted: no database of this region can say so.
    let (status, body) = east.post(&world, "sync", &east.sync_body(row(counters(50, 50, 0, 0)))).await;
    assert_eq!(status, 409, "{body}");
    let mut generator = Bytes(7);
    let other = world.authority.client(Some(&world.authority.issue(&["boxoffice://arbiter/2"], &[])));
    for _ in 0..100 {
        let bytes = generator.some();
        let raft = other.post(arbiter.url("/raft")).header("x-boxoffice-incarnation", 0).body(bytes.clone());
        let status = raft.send().await.unwrap().status().as_u16();
        assert!([204, 400, 403].contains(&status), "{status} for {bytes:?}");
        for path in ["/v1/regions/east/sync", "/v1/regions/east/register"] {
            let status = east.client.post(arbiter.url(path)).body(bytes.clone()).send().await.unwrap().status();
            assert_eq!(status, 400, "{path}: {bytes:?}");
        }
        let put = world.operator.put(arbiter.url("/v1/concerts/demo")).body(bytes.clone());
        assert_eq!(put.send().await.unwrap().status(), 400);
        let order = world.operator.post(arbiter.url("/v1/quota/demo/A/move")).body(bytes);
        assert_eq!(order.send().await.unwrap().status(), 400);
    }
    for (method, path, status) in [
        ("GET", "/v1/quota/demo/A/move", 405),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/concerts/NO%20NAME", 400),
        ("GET", "/v1/quota/%ff", 404),
        ("GET", "/v1/cluster?stale=perhaps", 400),
        ("DELETE", "/v1/cluster/members/x", 404),
    ] {
        let request = world.operator.request(method.parse().unwrap(), arbiter.url(path));
        assert_eq!(request.send().await.unwrap().status(), status, "{method} {path}");
    }
    assert_eq!(world.get("/v1/quota/demo").await["tiers"][0]["total"], before[0]["total"]);
    assert!(!arbiter.log().contains("panicked"), "{}", arbiter.log());
}

/// SplitMix64: the same bytes in every run.
struct Bytes(u64);

impl Bytes {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 27)
    }

    fn some(&mut self) -> Vec<u8> {
        (0..1 + self.roll() % 200).map(|_| self.roll() as u8).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_hold_without_a_restart_and_bad_ones_change_nothing() {
    let world = World::start(1, "").await;
    let arbiter = &world.arbiters[&1];
    let url = arbiter.url("/v1/cluster");
    std::fs::write(arbiter.folder.join("cert.pem"), "no certificate").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !arbiter.log().contains("the last good ones stay") {
        assert!(Instant::now() < end, "{}", arbiter.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.operator.get(&url).send().await.unwrap().status(), 200);
    // Whoever is connected goes on under what it began with, but not for long.
    let kept = world.authority.client(Some(&world.authority.issue(&["boxoffice://operator/ann"], &[])));
    assert_eq!(kept.get(&url).send().await.unwrap().status(), 200);
    let authority = Authority::new("the next");
    let certificate = authority.issue(&["boxoffice://arbiter/1"], &[arbiter.address]);
    write_certificates(&arbiter.folder, &authority.pem, &certificate);
    let next = authority.issue(&["boxoffice://operator/bea"], &[]);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        // A new client each time: a kept connection would go on under the old certificate.
        if authority.client(Some(&next)).get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        assert!(Instant::now() < end, "{}", arbiter.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The first answer closes the connection, if its time was not over before; the second finds no way in.
    drop(kept.get(&url).send().await);
    assert!(kept.get(&url).send().await.is_err(), "an old connection lasts");
    let old = world.authority.issue(&["boxoffice://operator/ann"], &[]);
    assert!(
        world.authority.client(Some(&old)).get(&url).send().await.is_err(),
        "the old authority is believed no more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_while_it_is_connected_does_nothing_any_more() {
    let world = World::start(1, "").await;
    world.concert("demo", 100).await;
    let arbiter = &world.arbiters[&1];
    let url = arbiter.url("/v1/concerts/demo/close");
    let ends = time::OffsetDateTime::now_utc() + Duration::from_secs(4);
    let short = world.authority.issue_to(&["boxoffice://operator/ann"], &[], ends);
    let client = world.authority.client(Some(&short));
    assert_eq!(client.get(arbiter.url("/v1/cluster")).send().await.unwrap().status(), 200);
    // Kept alive meanwhile, as a region's heartbeats would.
    while time::OffsetDateTime::now_utc() < ends + Duration::from_secs(1) {
        drop(client.get(arbiter.url("/v1/cluster")).send().await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let late = client.post(&url).send().await;
    assert!(late.is_err() || late.is_ok_and(|answer| answer.status() == 401), "it still acts");
    assert!(client.post(&url).send().await.is_err(), "it still comes in");
    assert!(world.get("/v1/concerts").await["concerts"][0]["closed_at"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_hold_up_nobody() {
    let world = World::start(1, "").await;
    let arbiter = &world.arbiters[&1];
    // Connections that never finish their handshake.
    let slow = (0..300).map(|_| std::net::TcpStream::connect(arbiter.machines()).unwrap()).collect::<Vec<_>>();
    let since = Instant::now();
    for _ in 0..20 {
        let operator = world.authority.client(Some(&world.authority.issue(&["boxoffice://operator/ann"], &[])));
        assert_eq!(operator.get(arbiter.url("/v1/cluster")).send().await.unwrap().status(), 200);
    }
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    // They are closed after their time, not kept.
    let mut first = slow.into_iter().next().unwrap();
    first.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert!(matches!(first.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
}
