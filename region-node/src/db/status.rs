//! What became of reservations, for many at once: one query per gathered batch of polls.

use super::{Db, DbError, to_u64};
use region_api::{Entry, TierNo, UserHash};
use std::str::FromStr;
use tokio_postgres::Row;
use uuid::Uuid;

/// The state of a reservation's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Tickets are kept for it.
    Held,
    /// Its time is up, its payment is being cancelled at the provider.
    Expiring,
    /// Paid.
    Sold,
    /// Told no.
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

impl State {
    /// As the database spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Expiring => "expiring",
            Self::Sold => "sold",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
        }
    }
}

impl FromStr for State {
    type Err = DbError;
    fn from_str(text: &str) -> Result<Self, DbError> {
        let all = [
            Self::Held,
            Self::Expiring,
            Self::Sold,
            Self::Rejected,
            Self::Expired,
            Self::Cancelled,
            Self::Voided,
            Self::Refunded,
        ];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| DbError::Corrupt(format!("reservation state {text:?}")))
    }
}

/// A reservation's row; of an alias, the row that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationRow {
    /// The row's own entry: of an alias, not the one asked for.
    pub entry: Entry,
    /// Whose it is. Compare it with the id's: the entry numbers of a lost queue may be given out again.
    pub user: UserHash,
    /// State.
    pub state: State,
    /// Why, as the contract spells it.
    pub reason: Option<String>,
    /// Tier, once held.
    pub tier: Option<TierNo>,
    /// Tickets held, or asked for.
    pub quantity: u16,
    /// To be paid, minor units.
    pub amount: Option<u64>,
    /// When the hold ends, milliseconds since 1970 by the database's clock.
    pub hold_expires_at_ms: Option<u64>,
    /// The payment intent, if one was made.
    pub intent: Option<String>,
    /// Tickets, in order.
    pub tickets: Vec<Uuid>,
    /// Last change, milliseconds since 1970.
    pub changed_at_ms: u64,
}

/// What SQL knows about a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It was decided, or left the queue.
    Row(Box<ReservationRow>),
    /// Passed over until what it wants comes back; shown as queued.
    Waiting {
        /// When it came, milliseconds since 1970.
        arrival_ms: u64,
        /// Whose it is.
        user: UserHash,
    },
    /// Nothing: in the queue, or told no with a whole range, or lost.
    Nothing,
}

const STATUS: &str = "
SELECT q.n, r.entry, r.user_hash, r.state::text, r.reason, r.tier, r.quantity, r.amount,
       (extract(epoch FROM r.hold_expires_at) * 1000)::bigint, r.intent,
       CASE WHEN r.state IN ('sold', 'refunded') THEN
           array(SELECT ticket_id FROM ticket t WHERE t.concert_id = r.concert_id AND t.entry = r.entry ORDER BY number)
       END,
       (extract(epoch FROM r.changed_at) * 1000)::bigint, w.arrival_ms, w.user_hash
FROM unnest($1::int[], $2::bigint[]) WITH ORDINALITY AS q (concert_id, entry, n)
LEFT JOIN reservation o ON o.concert_id = q.concert_id AND o.entry = q.entry
LEFT JOIN reservation r ON r.concert_id = q.concert_id AND r.entry = coalesce(o.alias_of, q.entry)
    AND r.state <> 'alias'
LEFT JOIN LATERAL (
    SELECT arrival_ms, user_hash FROM waiting w
    WHERE r.entry IS NULL AND w.concert_id = q.concert_id AND w.entry = coalesce(o.alias_of, q.entry) LIMIT 1
) w ON true
ORDER BY q.n";

/// What became of each, in the order asked. One query.
pub async fn status(db: &Db, asked: &[(i32, Entry)]) -> Result<Vec<Found>, DbError> {
    let (concerts, entries): (Vec<i32>, Vec<i64>) = asked.iter().map(|(c, e)| (*c, e.to_i64())).unzip();
    let client = db.client().await?;
    let statement = client.prepare_cached(STATUS).await?;
    let rows = client.query(&statement, &[&concerts, &entries]).await?;
    if rows.len() != asked.len() {
        return Err(DbError::Corrupt(format!("{} answers to {} questions", rows.len(), asked.len())));
    }
    rows.iter().map(found).collect()
}

fn found(row: &Row) -> Result<Found, DbError> {
    if let Some(entry) = row.get::<_, Option<i64>>(1) {
        let entry = Entry::from_i64(entry).ok_or_else(|| DbError::Corrupt("a negative entry".into()))?;
        return Ok(Found::Row(Box::new(ReservationRow {
            entry,
            user: UserHash::from_uuid(row.get(2)),
            state: row.get::<_, &str>(3).parse()?,
            reason: row.get(4),
            tier: row.get::<_, Option<i16>>(5).and_then(|tier| TierNo::try_from(tier).ok()),
            quantity: row.get::<_, i16>(6).unsigned_abs(),
            amount: row.get::<_, Option<i64>>(7).map(to_u64),
            hold_expires_at_ms: row.get::<_, Option<i64>>(8).map(to_u64),
            intent: row.get(9),
            tickets: row.get::<_, Option<Vec<Uuid>>>(10).unwrap_or_default(),
            changed_at_ms: to_u64(row.get(11)),
        })));
    }
    match row.get::<_, Option<i64>>(12) {
        Some(arrival) => Ok(Found::Waiting { arrival_ms: to_u64(arrival), user: UserHash::from_uuid(row.get(13)) }),
        None => Ok(Found::Nothing),
    }
}
