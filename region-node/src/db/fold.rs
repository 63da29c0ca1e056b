//! Folding: sales that were appended by payments are counted into `quota.sold`, in batches.

use super::book::{self, Floor};
use super::{Db, DbError, db_fail_point, to_u64};
use tokio_postgres::Transaction;

/// Concerts that have sales to fold.
pub async fn concerts_with_unfolded(db: &Db) -> Result<Vec<i32>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT concert_id FROM concert c WHERE EXISTS (SELECT FROM unfolded u WHERE u.concert_id = c.concert_id)",
        )
        .await?;
    Ok(client.query(&statement, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Folds up to `most` sales in a transaction whose book is locked. Returns how many.
pub async fn fold_in(tx: &Transaction<'_>, concert_id: i32, book: i64, most: i64) -> Result<u64, DbError> {
    let row = tx
        .query_one(
            "WITH oldest AS (
                SELECT ledger_id FROM unfolded WHERE concert_id = $1 ORDER BY ledger_id LIMIT $3
            ), taken AS (
                DELETE FROM unfolded u USING oldest o WHERE u.ledger_id = o.ledger_id
                RETURNING u.ledger_id, u.tier, u.tickets
            ), folded AS (
                INSERT INTO fold (ledger_id, concert_id, book) SELECT ledger_id, $1, $2 FROM taken
            ), counted AS (
                UPDATE quota q SET sold = q.sold + s.tickets
                FROM (SELECT tier, sum(tickets) AS tickets FROM taken GROUP BY tier) s
                WHERE q.concert_id = $1 AND q.tier = s.tier
            )
            SELECT count(*) FROM taken",
            &[&concert_id, &book, &most],
        )
        .await?;
    Ok(to_u64(row.get(0)))
}

/// Folds up to `most` sales of a concert. Returns the book number and how many; nothing is written when there are none.
pub async fn fold(db: &Db, concert_id: i32, most: i64, floor: &impl Floor) -> Result<(u64, u64), DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let locked = book::lock(&tx, concert_id, floor.of(concert_id)).await?;
    db_fail_point!("folder.after_lock");
    let folded = fold_in(&tx, concert_id, locked.book, most).await?;
    if folded == 0 {
        tx.rollback().await?;
        return Ok((to_u64(locked.book) - 1, 0));
    }
    db_fail_point!("folder.before_commit");
    tx.commit().await?;
    db_fail_point!("folder.after_commit");
    Ok((to_u64(locked.book), folded))
}
