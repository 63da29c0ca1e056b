//! Who comes in: a certificate's role at the machines' port, a bearer token at the people's. Every request gets an id,
//! what failed is logged once, and who asked the wrong arbiter is told the right one.

use std::sync::Arc;

use arbiter_api::Role;
use axum::{
    Extension,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderName, HeaderValue, StatusCode, Uri,
    header::{AUTHORIZATION, LOCATION},
};
use region_api::Code;

use super::{App, Refusal, problem::Elsewhere};
use crate::serve::{Peer, Port};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_SIZE_MAX_BYTES: usize = 64;

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Role);

/// Finds out who asks; nobody unknown comes past here.
pub(super) async fn door(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let role = match peer.role {
        Some(Ok(role)) => role,
        Some(Err(problem)) => {
            return Refusal::new(Code::Forbidden, format!("your certificate: {problem}")).into_response();
        }
        None => {
            let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let given = given.strip_prefix("Bearer ").unwrap_or_default();
            let Some(holder) = app.people.holder(given.as_bytes()) else {
                return Refusal::new(Code::Unauthenticated, "an operator's token is needed for this").into_response();
            };
            holder.clone()
        }
    };
    request.extensions_mut().insert(Caller(role));
    next.run(request).await
}

fn forbidden(role: &Role, may: &str) -> Response {
    Refusal::new(Code::Forbidden, format!("your certificate says {role}; this is for {may}")).into_response()
}

/// Orders are the operators'.
pub(super) async fn operators(Extension(Caller(role)): Extension<Caller>, request: Request, next: Next) -> Response {
    match role {
        Role::Operator(_) => next.run(request).await,
        Role::Region(_) | Role::Arbiter(_) => forbidden(&role, "operators"),
    }
}

/// Reads are the operators' and the arbiters'.
pub(super) async fn readers(Extension(Caller(role)): Extension<Caller>, request: Request, next: Next) -> Response {
    match role {
        Role::Operator(_) | Role::Arbiter(_) => next.run(request).await,
        Role::Region(_) => forbidden(&role, "operators and arbiters"),
    }
}

/// Names each request, if nobody did before.
pub(crate) async fn name(mut request: Request, next: Next) -> Response {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_SIZE_MAX_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let id = request.headers().get(&REQUEST_ID).filter(sane).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok());
    let id = id.unwrap_or(HeaderValue::from_static("unnamed"));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let (uri, method) = (request.uri().clone(), request.method().clone());
    let mut response = next.run(request).await;
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(request.id = ?id, %method, path = uri.path(), "answered with a defect");
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Sends whoever asked another than the leader there.
pub(super) async fn redirect(State((_, port)): State<(Arc<App>, Port)>, request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let mut response = next.run(request).await;
    if let Some(location) =
        response.extensions().get::<Elsewhere>().and_then(|elsewhere| location(elsewhere, port, &uri))
    {
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn location(Elsewhere(leader): &Elsewhere, port: Port, uri: &Uri) -> Option<HeaderValue> {
    let address = leader.address.as_ref()?;
    let base = match port {
        Port::Machines => &address.address,
        Port::People => &address.people,
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    HeaderValue::from_str(&format!("{base}{path}")).ok()
}
