//! Tickets: what their owner is shown, their QR code, and the door.
//!
//! Codes are signed when they are asked for (Ed25519 always gives the same one), so the database keeps none. Must never
//! show a ticket to anybody but its owner, or let one in twice.

use crate::db::tickets::{self, TicketRow, Use};
use crate::db::{Db, DbError};
use qrcode::QrCode;
use qrcode::render::svg;
use region_api::id::{ReservationId, Tiers};
use region_api::wire::ticket::{Ticket, TicketCheckAnswer, TicketRefusal};
use region_api::{
    ConcertName, Entry, IdentityHash, KeyRing, RegionName, TicketCode, TicketSigner, TicketVerifier, TierName,
    Timestamp, UserHash,
};
use std::sync::Arc;
use uuid::Uuid;

/// Side of a module of the QR code, pixels: large enough for a telephone's camera from a printed page.
const MODULE_PIXELS: u32 = 6;

/// Why a ticket was not shown.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// 404.
    #[error("no such ticket")]
    NotFound,
    /// 403: somebody else's.
    #[error("not the owner of this ticket")]
    NotOwner,
    /// 503, or a defect.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A defect: the code cannot be drawn.
    #[error("no QR code: {0}")]
    Qr(#[from] qrcode::types::QrError),
}

/// The tickets of a region. Cheap to clone.
#[derive(Clone)]
pub struct Tickets {
    db: Db,
    region: RegionName,
    ring: Arc<KeyRing>,
    signer: TicketSigner,
    verifiers: Arc<[TicketVerifier]>,
}

impl Tickets {
    /// `earlier`: public keys whose codes are still let in besides those of `signer`.
    pub fn new(
        db: Db,
        region: RegionName,
        ring: Arc<KeyRing>,
        signer: TicketSigner,
        earlier: &[TicketVerifier],
    ) -> Self {
        let verifiers = std::iter::once(signer.verifier()).chain(earlier.iter().cloned()).collect();
        Self { db, region, ring, signer, verifiers }
    }

    /// A ticket, for its owner.
    pub async fn get(&self, ticket: Uuid, user: UserHash) -> Result<Ticket, TicketError> {
        let row = tickets::read(&self.db, ticket).await?.ok_or(TicketError::NotFound)?;
        if UserHash::from_uuid(row.user_hash) != user {
            return Err(TicketError::NotOwner);
        }
        let (concert, tier) = (concert(&row)?, tier(&row)?);
        let code = TicketCode { ticket, concert, tier, holder: row.holder_hash.into_bytes() };
        Ok(Ticket {
            ticket,
            reservation: match &row.id_text {
                Some(text) => text.clone(),
                None => self.reservation(&row, &code.concert)?,
            },
            status: row.status,
            code: code.sign(&self.signer),
            concert: code.concert,
            tier: code.tier,
        })
    }

    /// Its QR code as an SVG image, for its owner.
    pub async fn svg(&self, ticket: Uuid, user: UserHash) -> Result<String, TicketError> {
        draw(&self.get(ticket, user).await?.code)
    }

    /// The door: is this code genuine, may it come in, and is it the first time?
    pub async fn check(&self, code: &str) -> Result<TicketCheckAnswer, DbError> {
        let Ok(code) = TicketCode::verify(code, &self.verifiers) else {
            return Ok(refused(TicketRefusal::Forged, None));
        };
        let used = tickets::check_in(&self.db, code.ticket).await?;
        metrics::counter!("boxoffice_ticket_checks_total", "outcome" => outcome(used)).increment(1);
        let (first_use, at) = match used {
            Use::First(at) => (true, at),
            Use::Again(at) => (false, at),
            Use::Void => return Ok(refused(TicketRefusal::Void, Some(code))),
            Use::Unknown => return Ok(refused(TicketRefusal::Unknown, Some(code))),
        };
        let first_used_at = Some(Timestamp::from_datetime(at));
        Ok(TicketCheckAnswer {
            valid: true,
            first_use,
            first_used_at,
            reason: None,
            ticket: Some(code.ticket),
            concert: Some(code.concert),
            tier: Some(code.tier),
        })
    }

    /// An id of the ticket's reservation: signed anew, for the place, with what was sold. For sales of earlier versions,
    /// and of payments that only the provider knew of: there the buyer's own text was never seen with them.
    fn reservation(&self, row: &TicketRow, concert: &ConcertName) -> Result<String, DbError> {
        let corrupt = || DbError::Corrupt(format!("reservation {} of a ticket", row.entry));
        let id = ReservationId {
            region: self.region.clone(),
            concert: concert.clone(),
            entry: Entry::from_i64(row.entry).ok_or_else(corrupt)?,
            arrival_ms: u64::try_from(row.arrival_ms).map_err(|_| corrupt())?,
            user: UserHash::from_uuid(row.user_hash),
            quantity: u8::try_from(row.quantity).map_err(|_| corrupt())?,
            tiers: Tiers::from_slice(&[u8::try_from(row.tier_no).map_err(|_| corrupt())?]),
            any_quantity: false,
            identity: row.identity_hash.map(IdentityHash::from_uuid),
        };
        Ok(id.sign(&self.ring))
    }
}

fn concert(row: &TicketRow) -> Result<ConcertName, DbError> {
    ConcertName::new(&row.concert).map_err(|error| DbError::Corrupt(error.to_string()))
}

fn tier(row: &TicketRow) -> Result<TierName, DbError> {
    TierName::new(&row.tier).map_err(|error| DbError::Corrupt(error.to_string()))
}

fn draw(code: &str) -> Result<String, TicketError> {
    let image = QrCode::new(code)?.render::<svg::Color<'_>>().module_dimensions(MODULE_PIXELS, MODULE_PIXELS).build();
    Ok(image)
}

fn outcome(used: Use) -> &'static str {
    match used {
        Use::First(_) => "first",
        Use::Again(_) => "again",
        Use::Void => "void",
        Use::Unknown => "unknown",
    }
}

fn refused(reason: TicketRefusal, code: Option<TicketCode>) -> TicketCheckAnswer {
    let (ticket, concert, tier) = match code {
        Some(code) => (Some(code.ticket), Some(code.concert), Some(code.tier)),
        None => (None, None, None),
    };
    let reason = Some(reason);
    TicketCheckAnswer { valid: false, first_use: false, first_used_at: None, reason, ticket, concert, tier }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_code_can_be_drawn() {
        let image = draw(&"A".repeat(TicketCode::TEXT_MAX)).unwrap();
        assert!(image.starts_with("<?xml") && image.contains("<svg"));
    }
}
