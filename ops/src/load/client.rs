//! A buyer's phone: the calls of the contract that a buyer makes, and nothing else.
//!
//! Written against the contract alone, with its own reading types, so that it notices when the server breaks it. Every
//! answer is either what the contract promises or an error of this file.

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// A call that did not bring what was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The server said no, in the contract's form.
    #[error("{status} {code}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Machine-readable code.
        code: String,
        /// What the server says about it.
        detail: String,
        /// Whether something may have been stored (`side_effects` not `"none"`).
        unknown: bool,
        /// How long to wait before trying again, where that helps.
        retry_after: Option<Duration>,
    },
    /// No answer: refused, reset or timed out. Whatever was asked may have happened.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// An answer that the contract does not allow.
    #[error("broken contract: {0}")]
    Broken(String),
}

impl CallError {
    /// Whether the same call may be made again as it is.
    pub fn retryable(&self) -> bool {
        match self {
            CallError::Refused { status, .. } => matches!(status, 429 | 503),
            CallError::NoAnswer(_) => true,
            CallError::Broken(_) => false,
        }
    }
    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            CallError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
    /// The contract's code, where there is one.
    pub fn code(&self) -> &str {
        match self {
            CallError::Refused { code, .. } => code,
            CallError::NoAnswer(_) => "no_answer",
            CallError::Broken(_) => "broken_contract",
        }
    }
}

#[derive(Debug, Deserialize)]
struct Problem {
    status: u16,
    detail: String,
    code: String,
    side_effects: String,
    retry_after_ms: Option<u64>,
}

/// Answer to `POST /v1/session`.
#[derive(Debug, Clone, Deserialize)]
pub struct Session {
    /// Goes into `Authorization: Bearer`.
    pub session: String,
    /// Who this is.
    pub user_id: String,
    /// The region where this buyer's places lie.
    pub home_region: String,
}

/// Answer to a join.
#[derive(Debug, Clone, Deserialize)]
pub struct Joined {
    /// Signed reservation id.
    pub reservation: String,
    /// Where it stands.
    pub status: String,
    /// When to ask again, milliseconds; none in a final state.
    pub poll_after_ms: Option<u64>,
    /// The region that it lies in.
    pub region: String,
}

/// A reservation as polled.
#[derive(Debug, Clone, Deserialize)]
pub struct Reservation {
    /// Signed reservation id.
    pub reservation: String,
    /// One of the contract's states.
    pub status: String,
    /// Why, in a final state that has a reason.
    pub reason: Option<String>,
    /// When to ask again, milliseconds; none in a final state.
    pub poll_after_ms: Option<u64>,
    /// Tier, once held.
    pub tier: Option<String>,
    /// Tickets.
    pub quantity: u16,
    /// Ids of tickets, once sold.
    #[serde(default)]
    pub tickets: Vec<String>,
}

impl Reservation {
    /// Whether nothing more will happen by itself.
    pub fn is_final(&self) -> bool {
        !matches!(self.status.as_str(), "queued" | "held")
    }
}

/// Answer to `POST …/payment`.
#[derive(Debug, Clone, Deserialize)]
pub struct Payment {
    /// The provider's id of it.
    pub intent: String,
    /// What a buyer confirms with.
    pub client_secret: String,
}

/// What a join asks for.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    /// Concert name.
    pub concert: &'a str,
    /// Client's id of this intent.
    pub request_id: Uuid,
    /// Tickets.
    pub quantity: u8,
    /// Tier names in order of preference.
    pub tiers: Vec<&'a str>,
    /// Fewer are welcome.
    pub any_quantity: bool,
}

/// One buyer's view of a region and of the payment provider.
#[derive(Clone)]
pub struct Phone {
    http: Client,
    lines: Arc<Semaphore>,
    region: String,
    sandbox: Option<String>,
}

impl Payment {
    /// Whether nothing is to be paid: then this has bought the tickets.
    pub fn is_free(&self) -> bool {
        self.intent == region_api::wire::Payment::FREE
    }
}

impl Phone {
    /// `lines` bounds the calls under way of all phones; `region` and `sandbox` are base URLs without a trailing slash.
    pub fn new(http: Client, lines: Arc<Semaphore>, region: String, sandbox: Option<String>) -> Self {
        Self { http, lines, region, sandbox }
    }

    /// A guest's session.
    pub async fn session(&self) -> Result<Session, CallError> {
        let (status, body) = self.call(self.http.post(format!("{}/v1/session", self.region)).json(&json!({}))).await?;
        expect(status, &[StatusCode::CREATED], &body)
    }

    /// Joins; `true` beside the answer when the place is new (`202`).
    pub async fn join(&self, session: &str, wish: &Wish<'_>) -> Result<(Joined, bool), CallError> {
        let url = format!("{}/v1/concerts/{}/reservations", self.region, wish.concert);
        let body = json!({
            "request_id": wish.request_id, "quantity": wish.quantity, "tiers": wish.tiers,
            "any_quantity": wish.any_quantity,
        });
        let (status, body) = self.call(self.http.post(url).bearer_auth(session).json(&body)).await?;
        let joined = expect(status, &[StatusCode::ACCEPTED, StatusCode::OK], &body)?;
        Ok((joined, status == StatusCode::ACCEPTED))
    }

