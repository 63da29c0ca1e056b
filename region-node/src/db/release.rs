//! Holds whose time is up and that nobody began to pay for: found and released in bounded batches.
//!
//! Holds with a payment intent are not touched here: the provider is asked first. Must never release a hold that was
//! sold, cancelled or given an intent since it was found: each statement looks at the state again under its lock.

use super::book::{self, Floor};
use super::{Db, DbError, db_fail_point, to_u64};
use region_api::Entry;

/// Concerts that have holds past their time and without an intent.
pub async fn concerts_with_due(db: &Db) -> Result<Vec<i32>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT DISTINCT concert_id FROM (
                SELECT concert_id FROM reservation
                WHERE state = 'held' AND hold_expires_at <= now() AND intent IS NULL
                ORDER BY hold_expires_at LIMIT 10000) due",
        )
        .await?;
    Ok(client.query(&statement, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Expires up to `most` due holds without an intent of one concert: counters, ledger, outbox, one transaction. Rows
/// that somebody else has locked are left for the next time. Returns the book number and how many.
pub async fn expire(db: &Db, concert_id: i32, most: i64, floor: &impl Floor) -> Result<(u64, u64), DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    db_fail_point!("recycler.before_expire");
    let locked = book::lock(&tx, concert_id, floor.of(concert_id)).await?;
    let statement = tx
        .prepare_cached(
            "WITH due AS (
                SELECT entry FROM reservation
                WHERE concert_id = $1 AND state = 'held' AND hold_expires_at <= now() AND intent IS NULL
                ORDER BY hold_expires_at LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
            ), gone AS (
                UPDATE reservation r SET state = 'expired', changed_at = now() FROM due
                WHERE r.concert_id = $1 AND r.entry = due.entry AND r.state = 'held' AND r.intent IS NULL
                RETURNING r.entry, r.user_hash, r.tier, r.quantity
            ), booked AS (
                INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
                SELECT $1, $2, 'release', tier, entry, quantity FROM gone
            ), told AS (
                INSERT INTO outbox (concert_id, entry, user_hash, state)
                SELECT $1, entry, user_hash, 'expired' FROM gone
            ), counted AS (
                UPDATE quota q SET released = q.released + s.tickets
                FROM (SELECT tier, sum(quantity) AS tickets FROM gone GROUP BY tier) s
                WHERE q.concert_id = $1 AND q.tier = s.tier
            )
            SELECT count(*) FROM gone",
        )
        .await?;
    let row = tx.query_one(&statement, &[&concert_id, &locked.book, &most]).await?;
    let expired = to_u64(row.get(0));
    if expired == 0 {
        tx.rollback().await?;
        return Ok((to_u64(locked.book) - 1, 0));
    }
    db_fail_point!("recycler.before_commit");
    tx.commit().await?;
    db_fail_point!("recycler.after_commit");
    Ok((to_u64(locked.book), expired))
}

/// Releases one held or expiring reservation for another final state, within a transaction whose book is locked.
/// `None`: it is not held. Else its payment intent, if it has one.
pub(crate) async fn release_one(
    tx: &tokio_postgres::Transaction<'_>,
    concert_id: i32,
    book: i64,
    entry: Entry,
    state: &str,
) -> Result<Option<Option<String>>, DbError> {
    let row = tx
        .query_opt(
            "WITH gone AS (
                UPDATE reservation SET state = $4::text::reservation_state, changed_at = now()
                WHERE concert_id = $1 AND entry = $3 AND state IN ('held', 'expiring')
                RETURNING entry, user_hash, tier, quantity, intent, state
            ), booked AS (
                INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
                SELECT $1, $2, 'release', tier, entry, quantity FROM gone
            ), told AS (
                INSERT INTO outbox (concert_id, entry, user_hash, state) SELECT $1, entry, user_hash, state FROM gone
            ), counted AS (
                UPDATE quota q SET released = q.released + gone.quantity FROM gone
                WHERE q.concert_id = $1 AND q.tier = gone.tier
            )
            SELECT intent FROM gone",
            &[&concert_id, &book, &entry.to_i64(), &state],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}
