//! `GET /v1/concerts` and `GET /v1/concerts/{concert}`: from memory, with an `ETag` that changes when what is shown does.

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

/// `GET /v1/concerts`
pub(crate) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let now_ms = app.catalog.now_ms();
    let mut concerts: Vec<Concert> = app.catalog.views().values().map(|view| view.concert(now_ms)).collect();
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
    let view = app.catalog.view(&concert).ok_or_else(|| Refusal::not_found("concert"))?;
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
