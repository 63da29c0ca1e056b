//! Passes a call on to the region where its reservation, ticket or session is at home: one hop, server to server.
//!
//! A call that was already passed on is never passed on again: two regions that disagree about a home must not play
//! ball with it. What went wrong between regions is `503 unavailable`, with `unknown` unless nothing was sent.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use region_api::RegionName;
use std::collections::BTreeMap;
use tokio::sync::Semaphore;
use url::Url;

use super::front::REQUEST_ID;
use super::problem::Refusal;
use crate::limits;

/// Says in an answer which region it came from.
pub(crate) const HOME: HeaderName = HeaderName::from_static("x-boxoffice-home");
/// Says in a passed-on request which region passed it on.
pub(crate) const HOP: HeaderName = HeaderName::from_static("x-boxoffice-hop");

const STRIPE_SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");
const SENT_ON: [HeaderName; 4] = [ACCEPT, CONTENT_TYPE, IF_NONE_MATCH, STRIPE_SIGNATURE];
const SENT_BACK: [HeaderName; 7] = [ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER, HOME];

/// The other regions.
pub struct Peers {
    region: RegionName,
    addresses: BTreeMap<RegionName, Url>,
    client: reqwest::Client,
    places: Semaphore,
}

impl Peers {
    /// From the configured addresses.
    pub fn new(region: RegionName, addresses: BTreeMap<RegionName, Url>, client: reqwest::Client) -> Self {
        Self { region, addresses, client, places: Semaphore::new(limits::FORWARDS_MAX) }
    }

    /// Passes a request on and its answer back. `session` is the caller's token, wherever it came from.
    pub(crate) async fn pass_on(
        &self,
        home: &RegionName,
        parts: &Parts,
        request_id: &HeaderValue,
        session: Option<&str>,
        body: Bytes,
    ) -> Result<Response, Refusal> {
        let address = self.addresses.get(home).ok_or_else(|| away(home, "no address is configured for it"))?;
        if parts.headers.contains_key(HOP) {
            return Err(away(home, "the request was already passed on once"));
        }
        let _place =
            self.places.try_acquire().map_err(|_| Refusal::overloaded("too many calls for other regions at once"))?;
        let mut url = address.clone();
        url.set_path(parts.uri.path());
        url.set_query(parts.uri.query());
        let safe = matches!(parts.method, Method::GET | Method::HEAD);
        let request = self
            .client
            .request(parts.method.clone(), url)
            .headers(self.headers(&parts.headers, request_id, session)?)
            .body(body);
        let answer = match tokio::time::timeout(limits::FORWARD_TIMEOUT, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if safe || error.is_connect() => return Err(away(home, error.without_url())),
            Ok(Err(error)) => return Err(away(home, error.without_url()).unknown()),
            Err(_) if safe => return Err(away(home, "no answer in time")),
            Err(_) => return Err(away(home, "no answer in time").unknown()),
        };
        let status = answer.status();
        let mut headers = HeaderMap::new();
        for name in &SENT_BACK {
            if let Some(value) = answer.headers().get(name) {
                headers.insert(name, value.clone());
            }
        }
        for value in answer.headers().get_all(http::header::SET_COOKIE) {
            headers.append(http::header::SET_COOKIE, value.clone());
        }
        if let Ok(home) = HeaderValue::from_str(home.as_str()) {
            headers.insert(HOME, home);
        }
        // An event stream goes through as it comes.
        let chunks = futures::stream::unfold(answer, |mut answer| async move {
            match answer.chunk().await {
                Ok(Some(chunk)) => Some((Ok(chunk), answer)),
                Ok(None) => None,
                Err(error) => Some((Err(error), answer)),
            }
        });
        Ok((status, headers, Body::from_stream(chunks)).into_response())
    }

    fn headers(&self, from: &HeaderMap, request_id: &HeaderValue, session: Option<&str>) -> Result<HeaderMap, Refusal> {
        let mut headers = HeaderMap::new();
        for name in &SENT_ON {
            if let Some(value) = from.get(name) {
                headers.insert(name, value.clone());
            }
        }
        if let Some(session) = session {
            let mut value = HeaderValue::from_str(&format!("Bearer {session}")).map_err(Refusal::internal)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(REQUEST_ID, request_id.clone());
        headers.insert(HOP, HeaderValue::from_str(self.region.as_str()).map_err(Refusal::internal)?);
        Ok(headers)
    }
}

fn away(home: &RegionName, cause: impl std::fmt::Display) -> Refusal {
    Refusal::unavailable(format!("its home region {home} cannot be reached from here"), cause)
}
