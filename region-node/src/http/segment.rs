//! The one variable segment of a path. One that is not even text names nothing: `404`.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::problem::Refusal;

/// The variable segment, decoded.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(segment)| Self(segment)).map_err(|_| Refusal::not_found("route"))
    }
}
