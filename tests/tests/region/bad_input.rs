//! Whatever is sent to whichever endpoint: the contract's error, nothing stored, a node that goes on.

use serde_json::{Value, json};
use std::net::SocketAddr;
use uuid::Uuid;

use super::buyers::Buyer;
use super::endpoints::{ADMIN, Endpoint, PUBLIC, Takes, Who};
use super::ground::*;
use super::wire::{self, must_refuse};

const BODY_MAX: usize = 16 * 1024;
const WEBHOOK_MAX: usize = 256 * 1024;
const DEFINITION_MAX: usize = 128 * 1024;

/// The operators' routes, which are on the operators' port alone.
const OPERATORS: [&str; 7] = [
    "/metrics",
    "/v1/status",
    "/v1/ledger?concert=demo",
    "/v1/drain",
    "/v1/resume",
    "/v1/concerts/demo/close",
    "/v1/concerts/demo/accept-books",
];

/// Bodies that are no JSON object of anything.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("not JSON", b"{".to_vec()),
        ("cut off", br#"{"request_id":"#.to_vec()),
        ("an array", b"[]".to_vec()),
        ("an array in the object's place", br#"["0199d6f0-0000-7000-8000-000000000000",1,["A"],false]"#.to_vec()),
        ("null", b"null".to_vec()),
        ("a number", b"17".to_vec()),
        ("a text", b"\"x\"".to_vec()),
        ("two objects", b"{}{}".to_vec()),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec()),
        ("bad UTF-8 in a key", b"{\"\xff\":1}".to_vec()),
        ("bad UTF-8 in a value", b"{\"code\":\"\xc3\x28\"}".to_vec()),
        ("a lone surrogate", br#"{"code":"\ud800"}"#.to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("NUL", b"\0".to_vec()),
        ("ten thousand brackets", vec![b'['; 10_000]),
        ("deep objects", br#"{"a":"#.repeat(2_000)),
        ("an unknown field", br#"{"surprise":1}"#.to_vec()),
        ("a form", b"quantity=2&tiers=A".to_vec()),
        ("comments", b"{/* */}".to_vec()),
        ("single quotes", b"{'a':1}".to_vec()),
    ]
}

struct Target<'a> {
    address: SocketAddr,
    authorization: String,
    id: &'a str,
}

impl Target<'_> {
    async fn send(&self, endpoint: &Endpoint, body: &[u8]) -> wire::Answer {
        let headers = [("authorization", self.authorization.as_str()), ("stripe-signature", "t=1,v1=00")];
        wire::ask(self.address, endpoint.method, &endpoint.about(self.id), &headers, body).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_takes_a_malformed_or_oversized_body() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    let place = buyer.hold(1).await;
    let door = ops::cluster::read_secret(&stage.secrets().door_token).unwrap();
    let operator = stage.admin().unwrap().token;
    let before = settled(&stage).await;

    for endpoint in PUBLIC.iter().chain(ADMIN) {
        let (address, token) = match endpoint.who {
            Who::Anybody | Who::Session => (stage.public(), &buyer.token),
            Who::Door => (stage.public(), &door),
            Who::Operator => (stage.nodes[0].admin, &operator),
        };
        let target = Target { address, authorization: bearer(token), id: &place };
        let what = |which: &str| format!("{} {} with {which}", endpoint.method, endpoint.path);
        let most = match endpoint.takes {
            Takes::Nothing => continue,
            Takes::Json => BODY_MAX,
            Takes::Definition => DEFINITION_MAX,
            Takes::Webhook => WEBHOOK_MAX,
        };
        for (which, body) in malformed() {
            must_refuse(&target.send(endpoint, &body).await, 400, "invalid_request", &what(which));
        }
        // A guest who says nothing gets a session; anybody else has to say what they want.
        if endpoint.path != "/v1/session" {
            must_refuse(&target.send(endpoint, b"").await, 400, "invalid_request", &what("nothing"));
        }
        let long = vec![b' '; most + 1];
        must_refuse(&target.send(endpoint, &long).await, 413, "too_large", &what("one byte too many"));
        let longest = vec![b' '; most];
        must_refuse(&target.send(endpoint, &longest).await, 400, "invalid_request", &what("as many as may be"));
    }
    // What is said to be long is refused before it is sent; what is sent in pieces, when it is too long.
    for endpoint in PUBLIC.iter().filter(|endpoint| endpoint.takes == Takes::Json && endpoint.who == Who::Session) {
        let path = endpoint.about(&place);
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n", bearer(&buyer.token));
        let promised = format!("{head}content-length: 99999999999\r\n\r\n");
        let answers = wire::send(stage.public(), promised.as_bytes()).await;
        must_refuse(&answers[0], 413, "too_large", "a promise of 100 GB");
        let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(5));
        let answers = wire::send(stage.public(), chunked.as_bytes()).await;
        must_refuse(&answers[0], 413, "too_large", "chunks beyond the bound");
    }
    assert_eq!(settled(&stage).await, before);
    is_well(&mut stage).await;
}

