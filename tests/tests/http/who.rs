//! Who somebody is: identity tokens of a provider that changes its keys, and limits per identity.

use crate::world::World;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// An identity provider: what it publishes, and how often it was asked.
#[derive(Clone, Default)]
struct Provider {
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicU32>,
}

/// One of its keys.
struct Key {
    kid: &'static str,
    pair: SigningKey,
}

impl Key {
    fn new(kid: &'static str) -> Self {
        Self { kid, pair: SigningKey::from_bytes(&rand::random()) }
    }

    fn public(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.verifying_key().as_bytes());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x })
    }

    fn token(&self, change: Value) -> String {
        let now_s = region_node::clock::now_ms() / 1_000;
        let mut claims = json!({ "sub": "anna", "iss": "https://id.example", "aud": "boxoffice", "exp": now_s + 600 });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let text = format!("{}.{}", part(&json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.kid })), part(&claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()).to_bytes()))
    }
}

async fn provider() -> (Provider, String) {
    let provider = Provider::default();
    let listener = crate::world::place().await;
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let keys = async |State(provider): State<Provider>| {
        provider.asked.fetch_add(1, Ordering::Relaxed);
        axum::Json(json!({ "keys": *provider.keys.lock() }))
    };
    let app = Router::new().route("/jwks", get(keys)).with_state(provider.clone());
    tokio::spawn(axum::serve(listener, app).into_future());
    (provider, url)
}

async fn sign_in(world: &World, token: &str) -> crate::world::Answer {
    world.post("/v1/session", None, &json!({ "id_token": token })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_checked_against_keys_that_change() {
    let (provider, url) = provider().await;
    let jwt = format!("[jwt]\njwks_url = '{url}'\nissuer = 'https://id.example'\naudience = 'boxoffice'\n");
    let world = World::start(&[], &jwt).await;
    let (old, new, strange) = (Key::new("old"), Key::new("new"), Key::new("old"));
    *provider.keys.lock() = vec![old.public()];
    let first = sign_in(&world, &old.token(json!({}))).await;
    assert_eq!((first.status, first.json()["user_id"].as_str()), (201, Some("anna")), "{first:?}");
    for (name, token) in [
        ("another's key under its name", strange.token(json!({}))),
        ("expired", old.token(json!({ "exp": 1_000 }))),
        ("for somebody else", old.token(json!({ "aud": "another" }))),
        ("of another issuer", old.token(json!({ "iss": "https://evil.example" }))),
        ("not yet valid", old.token(json!({ "nbf": 99_999_999_999_u64 }))),
        ("no token", "a.b.c".to_owned()),
    ] {
        let refused = sign_in(&world, &token).await;
        assert!(matches!(refused.status, 400 | 401), "{name}: {refused:?}");
        refused.code();
    }
    assert_eq!(provider.asked.load(Ordering::Relaxed), 1, "known keys are not fetched again");
    // Rotation: both keys for a while, then the new one alone.
    *provider.keys.lock() = vec![old.public(), new.public()];
    let begun = Instant::now();
    while sign_in(&world, &new.token(json!({ "sub": "ben" }))).await.status != 201 {
        // A token with an unknown key may make the node ask only so often.
        assert!(begun.elapsed() < Duration::from_secs(25), "the new key is never found");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(provider.asked.load(Ordering::Relaxed), 2, "however many tokens named it, they were fetched once");
    assert_eq!(sign_in(&world, &old.token(json!({}))).await.status, 201, "both are good meanwhile");
    // The provider is away: the keys that are there go on serving.
    provider.keys.lock().clear();
    assert_eq!(sign_in(&world, &new.token(json!({}))).await.status, 201);
    world.stop().await;
}

/// Three people with one document get what one document may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_gets_its_share_however_many_users_name_it() {
    let world = World::start(&[], "").await;
    world.concert("demo", json!({ "max_per_identity": 3 })).await;
    let join = async |identity: &str, quantity: u64, any_quantity: bool| {
        let session = world.guest().await;
        let wish = json!({ "request_id": uuid::Uuid::new_v4(), "quantity": quantity, "tiers": ["A"],
                           "any_quantity": any_quantity, "identity": identity });
        let answer = world.post("/v1/concerts/demo/reservations", Some(&session), &wish).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let reservation = answer.json()["reservation"].as_str().unwrap().to_owned();
        let seen = world.until(&session, &reservation, &["held", "rejected"]).await;
        // Asked again, the id is the same text, identity and all.
        let again = world.post("/v1/concerts/demo/reservations", Some(&session), &wish).await;
        assert_eq!(
            (again.status, again.json()["reservation"].as_str()),
            (200, Some(reservation.as_str())),
            "{again:?}"
        );
        (seen["status"].as_str().unwrap().to_owned(), seen["reason"].clone(), seen["quantity"].as_u64().unwrap())
    };
    assert_eq!(join("0a", 2, false).await, ("held".into(), Value::Null, 2));
    assert_eq!(join("0a", 2, false).await, ("rejected".into(), json!("limit"), 2), "one is left, two are wanted");
    assert_eq!(join("0b", 2, false).await, ("held".into(), Value::Null, 2), "another document has its own");
    assert_eq!(join("0a", 2, true).await, ("held".into(), Value::Null, 1), "whoever takes fewer gets the rest");
    assert_eq!(join("0a", 1, false).await.0, "rejected");
    world.stop().await;
}
