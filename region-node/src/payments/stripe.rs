//! Stripe's API over HTTPS; the sandbox provider speaks the same. Never logs a key or a client secret, never follows a
//! redirect (credentials would go along), never waits longer than its time-outs.

use super::provider::{Intent, IntentStatus, NewIntent, NewRefund, Provider, ProviderError};
use futures::future::BoxFuture;
use serde::Deserialize;
use std::time::Duration;
use url::Url;
use zeroize::Zeroizing;

/// A connection that is not there within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Stripe answers within a second or two; longer means trouble there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Answers are a few KB; more is not Stripe.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// The version of the API that the answers are read as.
const API_VERSION: &str = "2024-06-20";

/// A client of Stripe's API.
pub struct Stripe {
    name: &'static str,
    base: Url,
    key: Zeroizing<String>,
    client: reqwest::Client,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no payment client: {0}")]
pub struct BuildError(String);

#[derive(Deserialize)]
struct IntentAnswer {
    id: String,
    status: String,
    amount: i64,
    #[serde(default)]
    amount_received: i64,
    currency: String,
    client_secret: Option<String>,
    checkout_url: Option<String>,
    latest_charge: Option<Charge>,
}

/// Expanded where we ask for it, else only its id.
#[derive(Deserialize)]
#[serde(untagged)]
enum Charge {
    Expanded { refunded: bool, disputed: bool },
    Id(#[expect(dead_code, reason = "only its shape matters: a charge that was not expanded")] String),
}

#[derive(Deserialize)]
struct RefundAnswer {
    id: String,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
}

impl Stripe {
    /// A client of the API at `base` (`https://api.stripe.com`), called `name` in our API and database.
    pub fn new(name: &'static str, base: Url, key: Zeroizing<String>) -> Result<Self, BuildError> {
        // Whoever was first in this process chose; ring is what this program brings.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("boxoffice/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| BuildError(error.to_string()))?;
        Ok(Self { name, base, key, client })
    }

    fn url(&self, path: &[&str]) -> Result<Url, ProviderError> {
        let mut url = self.base.clone();
        let mut segments = url
            .path_segments_mut()
            .map_err(|()| ProviderError::Unreachable("the configured address cannot have paths".into()))?;
        segments.pop_if_empty().push("v1").extend(path);
        drop(segments);
        Ok(url)
    }

    async fn send<T: serde::de::DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ProviderError> {
        let request = request.bearer_auth(self.key.as_str()).header("stripe-version", API_VERSION);
        let mut response = request.send().await.map_err(|error| {
            // Without the address: it may carry a client secret.
            let error = error.without_url();
            if error.is_connect() {
                ProviderError::Unreachable(error.to_string())
            } else {
                ProviderError::Unknown(error.to_string())
            }
        })?;
        let status = response.status();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Ok(Some(_)) => return Err(ProviderError::Unknown("the answer is too long".into())),
                Err(error) => return Err(ProviderError::Unknown(error.without_url().to_string())),
            }
        }
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| ProviderError::Unknown(format!("the answer cannot be read: {error}")));
        }
        Err(refusal(status.as_u16(), &body))
    }
}

/// What a status other than success means.
fn refusal(status: u16, body: &[u8]) -> ProviderError {
    let error = serde_json::from_slice::<ErrorAnswer>(body).ok().map(|answer| answer.error);
    let (code, kind, message) = match error {
        Some(error) => (error.code, error.kind, error.message.unwrap_or_default()),
        None => (None, None, String::new()),
    };
    let code = code.or(kind).unwrap_or_else(|| status.to_string());
    let message: String = message.chars().take(300).collect();
    match status {
        // Too many requests, or another one with the same key under way: nothing was done by this one.
        409 | 429 => ProviderError::Unreachable(format!("{status} {code}: {message}")),
        400..=499 => ProviderError::Refused { code, message },
        _ => ProviderError::Unknown(format!("{status} {code}: {message}")),
    }
}

