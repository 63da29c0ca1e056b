//! Holds whose time is up while somebody may be paying, and payments that nothing is held for any more.
//!
//! The provider is asked first, then the intent is cancelled there, and only then does the stock go back. What cannot be
//! cancelled or asked keeps its stock up to a cap. No transaction is open while the provider is asked.

use super::provider::{Intent, IntentStatus, ProviderError};
use super::{Payments, SettleError, pause};
use crate::db::payments::settle::Told;
use crate::db::payments::{self, Due, DueState, expire};
use futures::StreamExt;
use sale::payment::{Answer, Expiry, expiring};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// Payments asked about at once.
const AT_ONCE: usize = 16;
/// Payments claimed at once.
const CLAIM: i64 = 64;

/// What is to become of a payment that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Acted on already, or looked at again later.
    Later,
    /// The stock goes back; the intent is cancelled.
    ExpireCancelled,
    /// The stock goes back; the payment stays as it is.
    ExpireOpen,
}

/// Works until `shutdown`.
pub(super) async fn run(payments: &Payments, shutdown: &CancellationToken) {
    loop {
        let more = round(payments).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "payments that are due cannot be worked on");
            false
        });
        if shutdown.is_cancelled() || !more && !pause(shutdown, None, payments.0.config.poll).await {
            return;
        }
    }
}

/// One round; whether there may be more at once.
async fn round(payments: &Payments) -> Result<bool, SettleError> {
    let inner = &*payments.0;
    let config = &inner.config;
    let marked = payments::mark_due(&inner.db, CLAIM, config.jitter).await?;
    fail::fail_point!("payments.expiry.after_mark");
    let mut due = payments::claim_due(&inner.db, CLAIM, config.retry, config.keep).await?;
    fail::fail_point!("payments.expiry.after_claim");
    // What holds tickets comes first; what was cancelled long ago has time.
    let room = CLAIM - due.len() as i64;
    if room > 0 {
        due.extend(payments::claim_cancelled(&inner.db, room, config.retry).await?);
    }
    let full = marked == CLAIM as u64 || due.len() == CLAIM as usize;
    let judging = due.into_iter().map(|due| async move {
        let verdict = judge(payments, &due).await;
        (due, verdict)
    });
    let judged: Vec<_> = futures::stream::iter(judging).buffer_unordered(AT_ONCE).collect().await;
    let mut gone: BTreeMap<(i32, bool), Vec<i64>> = BTreeMap::new();
    for (due, verdict) in judged {
        match verdict {
            Ok(Verdict::Later) => {}
            Ok(Verdict::ExpireCancelled) => gone.entry((due.concert_id, true)).or_default().push(due.entry),
            Ok(Verdict::ExpireOpen) => gone.entry((due.concert_id, false)).or_default().push(due.entry),
            Err(error) => {
                tracing::warn!(%error, payment.intent = due.intent, "a payment that is due is looked at later");
            }
        }
    }
    for (concert_id, entry) in payments::over(&inner.db, CLAIM).await? {
        gone.entry((concert_id, false)).or_default().push(entry);
    }
    fail::fail_point!("payments.expiry.before_expire");
    for ((concert_id, cancelled), entries) in gone {
        let again = cancelled.then_some(config.rechecks.first);
        let (book, expired) = expire::expire(&inner.db, concert_id, &entries, again, &*inner.around).await?;
        fail::fail_point!("payments.expiry.after_commit");
        inner.around.note_book(concert_id, book).await;
        metrics::counter!("boxoffice_holds_expired_total", "cancelled" => if cancelled { "yes" } else { "no" })
            .increment(expired);
    }
    Ok(full)
}

/// Asks the provider about one payment and does what needs no counters.
async fn judge(payments: &Payments, due: &Due) -> Result<Verdict, SettleError> {
    let asked = payments.0.provider.retrieve_intent(&due.intent).await;
    fail::fail_point!("payments.expiry.after_ask");
    if let Err(error) = &asked {
        tracing::warn!(%error, payment.intent = due.intent, "the provider does not say what became of a payment");
    }
    match due.state {
        DueState::Expiring { extended, overdue } => hold(payments, due, asked, extended, overdue).await,
        DueState::Extended => {
            if answer(&asked) == Answer::Succeeded {
                sell(payments, due, asked).await?;
            }
            Ok(Verdict::Later)
        }
        DueState::Ended => left_over(payments, due, asked).await,
        DueState::Cancelled => again(payments, due, asked).await,
    }
}

