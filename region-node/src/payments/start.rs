//! `POST …/payment`: one intent per hold, however often and however concurrently it is asked for.
//!
//! The provider's idempotency key is made of the hold itself, so two calls at once get one intent, and a call that died
//! half way is finished by the next. The amount is the hold's; a client cannot name one. What costs nothing is sold at
//! once: there is nothing that a provider could be asked for.

use super::Payments;
use super::provider::{NewIntent, ProviderError};
use crate::db::DbError;
use crate::db::payments::{self, Opened, Payable, settle};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// An opened payment, as the API gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// `stripe` or `sandbox`.
    pub provider: String,
    /// `pi_…`
    pub intent: String,
    /// What the buyer's browser proves itself with. Only for the owner; never logged.
    pub client_secret: String,
    /// A page to pay on, where the provider has one.
    pub checkout_url: Option<String>,
    /// When the hold ends.
    pub expires_at: OffsetDateTime,
}

/// Why no payment was opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not held, or its time is up: 409 `conflict`. Nothing stored.
    #[error("only a reservation that is held can be paid")]
    NotHeld,
    /// The provider refused: a defect of the configuration or of the price.
    #[error("the payment provider refused: {0}")]
    Refused(String),
    /// The provider cannot be asked now: 503 `unavailable`. Asking again is safe.
    #[error("the payment provider cannot be reached: {0}")]
    Unavailable(String),
    /// The database cannot be asked now.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Payments {
    /// Opens the payment of a hold, or gives the one that is open. `id_text`: the reservation's id as its buyer has it.
    pub async fn start(&self, concert_id: i32, entry: region_api::Entry, id_text: &str) -> Result<Started, StartError> {
        let inner = &*self.0;
        let mut payable = self.payable(concert_id, entry.to_i64()).await?;
        if payable.amount == 0 {
            return self.give(concert_id, &payable, id_text).await;
        }
        if payable.opened.is_none() {
            fail::fail_point!("payments.start.before_intent");
            let opened = self.open(&payable).await?;
            fail::fail_point!("payments.start.after_intent");
            // Not attached: the hold ended meanwhile, or another call was first with another intent. Look again.
            payments::attach(&inner.db, concert_id, &payable, &opened, id_text).await?;
            fail::fail_point!("payments.start.after_commit");
            payable = self.payable(concert_id, entry.to_i64()).await?;
        }
        let (Some(opened), Some(expires_at)) = (payable.opened.filter(|opened| opened.open), payable.hold_expires_at)
        else {
            return Err(StartError::NotHeld);
        };
        Ok(Started {
            provider: opened.provider,
            intent: opened.intent,
            client_secret: opened.client_secret,
            checkout_url: opened.checkout_url,
            expires_at,
        })
    }

    /// Sells what costs nothing; again: the same answer.
    async fn give(&self, concert_id: i32, payable: &Payable, id_text: &str) -> Result<Started, StartError> {
        let inner = &*self.0;
        let Some(expires_at) = payable.hold_expires_at else { return Err(StartError::NotHeld) };
        if !settle::sell_free(&inner.db, concert_id, payable.entry, id_text, &*inner.around).await? {
            return Err(StartError::NotHeld);
        }
        Ok(Started {
            provider: inner.provider.name().to_owned(),
            intent: region_api::wire::Payment::FREE.to_owned(),
            client_secret: String::new(),
            checkout_url: None,
            expires_at,
        })
    }

    async fn payable(&self, concert_id: i32, entry: i64) -> Result<Payable, StartError> {
        let payable = payments::payable(&self.0.db, concert_id, entry).await?;
        let may = |payable: &Payable| payable.held || payable.sold && payable.amount == 0;
        payable.filter(may).ok_or(StartError::NotHeld)
    }

    async fn open(&self, payable: &Payable) -> Result<Opened, StartError> {
        let inner = &*self.0;
        let region = &inner.config.region;
        let held_us = payable.held_at.map_or(0, |at| at.unix_timestamp_nanos() / 1000);
        let new = NewIntent {
            idempotency_key: format!(
                "boxoffice-{region}-{}-{}-{}-{held_us}",
                payable.concert,
                payable.entry,
                payable.user_hash.simple()
            ),
            amount: payable.amount,
            currency: payable.currency.clone(),
            metadata: BTreeMap::from([
                ("region", region.to_string()),
                ("concert", payable.concert.clone()),
                ("entry", payable.entry.to_string()),
            ]),
        };
        let intent = inner.provider.create_intent(&new).await.map_err(|error| match error {
            ProviderError::Refused { .. } => StartError::Refused(error.to_string()),
            ProviderError::Unreachable(_) | ProviderError::Unknown(_) => StartError::Unavailable(error.to_string()),
        })?;
        Ok(Opened {
            intent: intent.id,
            provider: inner.provider.name().to_owned(),
            client_secret: intent.client_secret,
            checkout_url: intent.checkout_url,
            open: true,
        })
    }
}
