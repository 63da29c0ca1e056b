//! Tickets in the database: reading one, and letting one in exactly once.
//!
//! They are issued with the sale and become void with its undoing, in `payments::settle`; nothing else changes them.

use super::{Db, DbError};
use region_api::wire::ticket::TicketStatus;
use time::OffsetDateTime;
use uuid::Uuid;

/// A ticket with what its code and its reservation's id are made of.
#[derive(Debug, Clone)]
pub struct TicketRow {
    /// Its concert's name.
    pub concert: String,
    /// Its tier's name.
    pub tier: String,
    /// Its tier's number.
    pub tier_no: i16,
    /// Whether it lets somebody in.
    pub status: TicketStatus,
    /// Hash that stands for the holder.
    pub holder_hash: Uuid,
    /// Its reservation.
    pub entry: i64,
    /// When that got its place, milliseconds since 1970.
    pub arrival_ms: i64,
    /// Whose that is.
    pub user_hash: Uuid,
    /// Tickets of that.
    pub quantity: i16,
    /// Where the concert asks for one.
    pub identity_hash: Option<Uuid>,
    /// That reservation's id as its buyer has it; none where the sale did not come from a buyer's call.
    pub id_text: Option<String>,
}

/// Reads a ticket.
pub async fn read(db: &Db, ticket: Uuid) -> Result<Option<TicketRow>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT c.concert, n.name, t.tier, t.status, t.holder_hash, t.entry, r.arrival_ms, r.user_hash, r.quantity,
                    r.identity_hash, r.id_text
             FROM ticket t JOIN concert c USING (concert_id)
             JOIN tier n ON n.concert_id = t.concert_id AND n.tier = t.tier
             JOIN reservation r ON r.concert_id = t.concert_id AND r.entry = t.entry
             WHERE t.ticket_id = $1",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&ticket]).await? else { return Ok(None) };
    Ok(Some(TicketRow {
        concert: row.get(0),
        tier: row.get(1),
        tier_no: row.get(2),
        status: status(row.get(3))?,
        holder_hash: row.get(4),
        entry: row.get(5),
        arrival_ms: row.get(6),
        user_hash: row.get(7),
        quantity: row.get(8),
        identity_hash: row.get(9),
        id_text: row.get(10),
    }))
}

fn status(text: &str) -> Result<TicketStatus, DbError> {
    match text {
        "valid" => Ok(TicketStatus::Valid),
        "void" => Ok(TicketStatus::Void),
        "used" => Ok(TicketStatus::Used),
        other => Err(DbError::Corrupt(format!("a ticket's status {other:?}"))),
    }
}

/// What the door is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Let in now, for the first time.
    First(OffsetDateTime),
    /// Let in before, then.
    Again(OffsetDateTime),
    /// Void: not to be let in.
    Void,
    /// No such ticket here.
    Unknown,
}

/// Lets a ticket in: whoever comes first gets `First`, however many ask at once.
pub async fn check_in(db: &Db, ticket: Uuid) -> Result<Use, DbError> {
    let client = db.client().await?;
    let update = "UPDATE ticket SET status = 'used', used_at = now() WHERE ticket_id = $1 AND status = 'valid'
                  RETURNING used_at";
    let statement = client.prepare_cached(update).await?;
    if let Some(row) = client.query_opt(&statement, &[&ticket]).await? {
        return Ok(Use::First(row.get(0)));
    }
    // Status never goes back to valid, so a second look is as good as the same one.
    let statement = client.prepare_cached("SELECT status, used_at FROM ticket WHERE ticket_id = $1").await?;
    let Some(row) = client.query_opt(&statement, &[&ticket]).await? else { return Ok(Use::Unknown) };
    match (status(row.get(0))?, row.get::<_, Option<OffsetDateTime>>(1)) {
        (TicketStatus::Used, Some(at)) => Ok(Use::Again(at)),
        (TicketStatus::Void, _) => Ok(Use::Void),
        _ => Err(DbError::Corrupt("a ticket that is neither valid, used nor void".into())),
    }
}
