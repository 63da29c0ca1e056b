//! Two regions: every call about a reservation works in the wrong one too, and the provider's news finds its way home.

use crate::world::{Answer, SECRETS, Setup, World, place};
use ops::sandbox::{self, SandboxConfig};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

const JOIN: &str = "/v1/concerts/demo/reservations";

/// East and west know each other. All webhooks of their common provider arrive in west.
struct Both {
    east: World,
    west: World,
    provider: String,
    _stop: DropGuard,
}

impl Both {
    async fn start() -> Self {
        let (at_east, at_west, at_provider) = (place().await, place().await, place().await);
        let url = |at: &tokio::net::TcpListener| format!("http://{}", at.local_addr().unwrap());
        let (east_url, west_url, provider) = (url(&at_east), url(&at_west), url(&at_provider));
        let mut config = SandboxConfig::new(&provider, SECRETS[2], "control", SECRETS[3]);
        config.webhook_urls = vec![format!("{west_url}/v1/webhooks/stripe")];
        config.retry_first = Duration::from_millis(100);
        let stop = CancellationToken::new();
        tokio::spawn(sandbox::run(at_provider, config, stop.clone()));
        let east = Setup {
            region: "east",
            public: at_east,
            peers: &[("west", &west_url)],
            first: "",
            more: "",
            provider: &provider,
        };
        let west = Setup {
            region: "west",
            public: at_west,
            peers: &[("east", &east_url)],
            first: "",
            more: "",
            provider: &provider,
        };
        let (east, west) = tokio::join!(World::with(east), World::with(west));
        for world in [&east, &west] {
            world.concert("demo", json!({})).await;
        }
        Self { east, west, provider, _stop: stop.drop_guard() }
    }

    async fn pay(&self, payment: &Value) {
        let url = format!("{}/v1/payment_intents/{}/confirm", self.provider, payment["intent"].as_str().unwrap());
        let form = [("client_secret", payment["client_secret"].as_str().unwrap()), ("payment_method", "pm_card_visa")];
        assert_eq!(self.west.client.post(url).form(&form).send().await.unwrap().status(), 200);
    }

    async fn stop(self) {
        self.west.stop().await;
        self.east.stop().await;
    }
}

/// The answer was given at home.
fn from_east(answer: &Answer) -> &Answer {
    assert_eq!(answer.headers["x-boxoffice-home"], "east", "{answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_through_the_wrong_region_is_made_at_home() {
    let both = Both::start().await;
    let (east, west) = (&both.east, &both.west);
    let session = east.guest().await;
    let wish = World::wish(2);
    let joined = west.post(JOIN, Some(&session), &wish).await;
    assert_eq!((from_east(&joined).status, joined.json()["region"].as_str()), (202, Some("east")), "{joined:?}");
    let reservation = joined.json()["reservation"].as_str().unwrap().to_owned();
    assert_eq!(joined.json()["url"], format!("{}/v1/reservations/{reservation}", east.public));
    let again = east.post(JOIN, Some(&session), &wish).await;
    assert_eq!((again.status, again.json()["reservation"].as_str()), (200, Some(reservation.as_str())), "one place");
    assert!(!again.headers.contains_key("x-boxoffice-home"), "at home nothing is passed on");

    let held = west.until(&session, &reservation, &["held"]).await;
    assert_eq!(held["region"], "east");
    let stranger = west.guest().await;
    let path = format!("/v1/reservations/{reservation}");
    assert_eq!(west.get(&path, Some(&stranger)).await.code(), "forbidden", "the id itself says whose it is");
    let payment = west.post(&format!("{path}/payment"), Some(&session), &json!({})).await;
    assert_eq!(from_east(&payment).status, 200, "{payment:?}");
    both.pay(&payment.json()).await;
    let sold = west.until(&session, &reservation, &["sold"]).await;
    let ticket = sold["tickets"][0].as_str().unwrap().to_owned();
    let shown = west.get(&format!("/v1/tickets/{ticket}"), Some(&session)).await;
    assert_eq!((from_east(&shown).status, shown.json()["reservation"].as_str()), (200, Some(reservation.as_str())));
    assert_eq!(shown.text, east.get(&format!("/v1/tickets/{ticket}"), Some(&session)).await.text);
    let picture = west.get(&format!("/v1/tickets/{ticket}.svg"), Some(&session)).await;
    assert_eq!((picture.status, picture.headers["content-type"].to_str().unwrap()), (200, "image/svg+xml"));
    let stream = west.get(&format!("{path}/events"), Some(&session)).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert!(stream.text.contains("\"status\":\"sold\""), "{stream:?}");
    let refused = west.send(west.request("DELETE", &path, Some(&session))).await;
    assert_eq!((from_east(&refused).status, refused.code().as_str()), (409, "conflict"), "{refused:?}");

    let arrived = "SELECT count(*) FROM webhook_event WHERE kind = 'succeeded' AND processed_at IS NOT NULL";
    assert_eq!((east.number(arrived).await, west.number(arrived).await), (1, 0), "stored where it belongs");
    assert_eq!(west.number("SELECT count(*) FROM reservation").await, 0);
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_cancelled_through_the_wrong_region_is_cancelled_at_the_provider() {
    let both = Both::start().await;
    let (east, west) = (&both.east, &both.west);
    let session = east.guest().await;
    let reservation = west.join("demo", &session).await;
    west.until(&session, &reservation, &["held"]).await;
    let path = format!("/v1/reservations/{reservation}");
    let payment = west.post(&format!("{path}/payment"), Some(&session), &json!({})).await.json();
    let cancelled = west.send(west.request("DELETE", &path, Some(&session))).await;
    assert_eq!((from_east(&cancelled).status, cancelled.json()["status"].as_str()), (200, Some("cancelled")));
    let url = format!("{}/v1/payment_intents/{}", both.provider, payment["intent"].as_str().unwrap());
    let mut status = Value::Null;
    for _ in 0..100 {
        let secret = [("client_secret", payment["client_secret"].as_str().unwrap())];
        status =
            west.client.get(&url).query(&secret).send().await.unwrap().json::<Value>().await.unwrap()["status"].clone();
        if status == "canceled" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, "canceled", "nobody may pay for what was given up");
    let back = from_east(&west.post(&format!("{path}/reclaim"), Some(&session), &json!({})).await).json();
    assert_eq!(back["status"], "cancelled", "nothing to reclaim");
    both.stop().await;
}

/// While the home is away the provider is told to come again; nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_for_a_region_that_is_away_are_refused_until_it_is_back() {
    let west = World::start(&[("north", "http://127.0.0.1:9")], "").await;
    let object = json!({ "id": "pi_1", "amount": 5, "amount_received": 5, "currency": "eur",
                         "metadata": { "region": "north", "concert": "demo", "entry": "7" } });
    let body = json!({ "id": "evt_1", "type": "payment_intent.succeeded", "data": { "object": object } }).to_string();
    let now_s = i64::try_from(region_node::clock::now_ms() / 1_000).unwrap();
    let send = async |secret: &str| {
        let signature = sandbox::signature(&[secret.to_owned()], now_s, &body);
        let request = west.request("POST", "/v1/webhooks/stripe", None).header("stripe-signature", signature);
        west.send(request.body(body.clone())).await
    };
    let away = send(SECRETS[3]).await;
    assert_eq!((away.status, away.code().as_str()), (503, "unavailable"), "{away:?}");
    assert_eq!(send("whsec_forged").await.status, 400, "what nobody signed is not passed on");
    assert_eq!(west.number("SELECT count(*) FROM webhook_event").await, 0);
    west.stop().await;
}
