//! The sandbox payment provider: a separate program that speaks Stripe's API as far as a region uses it.
//!
//! Payment intents and refunds with idempotency keys, errors in Stripe's shape, signed webhooks with retries, a page
//! where a person can pay, and a control interface that makes it late, doubled, dropped, failing, slow, or paid after
//! a cancel. It keeps a record of every payment and refund, so that `verify` can hold a region's books against it.
//! It moves no money and must never be told about real cards.

mod account;
mod api;
pub mod command;
mod control;
mod errors;
pub mod faults;
mod limits;
mod page;
mod record;
mod shop;
mod webhooks;
mod wire;

use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use control::{PaymentRow, PaymentsPage, RefundRow};
pub use webhooks::signature;

/// What the sandbox needs to know.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Where buyers reach it, without a slash at the end: checkout pages lie there.
    pub base_url: String,
    /// `sk_…`: the seller's key, sent as a bearer token.
    pub secret_key: String,
    /// Bearer token of the control interface; another one than `secret_key`.
    pub control_token: String,
    /// Every event is delivered to each of these.
    pub webhook_urls: Vec<String>,
    /// Every event is signed with each of these; two while rotating.
    pub webhook_secrets: Vec<String>,
    /// The record's file; `None`: nothing outlives the process.
    pub record: Option<PathBuf>,
    /// How long `pm_card_processing` stays processing.
    pub processing: Duration,
    /// Wait before a refused webhook is sent again; doubles each time…
    pub retry_first: Duration,
    /// …up to this.
    pub retry_most: Duration,
    /// Deliveries of one event to one endpoint before it is given up.
    pub attempts_max: u32,
}

impl SandboxConfig {
    /// Usual times; everything else as given.
    pub fn new(base_url: &str, secret_key: &str, control_token: &str, webhook_secret: &str) -> Self {
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            secret_key: secret_key.to_owned(),
            control_token: control_token.to_owned(),
            webhook_urls: Vec::new(),
            webhook_secrets: vec![webhook_secret.to_owned()],
            record: None,
            processing: Duration::from_secs(5),
            retry_first: Duration::from_millis(500),
            retry_most: Duration::from_secs(60),
            attempts_max: 60,
        }
    }
}

/// Serves until `shutdown`; requests under way are finished first. Fails when the record cannot be read.
pub async fn run(listener: TcpListener, config: SandboxConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Somebody else in this process may have chosen already; that choice is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    anyhow::ensure!(config.control_token != config.secret_key, "control_token must differ from secret_key");
    let (shop, jobs) = shop::Shop::open(config)?;
    let postman = tokio::spawn(webhooks::run(shop.clone(), jobs, shutdown.clone()));
    let app = api::router().merge(control::router()).merge(page::router()).with_state(shop);
    let app = app
        .layer(axum::extract::DefaultBodyLimit::max(limits::BODY_SIZE_MAX_BYTES))
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(limits::IN_FLIGHT_MAX));
    axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    postman.await?;
    Ok(())
}
