//! What operators order. Each order goes into the log with who gave it and under which id, so that one that is sent
//! again is answered and not done again.

use std::sync::Arc;

use arbiter_api::{Acted, MoveRequest, Role, SetTotalRequest, WriteOffRequest, limits::OPERATOR_BODY_MAX_BYTES};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName};
use quota_protocol::{Command, ConcertId, PoolId, RegionId};
use region_api::{Code, ConcertName, wire::ConcertDefinition};
use uuid::Uuid;

use super::{
    App, Refusal,
    body::{self, Segments},
    door::Caller,
    region::meta,
};
use crate::{
    command::{Order, Request, RequestId},
    state::{Done, POOL, Told},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

fn uuid(field: &str, text: &str) -> Result<RequestId, Refusal> {
    let id = Uuid::try_parse(text).map_err(|_| Refusal::invalid(field, "must be a UUID"))?;
    Ok(RequestId(id.as_u128()))
}

/// The client's id of a request without a body of its own. Without one, the order's content decides what a repeat does.
fn key(headers: &HeaderMap) -> Result<RequestId, Refusal> {
    match headers.get(IDEMPOTENCY_KEY) {
        None => Ok(RequestId(Uuid::new_v4().as_u128())),
        Some(key) => uuid("idempotency-key", key.to_str().unwrap_or_default()),
    }
}

/// Gives an order, and says what came of it.
pub(super) async fn give(app: &App, role: &Role, id: RequestId, order: Order) -> Result<Acted, Refusal> {
    let who = match role {
        Role::Operator(name) => name.clone(),
        other => other.to_string(),
    };
    tracing::info!(who, order = ?order, "ordered");
    let (at, applied) = app.node.request(Request { id, who, order }).await?;
    let (told, before) = match applied.done {
        Done::Request(effect) => (effect.told(), false),
        Done::Repeated(answered) => (answered.told, true),
        Done::OtherContent => {
            return Err(Refusal::new(Code::Conflict, "request_id: was used before with other content"));
        }
        Done::Quota(_) | Done::Noted => return Err(Refusal::new(Code::Internal, "no answer to a request")),
    };
    match told {
        Told { refused: Some(code), said, .. } => Err(Refusal::new(code, said)),
        Told { changed, said, .. } if before => {
            Ok(Acted { meta: meta(app, at), changed: false, said: format!("done before ({changed}): {said}") })
        }
        Told { changed, said, .. } => Ok(Acted { meta: meta(app, at), changed, said }),
    }
}

async fn acted(app: &App, role: &Role, id: RequestId, order: Order) -> Result<Response, Refusal> {
    give(app, role, id, order).await.map(|acted| Json(acted).into_response())
}

/// `PUT /v1/concerts/{concert}`
pub(super) async fn put_concert(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name = path.0.first().map(String::as_str).unwrap_or_default();
    let name = ConcertName::new(name).map_err(|error| Refusal::invalid("concert", error))?;
    let definition: ConcertDefinition = body::parsed(body, OPERATOR_BODY_MAX_BYTES).await?;
    definition.check_name(&name).map_err(|error| Refusal::invalid(&error.field, error.message))?;
    let concert = ConcertId::new(name.as_str()).map_err(|error| Refusal::invalid("concert", error))?;
    let definition = Box::new(ConcertDefinition { concert: Some(name), ..definition });
    acted(&app, &role, key(&headers)?, Order::PutConcert { concert, definition }).await
}

/// `POST /v1/concerts/{concert}/close`
pub(super) async fn close(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let order = Order::CloseConcert { concert: path.get(0, "concert")? };
    acted(&app, &role, key(&headers)?, order).await
}

fn pool(path: &Segments) -> Result<PoolId, Refusal> {
    Ok(PoolId { concert: path.get(0, "concert")?, tier: path.get(1, "tier")? })
}

/// `POST /v1/quota/{concert}/{tier}/move`
pub(super) async fn move_tickets(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    body: Body,
) -> Result<Response, Refusal> {
    let pool = pool(&path)?;
    let MoveRequest { from, to, tickets, request_id } = body::parsed(body, OPERATOR_BODY_MAX_BYTES).await?;
    acted(&app, &role, uuid("request_id", &request_id)?, Order::Move { pool, from, to, tickets }).await
}

/// `PUT /v1/quota/{concert}/{tier}/total`
pub(super) async fn set_total(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let pool = pool(&path)?;
    let SetTotalRequest { from, to } = body::parsed(body, OPERATOR_BODY_MAX_BYTES).await?;
    acted(&app, &role, key(&headers)?, Order::Quota(Command::SetTotal { pool, from, to })).await
}

/// `POST /v1/quota/{concert}/rebalance`
pub(super) async fn rebalance(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    acted(&app, &role, key(&headers)?, Order::Rebalance { concert: path.get(0, "concert")? }).await
}

/// `POST /v1/quota/{concert}/freeze`
pub(super) async fn freeze(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let order = Order::FreezeConcert { concert: path.get(0, "concert")?, frozen: true };
    acted(&app, &role, key(&headers)?, order).await
}

/// `POST /v1/quota/{concert}/thaw`
pub(super) async fn thaw(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let order = Order::FreezeConcert { concert: path.get(0, "concert")?, frozen: false };
    acted(&app, &role, key(&headers)?, order).await
}

/// `PUT /v1/regions/{region}`
pub(super) async fn add_region(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let name = path.0.first().map(String::as_str).unwrap_or_default();
    // Regions' own nodes and certificates know this narrower rule.
    region_api::RegionName::new(name).map_err(|error| Refusal::invalid("region", error))?;
    let region: RegionId = name.parse().map_err(|error| Refusal::invalid("region", error))?;
    if region.as_str() == POOL {
        return Err(Refusal::invalid("region", "no region can be called `pool`"));
    }
    acted(&app, &role, key(&headers)?, Order::Quota(Command::AddRegion { region })).await
}

/// `POST /v1/regions/{region}/drain`
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let order = Order::Quota(Command::Drain { region: path.get(0, "region")? });
    acted(&app, &role, key(&headers)?, order).await
}

/// `POST /v1/regions/{region}/resume`
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let order = Order::Quota(Command::Resume { region: path.get(0, "region")? });
    acted(&app, &role, key(&headers)?, order).await
}

/// `POST /v1/regions/{region}/write-off`
pub(super) async fn write_off(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    body: Body,
) -> Result<Response, Refusal> {
    let region = path.get(0, "region")?;
    let WriteOffRequest { fenced, sales, request_id } = body::parsed(body, OPERATOR_BODY_MAX_BYTES).await?;
    let order = Order::Quota(Command::WriteOff { region, fenced, sales });
    acted(&app, &role, uuid("request_id", &request_id)?, order).await
}
