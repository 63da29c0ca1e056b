//! Generations of the queue's shards, as the database records them: first here, then in Redis.

use super::snapshot::{Generation, generation_row};
use super::{Db, DbError, to_i64};

/// Every generation of a concert, by shard and number.
pub async fn load(db: &Db, concert_id: i32) -> Result<Vec<Generation>, DbError> {
    let client = db.client().await?;
    let statement = client.prepare_cached(super::snapshot::GENERATIONS).await?;
    Ok(client.query(&statement, &[&concert_id]).await?.iter().map(generation_row).collect())
}

/// Records the first generation of a shard; whether it was this call that did.
pub async fn first(db: &Db, concert_id: i32, shard: u16) -> Result<bool, DbError> {
    let client = db.client().await?;
    let insert =
        "INSERT INTO queue_generation (concert_id, shard, generation) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING";
    Ok(client.execute(insert, &[&concert_id, &(shard as i16)]).await? == 1)
}

/// Records that `lost` is lost, of which `survived_seq` and what is before it is still in Redis, and that the next one
/// begins. Returns the generation that is current now, whoever recorded it; `None` when the numbers are used up.
pub async fn lose(db: &Db, concert_id: i32, shard: u16, lost: u16, survived_seq: u64) -> Result<Option<u16>, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let shard = shard as i16;
    let updated = tx
        .execute(
            "UPDATE queue_generation SET lost_at = now(), survived_seq = greatest($4, cursor_seq),
                 tail_seq = greatest(tail_seq, $4)
             WHERE concert_id = $1 AND shard = $2 AND generation = $3 AND lost_at IS NULL",
            &[&concert_id, &shard, &(lost as i16), &to_i64(survived_seq)],
        )
        .await?;
    if updated == 1 {
        if lost >= region_api::Entry::GENERATION_MAX {
            return Ok(None);
        }
        let insert = "INSERT INTO queue_generation (concert_id, shard, generation) VALUES ($1, $2, $3)";
        tx.execute(insert, &[&concert_id, &shard, &(lost as i16 + 1)]).await?;
    }
    let current = tx
        .query_one(
            "SELECT generation FROM queue_generation WHERE concert_id = $1 AND shard = $2 AND lost_at IS NULL",
            &[&concert_id, &shard],
        )
        .await?;
    tx.commit().await?;
    Ok(Some(current.get::<_, i16>(0).unsigned_abs()))
}

/// Writes down how far a shard's numbers are known to have come.
pub async fn note_tail(db: &Db, concert_id: i32, shard: u16, generation: u16, tail_seq: u64) -> Result<(), DbError> {
    let client = db.client().await?;
    let update = "UPDATE queue_generation SET tail_seq = $4
                  WHERE concert_id = $1 AND shard = $2 AND generation = $3 AND tail_seq < $4";
    client.execute(update, &[&concert_id, &(shard as i16), &(generation as i16), &to_i64(tail_seq)]).await?;
    Ok(())
}

/// More of a lost generation survived than was known when it was recorded.
pub async fn raise_survived(
    db: &Db,
    concert_id: i32,
    shard: u16,
    generation: u16,
    survived_seq: u64,
) -> Result<(), DbError> {
    let client = db.client().await?;
    let update = "UPDATE queue_generation SET survived_seq = $4, tail_seq = greatest(tail_seq, $4)
                  WHERE concert_id = $1 AND shard = $2 AND generation = $3 AND survived_seq < $4";
    client.execute(update, &[&concert_id, &(shard as i16), &(generation as i16), &to_i64(survived_seq)]).await?;
    Ok(())
}
