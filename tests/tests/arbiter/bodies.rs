//! Bodies that are nearly right: every field of every body in turn with what it must not be, every body cut short at every
//! byte, and random damage to several places at once. Each is an error; none has an effect or is a panic.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRng, TestRunner},
};
use serde_json::{Value, json};

use crate::world::{IDENTITY, Region, World};

/// What one may send, and as whom.
struct Sent {
    region: bool,
    method: reqwest::Method,
    path: &'static str,
    body: Value,
}

fn sent(region: bool, method: &str, path: &'static str, body: Value) -> Sent {
    Sent { region, method: method.parse().unwrap(), path, body }
}

/// Every body that is not raft's, as it would be right.
fn right(east: &Region) -> Vec<Sent> {
    let id = || uuid::Uuid::new_v4().to_string();
    let mut sync = east.sync_body(json!([Region::row("demo/A", 0, 0)]));
    sync["concerts_version"] = json!(0);
    let row = json!({"granted": 0, "returned": 0, "held_in": 0, "released": 0, "sold": 0, "refunded": 0});
    // Of an epoch long gone by, so that even the right one has no effect.
    let register = json!({"version": 1, "register": {"region": "east", "identity": IDENTITY, "incarnation": 0,
        "epoch_as_read": 77, "database": {"epoch": 77, "rows": {"demo/A": row}}}});
    // In another currency than before, so that a right title cannot make it right.
    let tier = json!({"tier": "A", "title": "Front", "price": {"amount": 100, "currency": "USD"}, "total": 500});
    let concert = json!({"title": "A night", "venue": "Here", "sale_opens_at": "2030-01-01T00:00:00Z", "hold_ms": 60000,
        "max_per_order": 4, "max_per_person": 4, "tiers": [tier], "weights": {"east": 2}});
    let sales = json!([{"pool": "demo/A", "sold": 0, "refunded": 0}]);
    vec![
        sent(true, "POST", "/v1/regions/east/sync", sync),
        sent(true, "POST", "/v1/regions/east/register", register),
        sent(false, "PUT", "/v1/concerts/demo", concert),
        sent(
            false,
            "POST",
            "/v1/quota/demo/A/move",
            json!({"from": "pool", "to": "east", "tickets": 7, "request_id": id()}),
        ),
        sent(false, "PUT", "/v1/quota/demo/A/total", json!({"from": 100, "to": 130})),
        sent(
            false,
            "POST",
            "/v1/regions/east/write-off",
            json!({"fenced": "destroyed", "sales": sales, "request_id": id()}),
        ),
        sent(
            false,
            "POST",
            "/v1/cluster/members",
            json!({"id": 9, "address": "https://127.0.0.1:1", "people": "https://127.0.0.1:2"}),
        ),
        sent(false, "POST", "/v1/cluster/transfer", json!({"to": 9})),
    ]
}

/// What stands in a field's place.
fn wrong() -> Vec<Value> {
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    vec![
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(1_u64 << 53),
        json!(1e300),
        json!("\u{0}"),
        json!("x".repeat(20_000)),
        json!({"a": 1}),
        json!([[]]),
        json!("west/../east"),
        deep,
    ]
}

/// The places of a body, as JSON pointers; those of arrays and objects too.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let step = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, inner)| {
            found.push(step(name));
            places(inner, &step(name), found);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(number, inner)| {
            found.push(step(&number.to_string()));
            places(inner, &step(&number.to_string()), found);
        }),
        _ => {}
    }
}

/// Everything that tickets depend on.
async fn state(world: &World) -> Value {
    let quota = world.get("/v1/quota/demo").await;
    let regions = world.get("/v1/regions").await["regions"].clone();
    let kept = |row: &Value| json!([row["region"], row["state"], row["epoch"], row["identity"], row["unsold"]]);
    let regions: Vec<Value> = regions.as_array().unwrap().iter().map(kept).collect();
    let concerts = world.get("/v1/concerts").await["concerts"].clone();
    let cluster = world.get("/v1/cluster").await;
    let tiers = quota["tiers"].as_array().unwrap().iter();
    let pools: Vec<Value> = tiers
        .map(|tier| {
            let east = &tier["regions"]["east"];
            json!([tier["total"], tier["pool"], tier["frozen"], tier["forgotten"], east["granted"], east["returned"]])
        })
        .collect();
    let members = cluster["members"].as_array().unwrap().iter();
    let members: Vec<Value> = members.map(|member| json!([member["id"], member["address"], member["role"]])).collect();
    json!({"pools": pools, "regions": regions, "concerts": concerts, "members": members})
}

struct Senders<'a> {
    world: &'a World,
    east: &'a Region,
}

impl Senders<'_> {
    async fn status(&self, sent: &Sent, body: Vec<u8>) -> u16 {
        let client = if sent.region { &self.east.client } else { &self.world.operator };
        let request = client.request(sent.method.clone(), self.world.arbiters[&1].url(sent.path));
        request.body(body).send().await.unwrap().status().as_u16()
    }

    /// An error of the client's; of a sync or a registration it may be no more than a no.
    async fn is_refused(&self, sent: &Sent, body: Vec<u8>, what: &str) {
        let status = self.status(sent, body).await;
        let harmless = sent.region && status == 200;
        assert!((400..500).contains(&status) || harmless, "{} {}: {status} for {what}", sent.method, sent.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_nearly_right_is_an_error_without_effect() {
    let world = World::start(1, "").await;
    world.concert("demo", 100).await;
    let mut east = Region::new(&world, "east");
    east.register(&world).await;
    // The policy's own grants would be an effect.
    assert_eq!(world.ask(reqwest::Method::POST, "/v1/quota/demo/freeze", None).await.0, 200);
    let senders = Senders { world: &world, east: &east };
    let before = state(&world).await;
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(Default::default()));
    for sent in right(&east) {
        let mut all = Vec::new();
        places(&sent.body, "", &mut all);
        assert!(!all.is_empty());
        for place in &all {
            for value in wrong() {
                let mut body = sent.body.clone();
                *body.pointer_mut(place).unwrap() = value.clone();
                let text = value.to_string().chars().take(40).collect::<String>();
                senders.is_refused(&sent, body.to_string().into_bytes(), &format!("{place} = {text}")).await;
            }
        }
        let mut body = sent.body.clone();
        body["of_a_later_version"] = json!(1);
        let status = senders.status(&sent, body.to_string().into_bytes()).await;
        assert_eq!(status, 400, "{}: an unknown field", sent.path);
        let text = sent.body.to_string().into_bytes();
        for cut in 0..text.len() {
            let status = senders.status(&sent, text[..cut].to_vec()).await;
            // Nobody in particular is to take over: that may be asked without a body.
            assert!(status == 400 || (cut == 0 && sent.path.ends_with("transfer")), "{}: {status} at {cut}", sent.path);
        }
        let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
        for _ in 0..150 {
            let mut body = text.clone();
            let places = damage.new_tree(&mut runner).unwrap().current();
            let touched: BTreeSet<usize> = places.iter().map(|(place, _)| place.index(text.len())).collect();
            for (place, byte) in &places {
                // Other digits, or fewer of them, may be another right body.
                let harmless = byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b".-_".contains(byte);
                body[place.index(text.len())] = if harmless { 0x80 | byte } else { *byte };
            }
            if body != text {
                senders.is_refused(&sent, body, &format!("damage at {touched:?}")).await;
            }
        }
    }
    assert_eq!(state(&world).await, before);
    let log = world.arbiters[&1].log();
    assert!(!log.contains("panicked") && !log.contains("answered with a defect"), "{log}");
}
