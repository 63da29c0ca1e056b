//! The node's clock set forward and back by hours while it sells: nobody loses or gains by it.

use ops::stage::{Spec, Stage};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::buyers::{Buyer, reservation};
use super::ground::*;
use super::repeats::must_add_up;
use super::wire::Answer;

/// Debian's package `faketime`.
fn library() -> PathBuf {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let path = Path::new("/usr/lib").join(triplet).join("faketime/libfaketimeMT.so.1");
    assert!(path.exists(), "{} is not there: apt-get install faketime", path.display());
    path
}

/// A buyer whose session may end at any moment, by the node's clock: then it is renewed, as the contract says.
struct Patient(Buyer);

impl Patient {
    async fn call(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let answer = self.0.call(method, path, body).await;
        if answer.status != 401 {
            return answer;
        }
        let renewed = self.0.call("POST", "/v1/session", &json!({})).await;
        assert_eq!(renewed.status, 201, "{}", renewed.text());
        self.0.token = renewed.json()["session"].as_str().unwrap().to_owned();
        self.0.call(method, path, body).await
    }

    async fn until(&mut self, place: &str, state: &str) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.call("GET", &format!("/v1/reservations/{place}"), &Value::Null).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let seen = answer.json();
            if seen["status"] == state {
                return seen;
            }
            assert!(seen["status"] == "queued" || seen["status"] == "held", "{seen}");
            assert!(begun.elapsed() < Duration::from_secs(30), "waits for {state}: {seen}");
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
    }

    async fn hold(&mut self) -> (String, Value) {
        let body = json!({ "request_id": Uuid::new_v4(), "quantity": 1, "tiers": ["A"] });
        let answer = self.call("POST", "/v1/concerts/demo/reservations", &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let place = reservation(&answer);
        let held = self.until(&place, "held").await;
        (place, held)
    }

    async fn buy(&mut self, stage: &Stage) {
        let (place, held) = self.hold().await;
        // Ten minutes, and a little by lot, by the database's clock, which nobody touched.
        let expires = held["hold_expires_at"].as_str().unwrap();
        let format = &time::format_description::well_known::Rfc3339;
        let expires = time::OffsetDateTime::parse(expires, format).unwrap();
        let left = expires.unix_timestamp() - i64::try_from(now_ms() / 1000).unwrap();
        assert!((560..=640).contains(&left), "a hold of 600 s has {left} s left");
        let payment = self.call("POST", &format!("/v1/reservations/{place}/payment"), &Value::Null).await;
        assert_eq!(payment.status, 200, "{}", payment.text());
        self.0.confirm(stage, &payment.json()).await;
        self.until(&place, "sold").await;
    }
}

/// By how many seconds the end of a session that begins now lies ahead of the real time.
async fn ahead_s(stage: &Stage) -> i64 {
    let session = Buyer::new(stage).await.call("POST", "/v1/session", &json!({})).await.json();
    let format = &time::format_description::well_known::Rfc3339;
    let expires = time::OffsetDateTime::parse(session["expires_at"].as_str().unwrap(), format).unwrap();
    expires.unix_timestamp() - i64::try_from(now_ms() / 1000).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_forward_and_back_by_hours_changes_nothing_for_buyers() {
    let closes = now_ms() + 3_600_000;
    let closes = time::OffsetDateTime::from_unix_timestamp(i64::try_from(closes / 1000).unwrap()).unwrap();
    let closes = closes.format(&time::format_description::well_known::Rfc3339).unwrap();
    let opens = "2020-01-01T00:00:00Z";
    let window = json!({ "sale_opens_at": opens, "sale_closes_at": closes, "hold_ms": 600_000 });
    let mut stage = region_of(Spec::default(), 40, window).await;
    stage.nodes[0].stop();
    let clock = stage.folder().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let library = library();
    let env = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    stage.nodes[0].start_again(&env).unwrap();
    stage.ready().await.unwrap();
    let mut sleeper = Patient(Buyer::new(&stage).await);
    let (kept, held) = sleeper.hold().await;
    let mut sold = 0;
    let session_s = ahead_s(&stage).await;
    for hours in [5, -3, 20, -20, 0] {
        // Renamed into place: the library never reads half a file.
        std::fs::write(clock.with_extension("new"), format!("{hours:+}h")).unwrap();
        std::fs::rename(clock.with_extension("new"), &clock).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while (ahead_s(&stage).await - session_s - hours * 3_600).abs() > 60 {
            assert!(Instant::now() < deadline, "the node's clock did not move by {hours} h");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut buyers = Vec::new();
        for _ in 0..4 {
            buyers.push(Patient(Buyer::new(&stage).await));
        }
        let purchases = buyers.iter_mut().map(|buyer| buyer.buy(&stage));
        sold += futures::future::join_all(purchases).await.len();
    }
    let now = sleeper.until(&kept, "held").await;
    assert_eq!(now["hold_expires_at"], held["hold_expires_at"]);
    assert_eq!(sold, 20);
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}
