//! Webhooks: checked, written down, answered; acted on afterwards, as often as it takes.
//!
//! A wrong signature changes nothing. A repeat is answered like the first. Order does not matter: what a webhook does
//! depends on what the database says then, not on which came before.

use super::notice::{self, Kind, Notice};
use super::{Payments, SettleError, pause, signature};
use crate::db::DbError;
use crate::db::payments::settle::{self, Told};
use crate::db::payments::{self};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

/// Webhooks worked on at once.
const AT_ONCE: usize = 8;
/// Webhooks claimed at once.
const CLAIM: i64 = 128;

/// Why a webhook was not taken.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// 400; nothing done.
    #[error(transparent)]
    Signature(#[from] signature::SignatureError),
    /// 400; signed, but not to be read. Nothing done.
    #[error(transparent)]
    Malformed(#[from] notice::Malformed),
    /// It is about a reservation of this other region: pass the same bytes and header on to it. Nothing done here.
    #[error("this webhook belongs to region {0}")]
    Foreign(String),
    /// 503; the provider sends it again.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Payments {
    /// Takes a webhook: on return it is on disk, or means nothing here. `header` is `Stripe-Signature`'s value.
    /// `now_ms` is the database's clock: a machine whose own clock is wrong must not refuse what was paid.
    pub async fn webhook(&self, body: &[u8], header: &str, now_ms: u64) -> Result<(), WebhookError> {
        let inner = &*self.0;
        let now_s = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
        signature::verify(&inner.config.webhook_secrets, header, body, now_s)?;
        let Some(notice) = notice::parse(body)? else { return Ok(()) };
        let other = notice.attached.as_ref().filter(|attached| attached.region != inner.config.region.as_str());
        if let Some(attached) = other {
            return Err(WebhookError::Foreign(attached.region.clone()));
        }
        fail::fail_point!("payments.webhook.before_store");
        let new = payments::store_notice(&inner.db, &notice).await?;
        fail::fail_point!("payments.webhook.after_store");
        metrics::counter!("boxoffice_webhooks_total", "repeat" => if new { "no" } else { "yes" }).increment(1);
        if new {
            inner.arrived.notify_one();
        }
        Ok(())
    }

    async fn act_on(&self, notice: &Notice) -> Result<(), SettleError> {
        let undone = match notice.kind {
            Kind::Succeeded => false,
            Kind::Refunded | Kind::Disputed => true,
            // The hold goes on until its time is up; the buyer may try again.
            Kind::Failed | Kind::Processing | Kind::Cancelled => {
                return Ok(settle::mark_processed(&self.0.db, &notice.event).await?);
            }
        };
        let told = Told {
            intent: &notice.intent,
            amount: notice.amount,
            currency: &notice.currency,
            undone,
            attached: notice.attached.as_ref(),
            event: Some(&notice.event),
        };
        self.settle(told).await?;
        Ok(())
    }
}

/// Acts on stored webhooks until `shutdown`.
pub(super) async fn run(payments: &Payments, shutdown: &CancellationToken) {
    let inner = &*payments.0;
    loop {
        let claimed = match payments::claim_notices(&inner.db, CLAIM, inner.config.retry).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "stored webhooks cannot be read");
                Vec::new()
            }
        };
        let more = !claimed.is_empty();
        fail::fail_point!("payments.webhook.after_claim");
        let acting = claimed.into_iter().map(|notice| async move {
            if let Err(error) = payments.act_on(&notice).await {
                tracing::warn!(%error, payment.event = notice.event, "a webhook is tried again later");
            }
        });
        futures::stream::iter(acting).buffer_unordered(AT_ONCE).for_each(async |()| {}).await;
        if shutdown.is_cancelled() || !more && !pause(shutdown, Some(&inner.arrived), inner.config.poll).await {
            return;
        }
    }
}
