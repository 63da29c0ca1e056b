//! The page where a person pays: a form without scripts. Never shows a payment to somebody without its secret.

use super::account::{Intent, Status};
use super::api;
use super::shop::Shop;
use super::wire::Form;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Routes of the page.
pub(super) fn router() -> Router<Arc<Shop>> {
    Router::new().route("/checkout/{intent}", get(show).post(pay))
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    client_secret: String,
}

async fn show(State(shop): State<Arc<Shop>>, Path(id): Path<String>, Query(secret): Query<Secret>) -> Response {
    render(&shop, &id, &secret.client_secret, None)
}

async fn pay(State(shop): State<Arc<Shop>>, Path(id): Path<String>, body: Bytes) -> Response {
    let Ok(mut form) = Form::parse(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let secret = form.take("client_secret").unwrap_or_default();
    let method = form.take("payment_method").unwrap_or_default();
    let refused = api::pay(&shop, &id, &secret, &method).err().map(|error| error.message);
    render(&shop, &id, &secret, refused.as_deref())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn render(shop: &Shop, id: &str, secret: &str, refused: Option<&str>) -> Response {
    let intent = shop.read(|account| account.intent(id).cloned()).ok();
    let intent = intent.filter(|intent| intent.client_secret.as_bytes().ct_eq(secret.as_bytes()).into());
    let (status, html) = match intent {
        Some(intent) => (StatusCode::OK, page(&intent, refused)),
        None => (StatusCode::NOT_FOUND, "<!doctype html><title>Not found</title><p>No such payment.".to_owned()),
    };
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
    ];
    (status, headers, html).into_response()
}

fn page(intent: &Intent, refused: Option<&str>) -> String {
    let currency = escaped(&intent.currency.to_ascii_uppercase());
    let amount = format!("{}.{:02} {currency}", intent.amount / 100, intent.amount % 100);
    let state = match intent.status {
        Status::RequiresPaymentMethod => "Not paid yet",
        Status::Processing => "Your bank is working on it",
        Status::Succeeded => "Paid. Thank you. You can go back to your reservation.",
        Status::Canceled => "Cancelled: this can no longer be paid",
    };
    let refused = refused.map(|why| format!("<p role=alert>{}</p>", escaped(why))).unwrap_or_default();
    let secret = escaped(&intent.client_secret);
    let button = |method: &str, label: &str| format!("<button name=payment_method value={method}>{label}</button>");
    let form = if intent.status == Status::RequiresPaymentMethod {
        format!(
            "<form method=post action=\"/checkout/{}\"><input type=hidden name=client_secret value=\"{secret}\">{}{}{}</form>",
            escaped(&intent.id),
            button("pm_card_visa", "Pay"),
            button("pm_card_visa_chargeDeclined", "Pay with a card that is declined"),
            button("pm_card_processing", "Pay with a slow bank"),
        )
    } else {
        String::new()
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Sandbox payment</title><style>body{{font:16px/1.5 system-ui;max-width:30rem;margin:2rem auto;padding:0 1rem}}\
         button{{display:block;width:100%;padding:.7rem;margin:.5rem 0;font:inherit}}</style>\
         <h1>Sandbox payment</h1><p>No money moves here.</p><p><strong>{amount}</strong></p>\
         <p role=status>{state}</p>{refused}{form}</html>"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(super::escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
