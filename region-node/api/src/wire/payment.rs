//! `POST /v1/reservations/{id}/payment`.

use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Answer to a payment's start; again: the same intent. What costs nothing is sold by this call: then `intent` is
/// `"free"`, `client_secret` is empty, `checkout_url` is null, and there is nothing to be confirmed at a provider.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Payment {
    /// Who takes the money.
    pub provider: ProviderName,
    /// The provider's id of the intent; `free` where nothing is to be paid.
    pub intent: String,
    /// With it the buyer's browser pays at the provider; empty where nothing is to be paid.
    pub client_secret: String,
    /// Where the buyer pays, if the provider has a page for it.
    pub checkout_url: Option<String>,
    /// When the hold ends.
    pub expires_at: Timestamp,
}

impl Payment {
    /// `intent` of a reservation that costs nothing.
    pub const FREE: &str = "free";
}

// The client secret lets whoever has it pay or cancel: never in a log.
impl fmt::Debug for Payment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Payment");
        shown.field("provider", &self.provider).field("intent", &self.intent).finish_non_exhaustive()
    }
}

/// Who takes the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderName {
    /// Stripe.
    Stripe,
    /// The sandbox that speaks Stripe's interface.
    Sandbox,
}

impl ProviderName {
    /// As the contract spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            ProviderName::Stripe => "stripe",
            ProviderName::Sandbox => "sandbox",
        }
    }
}
