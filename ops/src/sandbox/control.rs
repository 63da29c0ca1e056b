//! The control interface: what a test, a drill or `verify` tells the sandbox and reads from it. Its own token.

use super::account::Done;
use super::api::bears;
use super::errors::ApiError;
use super::faults::Faults;
use super::limits;
use super::shop::{Shop, fresh, now_s};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Routes of the control interface.
pub(super) fn router() -> Router<Arc<Shop>> {
    Router::new()
        .route("/control/payments", get(payments))
        .route("/control/payments/{intent}/{what}", post(happen))
        .route("/control/refunds", get(refunds))
        .route("/control/faults", get(faults).put(set_faults))
        .route("/control/webhooks", get(webhooks))
        .route("/control/webhooks/release", post(release))
}

/// A payment as the provider's books have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PaymentRow {
    /// `pi_…`
    pub intent: String,
    /// Stripe's name of the status.
    pub status: String,
    /// Minor units asked.
    pub amount: i64,
    /// Minor units given back.
    pub amount_refunded: i64,
    /// Minor units that the seller still has.
    pub kept: i64,
    /// Whether the buyer's bank took it back.
    pub disputed: bool,
    /// ISO 4217, lower case.
    pub currency: String,
    /// What the seller attached: region, concert, entry.
    pub metadata: BTreeMap<String, String>,
    /// Seconds since 1970, when it was begun.
    pub created_s: i64,
    /// Seconds since 1970, once paid.
    pub succeeded_s: Option<i64>,
    /// Ids of the refunds made of it.
    pub refunds: Vec<String>,
}

/// One page of payments, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PaymentsPage {
    /// The payments.
    pub payments: Vec<PaymentRow>,
    /// `after` of the next page, if there is one.
    pub next: Option<usize>,
}

/// A refund as the provider's books have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefundRow {
    /// `re_…`
    pub refund: String,
    /// `pi_…`
    pub intent: String,
    /// Minor units.
    pub amount: i64,
    /// What the seller attached.
    pub metadata: BTreeMap<String, String>,
}

fn operator(shop: &Shop, headers: &HeaderMap) -> Result<(), ApiError> {
    if bears(headers, &shop.config.control_token) { Ok(()) } else { Err(ApiError::unauthorized()) }
}

#[derive(Deserialize)]
struct Paging {
    #[serde(default)]
    after: usize,
    limit: Option<usize>,
}

async fn payments(
    State(shop): State<Arc<Shop>>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Result<Json<PaymentsPage>, ApiError> {
    operator(&shop, &headers)?;
    let most = paging.limit.unwrap_or(limits::PAGE_MAX).clamp(1, limits::PAGE_MAX);
    Ok(Json(shop.read(|account| {
        let mut refunds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for refund in account.refunds() {
            refunds.entry(&refund.intent).or_default().push(refund.id.clone());
        }
        let payments: Vec<PaymentRow> = account
            .page(paging.after, most)
            .map(|intent| PaymentRow {
                intent: intent.id.clone(),
                status: intent.status.as_str().to_owned(),
                amount: intent.amount,
                amount_refunded: intent.amount_refunded,
                kept: intent.kept(),
                disputed: intent.disputed,
                currency: intent.currency.clone(),
                metadata: intent.metadata.clone(),
                created_s: intent.created_s,
                succeeded_s: intent.succeeded_s,
                refunds: refunds.remove(intent.id.as_str()).unwrap_or_default(),
            })
            .collect();
        let next = (payments.len() == most).then_some(paging.after + most);
        PaymentsPage { payments, next }
    })))
}

async fn refunds(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Result<Json<Vec<RefundRow>>, ApiError> {
    operator(&shop, &headers)?;
    let row = |refund: &super::account::Refund| RefundRow {
        refund: refund.id.clone(),
        intent: refund.intent.clone(),
        amount: refund.amount,
        metadata: refund.metadata.clone(),
    };
    Ok(Json(shop.read(|account| account.refunds().map(row).collect())))
}

/// Makes something happen to a payment: `succeed` (whatever its state), `fail` (a processing one), `dispute`, `refund`
/// (as from the provider's dashboard).
async fn happen(
    State(shop): State<Arc<Shop>>,
    Path((intent, what)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    operator(&shop, &headers)?;
    let ((), done): ((), Done) = shop.change(|account| {
        let done = match what.as_str() {
            "succeed" => account.succeed(now_s(), &intent, fresh("ch_"))?,
            "fail" => account.fail(&intent)?,
            "dispute" => account.dispute(&intent)?,
            "refund" => {
                let new = super::account::NewRefund {
                    intent: intent.clone(),
                    amount: None,
                    metadata: BTreeMap::new(),
                    key: None,
                };
                account.give_back(now_s(), fresh("re_"), new)?.1
            }
            _ => return Err(ApiError::missing("control operation", &what)),
        };
        Ok(((), done))
    })?;
    Ok(Json(json!({"intent": done.intent.id, "status": done.intent.status.as_str(), "kept": done.intent.kept()})))
}

async fn faults(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Result<Json<Faults>, ApiError> {
    operator(&shop, &headers)?;
    Ok(Json((*shop.faults()).clone()))
}

async fn set_faults(State(shop): State<Arc<Shop>>, headers: HeaderMap, body: Bytes) -> Result<Json<Faults>, ApiError> {
    operator(&shop, &headers)?;
    let faults: Faults =
        serde_json::from_slice(&body).map_err(|error| ApiError::invalid("faults", &error.to_string()))?;
    faults.check().map_err(|message| ApiError::invalid("faults", message))?;
    shop.set_faults(faults.clone());
    Ok(Json(faults))
}

async fn webhooks(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    operator(&shop, &headers)?;
    Ok(Json(json!({
        "pending": shop.pending.load(Ordering::Relaxed),
        "delivered": shop.delivered.load(Ordering::Relaxed),
        "dropped": shop.dropped.load(Ordering::Relaxed),
    })))
}

#[derive(Deserialize)]
struct Release {
    #[serde(default)]
    reversed: bool,
}

async fn release(
    State(shop): State<Arc<Shop>>,
    Query(release): Query<Release>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    operator(&shop, &headers)?;
    Ok(Json(json!({"released": shop.release(release.reversed)})))
}
