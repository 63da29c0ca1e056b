//! A running edge: sockets, health from real checks, drains over restarts, reload, limits, the admin port.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::live::{Setup, read_frame, tcp, udp};
use common::{query, subnet, with_opt};
use edge::compare::until;
use hickory_proto::op::Message;
use hickory_proto::serialize::binary::BinDecodable;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const A: u16 = 1;
const TXT: u16 = 16;
const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn from_germany() -> Vec<u8> {
    with_opt(query("sale.test", A), 1232, &[subnet("193.99.144.0/24")])
}

async fn region_for_germany(dns: SocketAddr) -> String {
    let answer = udp(dns, &from_germany()).await.expect("an answer");
    Message::from_bytes(&answer).unwrap().answers[0].data.to_string()
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

async fn get(admin: SocketAddr, path: &str) -> (u16, Value) {
    let answer = client().get(format!("http://{admin}{path}")).send().await.unwrap();
    assert!(answer.headers().contains_key("x-request-id"));
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

async fn post(admin: SocketAddr, path: &str) -> (u16, Value) {
    let answer = client().post(format!("http://{admin}{path}")).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_and_tcp_give_the_same_bytes() {
    let setup = Setup::new("").await;
    let edge = setup.start().await;
    let dns = edge.dns[0];
    let mut stream = TcpStream::connect(dns).await.unwrap();
    for packet in
        [query("nope.sale.test", A), query("other.test", A), query("east.sale.test", A), vec![9; 12], vec![0; 14]]
    {
        assert_eq!(udp(dns, &packet).await, tcp(&mut stream, &packet).await, "{packet:?}");
    }
    let big = tcp(&mut stream, &query("big.sale.test", TXT)).await.unwrap();
    assert!(big.len() > 1300);
    edge.stop().await;
    assert_eq!(udp(dns, &query("nope.sale.test", A)).await, None, "nobody is left serving");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_fails_leaves_the_answers_and_comes_back() {
    let setup = Setup::new("").await;
    let edge = setup.start().await;
    let dns = edge.dns[0];
    until("first checks", SECONDS(5), || async { setup.regions.iter().all(|r| r.asked.load(Ordering::Relaxed) > 2) })
        .await;
    assert_eq!(region_for_germany(dns).await, "192.0.2.1");
    setup.regions[0].ready.store(false, Ordering::Relaxed);
    let checks = setup.regions[0].asked.load(Ordering::Relaxed);
    until("out of the answers", SECONDS(5), || async { region_for_germany(dns).await == "192.0.2.2" }).await;
    let took = setup.regions[0].asked.load(Ordering::Relaxed) - checks;
    assert!((9..=20).contains(&took), "ten bad checks, and no sooner: {took}");
    let (_, shown) = get(edge.admin, "/v1/regions").await;
    let east = &shown["regions"][0];
    assert_eq!((east["region"].as_str(), east["state"].as_str()), (Some("east"), Some("down")));
    assert!(east["last_error"].as_str().unwrap().contains("503"));
    setup.regions[0].ready.store(true, Ordering::Relaxed);
    let checks = setup.regions[0].asked.load(Ordering::Relaxed);
    until("back", SECONDS(5), || async { region_for_germany(dns).await == "192.0.2.1" }).await;
    let took = setup.regions[0].asked.load(Ordering::Relaxed) - checks;
    assert!((19..=35).contains(&took), "twenty good checks, and no sooner: {took}");
    setup.regions.iter().for_each(|r| r.ready.store(false, Ordering::Relaxed));
    let all_down = || async {
        get(edge.admin, "/v1/regions").await.1["regions"].as_array().unwrap().iter().all(|r| r["state"] == "down")
    };
    until("all down", SECONDS(5), all_down).await;
    assert_eq!(region_for_germany(dns).await, "192.0.2.1", "better a sick one than none");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_outlives_the_edge() {
    let setup = Setup::new("").await;
    let edge = setup.start().await;
    let (status, view) = post(edge.admin, "/v1/regions/east/drain").await;
    assert_eq!((status, view["state"].as_str()), (200, Some("drained")));
    assert_eq!(region_for_germany(edge.dns[0]).await, "192.0.2.2", "in force when the answer came");
    let (status, problem) = post(edge.admin, "/v1/regions/nowhere/drain").await;
    assert_eq!(
        (status, problem["code"].as_str(), problem["side_effects"].as_str()),
        (404, Some("not_found"), Some("none"))
    );
    edge.stop().await;
    let edge = setup.start().await;
    assert_eq!(region_for_germany(edge.dns[0]).await, "192.0.2.2", "from the first query on");
    assert_eq!(post(edge.admin, "/v1/regions/east/resume").await.0, 200);
    assert_eq!(region_for_germany(edge.dns[0]).await, "192.0.2.1");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_and_a_good_one_everything() {
    let setup = Setup::new("").await;
    let edge = setup.start().await;
    for (tail, says) in [
        ("[answers]\nttl_min_s = 60", "ttl_min_s"),
        ("[[choice.override]]\nnetwork = '10.0.0.0/8'\nregions = ['nowhere']", "no region \"nowhere\""),
        ("[answers]\nunknown = 1", "unknown"),
        ("not toml", "expected"),
    ] {
        setup.write(tail);
        let (status, problem) = post(edge.admin, "/v1/reload").await;
        assert_eq!((status, problem["code"].as_str()), (409, Some("conflict")));
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
        assert_eq!(region_for_germany(edge.dns[0]).await, "192.0.2.1");
        let (_, shown) = get(edge.admin, "/v1/status").await;
        assert!(shown["last_reload_error"].as_str().unwrap().contains(says));
    }
    setup.write("[[choice.override]]\nnetwork = '193.99.0.0/16'\nregions = ['south']");
    let (status, done) = post(edge.admin, "/v1/reload").await;
    assert_eq!((status, done["needs_restart"].as_array().map(Vec::len)), (200, Some(0)), "{done}");
    assert_eq!(region_for_germany(edge.dns[0]).await, "192.0.2.3");
    assert_eq!(get(edge.admin, "/v1/status").await.1["last_reload_error"], Value::Null);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_geo_database_is_refused_and_the_old_one_goes_on() {
    let setup = Setup::new("").await;
    let database = setup.folder.path().join("geo.mmdb");
    common::mmdb::write(
        &database,
        &[("193.99.0.0/16", common::mmdb::Value::Map(vec![("country_code", common::mmdb::Value::Text("JP"))]))],
    );
    let text = std::fs::read_to_string(&setup.path).unwrap();
    let (head, _) = text.split_once("[geo]").unwrap();
    std::fs::write(&setup.path, format!("{head}[geo]\ndatabases = ['geo.mmdb']\n")).unwrap();
    let edge = setup.start().await;
    assert_eq!(region_for_germany(edge.dns[0]).await, "192.0.2.3", "this database says Japan");
    std::fs::write(&database, b"broken").unwrap();
    let (status, problem) = post(edge.admin, "/v1/reload").await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("geo.mmdb"), "{problem}");
    assert_eq!(region_for_germany(edge.dns[0]).await, "192.0.2.3");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_region_hands_its_users_over_step_by_step() {
    let setup = Setup::new("[spill]\nstep_ms = 100").await;
    let edge = setup.start().await;
    let push = |region: &'static str, body: &'static str| async move {
        let url = format!("http://{}/v1/regions/{region}/report", edge.admin);
        client().put(url).body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(push("west", r#"{"arrivals_per_s":0,"capacity_per_s":1000}"#).await, 204);
    assert_eq!(push("south", r#"{"arrivals_per_s":700,"capacity_per_s":1000}"#).await, 204);
    assert_eq!(push("east", r#"{"arrivals_per_s":800,"capacity_per_s":1000,"stock":0}"#).await, 204);
    assert_eq!(push("east", r#"{"arrivals_per_s":-1}"#).await, 400);
    assert_eq!(push("nowhere", r#"{"arrivals_per_s":1}"#).await, 404);
    let away = || async {
        let (_, shown) = get(edge.admin, "/v1/regions").await;
        shown["regions"][0]["handover"].as_array().unwrap().iter().map(|h| h[1].as_f64().unwrap()).sum::<f64>()
    };
    until("a first step", SECONDS(5), || async { away().await > 0.0 }).await;
    assert!(away().await <= 0.4, "not all at once");
    // Users follow, and both regions say so.
    let users_follow = || async {
        let away = away().await;
        let report = |region: &str, arrivals: f64, stock: u32| {
            let body = format!(r#"{{"arrivals_per_s":{arrivals},"capacity_per_s":1000,"stock":{stock}}}"#);
            let url = format!("http://{}/v1/regions/{region}/report", edge.admin);
            async move { client().put(url).body(body).send().await.unwrap() }
        };
        report("east", 800.0 * (1.0 - away), 0).await;
        report("west", 800.0 * away, 10).await;
        away > 0.85
    };
    until("most of them", SECONDS(20), users_follow).await;
    let mut west = 0;
    for third in 0..100u8 {
        let network = format!("84.140.{third}.0/24");
        let answer = udp(edge.dns[0], &with_opt(query("sale.test", A), 1232, &[subnet(&network)])).await.unwrap();
        west += u32::from(Message::from_bytes(&answer).unwrap().answers[0].data.to_string() == "192.0.2.2");
    }
    assert!(west > 70, "nine tenths go to the neighbour with room: {west}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_and_joins_are_read_from_a_regions_status() {
    let setup = Setup::new("").await;
    let edge = setup.start().await;
    let status = |tail: u64| {
        format!(
            r#"{{"concerts":[{{"concert":"demo","state":"open","queued":7,"shards":[{{"shard":0,"generation":1,"tail_seq":{tail}}}],"pools":[{{"available":0}}]}}]}}"#
        )
    };
    *setup.regions[0].status.lock() = status(100);
    tokio::time::sleep(Duration::from_millis(100)).await;
    *setup.regions[0].status.lock() = status(600);
    let report = || async { get(edge.admin, "/v1/regions").await.1["regions"][0]["report"].clone() };
    until("a report", SECONDS(5), || async { report().await["arrivals_per_s"].as_f64().unwrap_or(0.0) > 0.0 }).await;
    let report = report().await;
    assert_eq!((report["stock"].as_u64(), report["queue"].as_u64()), (Some(0), Some(7)));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_answers_where_and_writes_haproxys_file() {
    let setup = Setup::new("[haproxy]\nport = 8443").await;
    let edge = setup.start().await;
    let (status, told) = get(edge.admin, "/v1/where?ip=193.99.144.80").await;
    assert_eq!((status, told["country"].as_str(), told["region"].as_str()), (200, Some("DE"), Some("east")));
    assert_eq!(told["steps"].as_array().map(Vec::len), Some(3));
    let (_, told) = get(edge.admin, "/v1/where?ip=2001:2f8::/48").await;
    assert_eq!(told["region"].as_str(), Some("south"));
    for (path, status, code) in [
        ("/v1/where?ip=nonsense", 400, "invalid_request"),
        ("/v1/where", 400, "invalid_request"),
        ("/v1/nothing", 404, "not_found"),
        ("/haproxy.cfg?region=nowhere", 404, "not_found"),
        ("/haproxy.cfg?region=east", 404, "not_found"),
        ("/v1/regions/east/drain", 405, "method_not_allowed"),
    ] {
        let (got, problem) = get(edge.admin, path).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{path}: {problem}");
    }
    assert_eq!(get(edge.admin, "/healthz").await.0, 200);
    let from_a_page =
        client().post(format!("http://{}/v1/regions/east/drain", edge.admin)).header("origin", "http://x");
    assert_eq!(from_a_page.send().await.unwrap().status().as_u16(), 403);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_need_the_token_where_one_is_configured() {
    let setup = Setup::new("").await;
    std::fs::write(setup.folder.path().join("token"), "correct-horse-battery\n").unwrap();
    let text = std::fs::read_to_string(&setup.path).unwrap();
    std::fs::write(&setup.path, format!("admin_token_file = 'token'\n{text}")).unwrap();
    let edge = setup.start().await;
    let drain = |token: &'static str| async move {
        let url = format!("http://{}/v1/regions/east/drain", edge.admin);
        client().post(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!(post(edge.admin, "/v1/regions/east/drain").await.0, 401);
    assert_eq!(drain("wrong-horse-battery!!").await, 401);
    assert_eq!(drain("correct-horse-battery").await, 200);
    assert_eq!(get(edge.admin, "/v1/regions").await.0, 200, "reading is open");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_over_udp_is_held_back_and_a_cookie_lifts_the_limit() {
    let setup = Setup::new("[answers.rate]\nresponses_per_s = 20\nslip = 2").await;
    let edge = setup.start().await;
    let dns = edge.dns[0];
    let (mut full, mut slipped, mut silent) = (0, 0, 0);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns).await.unwrap();
    for _ in 0..100 {
        socket.send(&from_germany()).await.unwrap();
    }
    let mut answer = [0; 1232];
    while let Ok(Ok(len)) = tokio::time::timeout(Duration::from_millis(300), socket.recv(&mut answer)).await {
        if Message::from_bytes(&answer[..len]).unwrap().metadata.truncation { slipped += 1 } else { full += 1 }
    }
    silent += 100 - full - slipped;
    assert!((20..=30).contains(&full) && (30..=45).contains(&slipped) && silent > 20, "{full} {slipped} {silent}");
    // A client with a cookie is told one even now, and is then answered in full.
    let cookie = with_opt(query("sale.test", A), 1232, &[(10, vec![7; 8])]);
    let mut told = None;
    for _ in 0..10 {
        told = told.or(udp(dns, &cookie).await);
    }
    let told = told.unwrap();
    let cookie = with_opt(query("sale.test", A), 1232, &[(10, told[told.len() - 24..].to_vec())]);
    for _ in 0..50 {
        let answer = udp(dns, &cookie).await.expect("not limited");
        assert!(!Message::from_bytes(&answer).unwrap().metadata.truncation);
    }
    edge.stop().await;
}

/// A connection that got a place: those that ended a moment ago may still hold theirs.
async fn place(dns: SocketAddr, ask: &[u8]) -> TcpStream {
    for _ in 0..200 {
        let mut stream = TcpStream::connect(dns).await.unwrap();
        if tcp(&mut stream, ask).await.is_some() {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_limits() {
    let setup =
        Setup::new("[tcp]\nconnections_per_client_max = 3\nidle_ms = 1000\ntransfer_ms = 400\nqueries_max = 50").await;
    let edge = setup.start().await;
    let dns = edge.dns[0];
    let ask = query("east.sale.test", A);
    // Many queries in one packet are answered in order; the fifty-first closes the connection.
    let mut stream = TcpStream::connect(dns).await.unwrap();
    let mut all = Vec::new();
    for id in 0..60u8 {
        let mut packet = ask.clone();
        packet[1] = id;
        all.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
        all.extend(packet);
    }
    stream.write_all(&all).await.unwrap();
    for id in 0..50 {
        assert_eq!(read_frame(&mut stream).await.unwrap()[1], id);
    }
    assert_eq!(read_frame(&mut stream).await, None);
    // Three connections, not four.
    drop(stream);
    let mut streams = vec![place(dns, &ask).await, place(dns, &ask).await, place(dns, &ask).await];
    assert_eq!(tcp(&mut TcpStream::connect(dns).await.unwrap(), &ask).await, None);
    // Idle ones are closed, and so is one that sends a query octet by octet.
    assert_eq!(read_frame(&mut streams[0]).await, None);
    drop(streams);
    let mut slow = place(dns, &ask).await;
    let begun = std::time::Instant::now();
    let framed = [&(ask.len() as u16).to_be_bytes()[..], &ask].concat();
    for octet in framed {
        if slow.write_all(&[octet]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(read_frame(&mut slow).await, None);
    assert!(begun.elapsed() < SECONDS(3));
    // A length that no query has closes the connection.
    let mut stream = TcpStream::connect(dns).await.unwrap();
    stream.write_all(&[0xFF, 0xFF, 0, 0]).await.unwrap();
    assert_eq!(read_frame(&mut stream).await, None);
    edge.stop().await;
}
