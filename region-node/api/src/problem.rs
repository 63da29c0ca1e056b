//! Errors as the interfaces write them: RFC 9457 problems with a closed set of codes.
//!
//! Each service maps its own errors to a [`Code`] in one place; nothing but this file knows statuses and titles.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Malformed JSON, wrong type, unknown field, out of bounds.
    InvalidRequest,
    /// No, broken, expired or foreign session token; wrong admin credentials.
    Unauthenticated,
    /// The concert asks for a solved challenge first.
    ChallengeRequired,
    /// A valid session that is not the owner; an admin role that may not.
    Forbidden,
    /// No such concert, reservation, ticket or route.
    NotFound,
    /// With `Allow`.
    MethodNotAllowed,
    /// The state does not allow it; same `request_id`, different content.
    Conflict,
    /// Before the sale.
    SaleNotOpen,
    /// After the sale.
    SaleClosed,
    /// Nothing left anywhere.
    SoldOut,
    /// Over the per-order or per-person limit.
    LimitExceeded,
    /// Body too big.
    TooLarge,
    /// Too many polls or joins.
    RateLimited,
    /// Past a bound; nothing stored.
    Overloaded,
    /// A server this needs is down.
    Unavailable,
    /// A defect; logged with the request's id.
    Internal,
}

impl Code {
    /// All of them, in the order of the contract.
    pub const ALL: [Code; 16] = [
        Code::InvalidRequest,
        Code::Unauthenticated,
        Code::ChallengeRequired,
        Code::Forbidden,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::Conflict,
        Code::SaleNotOpen,
        Code::SaleClosed,
        Code::SoldOut,
        Code::LimitExceeded,
        Code::TooLarge,
        Code::RateLimited,
        Code::Overloaded,
        Code::Unavailable,
        Code::Internal,
    ];

    /// HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Code::InvalidRequest => 400,
            Code::Unauthenticated | Code::ChallengeRequired => 401,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::Conflict | Code::SaleNotOpen | Code::SaleClosed | Code::SoldOut => 409,
            Code::LimitExceeded => 422,
            Code::TooLarge => 413,
            Code::RateLimited => 429,
            Code::Overloaded | Code::Unavailable => 503,
            Code::Internal => 500,
        }
    }

    /// As the contract spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidRequest => "invalid_request",
            Code::Unauthenticated => "unauthenticated",
            Code::ChallengeRequired => "challenge_required",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::Conflict => "conflict",
            Code::SaleNotOpen => "sale_not_open",
            Code::SaleClosed => "sale_closed",
            Code::SoldOut => "sold_out",
            Code::LimitExceeded => "limit_exceeded",
            Code::TooLarge => "too_large",
            Code::RateLimited => "rate_limited",
            Code::Overloaded => "overloaded",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// The same for every problem of this code.
    pub fn title(self) -> &'static str {
        match self {
            Code::InvalidRequest => "The request is malformed or out of bounds",
            Code::Unauthenticated => "A valid session or credential is needed",
            Code::ChallengeRequired => "A solved challenge is needed first",
            Code::Forbidden => "This is not yours to do",
            Code::NotFound => "There is no such thing here",
            Code::MethodNotAllowed => "This method is not allowed here",
            Code::Conflict => "The present state does not allow this",
            Code::SaleNotOpen => "The sale has not opened yet",
            Code::SaleClosed => "The sale is over",
            Code::SoldOut => "Sold out",
            Code::LimitExceeded => "Over the limit of tickets",
            Code::TooLarge => "The body is too big",
            Code::RateLimited => "Too many requests",
            Code::Overloaded => "Too busy at the moment",
            Code::Unavailable => "A server that this needs is away",
            Code::Internal => "A defect on our side",
        }
    }

    /// `type` of the problem: a name, not an address.
    pub fn type_uri(self) -> &'static str {
        match self {
            Code::InvalidRequest => "urn:boxoffice:problem:invalid_request",
            Code::Unauthenticated => "urn:boxoffice:problem:unauthenticated",
            Code::ChallengeRequired => "urn:boxoffice:problem:challenge_required",
            Code::Forbidden => "urn:boxoffice:problem:forbidden",
            Code::NotFound => "urn:boxoffice:problem:not_found",
            Code::MethodNotAllowed => "urn:boxoffice:problem:method_not_allowed",
            Code::Conflict => "urn:boxoffice:problem:conflict",
            Code::SaleNotOpen => "urn:boxoffice:problem:sale_not_open",
            Code::SaleClosed => "urn:boxoffice:problem:sale_closed",
            Code::SoldOut => "urn:boxoffice:problem:sold_out",
            Code::LimitExceeded => "urn:boxoffice:problem:limit_exceeded",
            Code::TooLarge => "urn:boxoffice:problem:too_large",
            Code::RateLimited => "urn:boxoffice:problem:rate_limited",
            Code::Overloaded => "urn:boxoffice:problem:overloaded",
            Code::Unavailable => "urn:boxoffice:problem:unavailable",
            Code::Internal => "urn:boxoffice:problem:internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the refused request may have left something behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SideEffects {
    /// Nothing was stored: try again freely.
    None,
    /// Ask before you try again.
    Unknown,
}

/// An error's body, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A name for the kind of problem.
    #[serde(rename = "type")]
    pub type_uri: Cow<'static, str>,
    /// The same for every problem of this code.
    pub title: Cow<'static, str>,
    /// HTTP status.
    pub status: u16,
    /// What it is this time.
    pub detail: String,
    /// For programs.
    pub code: Code,
    /// Whether something may have been stored.
    pub side_effects: SideEffects,
    /// When to try again, where waiting helps; also in the `Retry-After` header, rounded up to seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// Media type of the body.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem that left nothing behind, except for `internal`, of which nobody knows.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        let side_effects = if code == Code::Internal { SideEffects::Unknown } else { SideEffects::None };
        Problem {
            type_uri: Cow::Borrowed(code.type_uri()),
            title: Cow::Borrowed(code.title()),
            status: code.status(),
            detail: detail.into(),
            code,
            side_effects,
            retry_after_ms: None,
        }
    }
    /// Something may have been stored.
    pub fn unknown_side_effects(mut self) -> Problem {
        self.side_effects = SideEffects::Unknown;
        self
    }
    /// Waiting so long helps.
    pub fn retry_after_ms(mut self, ms: u64) -> Problem {
        self.retry_after_ms = Some(ms);
        self
    }
    /// Value of the `Retry-After` header: whole seconds, rounded up, at least one.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after_ms.map(|ms| ms.div_ceil(1_000).max(1))
    }
}

impl From<crate::body::BodyError> for Problem {
    fn from(error: crate::body::BodyError) -> Problem {
        Problem::new(Code::InvalidRequest, error.to_string())
    }
}
