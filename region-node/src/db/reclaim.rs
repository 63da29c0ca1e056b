//! Putting a signed place of a lost queue back: into `waiting`, at its arrival, once.

use super::allocate::Place;
use super::book::{self, Floor};
use super::snapshot::{self, RejectedRange};
use super::{Db, DbError, db_fail_point, to_i64, to_u64};

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// It waits again, at its place.
    Back,
    /// Nothing to do: its queue was not lost, or it survived, or it has a row, or it was told no.
    NoOp,
}

/// Puts a place back if its generation is recorded as lost and it did not survive. A no-op otherwise. The book's lock
/// settles the race against ranges and the close of the sale; the primary keys settle it against everybody else.
pub async fn reclaim(db: &Db, concert_id: i32, place: &Place, floor: &impl Floor) -> Result<Reclaimed, DbError> {
    let (shard, generation) = (place.entry.shard() as i16, place.entry.generation() as i16);
    let sequence = to_i64(place.entry.sequence());
    let mut client = db.client().await?;
    let lost = "SELECT 1 FROM queue_generation WHERE concert_id = $1 AND shard = $2 AND generation = $3
                AND lost_at IS NOT NULL AND survived_seq < $4";
    if client.query_opt(lost, &[&concert_id, &shard, &generation, &sequence]).await?.is_none() {
        return Ok(Reclaimed::NoOp);
    }
    let tx = client.transaction().await?;
    book::lock(&tx, concert_id, floor.of(concert_id)).await?;
    let ranges = tx.query(snapshot::RANGES, &[&concert_id]).await?;
    let ranges: Vec<RejectedRange> = ranges.iter().map(snapshot::range_row).collect::<Result<_, _>>()?;
    let told_no = ranges.iter().any(|range| range.rejects(place.entry, place.need(), &place.tiers));
    let over = tx.query_one("SELECT closed_at IS NOT NULL FROM concert WHERE concert_id = $1", &[&concert_id]).await?;
    if told_no || over.get(0) {
        tx.rollback().await?;
        return Ok(Reclaimed::NoOp);
    }
    let tiers: Vec<i16> = place.tiers.iter().map(|&tier| tier.into()).collect();
    let inserted = tx
        .execute(
            "INSERT INTO waiting (concert_id, entry, tier, need, arrival_ms, user_hash, request_id, identity_hash,
                 quantity, any_quantity, tiers)
             SELECT $1, $2, t.tier, $3, $4, $5, $6, $7, $8, $9, $10::smallint[]
             FROM unnest($10::smallint[]) t (tier)
             WHERE NOT EXISTS (SELECT FROM reservation r WHERE r.concert_id = $1 AND r.entry = $2)
             ON CONFLICT DO NOTHING",
            &[
                &concert_id,
                &place.entry.to_i64(),
                &(place.need() as i16),
                &to_i64(place.arrival_ms),
                &place.user.to_uuid(),
                &place.request_id,
                &place.identity.map(|identity| identity.to_uuid()),
                &(place.quantity as i16),
                &place.any_quantity,
                &tiers,
            ],
        )
        .await?;
    tx.execute(
        "UPDATE queue_generation SET tail_seq = greatest(tail_seq, $4)
         WHERE concert_id = $1 AND shard = $2 AND generation = $3",
        &[&concert_id, &shard, &generation, &sequence],
    )
    .await?;
    db_fail_point!("reclaim.before_commit");
    tx.commit().await?;
    Ok(if to_u64(inserted as i64) > 0 { Reclaimed::Back } else { Reclaimed::NoOp })
}
