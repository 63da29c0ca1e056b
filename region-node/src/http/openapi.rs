//! The description of the public interface: shapes from the wire types, calls from one table here.
//!
//! A test compares the table with the router: what is described answers, and what answers is described.

use axum::response::{Html, IntoResponse, Response};
use http::header::CONTENT_TYPE;
use region_api::Code;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(components(schemas(
    region_api::Problem,
    region_api::wire::ChallengeAnswer,
    region_api::wire::Concert,
    region_api::wire::ConcertList,
    region_api::wire::Health,
    region_api::wire::JoinAnswer,
    region_api::wire::JoinRequest,
    region_api::wire::Payment,
    region_api::wire::Ready,
    region_api::wire::Reservation,
    region_api::wire::SessionAnswer,
    region_api::wire::SessionRequest,
    region_api::wire::Ticket,
    region_api::wire::TicketCheckAnswer,
    region_api::wire::TicketCheckRequest
)))]
struct Shapes;

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Anybody,
    Session,
    Door,
}

/// What an answer's body is.
enum Body {
    Json(&'static str),
    Any(&'static str),
    Nothing,
}

struct Call {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    who: Who,
    request: Option<&'static str>,
    answers: &'static [(u16, &'static str, Body)],
    refusals: &'static [Code],
}

const OWNED: &[Code] = &[Code::Unauthenticated, Code::Forbidden, Code::NotFound, Code::Unavailable];
const CHANGED: &[Code] = &[
    Code::InvalidRequest,
    Code::Unauthenticated,
    Code::Forbidden,
    Code::NotFound,
    Code::Conflict,
    Code::TooLarge,
    Code::Unavailable,
];

#[rustfmt::skip]
const CALLS: &[Call] = &[
    Call { method: "post", path: "/v1/session", summary: "Begin or renew a session", who: Who::Anybody, request: Some("SessionRequest"),
        answers: &[(201, "The session, also as cookie", Body::Json("SessionAnswer"))],
        refusals: &[Code::InvalidRequest, Code::Unauthenticated, Code::Forbidden, Code::TooLarge, Code::Unavailable] },
    Call { method: "get", path: "/v1/challenge", summary: "A challenge to solve", who: Who::Anybody, request: None,
        answers: &[(200, "The challenge", Body::Json("ChallengeAnswer"))], refusals: &[] },
    Call { method: "get", path: "/v1/concerts", summary: "All concerts", who: Who::Anybody, request: None,
        answers: &[(200, "The concerts", Body::Json("ConcertList")), (304, "As before", Body::Nothing)], refusals: &[] },
    Call { method: "get", path: "/v1/concerts/{concert}", summary: "One concert", who: Who::Anybody, request: None,
        answers: &[(200, "The concert", Body::Json("Concert")), (304, "As before", Body::Nothing)], refusals: &[Code::NotFound] },
    Call { method: "post", path: "/v1/concerts/{concert}/reservations", summary: "Join the queue", who: Who::Session, request: Some("JoinRequest"),
        answers: &[(202, "A place, on disk", Body::Json("JoinAnswer")), (200, "The place that this user has already", Body::Json("JoinAnswer"))],
        refusals: &[Code::InvalidRequest, Code::Unauthenticated, Code::ChallengeRequired, Code::Forbidden, Code::NotFound, Code::Conflict,
            Code::SaleNotOpen, Code::SaleClosed, Code::SoldOut, Code::LimitExceeded, Code::TooLarge, Code::RateLimited, Code::Unavailable] },
    Call { method: "get", path: "/v1/reservations/{id}", summary: "Where a reservation stands", who: Who::Session, request: None,
        answers: &[(200, "The reservation", Body::Json("Reservation"))],
        refusals: &[Code::Unauthenticated, Code::Forbidden, Code::NotFound, Code::RateLimited, Code::Unavailable] },
    Call { method: "delete", path: "/v1/reservations/{id}", summary: "Cancel", who: Who::Session, request: None,
        answers: &[(200, "The cancelled reservation", Body::Json("Reservation"))], refusals: CHANGED },
    Call { method: "get", path: "/v1/reservations/{id}/events", summary: "The same as server-sent events, one per change", who: Who::Session, request: None,
        answers: &[(200, "Events whose data is a Reservation", Body::Any("text/event-stream"))],
        refusals: &[Code::Unauthenticated, Code::Forbidden, Code::NotFound, Code::RateLimited, Code::Unavailable] },
    Call { method: "post", path: "/v1/reservations/{id}/reclaim", summary: "Put a place of a lost queue back", who: Who::Session, request: None,
        answers: &[(200, "The reservation", Body::Json("Reservation"))], refusals: CHANGED },
    Call { method: "post", path: "/v1/reservations/{id}/payment", summary: "Open the payment of a hold", who: Who::Session, request: None,
        answers: &[(200, "The payment", Body::Json("Payment"))], refusals: CHANGED },
    Call { method: "post", path: "/v1/webhooks/stripe", summary: "The payment provider's news", who: Who::Anybody, request: Some(""),
        answers: &[(200, "Taken", Body::Any("application/json"))],
        refusals: &[Code::InvalidRequest, Code::TooLarge, Code::Unavailable] },
    Call { method: "get", path: "/v1/tickets/{ticket}", summary: "A ticket", who: Who::Session, request: None,
        answers: &[(200, "The ticket", Body::Json("Ticket"))], refusals: OWNED },
    Call { method: "get", path: "/v1/tickets/{ticket}.svg", summary: "A ticket's QR code", who: Who::Session, request: None,
        answers: &[(200, "The picture", Body::Any("image/svg+xml"))], refusals: OWNED },
    Call { method: "post", path: "/v1/tickets/check", summary: "Check a ticket at the door", who: Who::Door, request: Some("TicketCheckRequest"),
        answers: &[(200, "Whether it lets somebody in", Body::Json("TicketCheckAnswer"))],
        refusals: &[Code::InvalidRequest, Code::Unauthenticated, Code::TooLarge, Code::Unavailable] },
    Call { method: "get", path: "/healthz", summary: "Alive", who: Who::Anybody, request: None,
        answers: &[(200, "Alive", Body::Json("Health"))], refusals: &[] },
    Call { method: "get", path: "/readyz", summary: "Whether reservations are accepted", who: Who::Anybody, request: None,
        answers: &[(200, "Ready", Body::Json("Ready")), (503, "What is missing", Body::Json("Ready"))], refusals: &[] },
    Call { method: "get", path: "/openapi.json", summary: "This description", who: Who::Anybody, request: None,
        answers: &[(200, "OpenAPI", Body::Any("application/json"))], refusals: &[] },
    Call { method: "get", path: "/docs", summary: "This description for people", who: Who::Anybody, request: None,
        answers: &[(200, "A page", Body::Any("text/html"))], refusals: &[] },
];

