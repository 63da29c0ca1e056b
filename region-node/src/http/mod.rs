//! The region's HTTP interfaces, public and admin.
//!
//! [`Front`] is what every public request passes first; it answers the two hot calls itself and leaves the rest to
//! [`router`]. [`serve`] knows nothing of any of this.

mod acts;
mod admin;
mod body;
mod caller;
mod concerts;
mod front;
mod join;
mod jwks;
mod openapi;
mod pay;
mod peers;
mod polls;
mod problem;
mod reservations;
mod segment;
mod serve;
mod session;
mod standing;
mod timer;
mod unparsed;
mod wishes;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post, put};
use http::StatusCode;
use region_api::Code;
use region_api::wire::admin::HealthStatus;
use region_api::wire::{Health, Ready};
use std::sync::Arc;

pub use front::{Front, Gate};
pub use jwks::Jwks;
pub use peers::Peers;
pub use polls::Polls;
pub use problem::Refusal;
pub use serve::{ServeConfig, serve};

use self::segment::Segment;
use crate::app::App;

/// The public interface, to be put behind [`Front`].
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/session", post(session::begin))
        .route("/v1/challenge", get(session::challenge))
        .route("/v1/concerts", get(concerts::list))
        .route("/v1/concerts/{concert}", get(concerts::one))
        .route("/v1/concerts/{concert}/reservations", post(join_routed))
        .route("/v1/reservations/{id}", get(reservations::status_routed).delete(reservations::cancel))
        .route("/v1/reservations/{id}/events", get(reservations::events))
        .route("/v1/reservations/{id}/reclaim", post(reservations::reclaim))
        .route("/v1/reservations/{id}/payment", post(pay::start))
        .route("/v1/webhooks/stripe", post(pay::webhook))
        .route("/v1/tickets/{ticket}", get(pay::ticket))
        .route("/v1/tickets/check", post(pay::check))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/openapi.json", get(openapi::openapi))
        .route("/docs", get(openapi::docs))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(app)
}

/// The operators' interface, complete.
pub fn admin_router(app: Arc<App>) -> Router {
    let guard = axum::middleware::from_fn_with_state(app.clone(), admin::guard);
    Router::new()
        .route("/v1/status", get(admin::status))
        .route("/v1/concerts", get(admin::list))
        .route("/v1/concerts/{concert}", put(admin::put))
        .route("/v1/concerts/{concert}/close", post(admin::close))
        .route("/v1/concerts/{concert}/accept-books", post(admin::accept_books))
        .route("/v1/ledger", get(admin::ledger))
        .route("/v1/queue", get(wishes::wishes))
        .route("/v1/drain", post(admin::drain))
        .route("/v1/resume", post(admin::resume))
        .route("/metrics", get(admin::measured))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(guard)
        .with_state(app)
}

/// A join whose path is spelled in another way than [`Front`] looks for.
async fn join_routed(State(app): State<Arc<App>>, Segment(concert): Segment, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request_id = reservations::request_id(&parts.headers);
    join::join(&app, &concert, &parts, &request_id, body).await
}

async fn healthz() -> Response {
    join::json(StatusCode::OK, &Health { status: HealthStatus::Alive })
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    let missing = app.missing();
    let ready = missing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    join::json(status, &Ready { ready, missing })
}

async fn no_route() -> Refusal {
    Refusal::not_found("route")
}

/// The router adds `Allow`.
async fn no_method() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "this route has other methods; see Allow")
}
