//! Who may do what: nobody anything with what is another's, nobody anything with a token that is not ours.

use region_api::RegionName;
use serde_json::{Value, json};

use super::buyers::Buyer;
use super::endpoints::{ADMIN, PUBLIC, Takes, Who};
use super::ground::*;
use super::wire::{self, must_refuse};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_somebody_else_s_is_neither_shown_nor_changed() {
    let mut stage = region(10).await;
    let (owner, stranger) = (Buyer::new(&stage).await, Buyer::new(&stage).await);
    let sold = owner.buy(&stage, 1).await;
    let ticket = sold["tickets"][0].as_str().unwrap().to_owned();
    let sold = sold["reservation"].as_str().unwrap().to_owned();
    let held = owner.hold(1).await;
    let payment = owner.payment(&held).await;
    let before = settled(&stage).await;
    for endpoint in PUBLIC.iter().filter(|endpoint| endpoint.path.contains('{')) {
        let ids = if endpoint.path.contains("{id}") { vec![&sold, &held] } else { vec![&ticket] };
        for id in ids {
            let path = endpoint.about(id);
            let what = format!("{} {}", endpoint.method, endpoint.path);
            let answer = stranger.call(endpoint.method, &path, &Value::Null).await;
            must_refuse(&answer, 403, "forbidden", &what);
            let text = answer.text();
            let secret = payment["client_secret"].as_str().unwrap();
            assert!(!text.contains(secret) && !text.contains("held") && !text.contains("sold"), "{what}: {text}");
            must_refuse(
                &wire::ask(stage.public(), endpoint.method, &path, &[], b"").await,
                401,
                "unauthenticated",
                &what,
            );
        }
    }
    assert_eq!(settled(&stage).await, before);
    assert_eq!(owner.poll(&held).await.json()["status"], "held");
    assert_eq!(owner.call("GET", &format!("/v1/tickets/{ticket}"), &Value::Null).await.json()["status"], "valid");
    is_well(&mut stage).await;
}

