//! Giving tickets back to the arbiters: the debit, durable before anybody hears of it.
//!
//! Must never return what is on hold: only what is available, looked at under the book's lock.

use super::super::book::{self, Floor};
use super::super::{Db, DbError, db_fail_point, to_i64, to_u64};
use super::{Did, HolderError, place};
use quota_protocol::{Done, PoolId, Refused, Tickets};

/// Returns exactly so many tickets of a pool, or refuses.
pub async fn give_back(db: &Db, pool: &PoolId, tickets: Tickets, floor: &impl Floor) -> Result<Did, HolderError> {
    let mut client = db.client().await?;
    let (concert_id, tier) = place(&**client, pool).await?.ok_or(Refused::NoRow)?;
    let tx = client.transaction().await?;
    let locked = book::lock(&tx, concert_id, floor.of(concert_id)).await?;
    let row = tx
        .query_one(
            "SELECT granted, granted - returned - held_in + released + refunded FROM quota
             WHERE concert_id = $1 AND tier = $2 FOR NO KEY UPDATE",
            &[&concert_id, &tier],
        )
        .await?;
    let (granted, available): (i64, i64) = (row.get(0), row.get(1));
    let wanted = to_i64(tickets.get());
    if granted == 0 {
        return Err(Refused::NoRow.into());
    }
    if wanted == 0 {
        return Err(Refused::NothingAsked.into());
    }
    if available < wanted {
        return Err(Refused::TooFew(super::tickets(available)?).into());
    }
    let update = "UPDATE quota SET returned = returned + $3 WHERE concert_id = $1 AND tier = $2";
    tx.execute(update, &[&concert_id, &tier, &wanted]).await?;
    let booked = i32::try_from(wanted).map_err(|_| DbError::Corrupt("a return beyond 2^31".into()))?;
    tx.execute(
        "INSERT INTO ledger (concert_id, book, kind, tier, tickets) VALUES ($1, $2, 'return', $3, $4)",
        &[&concert_id, &locked.book, &tier, &booked],
    )
    .await?;
    db_fail_point!("quota.return.before_commit");
    tx.commit().await?;
    db_fail_point!("quota.return.after_commit");
    Ok(Did { done: Done::Changed, books: vec![(concert_id, to_u64(locked.book))] })
}
