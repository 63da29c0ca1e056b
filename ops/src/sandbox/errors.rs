//! Errors in Stripe's shape.

use super::account::Intent;
use super::wire;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer other than success.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: u16,
    /// Stripe's `type`.
    pub(crate) kind: &'static str,
    /// Stripe's `code`.
    pub(crate) code: Option<&'static str>,
    /// What people read.
    pub(crate) message: String,
    /// Which parameter.
    pub(crate) param: Option<&'static str>,
    /// The intent it is about, where Stripe sends it along.
    pub(crate) intent: Option<Box<Intent>>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, code, message: message.into(), param: None, intent: None }
    }

    /// No such object.
    pub(crate) fn missing(what: &str, id: &str) -> Self {
        let id: String = id.chars().take(60).collect();
        Self::new(404, "invalid_request_error", Some("resource_missing"), format!("No such {what}: '{id}'"))
    }

    /// A parameter is wrong.
    pub(crate) fn invalid(param: &'static str, message: &str) -> Self {
        let code = Some("parameter_invalid");
        Self { param: Some(param), ..Self::new(400, "invalid_request_error", code, message) }
    }

    /// A parameter is not known here.
    pub(crate) fn unknown_parameter(name: &str) -> Self {
        let name: String = name.chars().take(60).collect();
        let message = format!("Received unknown parameter: {name}");
        Self::new(400, "invalid_request_error", Some("parameter_unknown"), message)
    }

    /// The state does not allow the operation.
    pub(crate) fn unexpected_state(operation: &str, intent: &Intent) -> Self {
        let status = intent.status.as_str();
        let message = format!("You cannot {operation} this PaymentIntent because it has a status of {status}.");
        let code = Some("payment_intent_unexpected_state");
        Self { intent: Some(Box::new(intent.clone())), ..Self::new(400, "invalid_request_error", code, message) }
    }

    /// The charge does not allow the operation.
    pub(crate) fn charge(code: &'static str, message: &str) -> Self {
        Self::new(400, "invalid_request_error", Some(code), message)
    }

    /// The same idempotency key with other parameters.
    pub(crate) fn key_reused(key: &str) -> Self {
        let message = format!("Keys for idempotent requests can only be used with the same parameters: '{key}'");
        Self::new(400, "idempotency_error", None, message)
    }

    /// The card was declined.
    pub(crate) fn declined(intent: &Intent) -> Self {
        let error = Self::new(402, "card_error", Some("card_declined"), "Your card was declined.");
        Self { intent: Some(Box::new(intent.clone())), ..error }
    }

    /// No, or a wrong, key.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "invalid_request_error", None, "Invalid API Key provided.")
    }

    /// The sandbox's memory bound.
    pub(crate) fn full() -> Self {
        Self::new(429, "invalid_request_error", Some("rate_limit"), "The sandbox keeps no more payments.")
    }

    /// What was asked for by the control interface, or a record that cannot be written.
    pub(crate) fn internal(message: &str) -> Self {
        Self::new(500, "api_error", None, message)
    }

    fn body(&self) -> Value {
        let mut error = json!({"type": self.kind, "message": self.message});
        if let Some(code) = self.code {
            error["code"] = json!(code);
        }
        if self.code == Some("card_declined") {
            error["decline_code"] = json!("generic_decline");
        }
        if let Some(param) = self.param {
            error["param"] = json!(param);
        }
        if let Some(intent) = &self.intent {
            error["payment_intent"] = wire::intent(intent, None);
        }
        json!({"error": error})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.body())).into_response()
    }
}
