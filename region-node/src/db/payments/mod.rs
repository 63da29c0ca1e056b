//! Payment intents, webhooks and refunds in the database.
//!
//! - here: opening a payment, storing webhooks, and the claims by which nodes share the work;
//! - [`settle`]: what a payment's news does (sell, hold and sell again, refund, undo);
//! - [`expire`]: what happens to holds whose time is up.
//!
//! Must never: keep a transaction open across a call to the provider. Lock order: book, reservation, payment, quota.

pub mod expire;
pub mod settle;

use super::{Db, DbError};
use crate::payments::notice::Notice;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

/// Seconds as the database takes them.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// A reservation as `POST …/payment` sees it.
#[derive(Debug, Clone)]
pub struct Payable {
    /// Where an alias leads: the entry that the payment is for.
    pub entry: i64,
    /// Held, and its time is not up.
    pub held: bool,
    /// Sold.
    pub sold: bool,
    /// When the hold ends.
    pub hold_expires_at: Option<OffsetDateTime>,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// The concert's name.
    pub concert: String,
    /// Whose.
    pub user_hash: Uuid,
    /// When it was held: with `user_hash` it makes the hold unmistakable, also in another database of this name.
    pub held_at: Option<OffsetDateTime>,
    /// The payment, once opened.
    pub opened: Option<Opened>,
}

/// An opened payment.
#[derive(Debug, Clone)]
pub struct Opened {
    /// `pi_…`
    pub intent: String,
    /// Who takes the money.
    pub provider: String,
    /// What the buyer's browser proves itself with.
    pub client_secret: String,
    /// A page to pay on.
    pub checkout_url: Option<String>,
    /// Still to be paid.
    pub open: bool,
}

const PAYABLE: &str = "
SELECT r.entry, r.state = 'held' AND r.hold_expires_at > now(), r.hold_expires_at, r.amount, t.price_currency,
       c.concert, r.user_hash, r.held_at, p.intent, p.provider, p.client_secret, p.checkout_url, p.status = 'open',
       r.state = 'sold'
FROM reservation q
JOIN reservation r ON r.concert_id = q.concert_id AND r.entry = coalesce(q.alias_of, q.entry)
JOIN concert c ON c.concert_id = r.concert_id
LEFT JOIN tier t ON t.concert_id = r.concert_id AND t.tier = r.tier
LEFT JOIN payment p ON p.intent = r.intent
WHERE q.concert_id = $1 AND q.entry = $2";

/// Reads a reservation for paying; `None` when it was not decided yet.
pub async fn payable(db: &Db, concert_id: i32, entry: i64) -> Result<Option<Payable>, DbError> {
    let client = db.client().await?;
    let statement = client.prepare_cached(PAYABLE).await?;
    let row = client.query_opt(&statement, &[&concert_id, &entry]).await?;
    Ok(row.map(|row| {
        let opened = row.get::<_, Option<String>>(8).map(|intent| Opened {
            intent,
            provider: row.get(9),
            client_secret: row.get(10),
            checkout_url: row.get(11),
            open: row.get(12),
        });
        Payable {
            entry: row.get(0),
            held: row.get(1),
            sold: row.get(13),
            hold_expires_at: row.get(2),
            amount: row.get::<_, Option<i64>>(3).unwrap_or(0),
            currency: row.get::<_, Option<String>>(4).unwrap_or_default(),
            concert: row.get(5),
            user_hash: row.get(6),
            held_at: row.get(7),
            opened,
        }
    }))
}

/// Writes an opened payment down and gives it to its reservation, if that is still held and has none; with it the
/// reservation's id as its buyer has it. Whether it is now the reservation's; if not, the provider is asked about it
/// (and it is cancelled) soon.
pub async fn attach(db: &Db, concert_id: i32, p: &Payable, o: &Opened, id_text: &str) -> Result<bool, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let update = tx
        .prepare_cached(
            "UPDATE reservation SET intent = $3, id_text = coalesce(id_text, $4)
             WHERE concert_id = $1 AND entry = $2 AND state = 'held' AND hold_expires_at > now()
               AND (intent IS NULL OR intent = $3)
             RETURNING hold_expires_at",
        )
        .await?;
    let until = tx.query_opt(&update, &[&concert_id, &p.entry, &o.intent, &id_text]).await?;
    let until: Option<OffsetDateTime> = until.map(|row| row.get(0));
    let insert = tx
        .prepare_cached(
            "INSERT INTO payment (intent, provider, concert_id, entry, amount, currency, status, client_secret,
                                  checkout_url, check_after)
             VALUES ($1, $2, $3, $4, $5, $6, 'open', $7, $8, coalesce($9, now())) ON CONFLICT (intent) DO NOTHING",
        )
        .await?;
    tx.execute(
        &insert,
        &[
            &o.intent,
            &o.provider,
            &concert_id,
            &p.entry,
            &p.amount,
            &p.currency,
            &o.client_secret,
            &o.checkout_url,
            &until,
        ],
    )
    .await?;
    fail::fail_point!("payments.start.before_commit");
    tx.commit().await?;
    Ok(until.is_some())
}

