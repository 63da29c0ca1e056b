//! What regions ask: to be registered, and to hear what they were granted. A region speaks for itself alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arbiter_api::{Meta, RegisterReply, Role, SyncBody, SyncReply, limits::REGION_BODY_MAX_BYTES};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use quota_protocol::{
    Command, Outcome, RegionId,
    command::CommandRefused,
    holder::HaltReason,
    wire::{RegisterAnswer, RegisterRequest},
};
use region_api::{Code, InvalidField, Timestamp, body::Checked};
use serde::Deserialize;

use super::{
    App, Refusal,
    body::{self, Segments},
    door::Caller,
};
use crate::{
    command::Work,
    node::{AskSync, Consistency, Knows},
    raft::At,
    state::{Done, POOL},
};

#[derive(Deserialize)]
#[serde(transparent)]
struct RegisterBody(RegisterRequest);

impl Checked for RegisterBody {
    fn check(&self) -> Result<(), InvalidField> {
        Ok(())
    }
}

/// The region of the path, if the certificate is that region's.
fn own(role: &Role, path: &Segments) -> Result<RegionId, Refusal> {
    let region: RegionId = path.get(0, "region")?;
    if *role != Role::Region(region) {
        return Err(Refusal::new(
            Code::Forbidden,
            format!("your certificate says {role}; this is for region {region}"),
        ));
    }
    if region.as_str() == POOL {
        return Err(Refusal::invalid("region", "no region can be called `pool`"));
    }
    Ok(region)
}

/// `POST /v1/regions/{region}/register`
pub(super) async fn register(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    body: Body,
) -> Result<Response, Refusal> {
    let region = own(&role, &path)?;
    let RegisterBody(request) = body::parsed(body, REGION_BODY_MAX_BYTES).await?;
    let register = request.register().map_err(|error| Refusal::invalid("register", error))?;
    if register.region != region {
        return Err(Refusal::invalid("register.region", format!("is not {region}")));
    }
    let identity = register.identity;
    // A database that is registered and has not heard of it is told again, not registered anew.
    let before = app.node.read(Consistency::Linearizable, move |view| {
        let registered = view.state().issuer().registration(&region, &identity);
        (view.meta(), registered)
    });
    if let (meta, Some(registered)) = before.await?
        && registered.epoch.get() == register.epoch_as_read.get() + 1
        && registered.incarnation == register.incarnation
    {
        return Ok(Json(RegisterReply { meta, answer: RegisterAnswer::Registered(registered) }).into_response());
    }
    let (at, applied) = app.node.propose(Work::Quota(vec![Command::Register(register)])).await?;
    let Done::Quota(outcomes) = applied.done else { return Err(Refusal::new(Code::Internal, "no outcome")) };
    let answer = match outcomes.into_iter().next() {
        Some(Outcome::Registered(registered)) => RegisterAnswer::Registered(registered),
        Some(Outcome::Refused(CommandRefused::Register(reason))) => {
            RegisterAnswer::Refused(HaltReason::Refused(reason))
        }
        _ => RegisterAnswer::ReadAgain,
    };
    Ok(Json(RegisterReply { meta: meta(&app, at), answer }).into_response())
}

/// Where something was applied here.
pub(super) fn meta(app: &App, at: At) -> Meta {
    let now = std::time::SystemTime::now().into();
    Meta { node: app.node.status().id, term: at.term, index: at.index, as_of: Timestamp::from_datetime(now) }
}

/// `POST /v1/regions/{region}/sync`
pub(super) async fn sync(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
    body: Body,
) -> Result<Response, Refusal> {
    let region = own(&role, &path)?;
    let SyncBody { sync, concerts_version, wait_ms, look } = body::parsed(body, REGION_BODY_MAX_BYTES).await?;
    if sync.region != region {
        return Err(Refusal::invalid("sync.region", format!("is not {region}")));
    }
    let knows = Knows {
        incarnation: sync.incarnation,
        epoch: sync.epoch,
        identity: sync.identity,
        rows: sync.pools.iter().map(|row| (row.pool, (row.counters.granted, row.counters.returned))).collect(),
    };
    let report = sync.report().map_err(|error| Refusal::invalid("sync", error))?;
    let wait = Duration::from_millis(wait_ms.min(app.heartbeat_ms));
    let wait_until = (wait_ms > 0 && !look).then(|| Instant::now() + wait);
    let synced = app.node.sync(AskSync { region, report, knows, concerts_version, wait_until, look }).await?;
    let sync = synced.answer.map_err(|error| Refusal::new(Code::Conflict, error.to_string()))?;
    let reply = SyncReply {
        meta: synced.meta,
        sync,
        heartbeat_ms: app.heartbeat_ms,
        stock: (*synced.stock).clone(),
        concerts_version: synced.concerts_version,
        concerts: synced.concerts,
    };
    Ok(Json(reply).into_response())
}
