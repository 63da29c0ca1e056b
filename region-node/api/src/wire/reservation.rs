//! `POST /v1/concerts/{concert}/reservations`, `GET|DELETE /v1/reservations/{id}`, `…/events`, `…/reclaim`.

use crate::body::{Checked, InvalidField};
use crate::limits;
use crate::names::{ConcertName, RegionName, TierName};
use crate::units::{Money, Timestamp};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;
use utoipa::ToSchema;
use uuid::Uuid;

/// Body of a join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The client's, one per intent: the same again is the same request.
    pub request_id: Uuid,
    /// Tickets, 1..=100; the concert's limit is usually lower.
    #[schema(minimum = 1, maximum = 100)]
    pub quantity: u16,
    /// Tiers in order of preference, 1..=8, each once.
    #[schema(value_type = Vec<TierName>, min_items = 1, max_items = 8)]
    pub tiers: SmallVec<[TierName; 4]>,
    /// Down to one ticket is welcome.
    #[serde(default)]
    pub any_quantity: bool,
    /// The client's hash of an identity document, where the concert asks for one: 1..=128 visible ASCII characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128, pattern = "^[!-~]+$")]
    pub identity: Option<String>,
}

// Whose document it is belongs in no log, not even hashed.
impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("request_id", &self.request_id)
            .field("quantity", &self.quantity)
            .field("tiers", &self.tiers)
            .field("any_quantity", &self.any_quantity)
            .field("identity", &self.identity.as_ref().map(|_| "…"))
            .finish()
    }
}

impl Checked for JoinRequest {
    fn check(&self) -> Result<(), InvalidField> {
        if !(1..=limits::QUANTITY_MAX).contains(&self.quantity) {
            return Err(InvalidField::new("quantity", format!("must be 1 to {}", limits::QUANTITY_MAX)));
        }
        if !(1..=limits::TIERS_PER_REQUEST_MAX).contains(&self.tiers.len()) {
            return Err(InvalidField::new("tiers", format!("must be 1 to {}", limits::TIERS_PER_REQUEST_MAX)));
        }
        for (index, tier) in self.tiers.iter().enumerate() {
            if self.tiers[..index].contains(tier) {
                return Err(InvalidField::new(format!("tiers[{index}]"), format!("{tier} is named twice")));
            }
        }
        let identity_ok = |identity: &String| {
            (1..=limits::IDENTITY_MAX_BYTES).contains(&identity.len()) && identity.bytes().all(|b| b.is_ascii_graphic())
        };
        if !self.identity.as_ref().is_none_or(identity_ok) {
            let message = format!("must be 1 to {} visible ASCII characters", limits::IDENTITY_MAX_BYTES);
            return Err(InvalidField::new("identity", message));
        }
        Ok(())
    }
}

/// Answer to a join: `202` for a new place, `200` for the one that this user has already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinAnswer {
    /// The signed id.
    pub reservation: String,
    /// `queued`, unless it is a repeat.
    pub status: Status,
    /// How many are before it; null once decided.
    pub position: Option<u64>,
    /// Null when unknown.
    pub estimated_wait_ms: Option<u64>,
    /// When to ask; null in a final state.
    pub poll_after_ms: Option<u64>,
    /// Home region.
    pub region: RegionName,
    /// Absolute status address, in the home region.
    pub url: String,
}

/// A reservation as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reservation {
    /// The signed id.
    pub reservation: String,
    /// For which concert.
    pub concert: ConcertName,
    /// Where it stands.
    pub status: Status,
    /// Why, where there is a why.
    pub reason: Option<Reason>,
    /// How many are before it, while queued.
    pub position: Option<u64>,
    /// While queued; null when unknown.
    pub estimated_wait_ms: Option<u64>,
    /// While queued.
    pub chance: Option<Chance>,
    /// When to ask again: 5 s near the head to 30 s far back; null in a final state.
    pub poll_after_ms: Option<u64>,
    /// Of which tier, once held.
    pub tier: Option<TierName>,
    /// Tickets: asked for while queued, held once held.
    pub quantity: u16,
    /// To be paid, once held.
    pub amount: Option<Money>,
    /// While held.
    pub hold_expires_at: Option<Timestamp>,
    /// Ids of the tickets, once sold.
    pub tickets: Vec<Uuid>,
    /// Home region.
    pub region: RegionName,
    /// When this was true.
    pub as_of: Timestamp,
}

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its turn.
    Queued,
    /// Tickets are kept for it, until paid or too late.
    Held,
    /// Paid; has tickets.
    Sold,
    /// Told no; `reason` says why.
    Rejected,
    /// Not paid in time.
    Expired,
    /// By its owner.
    Cancelled,
    /// For too many polls.
    Voided,
    /// Money and tickets went back.
    Refunded,
}

impl Status {
    /// Whether nothing more is to come, except a refund of something sold. The same `request_id` answers with it for ever.
    pub fn is_final(self) -> bool {
        !matches!(self, Status::Queued | Status::Held)
    }
}

/// Why a reservation ended as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing that it wants can come any more.
    SoldOut,
    /// Over a limit.
    Limit,
    /// The sale ended first.
    SaleClosed,
    /// More than 20 polls in 10 s.
    TooManyPolls,
    /// Paid after its end, and refunded.
    LatePayment,
}

impl Reason {
    /// As the contract and the database spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::SoldOut => "sold_out",
            Reason::Limit => "limit",
            Reason::SaleClosed => "sale_closed",
            Reason::TooManyPolls => "too_many_polls",
            Reason::LatePayment => "late_payment",
        }
    }
}

impl std::str::FromStr for Reason {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let all = [Reason::SoldOut, Reason::Limit, Reason::SaleClosed, Reason::TooManyPolls, Reason::LatePayment];
        all.into_iter().find(|reason| reason.as_str() == text).ok_or(UnknownReason)
    }
}

/// A text that is no [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such reason")]
pub struct UnknownReason;

/// How likely tickets are, while queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Chance {
    /// What is free now will do.
    Likely,
    /// If some of the holds are not paid for.
    Unlikely,
    /// If nearly none are.
    Slight,
}
