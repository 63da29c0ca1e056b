//! What every request passes: a bound on how many are answered at once, an `x-request-id`, the two hot calls picked out
//! before the router, panics turned into `500`, and the one place where failures are logged.
//!
//! One layer instead of a stack of them, because the hot calls are to cost a few microseconds. It owns nothing but
//! counters; it must never wait.

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use super::problem::{Cause, Refusal};
use super::{join, reservations};
use crate::app::App;
use crate::clock;
use crate::limits;
use crate::metrics::{HttpMetrics, RouteMetrics};

/// `x-request-id`
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Counters at the door.
pub struct Gate {
    inflight: AtomicUsize,
    inflight_max: usize,
    id_prefix: u32,
    id_next: AtomicU64,
    logged_at_s: AtomicU64,
    /// Handles for what is counted.
    pub metrics: HttpMetrics,
}

impl Gate {
    /// A door for so many at once.
    pub fn new(inflight_max: usize) -> Self {
        Self {
            inflight: AtomicUsize::new(0),
            inflight_max,
            id_prefix: rand::random(),
            id_next: AtomicU64::new(1),
            logged_at_s: AtomicU64::new(0),
            metrics: HttpMetrics::default(),
        }
    }

    fn enter(&self) -> Option<Inside<'_>> {
        let before = self.inflight.fetch_add(1, Ordering::Relaxed);
        let inside = Inside(self);
        (before < self.inflight_max).then_some(inside)
    }

    /// Requests being answered.
    pub fn inflight(&self) -> usize {
        self.inflight.load(Ordering::Relaxed)
    }

    /// The client's id where it is sane, else one of ours: unique per process, told apart between processes by chance.
    pub(super) fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let sane = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            let fine = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            (1..=limits::REQUEST_ID_MAX_BYTES).contains(&bytes.len()) && bytes.iter().all(fine)
        };
        if let Some(value) = headers.get(REQUEST_ID).filter(sane) {
            return value.clone();
        }
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 21];
        let mut number = self.id_next.fetch_add(1, Ordering::Relaxed);
        let mut prefix = self.id_prefix;
        for at in (0..8).rev() {
            text[at] = HEX[(prefix & 15) as usize];
            prefix >>= 4;
        }
        for at in (9..21).rev() {
            text[at] = HEX[(number & 15) as usize];
            number >>= 4;
        }
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    }

    /// Logs a failure: every defect, and at most one outage a second (they come by the thousand).
    pub(super) fn log(&self, response: &mut Response, path: &str, request_id: &HeaderValue) {
        let status = response.status().as_u16();
        let cause = response.extensions_mut().remove::<Cause>().map_or_else(String::new, |cause| cause.0);
        let request_id = request_id.to_str().unwrap_or_default();
        if status == 500 {
            tracing::error!(request.id = request_id, request.path = path, cause, "a request failed");
            return;
        }
        let second = clock::now_ms() / 1000;
        if !cause.is_empty() && self.logged_at_s.swap(second, Ordering::Relaxed) != second {
            tracing::warn!(request.id = request_id, request.path = path, status, cause, "a request was refused");
        }
    }
}

struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The public interface as the service of one connection.
#[derive(Clone)]
pub struct Front(Arc<(Arc<App>, Router)>);

impl Front {
    /// Puts the front before a router.
    pub fn new(app: Arc<App>, router: Router) -> Self {
        Self(Arc::new((app, router)))
    }
}

/// The calls that do not go through the router.
enum Hot<'a> {
    Join(&'a str),
    Status(&'a str),
}

fn hot<'a>(method: &Method, path: &'a str) -> Option<Hot<'a>> {
    let plain = |segment: &str| !segment.is_empty() && !segment.bytes().any(|b| b == b'/' || b == b'%');
    if *method == Method::GET {
        let id = path.strip_prefix("/v1/reservations/")?;
        return plain(id).then_some(Hot::Status(id));
    }
    if *method == Method::POST {
        let concert = path.strip_prefix("/v1/concerts/")?.strip_suffix("/reservations")?;
        return plain(concert).then_some(Hot::Join(concert));
    }
    None
}

impl<B> tower::Service<Request<B>> for Front
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self(front) = self.clone();
        Box::pin(async move {
            let (app, router) = &*front;
            Ok(answer(app, router, request).await)
        })
    }
}

async fn answer<B>(app: &Arc<App>, router: &Router, request: Request<B>) -> Response
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<axum::BoxError>,
{
    let gate = &app.gate;
    let request_id = gate.request_id(request.headers());
    let Some(_inside) = gate.enter() else {
        gate.metrics.refused.increment(1);
        if let Some(Hot::Join(_)) = hot(request.method(), request.uri().path()) {
            app.refused_joins.fetch_add(1, Ordering::Relaxed);
        }
        let mut response = Refusal::overloaded("too many requests at once").into_response();
        response.headers_mut().insert(REQUEST_ID, request_id);
        return response;
    };
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let (route, answered, uri): (&RouteMetrics, _, _) = match hot(&parts.method, parts.uri.path()) {
        Some(Hot::Join(concert)) => {
            let answer = join::join(app, concert, &parts, &request_id, body);
            (&gate.metrics.join, AssertUnwindSafe(answer).catch_unwind().await, parts.uri)
        }
        Some(Hot::Status(id)) => {
            let answer = reservations::status(app, id, &parts, &request_id);
            (&gate.metrics.status, AssertUnwindSafe(answer).catch_unwind().await, parts.uri)
        }
        None => {
            let uri = parts.uri.clone();
            parts.headers.insert(REQUEST_ID, request_id.clone());
            let request = Request::from_parts(parts, Body::new(body));
            let answer = tower::Service::call(&mut router.clone(), request).map(|Ok(response)| response);
            (&gate.metrics.other, AssertUnwindSafe(answer).catch_unwind().await, uri)
        }
    };
    let mut response = answered.unwrap_or_else(|_| Refusal::internal("a handler panicked").into_response());
    route.answered(response.status(), started.elapsed());
    if response.status().is_server_error() {
        gate.log(&mut response, uri.path(), &request_id);
    }
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_hot() {
        let join = |path| matches!(hot(&Method::POST, path), Some(Hot::Join("demo")));
        assert!(join("/v1/concerts/demo/reservations"));
        assert!(!join("/v1/concerts/de%6do/reservations") && !join("/v1/concerts/demo/reservations/"));
        assert!(hot(&Method::POST, "/v1/concerts//reservations").is_none());
        assert!(matches!(hot(&Method::GET, "/v1/reservations/abc"), Some(Hot::Status("abc"))));
        assert!(hot(&Method::GET, "/v1/reservations/abc/events").is_none());
        assert!(hot(&Method::DELETE, "/v1/reservations/abc").is_none());
        assert!(hot(&Method::GET, "/v1/reservations/").is_none());
    }

    #[test]
    fn a_sane_request_id_is_kept_and_another_replaced() {
        let gate = Gate::new(1);
        let id = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_static(value));
            gate.request_id(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(id("abc-123"), "abc-123");
        assert_ne!(id("a b"), "a b");
        assert_ne!(id(""), "");
        let (one, two) = (gate.request_id(&HeaderMap::new()), gate.request_id(&HeaderMap::new()));
        assert!(one != two && one.len() == 21);
    }

    #[test]
    fn the_door_counts_who_is_inside() {
        let gate = Gate::new(1);
        let first = gate.enter();
        assert!(first.is_some() && gate.enter().is_none());
        drop(first);
        assert!(gate.enter().is_some() && gate.inflight() == 0);
    }
}
