//! `GET /v1/concerts` and `GET /v1/concerts/{concert}`.

use crate::names::{ConcertName, RegionName, TierName};
use crate::units::{Money, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer to `GET /v1/concerts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConcertList {
    /// All that are announced or open, and those closed not long ago.
    pub concerts: Vec<Concert>,
}

/// A concert as buyers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Concert {
    /// Its name in addresses.
    pub concert: ConcertName,
    /// Its title.
    pub title: String,
    /// Where.
    pub venue: String,
    /// When the doors open; null when the definition does not say.
    pub starts_at: Option<Timestamp>,
    /// When the sale begins.
    pub sale_opens_at: Timestamp,
    /// When the sale ends; null: when all is sold, or by hand.
    pub sale_closes_at: Option<Timestamp>,
    /// Where it stands.
    pub state: ConcertState,
    /// How long a hold lasts.
    pub hold_ms: u64,
    /// Tickets in one order.
    pub max_per_order: u16,
    /// Tickets of one person over all orders.
    pub max_per_person: u16,
    /// Tickets of one identity over all users; null: no identity is asked for.
    #[serde(default)]
    pub max_per_identity: Option<u16>,
    /// Whether guests may buy.
    pub guests: bool,
    /// Whether a session needs a solved challenge.
    pub challenge: bool,
    /// In the order of the definition.
    pub tiers: Vec<Tier>,
    /// Who waits.
    pub queue: QueueInfo,
    /// When this was true.
    pub as_of: Timestamp,
    /// Who says so.
    pub region: RegionName,
}

/// Where a concert's sale stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConcertState {
    /// Before the sale.
    Announced,
    /// On sale.
    Open,
    /// After the sale.
    Closed,
    /// Will not take place.
    Cancelled,
}

/// A tier as buyers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tier {
    /// Its name.
    pub tier: TierName,
    /// Its title.
    pub title: String,
    /// Of one ticket.
    pub price: Money,
    /// What is left here.
    pub availability: Availability,
}

/// What is left of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Enough for now.
    Plenty,
    /// Nearly gone here.
    Few,
    /// None here now; some may still come.
    NoneHere,
    /// Never again, except for refunds.
    SoldOut,
}

/// Who waits for a concert in this region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueInfo {
    /// Reservations not yet decided.
    pub waiting: u64,
    /// For somebody who joins now; null when unknown.
    pub estimated_wait_ms: Option<u64>,
}
