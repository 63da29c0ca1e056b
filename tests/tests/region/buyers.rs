//! One buyer, step by step.

use ops::stage::Stage;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::ground::{call, session};
use super::wire::{self, Answer};

/// Somebody with a session.
#[derive(Debug, Clone)]
pub(crate) struct Buyer {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

impl Buyer {
    pub(crate) async fn new(stage: &Stage) -> Self {
        Self { address: stage.public(), token: session(stage.public()).await }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        call(self.address, &self.token, method, path, body).await
    }

    /// Asks for tickets of tier A of `demo`, as `request` says.
    pub(crate) async fn ask(&self, request: Uuid, quantity: u32) -> Answer {
        let body = json!({ "request_id": request, "quantity": quantity, "tiers": ["A"] });
        self.call("POST", "/v1/concerts/demo/reservations", &body).await
    }

    /// Joins with a request of its own; the reservation.
    pub(crate) async fn join(&self, quantity: u32) -> String {
        let answer = self.ask(Uuid::new_v4(), quantity).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        reservation(&answer)
    }

    pub(crate) async fn poll(&self, reservation: &str) -> Answer {
        self.call("GET", &format!("/v1/reservations/{reservation}"), &Value::Null).await
    }

    /// Polls until the state is one of these; slowly enough not to be voided.
    pub(crate) async fn until(&self, reservation: &str, states: &[&str]) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.poll(reservation).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let seen = answer.json();
            if states.iter().any(|state| seen["status"] == *state) {
                return seen;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "waited for {states:?}: {seen}");
            tokio::time::sleep(Duration::from_millis(550)).await;
        }
    }

    /// Joins and waits for the hold.
    pub(crate) async fn hold(&self, quantity: u32) -> String {
        let reservation = self.join(quantity).await;
        self.until(&reservation, &["held"]).await;
        reservation
    }

    pub(crate) async fn cancel(&self, reservation: &str) -> Answer {
        self.call("DELETE", &format!("/v1/reservations/{reservation}"), &Value::Null).await
    }

    /// Opens the payment of a hold.
    pub(crate) async fn payment(&self, reservation: &str) -> Value {
        let answer = self.call("POST", &format!("/v1/reservations/{reservation}/payment"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Pays at the provider.
    pub(crate) async fn confirm(&self, stage: &Stage, payment: &Value) {
        let intent = payment["intent"].as_str().unwrap();
        let secret = payment["client_secret"].as_str().unwrap();
        let url = format!("{}/v1/payment_intents/{intent}/confirm", stage.sandbox_url);
        let form = [("client_secret", secret), ("payment_method", "pm_card_visa")];
        let answer = stage.http().post(url).form(&form).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// Joins, holds, pays; the sold reservation.
    pub(crate) async fn buy(&self, stage: &Stage, quantity: u32) -> Value {
        let reservation = self.hold(quantity).await;
        let payment = self.payment(&reservation).await;
        self.confirm(stage, &payment).await;
        self.until(&reservation, &["sold"]).await
    }
}

/// The signed id in an answer.
pub(crate) fn reservation(answer: &wire::Answer) -> String {
    answer.json()["reservation"].as_str().unwrap().to_owned()
}
