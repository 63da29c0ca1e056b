//! `GET /v1/concerts` and `GET /v1/concerts/{concert}`: from memory, with an `ETag` that changes when what is shown does.
//! And where everybody else finds a concert.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use foldhash::fast::FixedState;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use region_api::wire::{Concert, ConcertList};
use serde::Serialize;
use std::hash::BuildHasher;
use std::sync::Arc;

use super::problem::Refusal;
use super::segment::Segment;
use crate::app::App;
use crate::view::View;

/// The concert of that name. A node that has just started knows none: that is no answer to whoever has a place in one.
pub(crate) fn find(app: &App, concert: &str) -> Result<Arc<View>, Refusal> {
    match app.catalog.view(concert) {
        Some(view) => Ok(view),
        None if app.catalog.age_ms().is_some() => Err(Refusal::not_found("concert")),
        None => Err(not_read()),
    }
}

/// All concerts as they are shown now, in no order.
pub(crate) fn all(app: &App) -> Result<Vec<Concert>, Refusal> {
    app.catalog.age_ms().ok_or_else(not_read)?;
    let now_ms = app.catalog.now_ms();
    Ok(app.catalog.views().values().map(|view| view.concert(now_ms)).collect())
}

/// Nothing has been read of it yet; it will be, within a second.
pub(crate) fn not_read() -> Refusal {
    Refusal::unavailable("this node has not read its concerts yet", "catalog")
}

/// `GET /v1/concerts`
pub(crate) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let mut concerts = all(&app)?;
    concerts.sort_by(|a, b| (a.sale_opens_at, &a.concert).cmp(&(b.sale_opens_at, &b.concert)));
    let list = ConcertList { concerts };
    let mut timeless = list.clone();
    for concert in &mut timeless.concerts {
        concert.as_of = region_api::Timestamp::MAX;
    }
    answer(&headers, &list, &timeless)
}

/// `GET /v1/concerts/{concert}`
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Segment(concert): Segment,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let view = find(&app, &concert)?;
    let concert = view.concert(app.catalog.now_ms());
    let mut timeless = concert.clone();
    timeless.as_of = region_api::Timestamp::MAX;
    answer(&headers, &concert, &timeless)
}

/// The tag is weak: two answers that differ only in their time are equally good.
fn answer<T: Serialize>(headers: &HeaderMap, shown: &T, timeless: &T) -> Result<Response, Refusal> {
    let stable = serde_json::to_vec(timeless).map_err(Refusal::internal)?;
    let tag = format!("W/\"{:016x}\"", FixedState::default().hash_one(&stable));
    let etag = HeaderValue::from_str(&tag).map_err(Refusal::internal)?;
    let asked = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let known = asked.flat_map(|value| value.split(',')).map(str::trim).any(|value| value == tag || value == "*");
    let cache = HeaderValue::from_static("public, max-age=1");
    if known {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag), (CACHE_CONTROL, cache)]).into_response());
    }
    let body = serde_json::to_vec(shown).map_err(Refusal::internal)?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, json), (ETAG, etag), (CACHE_CONTROL, cache)], body).into_response())
}
