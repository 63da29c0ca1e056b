//! Turns the errors of every module into the contract's problems, and says whether anything may have been stored.
//!
//! The one file that does so. A cause is for the log alone: it travels beside the response to whoever logs it, never
//! into the body.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use region_api::challenge::ChallengeError;
use region_api::{BodyError, Code, IdError, Problem};
use std::time::Duration;

use super::jwks::TokenError;
use crate::db::DbError;
use crate::limits;
use crate::queue::{JoinError, QueueError};

/// A problem on its way to a client, with its cause for the log.
#[derive(Debug, Clone)]
pub struct Refusal {
    problem: Problem,
    cause: Option<String>,
}

/// What a `5xx` was caused by: an extension of the response.
#[derive(Debug, Clone)]
pub(crate) struct Cause(pub(crate) String);

impl Refusal {
    /// Without side effects.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { problem: Problem::new(code, detail), cause: None }
    }
    /// `400`, naming the field.
    pub fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(Code::InvalidRequest, format!("{field}: {problem}"))
    }
    /// `404` for a thing of that kind.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("no such {what}"))
    }
    /// `500`; the cause is logged, not shown.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::new(Code::Internal, "a defect; it was logged with this answer's x-request-id").cause(cause)
    }
    /// `503` past a bound; nothing stored.
    pub fn overloaded(detail: &str) -> Self {
        Self::new(Code::Overloaded, detail).retry(limits::OVERLOAD_RETRY)
    }
    /// `503` because a server is away; nothing stored. The cause is logged, not shown.
    pub fn unavailable(detail: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::new(Code::Unavailable, detail).retry(limits::OVERLOAD_RETRY).cause(cause)
    }
    /// Something may have been stored: ask before trying again.
    #[must_use]
    pub fn unknown(mut self) -> Self {
        self.problem = self.problem.unknown_side_effects();
        self
    }
    /// Waiting this long helps.
    #[must_use]
    pub fn retry(mut self, after: Duration) -> Self {
        self.problem = self.problem.retry_after_ms(after.as_millis() as u64);
        self
    }
    fn cause(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }
    /// Which code it has.
    pub fn code(&self) -> Code {
        self.problem.code
    }
    /// What it says.
    pub fn detail(&self) -> &str {
        &self.problem.detail
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = match serde_json::to_vec(&self.problem) {
            Ok(body) => body,
            Err(_) => br#"{"code":"internal","status":500,"side_effects":"unknown"}"#.to_vec(),
        };
        let mut response = Response::new(body.into());
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.problem.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let mut problem = Problem::from(error);
        // A wrong value is quoted in the message; nobody needs a page of it.
        if problem.detail.len() > 400 {
            problem.detail = problem.detail.chars().take(300).chain("…".chars()).collect();
        }
        Self { problem, cause: None }
    }
}

/// An id that we did not sign stands for nothing.
impl From<IdError> for Refusal {
    fn from(_: IdError) -> Self {
        Self::not_found("reservation")
    }
}

impl From<ChallengeError> for Refusal {
    fn from(error: ChallengeError) -> Self {
        Self::new(Code::InvalidRequest, format!("challenge.{error}"))
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Invalid(_) => Self::new(Code::Unauthenticated, error.to_string()),
            TokenError::Unavailable(cause) => Self::unavailable("the identity provider is away", cause),
        }
    }
}

impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Conflict => Self::new(Code::Conflict, "request_id: was used before with other content"),
            JoinError::CoolDown(wait) => {
                let detail = "too soon after a reservation that was voided or after two holds that lapsed";
                Self::new(Code::RateLimited, detail).retry(wait)
            }
            JoinError::NoGeneration { .. } => Self::unavailable("the queue is being set up; nothing was stored", error),
            JoinError::Overloaded => Self::overloaded("the queue is full"),
            JoinError::Unavailable(cause) => Self::unavailable("the queue's server is away; nothing was stored", cause),
            JoinError::Unknown(cause) => {
                let detail = "the queue's server did not confirm; ask again with the same request_id";
                Self::unavailable(detail, cause).unknown()
            }
        }
    }
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        Self::unavailable("the queue's server is away", error)
    }
}

/// For reads and for writes that did not begin; whoever began one adds [`Refusal::unknown`].
impl From<DbError> for Refusal {
    fn from(error: DbError) -> Self {
        match &error {
            DbError::NoConcert => Self::not_found("concert"),
            DbError::Halted { .. } | DbError::BehindWitness { .. } | DbError::NotRegistered { .. } => {
                Self::unavailable("the books of this concert are halted; an operator has to resolve it", error)
            }
            _ if error.is_transient() => Self::unavailable("the database is away", error),
            _ => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_body_is_as_the_contract_says() {
        let response = Refusal::overloaded("the queue is full").into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "overloaded");
        assert_eq!(body["side_effects"], "none");
        assert_eq!(body["retry_after_ms"], 2000);
        for key in ["type", "title", "status", "detail"] {
            assert!(!body[key].is_null(), "{key}");
        }
    }

    #[tokio::test]
    async fn a_cause_is_for_the_log_alone() {
        let response = Refusal::internal("password=hush").into_response();
        assert!(response.extensions().get::<Cause>().is_some());
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(!body.contains("hush") && body.contains(r#""side_effects":"unknown""#), "{body}");
    }
}
