//! Who the arbiters are: one change at a time, a new one listens first and votes once it has caught up, and nobody is
//! removed but by an operator.

use std::sync::Arc;

use arbiter_api::{Acted, AddMember, Transfer, limits::OPERATOR_BODY_MAX_BYTES};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use region_api::Code;
use uuid::Uuid;

use super::{
    App, Refusal,
    body::{self, Segments},
    door::Caller,
    orders::give,
};
use crate::{
    command::{Address, Order, RequestId},
    node::Consistency,
    raft::{Membership, MembershipRefused},
};

fn fresh() -> RequestId {
    RequestId(Uuid::new_v4().as_u128())
}

impl From<MembershipRefused> for Refusal {
    fn from(refused: MembershipRefused) -> Self {
        Self::new(Code::Conflict, refused.to_string())
    }
}

/// `POST /v1/cluster/members`
pub(super) async fn add(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let AddMember { id, address, people } = body::parsed(body, OPERATOR_BODY_MAX_BYTES).await?;
    let known = app.node.read(Consistency::Linearizable, move |view| {
        let members = view.driver().members();
        members.voters.contains(&id) || members.learners.contains(&id)
    });
    let known = known.await?;
    // Where it is found comes first: a leader has to reach whom it adds.
    let put = give(&app, &role, fresh(), Order::PutMember { id, address: Address { address, people } }).await?;
    if known {
        return Ok(Json(put).into_response());
    }
    app.node.change_members(Membership::AddLearner(id)).await??;
    let said = format!("arbiter {id} receives the log; it votes once it has caught up");
    Ok(Json(Acted { changed: true, said, ..put }).into_response())
}

/// `DELETE /v1/cluster/members/{id}`
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    path: Segments,
) -> Result<Response, Refusal> {
    let id: u64 = path.get(0, "member")?;
    let known = app.node.read(Consistency::Linearizable, move |view| {
        let members = view.driver().members();
        let member = members.voters.contains(&id) || members.learners.contains(&id);
        (member, member || view.state().members().contains_key(&id))
    });
    let (member, known) = known.await?;
    if !known {
        return Err(Refusal::new(Code::NotFound, format!("arbiter {id} is no member")));
    }
    if member {
        app.node.change_members(Membership::Remove(id)).await??;
    }
    let acted = give(&app, &role, fresh(), Order::ForgetMember { id }).await?;
    let said = format!("arbiter {id} is no member any more; its id is not used again");
    Ok(Json(Acted { changed: true, said, ..acted }).into_response())
}

const NO_VOTER: &str = "there is no such voter to take over";

/// `POST /v1/cluster/transfer`
pub(super) async fn transfer(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let Transfer { to } = body::parsed(body, OPERATOR_BODY_MAX_BYTES).await?;
    let known = app.node.read(Consistency::Linearizable, move |view| {
        (view.meta(), to.is_none_or(|id| view.driver().members().voters.contains(&id)))
    });
    let (meta, votes) = known.await?;
    if !votes {
        return Err(Refusal::new(Code::Conflict, NO_VOTER));
    }
    if to == Some(meta.node) {
        let said = format!("arbiter {} leads already", meta.node);
        return Ok(Json(Acted { meta, changed: false, said }).into_response());
    }
    let Acted { meta, .. } = give(&app, &role, fresh(), Order::Transfer { to }).await?;
    match app.node.transfer(to).await? {
        Some(target) => {
            let said = format!("arbiter {target} takes over if it can; look at the cluster in a second");
            Ok(Json(Acted { meta, changed: true, said }).into_response())
        }
        None => Err(Refusal::new(Code::Conflict, NO_VOTER)),
    }
}
