//! Stripe's API: payment intents and refunds. Handlers only read requests, ask the account, and write answers.

use super::account::{Intent, Method, NewIntent, NewRefund};
use super::errors::ApiError;
use super::faults::{Operation, PaidAfterCancel};
use super::limits;
use super::shop::{Job, Shop, fresh, now_s};
use super::wire::{self, Form};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

type Answer = Result<Response, ApiError>;

/// Routes of the API.
pub(super) fn router() -> Router<Arc<Shop>> {
    Router::new()
        .route("/v1/payment_intents", post(create))
        .route("/v1/payment_intents/{intent}", get(retrieve))
        .route("/v1/payment_intents/{intent}/confirm", post(confirm))
        .route("/v1/payment_intents/{intent}/cancel", post(cancel))
        .route("/v1/refunds", post(refund))
        .route("/v1/refunds/{refund}", get(retrieve_refund))
        .route("/healthz", get(async || "ok\n"))
}

/// Whether the bearer token is this one; takes as long for every wrong one.
pub(super) fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    given.as_bytes().ct_eq(token.as_bytes()).into()
}

fn seller(shop: &Shop, headers: &HeaderMap) -> Result<(), ApiError> {
    if bears(headers, &shop.config.secret_key) { Ok(()) } else { Err(ApiError::unauthorized()) }
}

fn key(headers: &HeaderMap, fingerprint: u64) -> Result<Option<(String, u64)>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=limits::IDEMPOTENCY_KEY_MAX).contains(&key.len()) => Ok(Some((key.to_owned(), fingerprint))),
        _ => Err(ApiError::invalid("Idempotency-Key", "Too long, or not text.")),
    }
}

fn replayed(repeat: bool, answer: Json<serde_json::Value>) -> Response {
    if repeat { ([("idempotent-replayed", "true")], answer).into_response() } else { answer.into_response() }
}

fn checkout_url(shop: &Shop, intent: &Intent) -> Option<String> {
    Some(format!("{}/checkout/{}?client_secret={}", shop.config.base_url, intent.id, intent.client_secret))
}

async fn create(State(shop): State<Arc<Shop>>, headers: HeaderMap, body: Bytes) -> Answer {
    seller(&shop, &headers)?;
    shop.before(Operation::Create).await?;
    let mut form = Form::parse(&body)?;
    let key = key(&headers, form.fingerprint("create"))?;
    let new = NewIntent {
        amount: form.number("amount")?.ok_or_else(|| ApiError::invalid("amount", "Missing required param."))?,
        currency: form.need("currency")?,
        metadata: form.metadata()?,
        key,
    };
    if new.currency.len() != 3 || !new.currency.bytes().all(|letter| letter.is_ascii_alphabetic()) {
        return Err(ApiError::invalid("currency", "Invalid currency."));
    }
    form.finish(&["automatic_payment_methods", "payment_method_types", "description", "capture_method"])?;
    let id = fresh("pi_");
    let secret = fresh(&format!("{id}_secret_"));
    let (repeat, done) = shop.change(|account| {
        let (done, repeat) = account.create(now_s(), id, secret, new)?;
        Ok((repeat, done))
    })?;
    shop.after(Operation::Create)?;
    Ok(replayed(repeat, Json(wire::intent(&done.intent, checkout_url(&shop, &done.intent)))))
}

#[derive(Deserialize)]
struct ClientSecret {
    client_secret: Option<String>,
}