/// Tokens that must open nothing, and why.
fn bad_sessions(stage: &ops::stage::Stage, good: &str) -> Vec<(String, String)> {
    let (ring, region) = (stage.ring().unwrap(), stage.region());
    let minute = 60_000;
    let mut bad = vec![
        ("of another key", session_signed(&other_keys(), &region, [7; 16], now_ms())),
        ("expired", session_signed(&ring, &region, [7; 16], now_ms() - 31 * minute)),
        ("expired long ago", session_signed(&ring, &region, [7; 16], now_ms() - 30 * 60 * minute)),
        ("empty", String::new()),
        ("cut", good[..good.len() - 2].to_owned()),
        ("longer", format!("{good}AA")),
        ("nothing like it", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.".to_owned()),
        ("the door's", ops::cluster::read_secret(&stage.secrets().door_token).unwrap()),
        ("the operator's", stage.admin().unwrap().token),
    ]
    .into_iter()
    .map(|(what, token)| (what.to_owned(), token))
    .collect::<Vec<_>>();
    for at in (0..good.len()).step_by(5) {
        let mut forged = good.as_bytes().to_vec();
        forged[at] = if forged[at] == b'Q' { b'R' } else { b'Q' };
        bad.push((format!("changed at {at}"), String::from_utf8(forged).unwrap()));
    }
    bad
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_expired_and_foreign_tokens_open_nothing() {
    let mut stage = region(10).await;
    let owner = Buyer::new(&stage).await;
    let held = owner.hold(1).await;
    let before = settled(&stage).await;
    for endpoint in PUBLIC.iter().filter(|endpoint| endpoint.who == Who::Session) {
        for (what, token) in bad_sessions(&stage, &owner.token) {
            let answer = call(stage.public(), &token, endpoint.method, &endpoint.about(&held), &Value::Null).await;
            must_refuse(&answer, 401, "unauthenticated", &format!("{} {}: {what}", endpoint.method, endpoint.path));
        }
        let basic =
            wire::ask(stage.public(), endpoint.method, &endpoint.about(&held), &[("authorization", "Basic YTpi")], b"")
                .await;
        must_refuse(&basic, 401, "unauthenticated", endpoint.path);
    }
    // An expired one may be renewed for a day; a forged one never, and nobody becomes somebody else by it.
    let (ring, region) = (stage.ring().unwrap(), stage.region());
    for (what, token) in bad_sessions(&stage, &owner.token) {
        let answer = call(stage.public(), &token, "POST", "/v1/session", &json!({})).await;
        if what == "expired" {
            assert_eq!(answer.status, 201, "{}", answer.text());
        } else if what == "empty" {
            assert!(matches!(answer.status, 201 | 401), "{}", answer.text());
        } else {
            must_refuse(&answer, 401, "unauthenticated", &format!("renewing: {what}"));
        }
    }
    // Another region's session is good here, but its places are there, and there is nobody: unavailable, not ours.
    let west = session_signed(&ring, &RegionName::new("west").unwrap(), [9; 16], now_ms());
    let join = json!({ "request_id": uuid::Uuid::new_v4(), "quantity": 1, "tiers": ["A"] });
    let answer = call(stage.public(), &west, "POST", "/v1/concerts/demo/reservations", &join).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let theirs = session_signed(&ring, &region, [9; 16], now_ms());
    let answer = call(stage.public(), &theirs, "GET", &format!("/v1/reservations/{held}"), &Value::Null).await;
    must_refuse(&answer, 403, "forbidden", "a session of ours, of somebody else");
    assert_eq!(settled(&stage).await, before);
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_port_and_the_door_are_closed_without_their_credentials() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    let sold = buyer.buy(&stage, 1).await;
    let ticket = sold["tickets"][0].as_str().unwrap();
    let shown = buyer.call("GET", &format!("/v1/tickets/{ticket}"), &Value::Null).await.json();
    let check = json!({ "code": shown["code"] });
    let door = ops::cluster::read_secret(&stage.secrets().door_token).unwrap();
    let operator = stage.admin().unwrap().token;
    let before = settled(&stage).await;
    let (cut, longer) = (&operator[1..], format!("{operator}x"));
    for token in ["", "x", buyer.token.as_str(), door.as_str(), cut, longer.as_str()] {
        for endpoint in ADMIN {
            let answer = call(stage.nodes[0].admin, token, endpoint.method, endpoint.path, &Value::Null).await;
            must_refuse(&answer, 401, "unauthenticated", &format!("{} {} {token:.8}", endpoint.method, endpoint.path));
        }
    }
    for endpoint in ADMIN.iter().filter(|endpoint| endpoint.takes == Takes::Nothing) {
        let answer = wire::ask(stage.nodes[0].admin, endpoint.method, endpoint.path, &[], b"").await;
        must_refuse(&answer, 401, "unauthenticated", endpoint.path);
    }
    for token in ["", "x", buyer.token.as_str(), &door[1..]] {
        let answer = call(stage.public(), token, "POST", "/v1/tickets/check", &check).await;
        must_refuse(&answer, 401, "unauthenticated", "the door");
    }
    assert_eq!(settled(&stage).await, before);
    let checked = call(stage.public(), &door, "POST", "/v1/tickets/check", &check).await.json();
    assert!(checked["valid"] == true && checked["first_use"] == true, "{checked}");
    let checked = call(stage.public(), &door, "POST", "/v1/tickets/check", &check).await.json();
    assert!(checked["valid"] == true && checked["first_use"] == false, "{checked}");
    let status = call(stage.nodes[0].admin, &operator, "GET", "/v1/status", &Value::Null).await;
    assert_eq!(status.status, 200, "{}", status.text());
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_only_look_sees_the_state_and_changes_nothing() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    buyer.hold(1).await;
    let read = |file| ops::cluster::read_secret(file).unwrap();
    let (reader, of_the_edges) = (read(&stage.secrets().reader_token), read(&stage.secrets().edge_token));
    let before = settled(&stage).await;
    let node = stage.nodes[0].admin;
    let open = ["/metrics", "/healthz", "/readyz", "/v1/status"];
    for endpoint in ADMIN {
        let what = format!("{} {}", endpoint.method, endpoint.path);
        let answer = call(node, &reader, endpoint.method, endpoint.path, &Value::Null).await;
        if endpoint.method == "GET" && open.contains(&endpoint.path) {
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        } else {
            must_refuse(&answer, 403, "forbidden", &what);
        }
        // What an edge asks of its own operators opens nothing here.
        let answer = call(node, &of_the_edges, endpoint.method, endpoint.path, &Value::Null).await;
        must_refuse(&answer, 401, "unauthenticated", &what);
    }
    for path in ["/v1/status/", "/v1/statuses", "/v1/status/../ledger?concert=demo", "/v1/nowhere"] {
        must_refuse(&call(node, &reader, "GET", path, &Value::Null).await, 403, "forbidden", path);
    }
    for (method, path) in [("POST", "/v1/status"), ("DELETE", "/v1/status"), ("PUT", "/metrics")] {
        must_refuse(&call(node, &reader, method, path, &Value::Null).await, 403, "forbidden", path);
    }
    let check = json!({ "code": "x" });
    must_refuse(
        &call(stage.public(), &reader, "POST", "/v1/tickets/check", &check).await,
        401,
        "unauthenticated",
        "the door",
    );
    must_refuse(
        &call(node, &reader[1..], "GET", "/v1/status", &Value::Null).await,
        401,
        "unauthenticated",
        "a cut token",
    );
    let status = call(node, &reader, "GET", "/v1/status", &Value::Null).await.json();
    assert_eq!((status["draining"].as_bool(), status["ready"].as_bool()), (Some(false), Some(true)), "{status}");
    assert_eq!(settled(&stage).await, before);
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_the_provider_did_not_sign_does_nothing() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    let held = buyer.hold(2).await;
    let payment = buyer.payment(&held).await;
    let secret = ops::cluster::read_secret(&stage.secrets().webhook_secret).unwrap();
    let before = settled(&stage).await;
    let object = json!({
        "id": payment["intent"], "object": "payment_intent", "amount": 10_000, "amount_received": 10_000,
        "currency": "eur", "status": "succeeded", "metadata": {},
    });
    let event = json!({ "id": "evt_forged", "type": "payment_intent.succeeded", "data": { "object": object } });
    let body = event.to_string();
    let now_s = i64::try_from(now_ms() / 1000).unwrap();
    let signed = |secret: &str, at: i64, body: &str| ops::sandbox::signature(&[secret.to_owned()], at, body);
    let good = signed(&secret, now_s, &body);
    let headers = [
        ("none", String::new()),
        ("rubbish", "v1=00,t=".to_owned()),
        ("of another secret", signed("whsec_guessed", now_s, &body)),
        ("of another body", signed(&secret, now_s, &body.replace("10000", "9"))),
        ("old", signed(&secret, now_s - 3_600, &body)),
        ("from the future", signed(&secret, now_s + 3_600, &body)),
        ("another time", good.replace(&format!("t={now_s}"), &format!("t={}", now_s + 1))),
        ("in capitals", good.replace("v1=", "V1=")),
        ("of another scheme", good.replace("v1=", "v0=")),
        ("long", format!("{good}{}", ",v1=00".repeat(400))),
    ];
    for (what, header) in &headers {
        let signed = [("stripe-signature", header.as_str())];
        let answer = wire::ask(stage.public(), "POST", "/v1/webhooks/stripe", &signed, body.as_bytes()).await;
        must_refuse(&answer, 400, "invalid_request", what);
    }
    assert_eq!(settled(&stage).await, before);
    assert_eq!(buyer.poll(&held).await.json()["status"], "held");
    is_well(&mut stage).await;
}