fn answer(asked: &Result<Intent, ProviderError>) -> Answer {
    match asked {
        Ok(intent) => match intent.status {
            IntentStatus::Open => Answer::Open,
            IntentStatus::Processing => Answer::Processing,
            IntentStatus::Succeeded => Answer::Succeeded,
            IntentStatus::Cancelled => Answer::Cancelled,
        },
        Err(_) => Answer::Unreachable,
    }
}

/// A hold whose time is up.
async fn hold(
    payments: &Payments,
    due: &Due,
    mut asked: Result<Intent, ProviderError>,
    extended: bool,
    overdue: bool,
) -> Result<Verdict, SettleError> {
    let mut said = answer(&asked);
    loop {
        match expiring(said, extended, overdue) {
            // What that did not sell (undone since, of a wrong amount) is given back in the next round: see `over`.
            Expiry::Paid => {
                sell(payments, due, asked).await?;
                return Ok(Verdict::Later);
            }
            Expiry::Extend => {
                let config = &payments.0.config;
                expire::extend(&payments.0.db, due.concert_id, due.entry, config.extension, config.retry).await?;
                fail::fail_point!("payments.expiry.after_extend");
                return Ok(Verdict::Later);
            }
            Expiry::Keep => return Ok(Verdict::Later),
            Expiry::Recycle if said == Answer::Cancelled => return Ok(Verdict::ExpireCancelled),
            Expiry::Recycle => return Ok(Verdict::ExpireOpen),
            Expiry::CancelIntent => {
                asked = cancel(payments, due).await;
                fail::fail_point!("payments.expiry.after_cancel");
                said = match answer(&asked) {
                    // It was to be cancelled and is not.
                    Answer::Open | Answer::Processing => Answer::CannotCancel,
                    said => said,
                };
            }
        }
    }
}

/// A payment that nothing is held for.
async fn left_over(
    payments: &Payments,
    due: &Due,
    mut asked: Result<Intent, ProviderError>,
) -> Result<Verdict, SettleError> {
    if matches!(answer(&asked), Answer::Open | Answer::Processing) {
        asked = cancel(payments, due).await;
        fail::fail_point!("payments.expiry.after_cancel");
    }
    match answer(&asked) {
        Answer::Succeeded => sell(payments, due, asked).await?,
        Answer::Cancelled => note_cancelled(payments, due).await?,
        _ => {}
    }
    Ok(Verdict::Later)
}

/// A payment that was cancelled before. A bank may deliver its money all the same; when the webhook about it is lost,
/// this is how it is found.
async fn again(payments: &Payments, due: &Due, asked: Result<Intent, ProviderError>) -> Result<Verdict, SettleError> {
    match asked {
        Ok(Intent { status: IntentStatus::Succeeded, .. }) => sell(payments, due, asked).await?,
        // It does not know the payment any more: no money can be in it.
        Ok(Intent { status: IntentStatus::Cancelled, .. }) | Err(ProviderError::Refused { .. }) => {
            note_cancelled(payments, due).await?;
        }
        // Under way: asked again until it is decided.
        Ok(_) | Err(_) => {}
    }
    Ok(Verdict::Later)
}

async fn note_cancelled(payments: &Payments, due: &Due) -> Result<(), SettleError> {
    Ok(payments::note_cancelled(&payments.0.db, &due.intent, payments.0.config.rechecks).await?)
}

/// Cancels; where that is refused, asks what the payment is instead.
async fn cancel(payments: &Payments, due: &Due) -> Result<Intent, ProviderError> {
    let provider = &*payments.0.provider;
    match provider.cancel_intent(&due.intent).await {
        Err(ProviderError::Refused { .. }) => provider.retrieve_intent(&due.intent).await,
        answered => answered,
    }
}

/// The provider says paid, or paid and undone since: the same as if its webhook had come.
async fn sell(payments: &Payments, due: &Due, asked: Result<Intent, ProviderError>) -> Result<(), SettleError> {
    let Ok(intent) = asked else { return Ok(()) };
    let told = Told {
        intent: &due.intent,
        amount: intent.received,
        currency: &intent.currency,
        undone: intent.undone,
        attached: None,
        event: None,
    };
    payments.settle(told).await?;
    Ok(())
}
