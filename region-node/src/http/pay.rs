//! Payments, webhooks, tickets and the door. What they mean is `payments`' and `tickets`' to know; this file checks who
//! asks, passes on what is another region's, and turns errors into problems.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use region_api::wire::{Payment, ProviderName, TicketCheckRequest};
use region_api::{Code, RegionName, Timestamp, UserHash, user_hash};
use std::sync::Arc;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::join::json;
use super::problem::Refusal;
use super::reservations::{self, Mine};
use super::segment::Segment;
use super::{body, caller};
use crate::app::App;
use crate::config::Secret;
use crate::limits;
use crate::payments::{StartError, WebhookError};
use crate::tickets::TicketError;

const SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotHeld => Self::new(Code::Conflict, error.to_string()),
            StartError::Refused(_) => Self::internal(error),
            StartError::Unavailable(_) => Self::unavailable("the payment provider cannot be reached", error),
            StartError::Db(error) => error.into(),
        }
    }
}

impl From<TicketError> for Refusal {
    fn from(error: TicketError) -> Self {
        match error {
            TicketError::NotFound => Self::not_found("ticket"),
            TicketError::NotOwner => Self::new(Code::Forbidden, "this ticket is somebody else's"),
            TicketError::Db(error) => error.into(),
            TicketError::Qr(_) => Self::internal(error),
        }
    }
}

/// `POST /v1/reservations/{id}/payment`
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    Segment(text): Segment,
    request: Request,
) -> Result<Response, Refusal> {
    let Mine { id, view } = match reservations::mine_or_pass_on(&app, &text, request).await? {
        Ok(mine) => mine,
        Err(answer) => return Ok(answer),
    };
    let started = app.payments.start(view.concert_id(), id.entry, &text).await?;
    app.rows.forget(view.concert_id(), id.entry);
    let provider = if started.provider == "stripe" { ProviderName::Stripe } else { ProviderName::Sandbox };
    let payment = Payment {
        provider,
        intent: started.intent,
        client_secret: started.client_secret,
        checkout_url: started.checkout_url,
        expires_at: Timestamp::from_datetime(started.expires_at),
    };
    Ok(json(StatusCode::OK, &payment))
}

/// `POST /v1/webhooks/stripe`
pub(crate) async fn webhook(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(body, limits::WEBHOOK_MAX_BYTES).await?;
    let signature = parts.headers.get(SIGNATURE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match app.payments.webhook(&bytes, signature, app.catalog.now_ms()).await {
        Ok(()) => Ok(json(StatusCode::OK, &serde_json::json!({ "received": true }))),
        Err(WebhookError::Signature(error)) => Err(Refusal::invalid("Stripe-Signature", error)),
        Err(WebhookError::Malformed(error)) => Err(Refusal::invalid("body", error)),
        Err(WebhookError::Db(error)) => Err(error.into()),
        Err(WebhookError::Foreign(region)) => {
            let region = RegionName::new(&region).map_err(|error| Refusal::invalid("body", error))?;
            let request_id = reservations::request_id(&parts.headers);
            app.peers.pass_on(&region, &parts, &request_id, None, bytes).await
        }
    }
}

/// `GET /v1/tickets/{ticket}`; with `.svg`, its QR code.
pub(crate) async fn ticket(
    State(app): State<Arc<App>>,
    Segment(name): Segment,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let caller = caller::reader(&app, &parts.headers)?;
    let (number, svg) = match name.strip_suffix(".svg") {
        Some(number) => (number, true),
        None => (name.as_str(), false),
    };
    let number: Uuid = number.parse().map_err(|_| Refusal::not_found("ticket"))?;
    if caller.session.home != app.config.region {
        let request_id = reservations::request_id(&parts.headers);
        let answer =
            app.peers.pass_on(&caller.session.home, &parts, &request_id, Some(caller.token), bytes::Bytes::new());
        return answer.await;
    }
    let user: UserHash = user_hash(&app.keys, &caller.session.user);
    if svg {
        let picture = app.tickets.svg(number, user).await?;
        let kind = HeaderValue::from_static("image/svg+xml");
        return Ok(([(CONTENT_TYPE, kind), (CACHE_CONTROL, HeaderValue::from_static("private, no-store"))], picture)
            .into_response());
    }
    Ok(json(StatusCode::OK, &app.tickets.get(number, user).await?))
}

/// `POST /v1/tickets/check`
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    credentials(&parts.headers, &[&app.door_token, &app.operator_token])?;
    let bytes = body::read(body, region_api::limits::BODY_MAX_BYTES).await?;
    let asked: TicketCheckRequest = region_api::body::parse(&bytes)?;
    Ok(json(StatusCode::OK, &app.tickets.check(&asked.code).await?))
}

/// Refuses whoever has none of these bearer tokens. Takes the same time whichever byte is wrong.
pub(crate) fn credentials(headers: &http::HeaderMap, accepted: &[&Secret]) -> Result<(), Refusal> {
    let given = caller::bearer(headers).unwrap_or_default();
    let mut right = subtle::Choice::from(0);
    for token in accepted {
        right |= given.as_bytes().ct_eq(token.reveal().as_bytes());
    }
    if bool::from(right) { Ok(()) } else { Err(Refusal::new(Code::Unauthenticated, "credentials are needed for this")) }
}
