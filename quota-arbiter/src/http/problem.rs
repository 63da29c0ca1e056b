//! What goes wrong, as the interfaces say it: the one place where errors become statuses.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use region_api::{BodyError, Code, Problem};

use crate::{
    limits::RETRY_AFTER as RETRY,
    node::{Leads, Unavailable},
};

/// A problem on its way to a client.
#[derive(Clone, Debug)]
pub struct Refusal {
    problem: Box<Problem>,
    leader: Option<Leads>,
}

/// Who leads, beside a refusal because of that: an extension of the response.
#[derive(Clone, Debug)]
pub(super) struct Elsewhere(pub(super) Leads);

impl Refusal {
    /// Without side effects.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(code, detail)), leader: None }
    }

    /// `400`, naming the field.
    pub fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(Code::InvalidRequest, format!("{field}: {problem}"))
    }

    fn retry(mut self, after: Duration) -> Self {
        self.problem = Box::new(self.problem.retry_after_ms(after.as_millis() as u64));
        self
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
        if let Some(leader) = self.leader {
            response.extensions_mut().insert(Elsewhere(leader));
        }
        response
    }
}

impl From<Unavailable> for Refusal {
    fn from(unavailable: Unavailable) -> Self {
        let text = unavailable.to_string();
        match unavailable {
            Unavailable::NotLeader(leader) => {
                let detail = match leader {
                    Some(_) => "another arbiter leads; see Location",
                    None => "no arbiter leads at the moment",
                };
                Self { leader, ..Self::new(Code::Unavailable, detail).retry(RETRY) }
            }
            Unavailable::Busy => Self::new(Code::Overloaded, text).retry(RETRY),
            Unavailable::Displaced | Unavailable::Ending => Self::new(Code::Unavailable, text).retry(RETRY),
            Unavailable::Unknown => {
                let mut refusal = Self::new(Code::Unavailable, text).retry(RETRY);
                refusal.problem = Box::new(refusal.problem.unknown_side_effects());
                refusal
            }
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let mut problem = Problem::from(error);
        // A wrong value is quoted in the message; nobody needs a page of it.
        if problem.detail.len() > 400 {
            problem.detail = problem.detail.chars().take(300).chain("…".chars()).collect();
        }
        Self { problem: Box::new(problem), leader: None }
    }
}
