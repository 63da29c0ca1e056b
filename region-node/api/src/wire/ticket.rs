//! `GET /v1/tickets/{ticket}` and `POST /v1/tickets/check`.

use crate::body::{Checked, InvalidField};
use crate::names::{ConcertName, TierName};
use crate::ticket_code::TicketCode;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;
use uuid::Uuid;

/// A ticket as its owner sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ticket {
    /// Its id.
    pub ticket: Uuid,
    /// Its concert.
    pub concert: ConcertName,
    /// Its tier.
    pub tier: TierName,
    /// The signed id of the reservation that it came from.
    pub reservation: String,
    /// Whether it lets somebody in.
    pub status: TicketStatus,
    /// The signed text of its QR code.
    pub code: String,
}

/// Whether a ticket lets somebody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TicketStatus {
    /// It does.
    Valid,
    /// Refunded or disputed.
    Void,
    /// It did.
    Used,
}

/// Body of `POST /v1/tickets/check`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketCheckRequest {
    /// What the QR code says.
    pub code: String,
}

// Whoever has a code gets in with it: never in a log.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Ticket");
        shown.field("ticket", &self.ticket).field("status", &self.status).finish_non_exhaustive()
    }
}
impl fmt::Debug for TicketCheckRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketCheckRequest(…)")
    }
}

impl Checked for TicketCheckRequest {
    fn check(&self) -> Result<(), InvalidField> {
        let fits = (1..=TicketCode::TEXT_MAX).contains(&self.code.len());
        if fits { Ok(()) } else { Err(InvalidField::new("code", "is not a ticket's code")) }
    }
}

/// Answer to `POST /v1/tickets/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TicketCheckAnswer {
    /// Whether this ticket lets somebody in: genuine and not void. Whether it did before, `first_use` says.
    pub valid: bool,
    /// Whether this was the first check.
    pub first_use: bool,
    /// When the first check was.
    pub first_used_at: Option<Timestamp>,
    /// Why not, if not.
    pub reason: Option<TicketRefusal>,
    /// Which ticket, if genuine.
    pub ticket: Option<Uuid>,
    /// For which concert, if genuine.
    pub concert: Option<ConcertName>,
    /// Of which tier, if genuine.
    pub tier: Option<TierName>,
}

/// Why a ticket does not let anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TicketRefusal {
    /// Not signed by this seller.
    Forged,
    /// Genuine, but this region does not know it.
    Unknown,
    /// Refunded or disputed.
    Void,
}
