//! The arbiter's HTTP interfaces, for machines and for people. Who may do what is decided here ([`door`]), what it
//! means by the node. Any arbiter answers stale reads; everything else is the leader's, and others point to it.

mod body;
mod door;
mod log;
mod members;
mod orders;
mod problem;
mod raft;
mod region;
mod views;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use http::{StatusCode, header::CONTENT_TYPE};
use region_api::{
    Code,
    wire::{Health, Ready, admin::HealthStatus},
};

pub(crate) use door::name;
pub use problem::Refusal;

use crate::{metrics as measured, node::Handle, people::People, serve::Port, store::History};

/// What the interfaces need.
pub struct App {
    /// The node.
    pub node: Handle,
    /// Committed commands, also those before the last snapshot.
    pub history: Option<History>,
    /// Who may come in at the people's port.
    pub people: People,
    /// How often regions report.
    pub heartbeat_ms: u64,
}

/// What a port answers.
pub fn router(app: Arc<App>, port: Port) -> Router {
    let operators = Router::new()
        .route("/v1/concerts/{concert}", put(orders::put_concert))
        .route("/v1/concerts/{concert}/close", post(orders::close))
        .route("/v1/quota/{concert}/{tier}/move", post(orders::move_tickets))
        .route("/v1/quota/{concert}/{tier}/total", put(orders::set_total))
        .route("/v1/quota/{concert}/rebalance", post(orders::rebalance))
        .route("/v1/quota/{concert}/freeze", post(orders::freeze))
        .route("/v1/quota/{concert}/thaw", post(orders::thaw))
        .route("/v1/regions/{region}", put(orders::add_region))
        .route("/v1/regions/{region}/drain", post(orders::drain))
        .route("/v1/regions/{region}/resume", post(orders::resume))
        .route("/v1/regions/{region}/write-off", post(orders::write_off))
        .route("/v1/cluster/members", post(members::add))
        .route("/v1/cluster/members/{id}", delete(members::remove))
        .route("/v1/cluster/transfer", post(members::transfer))
        .route("/metrics", get(metrics))
        .route_layer(middleware::from_fn(door::operators));
    let readers = Router::new()
        .route("/v1/concerts", get(views::concerts))
        .route("/v1/quota/{concert}", get(views::quota))
        .route("/v1/regions", get(views::regions))
        .route("/v1/cluster", get(views::cluster))
        .route("/v1/log", get(log::page))
        .route("/v1/log/base", get(log::base))
        .route("/v1/backup", get(views::backup))
        .route_layer(middleware::from_fn(door::readers));
    let mut router = Router::new().merge(operators).merge(readers);
    if port == Port::Machines {
        // Each asks for the one role that may.
        router = router
            .route("/v1/regions/{region}/register", post(region::register))
            .route("/v1/regions/{region}/sync", post(region::sync))
            .route("/raft", post(raft::step));
    }
    let door = middleware::from_fn_with_state(app.clone(), door::door);
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(door)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn_with_state((app.clone(), port), door::redirect))
        .with_state(app)
}

async fn healthz() -> Response {
    Json(Health { status: HealthStatus::Alive }).into_response()
}

/// Ready: there is a leader, so whoever asks here gets somewhere.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    let status = app.node.status();
    let missing = if status.leader.is_some() { Vec::new() } else { vec!["leader".to_owned()] };
    let ready = missing.is_empty();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Ready { ready, missing })).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], measured::render(&app.node.status())).into_response()
}

async fn no_route() -> Refusal {
    Refusal::new(Code::NotFound, "no such route")
}

/// The router adds `Allow`.
async fn no_method() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "this route has other methods; see Allow")
}
