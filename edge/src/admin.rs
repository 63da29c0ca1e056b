//! The admin port (contract: API §4): where a network would go and why, the regions, drains, reports, HAProxy's
//! configuration, reload, metrics.
//!
//! Reading is open to whoever reaches the port; changing takes the operator's token, or, where none is configured, a call
//! from this machine. The one file of this service that maps errors to HTTP.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use metrics_exporter_prometheus::PrometheusHandle;
use region_api::problem::{Code, Problem};
use serde::Deserialize;
use serde_json::json;

use crate::choice::{Client, explain};
use crate::config::Config;
use crate::haproxy::HaproxyError;
use crate::limits::ADMIN_BODY_MAX_BYTES;
use crate::live::{BoardHandle, Door, Report, WatchError};
use crate::net::Shared;
use crate::server::{ReloadError, Reloader};

/// What the handlers need.
#[derive(Clone)]
pub struct Admin {
    /// This edge's name in answers.
    pub node: Arc<str>,
    /// The snapshot in force.
    pub shared: Arc<Shared>,
    /// The board.
    pub board: BoardHandle,
    /// Reads the configuration again.
    pub reloader: Arc<Reloader>,
    /// Keeps HAProxy in step.
    pub door: Arc<Door>,
    /// Metrics, when this process has a recorder.
    pub metrics: Option<PrometheusHandle>,
}

/// An error on its way out.
struct Refusal(Problem);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
        response
    }
}

impl Refusal {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Problem::new(code, detail))
    }
}

impl From<WatchError> for Refusal {
    fn from(error: WatchError) -> Self {
        let code = match &error {
            WatchError::UnknownRegion(_) => Code::NotFound,
            WatchError::Drain(_) | WatchError::Stopping | WatchError::Client(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ReloadError> for Refusal {
    fn from(error: ReloadError) -> Self {
        Self::new(Code::Conflict, format!("the old configuration stays in force: {error}"))
    }
}

type Answer = Result<Response, Refusal>;

/// The admin port's routes. Serve them with connect info, or no change will be allowed without a token.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/where", get(where_is))
        .route("/v1/regions", get(regions))
        .route("/v1/regions/{region}/drain", post(drain))
        .route("/v1/regions/{region}/resume", post(resume))
        .route("/v1/regions/{region}/report", put(report))
        .route("/v1/reload", post(reload))
        .route("/v1/status", get(status))
        .route("/haproxy.cfg", get(haproxy))
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { axum::Json(json!({"status": "alive"})) }))
        .route("/readyz", get(|| async { axum::Json(json!({"ready": true, "missing": []})) }))
        .fallback(|| async { Refusal::new(Code::NotFound, "no such route") })
        .method_not_allowed_fallback(|| async { Refusal::new(Code::MethodNotAllowed, "see the Allow header") })
        .layer(DefaultBodyLimit::max(ADMIN_BODY_MAX_BYTES))
        .layer(middleware::from_fn_with_state(admin.clone(), guard))
        .with_state(admin)
}

/// Checks who may change something, and gives every answer a request id.
async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let sane = |id: &&HeaderValue| {
        let sane = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        (1..=64).contains(&id.len()) && id.as_bytes().iter().all(sane)
    };
    let id = request.headers().get("x-request-id").filter(sane).cloned();
    let changes = !request.method().is_safe();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let refused = if changes { may_change(&admin, request.headers(), peer).err() } else { None };
    let mut response = match refused {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    let made = || HeaderValue::from_str(&format!("{:016x}", fresh_id())).unwrap_or(HeaderValue::from_static("none"));
    response.headers_mut().insert("x-request-id", id.unwrap_or_else(made));
    response
}

fn fresh_id() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    foldhash::fast::RandomState::default().build_hasher().finish()
}

