//! What a payment provider must be able to do, and how it can fail.
//!
//! Callers hold no database lock while they wait for it.

use futures::future::BoxFuture;
use std::collections::BTreeMap;

/// Where a payment stands at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentStatus {
    /// Not paid; the buyer may still pay.
    Open,
    /// The bank takes its time: can neither be cancelled nor relied upon.
    Processing,
    /// Paid.
    Succeeded,
    /// Cancelled. (A bank may still deliver the money: then a success follows.)
    Cancelled,
}

/// A payment intent as the provider has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// `pi_…`
    pub id: String,
    /// Where it stands.
    pub status: IntentStatus,
    /// Minor units asked for.
    pub amount: i64,
    /// Minor units received.
    pub received: i64,
    /// ISO 4217, upper case.
    pub currency: String,
    /// What the buyer's browser proves itself with.
    pub client_secret: String,
    /// A page to pay on, where the provider has one.
    pub checkout_url: Option<String>,
    /// The whole payment went back, or was disputed.
    pub undone: bool,
}

/// A payment to open.
#[derive(Debug, Clone)]
pub struct NewIntent {
    /// The same key gives the same intent.
    pub idempotency_key: String,
    /// Minor units, at least 1.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// Attached to it, and to every event about it.
    pub metadata: BTreeMap<&'static str, String>,
}

/// Money to give back, in full.
#[derive(Debug, Clone)]
pub struct NewRefund {
    /// The same key gives the same refund.
    pub idempotency_key: String,
    /// Of which payment.
    pub intent: String,
    /// Minor units.
    pub amount: i64,
}

/// Why the provider did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// It said no; asking again gives the same.
    #[error("the payment provider refused ({code}): {message}")]
    Refused {
        /// The provider's code, or the HTTP status.
        code: String,
        /// What it said.
        message: String,
    },
    /// It was not reached, or had no time: nothing was done.
    #[error("the payment provider cannot be reached: {0}")]
    Unreachable(String),
    /// It may have done it, or not. Ask again with the same key.
    #[error("the payment provider did not answer clearly: {0}")]
    Unknown(String),
}

impl ProviderError {
    /// Whether it is a refusal with this code.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

/// A payment provider.
pub trait Provider: Send + Sync {
    /// Its name, as the API and the database write it.
    fn name(&self) -> &'static str;
    /// Opens a payment.
    fn create_intent<'a>(&'a self, new: &'a NewIntent) -> BoxFuture<'a, Result<Intent, ProviderError>>;
    /// Asks about a payment.
    fn retrieve_intent<'a>(&'a self, intent: &'a str) -> BoxFuture<'a, Result<Intent, ProviderError>>;
    /// Cancels a payment; refused when it is paid, processing, or cancelled before.
    fn cancel_intent<'a>(&'a self, intent: &'a str) -> BoxFuture<'a, Result<Intent, ProviderError>>;
    /// Gives money back; the provider's id of the refund.
    fn refund<'a>(&'a self, new: &'a NewRefund) -> BoxFuture<'a, Result<String, ProviderError>>;
}
