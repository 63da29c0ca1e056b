//! What becomes of holds whose time is up while somebody may be paying for them.
//!
//! Must never: give stock back that was sold meanwhile; every statement looks at the state again under its lock.

use super::super::book::{self, Floor};
use super::super::{Db, DbError};
use super::seconds;
use std::time::Duration;

/// The one extension: the provider says that the payment is processing. Whether it was still to be had. The payment is
/// asked about again `every` so long, so that a lost webhook does not cost the buyer the whole extension.
pub async fn extend(db: &Db, concert_id: i32, entry: i64, by: Duration, every: Duration) -> Result<bool, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "WITH more AS (
                UPDATE reservation SET state = 'held', extended = true, changed_at = now(),
                       hold_expires_at = now() + make_interval(secs => $3)
                WHERE concert_id = $1 AND entry = $2 AND state = 'expiring' AND NOT extended
                RETURNING intent, hold_expires_at)
             UPDATE payment p SET check_after = least(more.hold_expires_at, now() + make_interval(secs => $4))
             FROM more WHERE p.intent = more.intent",
        )
        .await?;
    Ok(client.execute(&statement, &[&concert_id, &entry, &seconds(by), &seconds(every)]).await? == 1)
}

/// Gives the stock of these holds back, all of one concert. `cancelled`: their intents are cancelled at the provider,
/// which is asked about them again after so long; else it goes on being asked. Returns the book number and how many were
/// still expiring.
pub async fn expire(
    db: &Db,
    concert_id: i32,
    entries: &[i64],
    cancelled: Option<Duration>,
    floor: &(impl Floor + ?Sized),
) -> Result<(i64, u64), DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let locked = book::lock(&tx, concert_id, floor.of(concert_id)).await?;
    let statement = tx
        .prepare_cached(
            "WITH gone AS (
                UPDATE reservation SET state = 'expired', changed_at = now()
                WHERE concert_id = $1 AND entry = ANY($2) AND state = 'expiring'
                RETURNING entry, user_hash, tier, quantity, intent),
             rows AS (
                INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
                SELECT $1, $3, 'release', tier, entry, quantity FROM gone),
             told AS (
                INSERT INTO outbox (concert_id, entry, user_hash, state)
                SELECT $1, entry, user_hash, 'expired' FROM gone),
             paid AS (
                UPDATE payment p SET changed_at = now(),
                       check_after = now() + make_interval(secs => coalesce($4::double precision, 0)),
                       status = CASE WHEN $4 IS NOT NULL AND p.status = 'open' THEN 'cancelled' ELSE p.status END
                FROM gone WHERE p.intent = gone.intent),
             counted AS (
                UPDATE quota q SET released = q.released + sums.tickets
                FROM (SELECT tier, sum(quantity)::bigint AS tickets FROM gone GROUP BY tier) sums
                WHERE q.concert_id = $1 AND q.tier = sums.tier)
             SELECT count(*) FROM gone",
        )
        .await?;
    let again = cancelled.map(seconds);
    let row = tx.query_one(&statement, &[&concert_id, &entries, &locked.book, &again]).await?;
    fail::fail_point!("payments.expire.before_commit");
    tx.commit().await?;
    let gone: i64 = row.get(0);
    Ok((locked.book, super::super::to_u64(gone)))
}
