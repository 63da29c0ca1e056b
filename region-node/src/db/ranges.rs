//! Telling whole ranges no: one row per shard instead of one per person, and the close of a sale.
//!
//! Must never: tell somebody no who has a row or waits in SQL before their waiting row is gone, or let a cursor pass
//! places that no range covers.

use super::snapshot::{Generation, RangeReason};
use super::{Db, DbError, to_i64};
use tokio_postgres::Transaction;

/// Part of a shard's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cover {
    /// Shard.
    pub shard: u16,
    /// Generation.
    pub generation: u16,
    /// First sequence number.
    pub from_seq: u64,
    /// Last one.
    pub to_seq: u64,
}

/// Everybody of a generation up to its tail.
pub fn whole(generation: &Generation) -> Option<Cover> {
    let &Generation { shard, generation, tail_seq, .. } = generation;
    (tail_seq > 0).then_some(Cover { shard, generation, from_seq: 1, to_seq: tail_seq })
}

/// Writes a rule over these covers, or lengthens the row that already says the same. With `unsold` it tells no only
/// those whom so many tickets per tier cannot serve. The book is locked. Returns how many rows changed.
pub async fn write(
    tx: &Transaction<'_>,
    concert_id: i32,
    book: i64,
    covers: &[Cover],
    reason: RangeReason,
    unsold: Option<&[u16]>,
) -> Result<u64, DbError> {
    let unsold: Option<Vec<i16>> =
        unsold.map(|all| all.iter().map(|&n| i16::try_from(n).unwrap_or(i16::MAX)).collect());
    let statement = tx
        .prepare(
            "WITH c AS (
                SELECT * FROM unnest($3::smallint[], $4::smallint[], $5::bigint[], $6::bigint[])
                    c (shard, generation, from_seq, to_seq)
            ), longer AS (
                UPDATE rejected_range r SET to_seq = c.to_seq FROM c
                WHERE r.concert_id = $1 AND r.shard = c.shard AND r.generation = c.generation AND r.reason = $7
                    AND r.unsold IS NOT DISTINCT FROM $8::smallint[]
                    AND r.from_seq <= c.from_seq AND r.to_seq >= c.from_seq - 1 AND r.to_seq < c.to_seq
                RETURNING c.shard, c.generation
            )
            INSERT INTO rejected_range (concert_id, shard, generation, from_seq, to_seq, reason, unsold, book)
            SELECT $1, c.shard, c.generation, c.from_seq, c.to_seq, $7, $8::smallint[], $2 FROM c
            WHERE NOT EXISTS (
                SELECT FROM rejected_range r
                WHERE r.concert_id = $1 AND r.shard = c.shard AND r.generation = c.generation AND r.reason = $7
                    AND r.unsold IS NOT DISTINCT FROM $8::smallint[]
                    AND r.from_seq <= c.from_seq AND r.to_seq >= c.from_seq - 1)",
        )
        .await?;
    let small = |number: u16| i16::try_from(number).unwrap_or(i16::MAX);
    let shards: Vec<i16> = covers.iter().map(|c| small(c.shard)).collect();
    let generations: Vec<i16> = covers.iter().map(|c| small(c.generation)).collect();
    let from: Vec<i64> = covers.iter().map(|c| to_i64(c.from_seq)).collect();
    let to: Vec<i64> = covers.iter().map(|c| to_i64(c.to_seq)).collect();
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
        [&concert_id, &book, &shards, &generations, &from, &to, &reason.as_str(), &unsold];
    Ok(tx.execute(&statement, &values).await?)
}

/// Moves cursors to the end of covers that tell everybody no: nobody before them is left to decide.
pub async fn pass(tx: &Transaction<'_>, concert_id: i32, covers: &[Cover]) -> Result<(), DbError> {
    for cover in covers {
        tx.execute(
            "UPDATE queue_generation SET cursor_seq = greatest(cursor_seq, $4), tail_seq = greatest(tail_seq, $4)
             WHERE concert_id = $1 AND shard = $2 AND generation = $3",
            &[&concert_id, &(cover.shard as i16), &(cover.generation as i16), &to_i64(cover.to_seq)],
        )
        .await?;
    }
    Ok(())
}

/// Writes down how far the queues are known to reach.
pub async fn note_tails(tx: &Transaction<'_>, concert_id: i32, tails: &[Cover]) -> Result<(), DbError> {
    for tail in tails {
        tx.execute(
            "UPDATE queue_generation SET tail_seq = $4
             WHERE concert_id = $1 AND shard = $2 AND generation = $3 AND tail_seq < $4",
            &[&concert_id, &(tail.shard as i16), &(tail.generation as i16), &to_i64(tail.to_seq)],
        )
        .await?;
    }
    Ok(())
}

/// Ends the wait of at most `most` people whom `unsold` tickets cannot serve (`None`: of anybody). A range covers them
/// from here on. Returns how many people were told no.
pub async fn end_waiting(
    tx: &Transaction<'_>,
    concert_id: i32,
    unsold: Option<&[u16]>,
    most: i64,
) -> Result<u64, DbError> {
    let unsold: Option<Vec<i16>> =
        unsold.map(|all| all.iter().map(|&n| i16::try_from(n).unwrap_or(i16::MAX)).collect());
    let row = tx
        .query_one(
            "WITH doomed AS (
                SELECT DISTINCT entry, user_hash FROM waiting w
                WHERE concert_id = $1 AND ($2::smallint[] IS NULL OR NOT EXISTS (
                    SELECT FROM unnest(w.tiers) t WHERE coalesce(($2::smallint[])[t + 1] >= w.need, true)))
                LIMIT $3
            ), gone AS (
                DELETE FROM waiting w USING doomed d WHERE w.concert_id = $1 AND w.entry = d.entry
            ), told AS (
                INSERT INTO outbox (concert_id, entry, user_hash, state)
                SELECT $1, entry, user_hash, 'rejected' FROM doomed
            )
            SELECT count(*) FROM doomed",
            &[&concert_id, &unsold, &most],
        )
        .await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// Whether somebody waits whom `unsold` tickets cannot serve (`None`: whether anybody waits).
pub async fn anybody_doomed(db: &Db, concert_id: i32, unsold: Option<&[u16]>) -> Result<bool, DbError> {
    let unsold: Option<Vec<i16>> =
        unsold.map(|all| all.iter().map(|&n| i16::try_from(n).unwrap_or(i16::MAX)).collect());
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT EXISTS (SELECT FROM waiting w WHERE concert_id = $1 AND ($2::smallint[] IS NULL OR NOT EXISTS (
                SELECT FROM unnest(w.tiers) t WHERE coalesce(($2::smallint[])[t + 1] >= w.need, true))))",
        )
        .await?;
    Ok(client.query_one(&statement, &[&concert_id, &unsold]).await?.get(0))
}
