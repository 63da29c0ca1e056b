//! Money that goes back: each row of `refund` is asked of the provider until it says so, always with the same key.

use super::provider::{NewRefund, ProviderError};
use super::{Payments, pause};
use crate::db::payments::{self, OwedRefund};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

/// Refunds asked for at once.
const AT_ONCE: usize = 4;
/// Refunds claimed at once.
const CLAIM: i64 = 32;
/// From this attempt on a refusal is an operator's business; it is still tried, ever more rarely.
const ALARMING_ATTEMPTS: i32 = 5;

/// Carries refunds out until `shutdown`.
pub(super) async fn run(payments: &Payments, shutdown: &CancellationToken) {
    let inner = &*payments.0;
    loop {
        // Claimed for longer than the provider may take to answer.
        let lease = inner.config.retry;
        let claimed = payments::claim_refunds(&inner.db, CLAIM, lease).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "refunds that are owed cannot be read");
            Vec::new()
        });
        let more = !claimed.is_empty();
        let asking = claimed.into_iter().map(|owed| give_back(payments, owed));
        futures::stream::iter(asking).buffer_unordered(AT_ONCE).for_each(async |()| {}).await;
        if shutdown.is_cancelled() || !more && !pause(shutdown, Some(&inner.owed), inner.config.poll).await {
            return;
        }
    }
}

async fn give_back(payments: &Payments, owed: OwedRefund) {
    let inner = &*payments.0;
    let new =
        NewRefund { idempotency_key: owed.refund_id.to_string(), intent: owed.intent.clone(), amount: owed.amount };
    fail::fail_point!("payments.refund.before_call");
    let asked = inner.provider.refund(&new).await;
    fail::fail_point!("payments.refund.after_call");
    let done = match &asked {
        Ok(refund) => Some(refund.as_str()),
        // It went back before, by another way: from the provider's own pages, or by the buyer's bank.
        Err(error) if error.is("charge_already_refunded") || error.is("charge_disputed") => None,
        Err(error) => return complain(&owed, error),
    };
    if let Err(error) = payments::refund_done(&inner.db, &owed, done).await {
        tracing::warn!(%error, payment.intent = owed.intent, "a refund was made and could not be written down yet");
    }
    fail::fail_point!("payments.refund.after_commit");
}

fn complain(owed: &OwedRefund, error: &ProviderError) {
    let refused = matches!(error, ProviderError::Refused { .. });
    if refused && owed.attempts >= ALARMING_ATTEMPTS {
        tracing::error!(%error, payment.intent = owed.intent, refund.attempts = owed.attempts, "a refund is refused");
    } else {
        tracing::warn!(%error, payment.intent = owed.intent, "a refund is tried again later");
    }
}