    /// Where a reservation stands.
    pub async fn poll(&self, session: &str, reservation: &str) -> Result<Reservation, CallError> {
        self.reservation(Method::GET, session, reservation).await
    }

    /// Cancels a reservation.
    pub async fn cancel(&self, session: &str, reservation: &str) -> Result<Reservation, CallError> {
        self.reservation(Method::DELETE, session, reservation).await
    }

    async fn reservation(&self, method: Method, session: &str, reservation: &str) -> Result<Reservation, CallError> {
        let url = format!("{}/v1/reservations/{reservation}", self.region);
        let (status, body) = self.call(self.http.request(method, url).bearer_auth(session)).await?;
        expect(status, &[StatusCode::OK], &body)
    }

    /// Starts the payment of a held reservation.
    pub async fn payment(&self, session: &str, reservation: &str) -> Result<Payment, CallError> {
        let url = format!("{}/v1/reservations/{reservation}/payment", self.region);
        let (status, body) = self.call(self.http.post(url).bearer_auth(session)).await?;
        expect(status, &[StatusCode::OK], &body)
    }

    /// Confirms a payment at the provider; `Ok(false)` when the card was declined.
    pub async fn confirm(&self, payment: &Payment, method: &str) -> Result<bool, CallError> {
        let Some(sandbox) = &self.sandbox else {
            return Err(CallError::Broken("this cluster has no sandbox provider to pay at".into()));
        };
        let url = format!("{sandbox}/v1/payment_intents/{}/confirm", payment.intent);
        let form = [("client_secret", payment.client_secret.as_str()), ("payment_method", method)];
        match self.send(self.http.post(url).form(&form)).await?.0 {
            StatusCode::OK => Ok(true),
            StatusCode::PAYMENT_REQUIRED => Ok(false),
            // It is over: paid by a call whose answer got lost, or cancelled. Confirming again would change nothing.
            StatusCode::BAD_REQUEST => self.is_paid(sandbox, payment).await,
            other => Err(CallError::NoAnswer(format!("the payment provider answered {other}"))),
        }
    }

    /// Whether a payment was made, or is under way.
    async fn is_paid(&self, sandbox: &str, payment: &Payment) -> Result<bool, CallError> {
        #[derive(Deserialize)]
        struct Intent {
            status: String,
        }
        let url = format!("{sandbox}/v1/payment_intents/{}", payment.intent);
        let request = self.http.get(url).query(&[("client_secret", &payment.client_secret)]);
        let (status, body) = self.send(request).await?;
        if !status.is_success() {
            return Err(CallError::NoAnswer(format!("the payment provider answered {status}")));
        }
        let intent: Intent = serde_json::from_slice(&body)
            .map_err(|error| CallError::NoAnswer(format!("the payment provider's answer is unreadable: {error}")))?;
        Ok(matches!(intent.status.as_str(), "succeeded" | "processing"))
    }

    /// The whole answer, whatever it says.
    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), CallError> {
        // Never closed.
        let _line = self.lines.acquire().await;
        let answer = request.send().await.map_err(no_answer)?;
        let status = answer.status();
        Ok((status, answer.bytes().await.map_err(no_answer)?.to_vec()))
    }

    async fn call(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), CallError> {
        let (status, body) = self.send(request).await?;
        if status.is_success() {
            return Ok((status, body));
        }
        let problem: Problem = serde_json::from_slice(&body).map_err(|e| {
            CallError::Broken(format!("{status} without a problem body ({e}): {}", String::from_utf8_lossy(&body)))
        })?;
        if problem.status != status.as_u16() {
            return Err(CallError::Broken(format!("{status} with a body that says {}", problem.status)));
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            return Err(CallError::Broken(format!("500: {}", problem.detail)));
        }
        Err(CallError::Refused {
            status: problem.status,
            code: problem.code,
            detail: problem.detail,
            unknown: problem.side_effects != "none",
            retry_after: problem.retry_after_ms.map(Duration::from_millis),
        })
    }
}

fn no_answer(error: reqwest::Error) -> CallError {
    // The chain says what happened (refused, reset, timed out); reqwest's own text alone does not.
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    CallError::NoAnswer(text)
}

fn expect<T: for<'a> Deserialize<'a>>(status: StatusCode, allowed: &[StatusCode], body: &[u8]) -> Result<T, CallError> {
    if !allowed.contains(&status) {
        return Err(CallError::Broken(format!("unexpected {status}")));
    }
    serde_json::from_slice(body).map_err(|e| {
        CallError::Broken(format!("{status} with an unreadable body ({e}): {}", String::from_utf8_lossy(body)))
    })
}