/// Writes a webhook down; `false` when it was there before.
pub async fn store_notice(db: &Db, notice: &Notice) -> Result<bool, DbError> {
    let client = db.client().await?;
    let payload = serde_json::to_value(notice).map_err(|error| DbError::Corrupt(error.to_string()))?;
    let kind = payload.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
    let insert = "INSERT INTO webhook_event (event_id, kind, payload) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let statement = client.prepare_cached(insert).await?;
    Ok(client.execute(&statement, &[&notice.event, &kind, &payload]).await? == 1)
}

/// Takes webhooks to work on. Nobody else gets them for `lease`; after that they count as left lying.
pub async fn claim_notices(db: &Db, most: i64, lease: Duration) -> Result<Vec<Notice>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "UPDATE webhook_event SET attempts = attempts + 1,
                    try_after = now() + make_interval(secs => $2::double precision * least(attempts + 1, 60))
             WHERE event_id IN (SELECT event_id FROM webhook_event WHERE processed_at IS NULL AND try_after <= now()
                                ORDER BY try_after LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING payload",
        )
        .await?;
    let rows = client.query(&statement, &[&most, &seconds(lease)]).await?;
    let read = |row: &Row| serde_json::from_value(row.get(0)).map_err(|error| DbError::Corrupt(error.to_string()));
    rows.iter().map(read).collect()
}

/// An open payment whose turn it is to be looked at.
#[derive(Debug, Clone)]
pub struct Due {
    /// `pi_…`
    pub intent: String,
    /// The concert's number here.
    pub concert_id: i32,
    /// Its reservation.
    pub entry: i64,
    /// What the reservation is.
    pub state: DueState,
}

/// See [`Due::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueState {
    /// Time is up; `extended`: it had its extension; `overdue`: kept as long as may be.
    Expiring {
        /// See above.
        extended: bool,
        /// See above.
        overdue: bool,
    },
    /// Held longer because the payment was processing.
    Extended,
    /// Nothing is held for this payment: cancelled by its owner, sold by another payment, …
    Ended,
    /// Cancelled at the provider some time ago: asked whether money came all the same.
    Cancelled,
}

/// When a cancelled payment is asked about again, for the money of a bank that did not care and whose webhook was lost:
/// so long after it was cancelled, each once.
#[derive(Debug, Clone, Copy)]
pub struct Rechecks {
    /// The first time.
    pub first: Duration,
    /// The last time.
    pub last: Duration,
}

/// Marks holds whose time is up and that somebody may be paying for; they become `expiring`. How many.
pub async fn mark_due(db: &Db, most: i64, jitter: Duration) -> Result<u64, DbError> {
    let client = db.client().await?;
    // Jitter: thousands of holds of one second must not hit the provider in one second.
    let statement = client
        .prepare_cached(
            "WITH due AS (
                UPDATE reservation SET state = 'expiring', changed_at = now()
                WHERE (concert_id, entry) IN (
                    SELECT concert_id, entry FROM reservation
                    WHERE state = 'held' AND hold_expires_at <= now() AND intent IS NOT NULL
                    ORDER BY hold_expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
                RETURNING intent)
             UPDATE payment p SET check_after = now() + random() * make_interval(secs => $2) FROM due
             WHERE p.intent = due.intent",
        )
        .await?;
    Ok(client.execute(&statement, &[&most, &seconds(jitter)]).await?)
}