impl TryFrom<IntentAnswer> for Intent {
    type Error = ProviderError;
    fn try_from(answer: IntentAnswer) -> Result<Self, ProviderError> {
        let status = match answer.status.as_str() {
            "requires_payment_method" | "requires_confirmation" | "requires_action" => IntentStatus::Open,
            // Never asked for; were it so, the money would be reserved and not ours: as good as processing.
            "processing" | "requires_capture" => IntentStatus::Processing,
            "succeeded" => IntentStatus::Succeeded,
            "canceled" => IntentStatus::Cancelled,
            other => return Err(ProviderError::Unknown(format!("unknown status {other:?}"))),
        };
        let undone =
            matches!(answer.latest_charge, Some(Charge::Expanded { refunded, disputed }) if refunded || disputed);
        Ok(Self {
            id: answer.id,
            status,
            amount: answer.amount,
            received: answer.amount_received,
            currency: answer.currency.to_ascii_uppercase(),
            client_secret: answer.client_secret.unwrap_or_default(),
            checkout_url: answer.checkout_url,
            undone,
        })
    }
}

impl Provider for Stripe {
    fn name(&self) -> &'static str {
        self.name
    }

    fn create_intent<'a>(&'a self, new: &'a NewIntent) -> BoxFuture<'a, Result<Intent, ProviderError>> {
        Box::pin(async move {
            let mut form = vec![
                ("amount".to_owned(), new.amount.to_string()),
                ("currency".to_owned(), new.currency.to_ascii_lowercase()),
                ("automatic_payment_methods[enabled]".to_owned(), "true".to_owned()),
            ];
            form.extend(new.metadata.iter().map(|(name, value)| (format!("metadata[{name}]"), value.clone())));
            let request = self.client.post(self.url(&["payment_intents"])?);
            let request = request.header("idempotency-key", &new.idempotency_key).form(&form);
            self.send::<IntentAnswer>(request).await?.try_into()
        })
    }

    fn retrieve_intent<'a>(&'a self, intent: &'a str) -> BoxFuture<'a, Result<Intent, ProviderError>> {
        Box::pin(async move {
            let request = self.client.get(self.url(&["payment_intents", intent])?);
            self.send::<IntentAnswer>(request.query(&[("expand[]", "latest_charge")])).await?.try_into()
        })
    }

    fn cancel_intent<'a>(&'a self, intent: &'a str) -> BoxFuture<'a, Result<Intent, ProviderError>> {
        Box::pin(async move {
            let request = self.client.post(self.url(&["payment_intents", intent, "cancel"])?);
            self.send::<IntentAnswer>(request.form(&[("cancellation_reason", "abandoned")])).await?.try_into()
        })
    }

    fn refund<'a>(&'a self, new: &'a NewRefund) -> BoxFuture<'a, Result<String, ProviderError>> {
        Box::pin(async move {
            let amount = new.amount.to_string();
            let form = [("payment_intent", new.intent.as_str()), ("amount", amount.as_str())];
            let request = self.client.post(self.url(&["refunds"])?);
            let request = request.header("idempotency-key", &new.idempotency_key).form(&form);
            Ok(self.send::<RefundAnswer>(request).await?.id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_anything_may_have_happened() {
        let body = br#"{"error":{"type":"invalid_request_error","code":"resource_missing","message":"No such"}}"#;
        assert!(refusal(404, body).is("resource_missing"));
        assert!(refusal(400, b"<html>").is("400"));
        assert!(matches!(refusal(429, b""), ProviderError::Unreachable(_)));
        assert!(matches!(refusal(409, body), ProviderError::Unreachable(_)));
        assert!(matches!(refusal(500, body), ProviderError::Unknown(_)));
        assert!(matches!(refusal(302, b""), ProviderError::Unknown(_)));
    }

    #[test]
    fn a_charge_says_whether_the_money_went_back() {
        let read = |charge: &str| {
            let text =
                format!(r#"{{"id":"pi_1","status":"succeeded","amount":5,"currency":"eur","latest_charge":{charge}}}"#);
            Intent::try_from(serde_json::from_str::<IntentAnswer>(&text).unwrap()).unwrap().undone
        };
        assert!(!read("null") && !read("\"ch_1\""));
        assert!(!read(r#"{"id":"ch_1","refunded":false,"disputed":false}"#));
        assert!(read(r#"{"id":"ch_1","refunded":true,"disputed":false}"#));
        assert!(read(r#"{"id":"ch_1","refunded":false,"disputed":true}"#));
    }
}