async fn retrieve(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<String>,
    Query(query): Query<ClientSecret>,
    headers: HeaderMap,
) -> Answer {
    let intent = shop.read(|account| account.intent(&id).cloned());
    match query.client_secret {
        Some(secret) => buyer(&intent, &secret)?,
        None => seller(&shop, &headers)?,
    }
    shop.before(Operation::Retrieve).await?;
    let intent = shop.read(|account| account.intent(&id).cloned())?;
    shop.after(Operation::Retrieve)?;
    let url = checkout_url(&shop, &intent);
    Ok(([(ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Json(wire::intent(&intent, url))).into_response())
}

/// A buyer proves to be the one whom the seller gave the secret to.
fn buyer(intent: &Result<Intent, ApiError>, secret: &str) -> Result<(), ApiError> {
    let intent = intent.as_ref().map_err(Clone::clone)?;
    if intent.client_secret.as_bytes().ct_eq(secret.as_bytes()).into() {
        return Ok(());
    }
    Err(ApiError::invalid("client_secret", "The client_secret provided does not match the PaymentIntent."))
}

/// A buyer pays: what both the API and the page do.
pub(super) fn pay(shop: &Shop, id: &str, secret: &str, method: &str) -> Result<Intent, ApiError> {
    buyer(&shop.read(|account| account.intent(id).cloned()), secret)?;
    let method = Method::parse(method)
        .ok_or_else(|| ApiError::invalid("payment_method", "No such PaymentMethod in the sandbox."))?;
    let ((), done) = shop.change(|account| Ok(((), account.confirm(now_s(), id, fresh("ch_"), method)?)))?;
    if method == Method::Slow {
        shop.job(Job::Arrive(id.to_owned(), shop.config.processing, true));
    }
    if done.intent.declined { Err(ApiError::declined(&done.intent)) } else { Ok(done.intent) }
}

async fn confirm(State(shop): State<Arc<Shop>>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    // Browsers of every page may pay: the secret is what counts.
    let answer = try_confirm(&shop, &id, &headers, &body).await;
    ([(ACCESS_CONTROL_ALLOW_ORIGIN, "*")], answer).into_response()
}

async fn try_confirm(shop: &Shop, id: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
    shop.before(Operation::Confirm).await?;
    let mut form = Form::parse(body)?;
    let method = form.need("payment_method")?;
    let secret = match form.take("client_secret") {
        Some(secret) => secret,
        None => {
            seller(shop, headers)?;
            shop.read(|account| account.intent(id).map(|intent| intent.client_secret.clone()))?
        }
    };
    form.finish(&["return_url", "key", "use_stripe_sdk"])?;
    let intent = pay(shop, id, &secret, &method)?;
    shop.after(Operation::Confirm)?;
    Ok(Json(wire::intent(&intent, checkout_url(shop, &intent))).into_response())
}

async fn cancel(State(shop): State<Arc<Shop>>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    seller(&shop, &headers)?;
    shop.before(Operation::Cancel).await?;
    Form::parse(&body)?.finish(&["cancellation_reason", "expand"])?;
    let faults = shop.faults();
    let later = Duration::from_millis(faults.paid_after_cancel_ms);
    if faults.paid_after_cancel == PaidAfterCancel::CancelFails {
        shop.read(|account| account.intent(&id).map(|_| ()))?;
        shop.job(Job::Arrive(id, later, false));
        return Err(ApiError::internal("Failed as asked; the money comes."));
    }
    let ((), done) = shop.change(|account| Ok(((), account.cancel(&id)?)))?;
    if faults.paid_after_cancel == PaidAfterCancel::CancelOk {
        shop.job(Job::Arrive(id, later, false));
    }
    shop.after(Operation::Cancel)?;
    Ok(Json(wire::intent(&done.intent, None)).into_response())
}

async fn refund(State(shop): State<Arc<Shop>>, headers: HeaderMap, body: Bytes) -> Answer {
    seller(&shop, &headers)?;
    shop.before(Operation::Refund).await?;
    let mut form = Form::parse(&body)?;
    let key = key(&headers, form.fingerprint("refund"))?;
    let new = NewRefund {
        intent: form.need("payment_intent")?,
        amount: form.number("amount")?,
        metadata: form.metadata()?,
        key,
    };
    form.finish(&["reason"])?;
    let ((refund, repeat), done) = shop.change(|account| {
        let (refund, done, repeat) = account.give_back(now_s(), fresh("re_"), new)?;
        Ok(((refund, repeat), done))
    })?;
    shop.after(Operation::Refund)?;
    Ok(replayed(repeat, Json(wire::refund(&refund, &done.intent.currency))))
}

async fn retrieve_refund(State(shop): State<Arc<Shop>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    seller(&shop, &headers)?;
    shop.before(Operation::Refund).await?;
    let answer = shop.read(|account| {
        let refund = account.refund(&id)?;
        Ok::<_, ApiError>(wire::refund(refund, &account.intent(&refund.intent)?.currency))
    })?;
    Ok(Json(json!(answer)).into_response())
}
