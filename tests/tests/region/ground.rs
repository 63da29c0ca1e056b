//! A region of the test's own, and what is stored in it.

use ops::stage::{Spec, Stage};
use region_api::keys::KeyRing;
use region_api::{RegionName, Session, UserId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::wire::{self, Answer};

/// Starts a region of one node with a concert `demo`: tiers A (as many tickets as said) and B (100).
pub(crate) async fn region(tickets: u32) -> Stage {
    region_of(Spec::default(), tickets, json!({})).await
}

/// The same with more to say about nodes and concert.
pub(crate) async fn region_of(spec: Spec, tickets: u32, concert: Value) -> Stage {
    let stage = Stage::start(spec).await.unwrap();
    stage.define("demo", definition(tickets, concert)).await.unwrap();
    stage
}

/// Of the concert `demo`; fields of `more` go over ours.
pub(crate) fn definition(tickets: u32, more: Value) -> Value {
    let price = json!({ "amount": 5000, "currency": "EUR" });
    let mut body = json!({
        "tiers": [
            { "tier": "A", "title": "Front", "price": price, "total": tickets },
            { "tier": "B", "title": "Back", "price": price, "total": 100 },
        ],
    });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A guest's session, from the node.
pub(crate) async fn session(address: SocketAddr) -> String {
    let answer = wire::ask(address, "POST", "/v1/session", &[], b"{}").await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["session"].as_str().unwrap().to_owned()
}

/// A session made here: of another key, of another time.
pub(crate) fn session_signed(ring: &KeyRing, region: &RegionName, guest: [u8; 16], begun_ms: u64) -> String {
    Session::begin(UserId::Guest(guest), false, region.clone(), begun_ms).sign(ring)
}

/// Keys that nobody but this test has.
pub(crate) fn other_keys() -> KeyRing {
    KeyRing::new(&std::array::from_fn(|_| rand::random())).unwrap()
}

/// `Authorization`'s value.
pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A call with a session.
pub(crate) async fn call(address: SocketAddr, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    wire::ask(address, method, path, &[("authorization", &bearer(token))], &body).await
}

/// Everything that is stored: rows of each table, and each key of Redis with its content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    rows: BTreeMap<String, i64>,
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Looks at what is stored now.
pub(crate) async fn stored(stage: &Stage) -> Stored {
    let sql = stage.sql_superuser().await.unwrap();
    let tables = sql.query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'", &[]).await.unwrap();
    let mut rows = BTreeMap::new();
    for table in tables {
        let table: String = table.get(0);
        let count = sql.query_one(&format!("SELECT count(*) FROM \"{table}\""), &[]).await.unwrap();
        rows.insert(table, count.get(0));
    }
    assert!(rows.len() > 10, "{rows:?}");
    let mut redis = stage.redis.connect().await.unwrap();
    let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    let mut keys = BTreeMap::new();
    for name in names {
        let content: Option<Vec<u8>> = redis::cmd("DUMP").arg(&name).query_async(&mut redis).await.unwrap();
        keys.insert(name, content.unwrap_or_default());
    }
    Stored { rows, keys }
}

/// Waits until what is stored stands still for a moment: an earlier sale has been written out.
pub(crate) async fn settled(stage: &Stage) -> Stored {
    let mut before = stored(stage).await;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let now = stored(stage).await;
        if now == before {
            return now;
        }
        before = now;
    }
}

/// The node still runs, has panicked nowhere and met no defect.
pub(crate) async fn is_well(stage: &mut Stage) {
    for node in &mut stage.nodes {
        assert!(!node.ended(), "node {} ended", node.number);
        let log = std::fs::read_to_string(node.log()).unwrap();
        for bad in ["panicked", "a handler panicked", "\"ERROR\""] {
            let found = log.lines().find(|line| line.contains(bad));
            assert!(found.is_none(), "node {}: {}", node.number, found.unwrap_or_default());
        }
    }
    stage.ready().await.unwrap();
}
