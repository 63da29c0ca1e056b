//! The sandbox provider over HTTP: Stripe's shapes, and every fault that it can be told to make.

// A test's helpers fail by panicking, as its tests do.
#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use ops::sandbox::{self, SandboxConfig};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const SECRET: &str = "whsec_test";

#[derive(Default)]
struct Inbox {
    got: Mutex<Vec<(String, Value)>>,
    refuse: AtomicU32,
}

struct World {
    url: String,
    client: reqwest::Client,
    inbox: Arc<Inbox>,
    _stop: DropGuard,
}

async fn receive(State(inbox): State<Arc<Inbox>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = headers["stripe-signature"].to_str().unwrap();
    let t: i64 = header.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    assert_eq!(header, sandbox::signature(&[SECRET.to_owned()], t, text));
    if inbox.refuse.load(Ordering::SeqCst) > 0 {
        inbox.refuse.fetch_sub(1, Ordering::SeqCst);
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let event: Value = serde_json::from_slice(&body).unwrap();
    inbox.got.lock().push((event["type"].as_str().unwrap().to_owned(), event));
    StatusCode::OK
}

async fn world(record: Option<std::path::PathBuf>) -> World {
    let stop = CancellationToken::new();
    let inbox = Arc::new(Inbox::default());
    let hook = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook_url = format!("http://{}/hook", hook.local_addr().unwrap());
    let app = Router::new().route("/hook", post(receive)).with_state(inbox.clone());
    tokio::spawn(axum::serve(hook, app).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut config = SandboxConfig::new(&url, "sk_test", "control", SECRET);
    config.webhook_urls = vec![hook_url];
    config.record = record;
    config.processing = Duration::from_millis(50);
    config.retry_first = Duration::from_millis(20);
    let token = stop.clone();
    tokio::spawn(async move { sandbox::run(listener, config, token).await.unwrap() });
    let _ = rustls::crypto::ring::default_provider().install_default();
    World { url, client: reqwest::Client::new(), inbox, _stop: stop.drop_guard() }
}

impl World {
    async fn call(&self, path: &str, form: &[(&str, &str)], key: Option<&str>) -> (u16, Value) {
        let mut request = self.client.post(format!("{}{path}", self.url)).bearer_auth("sk_test").form(form);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
    async fn open(&self, key: Option<&str>) -> Value {
        let form = [("amount", "500"), ("currency", "eur"), ("metadata[entry]", "7")];
        let (status, intent) = self.call("/v1/payment_intents", &form, key).await;
        assert_eq!(status, 200, "{intent}");
        intent
    }
    async fn pay(&self, intent: &Value, method: &str) -> (u16, Value) {
        let path = format!("/v1/payment_intents/{}/confirm", intent["id"].as_str().unwrap());
        let form = [("client_secret", intent["client_secret"].as_str().unwrap()), ("payment_method", method)];
        let response = self.client.post(format!("{}{path}", self.url)).form(&form).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
    async fn control(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth("control");
        let response = request.json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }
    async fn faults(&self, faults: Value) {
        self.control(reqwest::Method::PUT, "/control/faults", faults).await;
    }
    async fn kinds(&self, count: usize) -> Vec<String> {
        for _ in 0..500 {
            if self.inbox.got.lock().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What comes beyond `count` would be a defect: give it a moment.
        tokio::time::sleep(Duration::from_millis(60)).await;
        self.inbox.got.lock().iter().map(|(kind, _)| kind.clone()).collect()
    }
    async fn rows(&self) -> Vec<Value> {
        let page = self.control(reqwest::Method::GET, "/control/payments", Value::Null).await;
        page["payments"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn a_payment_goes_through_as_at_stripe() {
    let w = world(None).await;
    let intent = w.open(Some("k")).await;
    assert_eq!(intent["status"], "requires_payment_method");
    assert_eq!(w.open(Some("k")).await["id"], intent["id"]);
    let other = w.call("/v1/payment_intents", &[("amount", "1"), ("currency", "eur")], Some("k")).await;
    assert_eq!((other.0, &other.1["error"]["type"]), (400, &json!("idempotency_error")));
    let declined = w.pay(&intent, "pm_card_visa_chargeDeclined").await;
    assert_eq!((declined.0, &declined.1["error"]["code"]), (402, &json!("card_declined")));
    assert_eq!(w.pay(&intent, "pm_card_visa").await.1["status"], "succeeded");
    let cancel = format!("/v1/payment_intents/{}/cancel", intent["id"].as_str().unwrap());
    let refused = w.call(&cancel, &[], None).await;
    assert_eq!((refused.0, &refused.1["error"]["code"]), (400, &json!("payment_intent_unexpected_state")));
    assert_eq!(refused.1["error"]["payment_intent"]["status"], "succeeded");
    let id = intent["id"].as_str().unwrap();
    let first = w.call("/v1/refunds", &[("payment_intent", id)], Some("r")).await;
    assert_eq!((first.0, &first.1["amount"], &first.1["status"]), (200, &json!(500), &json!("succeeded")));
    assert_eq!(w.call("/v1/refunds", &[("payment_intent", id)], Some("r")).await.1["id"], first.1["id"]);
    let twice = w.call("/v1/refunds", &[("payment_intent", id)], None).await;
    assert_eq!((twice.0, &twice.1["error"]["code"]), (400, &json!("charge_already_refunded")));
    let mut kinds = w.kinds(3).await;
    kinds.sort();
    assert_eq!(kinds, ["charge.refunded", "payment_intent.payment_failed", "payment_intent.succeeded"]);
    assert_eq!(w.rows().await[0]["kept"], 0);
}

#[tokio::test]
async fn nobody_without_the_right_secret_is_served() {
    let w = world(None).await;
    let intent = w.open(None).await;
    let id = intent["id"].as_str().unwrap();
    let base = format!("{}/v1/payment_intents", w.url);
    for token in ["", "control", "sk_tesT"] {
        let form = [("amount", "1"), ("currency", "eur")];
        let response = w.client.post(&base).bearer_auth(token).form(&form).send().await.unwrap();
        assert_eq!(response.status(), 401);
        let get = w.client.get(format!("{base}/{id}")).bearer_auth(token).send().await.unwrap();
        assert_eq!(get.status(), 401);
    }
    for path in ["payments", "faults", "webhooks", "refunds"] {
        let get = w.client.get(format!("{}/control/{path}", w.url)).bearer_auth("sk_test").send().await.unwrap();
        assert_eq!(get.status(), 401);
    }
    let mut wrong = intent.clone();
    wrong["client_secret"] = json!("guess");
    assert_eq!(w.pay(&wrong, "pm_card_visa").await.0, 400);
    let page = |secret: &str| w.client.get(format!("{}/checkout/{id}?client_secret={secret}", w.url)).send();
    assert_eq!(page("guess").await.unwrap().status(), 404);
    assert_eq!(page(intent["client_secret"].as_str().unwrap()).await.unwrap().status(), 200);
    assert_eq!(w.rows().await[0]["status"], "requires_payment_method");
}

#[tokio::test]
async fn bad_requests_get_stripes_errors() {
    let w = world(None).await;
    for form in [
        &[("amount", "0"), ("currency", "eur")][..],
        &[("amount", "x"), ("currency", "eur")],
        &[("amount", "5"), ("currency", "euro")],
        &[("amount", "5")],
        &[("amount", "5"), ("currency", "eur"), ("colour", "red")],
    ] {
        let (status, body) = w.call("/v1/payment_intents", form, None).await;
        assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")), "{form:?}");
    }
    assert_eq!(w.call("/v1/payment_intents/pi_none/cancel", &[], None).await.0, 404);
    assert!(w.rows().await.is_empty());
}

#[tokio::test]
async fn webhooks_are_retried_doubled_dropped_and_reordered_as_told() {
    let w = world(None).await;
    w.inbox.refuse.store(2, Ordering::SeqCst);
    w.pay(&w.open(None).await, "pm_card_visa").await;
    assert_eq!(w.kinds(1).await, ["payment_intent.succeeded"]);
    w.inbox.got.lock().clear();
    w.faults(json!({"webhook_copies": 3})).await;
    w.pay(&w.open(None).await, "pm_card_visa").await;
    assert_eq!(w.kinds(3).await.len(), 3);
    let ids: std::collections::HashSet<_> = w.inbox.got.lock().drain(..).map(|(_, e)| e["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "copies are of one event");
    w.faults(json!({"webhook_drop": 1.0})).await;
    w.pay(&w.open(None).await, "pm_card_visa").await;
    assert!(w.kinds(0).await.is_empty());
    w.faults(json!({"webhook_hold": true})).await;
    let intent = w.open(None).await;
    w.pay(&intent, "pm_card_visa_chargeDeclined").await;
    w.pay(&intent, "pm_card_visa").await;
    assert!(w.kinds(0).await.is_empty());
    w.control(reqwest::Method::POST, "/control/webhooks/release?reversed=true", Value::Null).await;
    w.kinds(2).await;
    assert_eq!(w.control(reqwest::Method::GET, "/control/webhooks", Value::Null).await["pending"], 0);
    assert_eq!(w.inbox.got.lock().len(), 2);
}

#[tokio::test]
async fn calls_fail_before_or_after_they_are_done() {
    let w = world(None).await;
    let form = [("amount", "500"), ("currency", "eur")];
    w.faults(json!({"fail_before": 1.0, "operations": ["create"]})).await;
    assert_eq!(w.call("/v1/payment_intents", &form, Some("k")).await.0, 500);
    assert_eq!(w.rows().await.len(), 0);
    w.faults(json!({"fail_after": 1.0})).await;
    assert_eq!(w.call("/v1/payment_intents", &form, Some("k")).await.0, 500);
    assert_eq!(w.rows().await.len(), 1);
    w.faults(json!({})).await;
    assert_eq!(w.call("/v1/payment_intents", &form, Some("k")).await.0, 200);
    assert_eq!(w.rows().await.len(), 1);
}

#[tokio::test]
async fn money_can_come_after_a_cancel_and_from_a_slow_bank() {
    let w = world(None).await;
    for (fault, status) in [("cancel_ok", 200), ("cancel_fails", 500)] {
        w.faults(json!({"paid_after_cancel": fault, "paid_after_cancel_ms": 10})).await;
        let intent = w.open(None).await;
        let path = format!("/v1/payment_intents/{}/cancel", intent["id"].as_str().unwrap());
        assert_eq!(w.call(&path, &[], None).await.0, status);
    }
    w.faults(json!({})).await;
    assert_eq!(w.pay(&w.open(None).await, "pm_card_processing").await.1["status"], "processing");
    let succeeded = |kinds: Vec<String>| kinds.iter().filter(|kind| *kind == "payment_intent.succeeded").count();
    assert_eq!(succeeded(w.kinds(5).await), 3);
    assert!(w.rows().await.iter().all(|row| row["kept"] == 500));
}

#[tokio::test]
async fn the_record_and_untold_events_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let first = world(Some(record.clone())).await;
    first.faults(json!({"webhook_hold": true})).await;
    let intent = first.open(Some("k")).await;
    first.pay(&intent, "pm_card_visa").await;
    let rows = first.rows().await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = world(Some(record)).await;
    assert_eq!(second.kinds(1).await, ["payment_intent.succeeded"]);
    assert_eq!(second.rows().await, rows);
    assert_eq!(second.open(Some("k")).await["id"], intent["id"]);
}
