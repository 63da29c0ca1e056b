//! Payments: opening them, believing what the provider says of them, and what that does to reservations.
//!
//! The order everywhere is: write down, then act; ask the provider only while no transaction is open. Tasks: [`run`]
//! owns the background work (webhooks, holds whose time is up, refunds); request handlers only call [`Payments::start`]
//! and [`Payments::webhook`]. Several nodes may run it at once: work is shared by claims in the database.
//!
//! Must never: keep two payments of one reservation, keep money for a hold that is gone, or give back money twice.

mod expiry;
pub mod notice;
pub mod provider;
mod refunds;
pub mod signature;
mod start;
pub mod stripe;
mod webhook;

pub use start::{StartError, Started};
pub use webhook::WebhookError;

use crate::db::book::Floor;
use crate::db::payments::Rechecks;
use crate::db::payments::settle::{self, Settled, Spare, Tail, Told};
use crate::db::{Db, DbError};
use futures::future::BoxFuture;
use provider::Provider;
use region_api::RegionName;
use sale::payment::Action;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// What payments need of the rest of the region.
pub trait Surroundings: Floor + Send + Sync {
    /// Tells the witnesses of a concert's book number, after the commit.
    fn note_book<'a>(&'a self, concert_id: i32, book: i64) -> BoxFuture<'a, ()>;
    /// Whether new holds may be made: a payment that comes after its hold has ended needs another one.
    fn may_hold(&self) -> bool;
    /// Where the concert's queue ends, in each shard.
    fn tails<'a>(&'a self, concert_id: i32) -> BoxFuture<'a, Result<Vec<Tail>, String>>;
}

/// Times and secrets.
#[derive(Clone)]
pub struct PaymentsConfig {
    /// This region's name: attached to every payment.
    pub region: RegionName,
    /// Secrets that webhooks may be signed with; two while rotating.
    pub webhook_secrets: Vec<Zeroizing<String>>,
    /// How much longer a hold lasts, once, while its payment is processing.
    pub extension: Duration,
    /// How long past its end a hold is kept at most while the provider does not say what became of the payment.
    pub keep: Duration,
    /// Holds whose time is up are looked at spread over this long.
    pub jitter: Duration,
    /// Pause between two looks for work.
    pub poll: Duration,
    /// Pause before the same work is tried again; grows with each failure.
    pub retry: Duration,
    /// When cancelled payments are asked about again. The first finds money that was under way when it was cancelled,
    /// the last what a bank booked over night.
    pub rechecks: Rechecks,
}

impl PaymentsConfig {
    /// Usual times.
    pub fn new(region: RegionName, webhook_secrets: Vec<Zeroizing<String>>) -> Self {
        Self {
            region,
            webhook_secrets,
            extension: Duration::from_secs(300),
            keep: Duration::from_secs(300),
            jitter: Duration::from_secs(2),
            poll: Duration::from_millis(500),
            retry: Duration::from_secs(5),
            rechecks: Rechecks { first: Duration::from_secs(120), last: Duration::from_secs(26 * 3600) },
        }
    }
}

/// The payments of a region. Cheap to clone.
#[derive(Clone)]
pub struct Payments(Arc<Inner>);

struct Inner {
    db: Db,
    provider: Arc<dyn Provider>,
    around: Arc<dyn Surroundings>,
    config: PaymentsConfig,
    /// A webhook was stored.
    arrived: Notify,
    /// A refund is owed.
    owed: Notify,
}

/// Why a payment's news could not be acted on; it is tried again.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the queue cannot say who waits: {0}")]
    Queue(String),
}

impl Payments {
    /// Puts the parts together. Nothing runs until [`Payments::run`].
    pub fn new(db: Db, provider: Arc<dyn Provider>, around: Arc<dyn Surroundings>, config: PaymentsConfig) -> Self {
        Self(Arc::new(Inner { db, provider, around, config, arrived: Notify::new(), owed: Notify::new() }))
    }

    /// The background work, until `shutdown`; what is under way then is finished or left to the next claim.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(webhook::run(self, &shutdown), expiry::run(self, &shutdown), refunds::run(self, &shutdown));
    }

    /// Acts on news of a payment, with the book where that is needed.
    async fn settle(&self, told: Told<'_>) -> Result<Settled, SettleError> {
        let inner = &*self.0;
        let provider = inner.provider.name();
        let mut settled = settle::settle(&inner.db, told, Spare::Unasked, &*inner.around, provider).await?;
        if let Settled::NeedsBook { concert_id, revives } = settled {
            let may_hold = revives && inner.around.may_hold();
            // Only asked where it matters: Redis may be away.
            let tails =
                if may_hold { inner.around.tails(concert_id).await.map_err(SettleError::Queue)? } else { Vec::new() };
            let spare = if may_hold { Spare::After(&tails) } else { Spare::NoneNow };
            fail::fail_point!("payments.settle.before_book");
            settled = settle::settle(&inner.db, told, spare, &*inner.around, provider).await?;
        }
        fail::fail_point!("payments.settle.after_commit");
        if let Settled::Done { deed, concert_id, book, entry } = settled {
            if let Some(book) = book {
                inner.around.note_book(concert_id, book).await;
            }
            if matches!(deed, Action::Refund(_)) {
                inner.owed.notify_one();
            }
            metrics::counter!("boxoffice_payment_deeds_total", "deed" => name(deed)).increment(1);
            tracing::info!(
                concert.id = concert_id,
                reservation.entry = entry,
                payment.intent = told.intent,
                payment.deed = name(deed),
                "news of a payment"
            );
        }
        Ok(settled)
    }
}

/// As logs and metrics call it.
fn name(deed: Action) -> &'static str {
    match deed {
        Action::Nothing => "nothing",
        Action::Sell => "sell",
        Action::Revive => "revive",
        Action::Refund(why) => why.as_str(),
        Action::TakeBack => "take_back",
    }
}

/// Waits for the next look for work; `false` at shutdown.
async fn pause(shutdown: &CancellationToken, sooner: Option<&Notify>, at_most: Duration) -> bool {
    let sooner = async {
        match sooner {
            Some(notify) => notify.notified().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(at_most) => true,
        () = sooner => true,
    }
}