/// A join's body that would be taken, changed.
fn join(change: Value) -> Vec<u8> {
    let mut body = json!({ "request_id": Uuid::new_v4(), "quantity": 1, "tiers": ["A"] });
    if let (Some(body), Value::Object(change)) = (body.as_object_mut(), change) {
        for (key, value) in change {
            if value == json!("(left out)") {
                body.remove(&key);
            } else {
                body.insert(key, value);
            }
        }
    }
    body.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_with_a_wrong_field_is_refused_and_the_field_named() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    let before = settled(&stage).await;
    let long = "A".repeat(17);
    let cases = [
        ("request_id", json!({ "request_id": "(left out)" })),
        ("request_id", json!({ "request_id": null })),
        ("request_id", json!({ "request_id": "17" })),
        ("request_id", json!({ "request_id": 17 })),
        ("request_id", json!({ "request_id": "0199d6f0-0000-7000-8000-00000000000g" })),
        ("quantity", json!({ "quantity": "(left out)" })),
        ("quantity", json!({ "quantity": 0 })),
        ("quantity", json!({ "quantity": -1 })),
        ("quantity", json!({ "quantity": 101 })),
        ("quantity", json!({ "quantity": 65_537 })),
        ("quantity", json!({ "quantity": u64::MAX })),
        ("quantity", json!({ "quantity": 1e300 })),
        ("quantity", json!({ "quantity": 1.5 })),
        ("quantity", json!({ "quantity": "2" })),
        ("quantity", json!({ "quantity": true })),
        ("quantity", json!({ "quantity": [1] })),
        ("quantity", json!({ "quantity": null })),
        ("tiers", json!({ "tiers": "(left out)" })),
        ("tiers", json!({ "tiers": [] })),
        ("tiers", json!({ "tiers": "A" })),
        ("tiers", json!({ "tiers": { "0": "A" } })),
        ("tiers[0]", json!({ "tiers": [1] })),
        ("tiers[0]", json!({ "tiers": ["Z"] })),
        ("tiers[0]", json!({ "tiers": [""] })),
        ("tiers[0]", json!({ "tiers": ["A'; DROP TABLE reservation; --"] })),
        ("tiers[0]", json!({ "tiers": [long] })),
        ("tiers[1]", json!({ "tiers": ["A", "A"] })),
        ("tiers", json!({ "tiers": ["A", "B", "C", "D", "E", "F", "G", "H", "I"] })),
        ("any_quantity", json!({ "any_quantity": "yes" })),
        ("any_quantity", json!({ "any_quantity": 1 })),
        ("identity", json!({ "identity": "" })),
        ("identity", json!({ "identity": "a b" })),
        ("identity", json!({ "identity": "\u{0}" })),
        ("identity", json!({ "identity": "ä" })),
        ("identity", json!({ "identity": "x".repeat(129) })),
        ("identity", json!({ "identity": 7 })),
        ("price", json!({ "price": 1 })),
        ("user_id", json!({ "user_id": "somebody" })),
    ];
    let authorization = bearer(&buyer.token);
    let path = "/v1/concerts/demo/reservations";
    for (field, change) in cases {
        let body = join(change.clone());
        let answer = wire::ask(stage.public(), "POST", path, &[("authorization", &authorization)], &body).await;
        must_refuse(&answer, 400, "invalid_request", &change.to_string());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(field), "{change}: {detail:?} does not name {field}");
    }
    let twice = br#"{"request_id":"0199d6f0-0000-7000-8000-000000000000","quantity":1,"quantity":2,"tiers":["A"]}"#;
    let answer = wire::ask(stage.public(), "POST", path, &[("authorization", &authorization)], twice).await;
    must_refuse(&answer, 400, "invalid_request", "a field twice");
    for concert in ["nowhere", "DEMO", "demo%20", "%ff", "demo%00"] {
        let path = format!("/v1/concerts/{concert}/reservations");
        let answer =
            wire::ask(stage.public(), "POST", &path, &[("authorization", &authorization)], &join(json!({}))).await;
        must_refuse(&answer, 404, "not_found", concert);
    }
    assert_eq!(settled(&stage).await, before);
    // The same name in another spelling, and everything that may be left out left out: taken.
    let path = "/v1/concerts/de%6do/reservations";
    let answer = wire::ask(stage.public(), "POST", path, &[("authorization", &authorization)], &join(json!({}))).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_ne!(settled(&stage).await, before, "what is stored would be seen");
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_paths_that_name_nothing_are_not_found() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    let place = buyer.hold(1).await;
    let before = settled(&stage).await;
    let authorization = bearer(&buyer.token);
    let (cut, longer) = (&place[..place.len() - 1], format!("{place}A"));
    let mut flipped = place.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    let huge = "A".repeat(6_000);
    let ids = [
        "x",
        "-",
        "0",
        "%00",
        "%ff%fe",
        "..",
        "%2e%2e",
        "..%2f..",
        "%2F",
        "a%20b",
        "null",
        "undefined",
        "1%27--",
        cut,
        &longer,
        &flipped,
        &huge,
        "00000000-0000-0000-0000-000000000000",
        "%F0%9F%8E%9F",
        "{id}",
    ];
    for endpoint in PUBLIC.iter().filter(|endpoint| endpoint.path.contains('{')) {
        for id in ids {
            let path = endpoint.about(id);
            let headers = [("authorization", authorization.as_str())];
            let answer = wire::ask(stage.public(), endpoint.method, &path, &headers, b"").await;
            must_refuse(&answer, 404, "not_found", &format!("{} {path:.80}", endpoint.method));
        }
    }
    let paths = [
        "//v1/concerts",
        "/v1//concerts",
        "/v1/concerts/",
        "/v1/concerts/demo/",
        "/v1/../v1/concerts",
        "/V1/concerts",
        "/v1/concerts/demo/..",
        "/v1/concerts/%2e%2e/status",
        "/v1/concerts/demo%00",
        "/v1/concerts/demo%2freservations",
        "/v1/concerts/demo;x=1",
        "/v1",
        "/.env",
        "/v1/reservations",
        "/v1/reservations/",
        "/v1/tickets",
        "/v1/tickets/",
        "/openapi.json/",
        "/%",
    ];
    let operator = bearer(&stage.admin().unwrap().token);
    for path in paths.into_iter().chain(OPERATORS) {
        for method in ["GET", "POST"] {
            let answer = wire::ask(stage.public(), method, path, &[("authorization", &operator)], b"").await;
            let what = format!("{method} {path}");
            // What looks like the name of a concert may be asked for, and is not there; it cannot be posted to.
            if method == "POST" && answer.status == 405 && !OPERATORS.contains(&path) {
                must_refuse(&answer, 405, "method_not_allowed", &what);
            } else {
                must_refuse(&answer, 404, "not_found", &what);
            }
        }
    }
    for endpoint in PUBLIC.iter().chain(ADMIN) {
        let (address, token) = match endpoint.who {
            Who::Operator => (stage.nodes[0].admin, &operator),
            _ => (stage.public(), &authorization),
        };
        for method in ["PATCH", "TRACE", "PROPFIND"] {
            let answer = wire::ask(address, method, &endpoint.about(&place), &[("authorization", token)], b"").await;
            let what = format!("{method} {}", endpoint.path);
            must_refuse(&answer, 405, "method_not_allowed", &what);
            let allow = answer.header("allow").unwrap_or_else(|| panic!("{what}: no Allow"));
            assert!(allow.split(',').any(|allowed| allowed.trim() == endpoint.method), "{what}: {allow}");
        }
    }
    assert_eq!(settled(&stage).await, before);
    is_well(&mut stage).await;
}
