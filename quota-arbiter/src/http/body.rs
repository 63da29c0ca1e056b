//! Reads request bodies, bounded in size and time, and the variable parts of a path.

use std::str::FromStr;

use axum::{
    body::Body,
    extract::{FromRequestParts, Path},
};
use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use region_api::{Code, body::Checked};
use serde::de::DeserializeOwned;

use super::Refusal;
use crate::limits::BODY_TIMEOUT;

/// Reads a whole body of at most `max_bytes`.
pub(super) async fn read(body: Body, max_bytes: usize) -> Result<Bytes, Refusal> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, max_bytes).collect()).await;
    match collected {
        Err(_) => Err(Refusal::new(Code::InvalidRequest, "body: did not arrive in time")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Refusal::new(Code::TooLarge, format!("body: at most {max_bytes} bytes")))
        }
        Ok(Err(_)) => Err(Refusal::new(Code::InvalidRequest, "body: was cut off or not well framed")),
    }
}

/// Reads, parses and checks a body.
pub(super) async fn parsed<T: DeserializeOwned + Checked>(body: Body, max_bytes: usize) -> Result<T, Refusal> {
    Ok(region_api::body::parse(&read(body, max_bytes).await?)?)
}

/// The variable parts of a path, decoded, as text.
pub(super) struct Segments(pub(super) Vec<String>);

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<Vec<String>>::from_request_parts(parts, state).await;
        path.map(|Path(segments)| Self(segments)).map_err(|_| Refusal::new(Code::NotFound, "no such route"))
    }
}

impl Segments {
    /// One of them as what it should be.
    pub(super) fn get<T: FromStr>(&self, at: usize, what: &str) -> Result<T, Refusal> {
        let text = self.0.get(at).map(String::as_str).unwrap_or_default();
        text.parse().map_err(|_| Refusal::new(Code::NotFound, format!("no such {what}")))
    }
}