/// Takes open payments to ask the provider about. Nobody else gets them for `lease`. `keep`: how long a hold may be
/// kept past its end while the provider does not say what became of it.
pub async fn claim_due(db: &Db, most: i64, lease: Duration, keep: Duration) -> Result<Vec<Due>, DbError> {
    let client = db.client().await?;
    // One that nobody holds anything for is asked about less and less often, up to every hour.
    let statement = client
        .prepare_cached(
            "UPDATE payment p SET check_after = CASE
                    WHEN r.state = 'held' AND r.extended THEN
                        least(greatest(r.hold_expires_at, now() + interval '1 second'), now() + make_interval(secs => $2))
                    WHEN r.state = 'held' THEN greatest(r.hold_expires_at, now()) + interval '1 second'
                    WHEN r.state = 'expiring' THEN now() + make_interval(secs => $2)
                    ELSE now() + least(greatest(make_interval(secs => $2), (now() - p.changed_at) / 4), interval '1 hour')
                END
             FROM reservation r
             WHERE r.concert_id = p.concert_id AND r.entry = p.entry
               AND p.intent IN (SELECT intent FROM payment WHERE status = 'open' AND check_after <= now()
                                ORDER BY check_after LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING p.intent, p.concert_id, p.entry, r.state::text, r.extended,
                       now() > r.changed_at + make_interval(secs => $3), r.intent IS NOT DISTINCT FROM p.intent",
        )
        .await?;
    let rows = client.query(&statement, &[&most, &seconds(lease), &seconds(keep)]).await?;
    let due = |row: &Row| {
        let own: bool = row.get(6);
        let state = match row.get(3) {
            "held" if own && row.get(4) => DueState::Extended,
            // Not due yet (or marked in a moment): looked at again then.
            "held" if own => return None,
            "expiring" if own => DueState::Expiring { extended: row.get(4), overdue: row.get(5) },
            _ => DueState::Ended,
        };
        Some(Due { intent: row.get(0), concert_id: row.get(1), entry: row.get(2), state })
    };
    Ok(rows.iter().filter_map(due).collect())
}

/// Holds whose time is up and whose payment is over without a sale (undone before it counted, or of a wrong amount):
/// concert and reservation. Nobody has to be asked.
pub async fn over(db: &Db, most: i64) -> Result<Vec<(i32, i64)>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT r.concert_id, r.entry FROM reservation r LEFT JOIN payment p ON p.intent = r.intent
             WHERE r.state = 'expiring' AND r.hold_expires_at <= now() AND p.status IS DISTINCT FROM 'open' LIMIT $1",
        )
        .await?;
    Ok(client.query(&statement, &[&most]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Takes cancelled payments whose turn it is to be asked about again. Nobody else gets them for `lease`, longer after
/// each failure.
pub async fn claim_cancelled(db: &Db, most: i64, lease: Duration) -> Result<Vec<Due>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "UPDATE payment p SET check_after = now()
                    + least(greatest(make_interval(secs => $2), (now() - p.changed_at) / 4), interval '1 hour')
             WHERE p.intent IN (SELECT intent FROM payment
                                WHERE status = 'cancelled' AND check_after < 'infinity' AND check_after <= now()
                                ORDER BY check_after LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING p.intent, p.concert_id, p.entry",
        )
        .await?;
    let rows = client.query(&statement, &[&most, &seconds(lease)]).await?;
    let due =
        |row: &Row| Due { intent: row.get(0), concert_id: row.get(1), entry: row.get(2), state: DueState::Cancelled };
    Ok(rows.iter().map(due).collect())
}

/// The provider says that a payment is cancelled, and nothing is held for it. Asked about again as often as `rechecks`
/// says; after the last time never again.
pub async fn note_cancelled(db: &Db, intent: &str, rechecks: Rechecks) -> Result<(), DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "UPDATE payment SET status = 'cancelled',
                    changed_at = CASE WHEN status = 'open' THEN now() ELSE changed_at END,
                    check_after = CASE
                        WHEN status = 'open' THEN now() + make_interval(secs => $2)
                        WHEN now() < changed_at + make_interval(secs => $3) THEN changed_at + make_interval(secs => $3)
                        ELSE 'infinity' END
             WHERE intent = $1 AND status IN ('open', 'cancelled')",
        )
        .await?;
    client.execute(&statement, &[&intent, &seconds(rechecks.first), &seconds(rechecks.last)]).await?;
    Ok(())
}

/// Money that goes back.
#[derive(Debug, Clone)]
pub struct OwedRefund {
    /// Idempotency key at the provider.
    pub refund_id: Uuid,
    /// Of which payment.
    pub intent: String,
    /// Minor units.
    pub amount: i64,
    /// How often it was tried, this time included.
    pub attempts: i32,
}

/// Takes refunds to carry out. Nobody else gets them for `lease`, longer after each failure.
pub async fn claim_refunds(db: &Db, most: i64, lease: Duration) -> Result<Vec<OwedRefund>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "UPDATE refund SET attempts = attempts + 1,
                    try_after = now() + make_interval(secs => $2::double precision * least(attempts + 1, 60))
             WHERE refund_id IN (SELECT refund_id FROM refund WHERE done_at IS NULL AND try_after <= now()
                                 ORDER BY try_after LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING refund_id, intent, amount, attempts",
        )
        .await?;
    let rows = client.query(&statement, &[&most, &seconds(lease)]).await?;
    let owed =
        |row: &Row| OwedRefund { refund_id: row.get(0), intent: row.get(1), amount: row.get(2), attempts: row.get(3) };
    Ok(rows.iter().map(owed).collect())
}

/// The provider gave the money back (`provider_refund`), or had done so before (`None`).
pub async fn refund_done(db: &Db, owed: &OwedRefund, provider_refund: Option<&str>) -> Result<(), DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "WITH done AS (
                UPDATE refund SET done_at = now(), provider_refund = $2 WHERE refund_id = $1 AND done_at IS NULL
                RETURNING intent)
             UPDATE payment p SET status = 'refunded', changed_at = now() FROM done WHERE p.intent = done.intent",
        )
        .await?;
    client.execute(&statement, &[&owed.refund_id, &provider_refund]).await?;
    Ok(())
}