fn parameter(name: &str) -> Value {
    let schema = match name {
        "concert" => json!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" }),
        "ticket" => json!({ "type": "string", "format": "uuid" }),
        _ => json!({ "type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]+$" }),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

fn content(body: &Body) -> Value {
    match body {
        Body::Json(shape) => {
            json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{shape}") } } })
        }
        Body::Any("application/json") => json!({ "application/json": { "schema": { "type": "object" } } }),
        Body::Any(kind) => json!({ *kind: { "schema": { "type": "string" } } }),
        Body::Nothing => json!({}),
    }
}

fn operation(call: &Call) -> Value {
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    // Every call may find the node full, and none is free of defects.
    let mut codes: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for code in call.refusals.iter().chain(&[Code::Overloaded, Code::Internal]) {
        codes.entry(code.status()).or_default().insert(code.as_str());
    }
    let problem = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
    for (status, codes) in codes {
        let names: Vec<&str> = codes.into_iter().collect();
        let content = json!({ "application/problem+json": problem });
        responses.insert(status.to_string(), json!({ "description": names.join(", "), "content": content }));
    }
    for (status, description, body) in call.answers {
        let key = status.to_string();
        let mut kinds = content(body);
        if let (Some(kinds), Some(earlier)) = (kinds.as_object_mut(), responses.get(&key)) {
            kinds.extend(earlier["content"].as_object().cloned().unwrap_or_default());
        }
        responses.insert(key, json!({ "description": description, "content": kinds }));
    }
    let names = call.path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
    let parameters: Vec<Value> = names.map(parameter).collect();
    let mut operation = json!({ "summary": call.summary, "parameters": parameters, "responses": responses });
    match call.request {
        Some("") => {
            let kind = json!({ "application/json": { "schema": { "type": "object" } } });
            operation["requestBody"] = json!({ "required": true, "content": kind });
        }
        Some(shape) => {
            let required = shape != "SessionRequest";
            operation["requestBody"] = json!({ "required": required, "content": content(&Body::Json(shape)) });
        }
        None => {}
    }
    operation["security"] = match call.who {
        Who::Anybody => json!([]),
        Who::Session => json!([{ "session": [] }, { "cookie": [] }]),
        Who::Door => json!([{ "door": [] }]),
    };
    operation
}

/// The whole description.
fn describe() -> Value {
    let mut api = serde_json::to_value(Shapes::openapi()).unwrap_or_else(|_| json!({}));
    let mut paths = Map::new();
    for call in CALLS {
        let path = paths.entry(call.path).or_insert_with(|| json!({}));
        path[call.method] = operation(call);
    }
    api["info"] = json!({
        "title": "Boxoffice, a region's public interface", "version": env!("CARGO_PKG_VERSION"),
        "description": "Joining the queue of a concert, watching a reservation, paying for it, showing its tickets.",
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    api["paths"] = Value::Object(paths);
    api["components"]["securitySchemes"] = json!({
        "session": { "type": "http", "scheme": "bearer", "description": "From POST /v1/session" },
        "cookie": { "type": "apiKey", "in": "cookie", "name": super::caller::SESSION_COOKIE },
        "door": { "type": "http", "scheme": "bearer", "description": "The door's credentials" },
    });
    api
}

static DESCRIPTION: LazyLock<String> = LazyLock::new(|| describe().to_string());

/// `GET /openapi.json`
pub(crate) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], DESCRIPTION.as_str()).into_response()
}

/// `GET /docs`
pub(crate) async fn docs() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([("content-security-policy", policy)], Html(include_str!("docs.html"))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_that_is_named_is_described() {
        let api = describe();
        let text = api.to_string();
        let schemas = api["components"]["schemas"].as_object().unwrap();
        let named: BTreeSet<&str> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(named.len() > 15, "{named:?}");
        for name in named {
            assert!(schemas.contains_key(name), "{name} is not described");
        }
        assert_eq!(api["openapi"], "3.1.0");
    }

    #[test]
    fn the_page_has_no_assets_from_elsewhere() {
        let page = include_str!("docs.html");
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
    }
}