fn may_change(admin: &Admin, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<(), Refusal> {
    // A page in an operator's browser must not be able to drain a region.
    if headers.contains_key(header::ORIGIN) {
        return Err(Refusal::new(Code::Forbidden, "not from a browser's page"));
    }
    let Some(token) = admin.reloader.admin_token() else {
        let local = peer.is_some_and(|ip| ip.to_canonical().is_loopback());
        return if local { Ok(()) } else { Err(Refusal::new(Code::Unauthenticated, "no admin token is configured")) };
    };
    let given =
        headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    match given {
        Some(given) if same(given.as_bytes(), token.as_bytes()) => Ok(()),
        _ => Err(Refusal::new(Code::Unauthenticated, "an operator's bearer token is needed")),
    }
}

/// Compares in a time that does not depend on where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

fn now() -> String {
    let now = time::OffsetDateTime::from(SystemTime::now());
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhereQuery {
    ip: String,
}

async fn where_is(
    State(admin): State<Admin>,
    query: Result<Query<WhereQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(WhereQuery { ip }) = query.map_err(|e| Refusal::new(Code::InvalidRequest, format!("ip: {e}")))?;
    let client =
        client(&ip).ok_or_else(|| Refusal::new(Code::InvalidRequest, "ip: an address or a network is needed"))?;
    let snapshot = admin.shared.snapshot.load();
    let rules = &snapshot.rules;
    let explanation =
        explain(&snapshot.policy, &snapshot.geo, &snapshot.live, snapshot.step_ms, client, |pick| rules.ttl_s(pick));
    Ok(with_origin(&admin, serde_json::to_value(explanation).unwrap_or_default()))
}

fn client(text: &str) -> Option<Client> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Client { address, prefix: if address.is_ipv4() { 32 } else { 128 } });
    }
    let network: ipnet::IpNet = text.parse().ok()?;
    Some(Client { address: network.network(), prefix: network.prefix_len() })
}

/// An object with who answered and when added.
fn with_origin(admin: &Admin, mut value: serde_json::Value) -> Response {
    if let Some(object) = value.as_object_mut() {
        object.insert("node".to_owned(), json!(*admin.node));
        object.insert("as_of".to_owned(), json!(now()));
    }
    axum::Json(value).into_response()
}

async fn regions(State(admin): State<Admin>) -> Answer {
    let views = admin.board.views().await?;
    Ok(with_origin(&admin, json!({ "regions": views })))
}

async fn drain(State(admin): State<Admin>, Path(region): Path<String>) -> Answer {
    Ok(axum::Json(admin.board.set_drained(region, true).await?).into_response())
}

async fn resume(State(admin): State<Admin>, Path(region): Path<String>) -> Answer {
    Ok(axum::Json(admin.board.set_drained(region, false).await?).into_response())
}

async fn report(
    State(admin): State<Admin>,
    Path(region): Path<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Answer {
    let body = body.map_err(|_| Refusal::new(Code::TooLarge, format!("over {ADMIN_BODY_MAX_BYTES} bytes")))?;
    let report = Report::from_json(&body).map_err(|e| Refusal::new(Code::InvalidRequest, e.to_string()))?;
    admin.board.report(region, report).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn reload(State(admin): State<Admin>) -> Answer {
    let needs_restart = admin.reloader.reload(&admin.board).await?;
    Ok(with_origin(&admin, json!({ "reloaded": true, "needs_restart": needs_restart })))
}

async fn status(State(admin): State<Admin>) -> Answer {
    let snapshot = admin.shared.snapshot.load();
    let body = json!({
        "zone": snapshot.zone.apex().to_string(),
        "geo": snapshot.geo.describe(),
        "last_reload_error": admin.reloader.last_error(),
        "haproxy_trouble": admin.door.trouble(),
        "regions": admin.board.views().await?,
    });
    Ok(with_origin(&admin, body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HaproxyQuery {
    region: String,
}

async fn haproxy(
    State(admin): State<Admin>,
    query: Result<Query<HaproxyQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(HaproxyQuery { region }) =
        query.map_err(|e| Refusal::new(Code::InvalidRequest, format!("region: {e}")))?;
    let config: Arc<Config> = admin.reloader.config();
    let found = config.regions.iter().find(|r| r.name == region);
    let found = found.ok_or_else(|| Refusal::from(WatchError::UnknownRegion(region)))?;
    let text = config.haproxy.write(found).map_err(|e| match e {
        HaproxyError::NoNodes(_) => Refusal::new(Code::NotFound, e.to_string()),
        other => Refusal::new(Code::Internal, other.to_string()),
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

async fn metrics_text(State(admin): State<Admin>) -> Answer {
    let Some(handle) = &admin.metrics else {
        return Err(Refusal::new(Code::NotFound, "this process records no metrics"));
    };
    admin.shared.stats.publish();
    for view in admin.board.views().await? {
        let usable = f64::from(u8::from(view.state == "up"));
        metrics::gauge!("edge_region_usable", "region" => view.region.clone()).set(usable);
        let away: f64 = view.handover.iter().map(|(_, share)| share).sum();
        metrics::gauge!("edge_region_handed_over_share", "region" => view.region).set(away);
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response())
}
