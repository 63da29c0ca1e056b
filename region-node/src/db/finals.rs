//! Cancelling and voiding: by the owner's wish, or for too many polls.
//!
//! Somebody still queued is ended by inserting the row: whoever inserts first decides, the allocator included. A held one
//! gives its tickets back under the book's lock.

use super::allocate::Place;
use super::book::{self, Floor};
use super::status::State;
use super::{Db, DbError, db_fail_point, release, to_i64, to_u64};
use region_api::{Entry, IdentityHash};

/// How a reservation is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By its owner: queued or held.
    Cancel,
    /// For too many polls: only while queued.
    Void,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It left the queue.
    WhileQueued,
    /// Its hold was given up; tell the provider that its intent, if any, is not wanted any more. With the book number.
    WhileHeld {
        /// Payment intent.
        intent: Option<String>,
        /// Book number of the release.
        book: u64,
    },
    /// It was in this state before, and stays there.
    Already(State),
    /// The row of that entry belongs to somebody else: the id's queue was lost.
    NotYours,
}

/// Ends a reservation. `place` is what its signed id says (`request_id` and `identity` are not in it, and may be
/// `None`). Idempotent.
pub async fn end(
    db: &Db,
    concert_id: i32,
    place: &Place,
    ending: Ending,
    floor: &impl Floor,
) -> Result<Ended, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    db_fail_point!("finals.before_insert");
    let (state, reason) = match ending {
        Ending::Cancel => ("cancelled", None),
        Ending::Void => ("voided", Some("too_many_polls")),
    };
    let inserted = tx
        .execute(
            "WITH gone AS (
                DELETE FROM waiting WHERE concert_id = $1 AND entry = $2 AND user_hash = $3 RETURNING request_id
            ), ended AS (
                INSERT INTO reservation
                    (concert_id, entry, user_hash, request_id, identity_hash, arrival_ms, state, reason, quantity)
                SELECT $1, $2, $3, coalesce($4::uuid, (SELECT request_id FROM gone LIMIT 1)), $5, $6,
                    $7::text::reservation_state, $8, $9
                ON CONFLICT (concert_id, entry) DO NOTHING
                RETURNING entry, user_hash, state
            )
            INSERT INTO outbox (concert_id, entry, user_hash, state) SELECT $1, entry, user_hash, state FROM ended",
            &[
                &concert_id,
                &place.entry.to_i64(),
                &place.user.to_uuid(),
                &place.request_id,
                &place.identity.map(IdentityHash::to_uuid),
                &to_i64(place.arrival_ms),
                &state,
                &reason,
                &(place.quantity as i16),
            ],
        )
        .await?;
    if inserted == 1 {
        db_fail_point!("finals.before_commit");
        tx.commit().await?;
        return Ok(Ended::WhileQueued);
    }
    // Decided already: keep nothing of the above, and look at the row itself.
    tx.rollback().await?;
    drop(client);
    end_decided(db, concert_id, place, ending, floor).await
}

async fn end_decided(
    db: &Db,
    concert_id: i32,
    place: &Place,
    ending: Ending,
    floor: &impl Floor,
) -> Result<Ended, DbError> {
    let (entry, state) = match find(db, concert_id, place).await? {
        Some(found) => found,
        None => return Ok(Ended::NotYours),
    };
    let held = matches!(state, State::Held | State::Expiring);
    if ending == Ending::Void || !held {
        return Ok(Ended::Already(state));
    }
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let locked = book::lock(&tx, concert_id, floor.of(concert_id)).await?;
    let Some(intent) = release::release_one(&tx, concert_id, locked.book, entry, "cancelled").await? else {
        tx.rollback().await?;
        drop(client);
        let now = find(db, concert_id, place).await?;
        return Ok(now.map_or(Ended::NotYours, |(_, state)| Ended::Already(state)));
    };
    db_fail_point!("finals.before_commit");
    tx.commit().await?;
    Ok(Ended::WhileHeld { intent, book: to_u64(locked.book) })
}

/// The row that a place stands for, if it is its owner's: an alias is followed.
async fn find(db: &Db, concert_id: i32, place: &Place) -> Result<Option<(Entry, State)>, DbError> {
    let client = db.client().await?;
    let statement = client
        .prepare_cached(
            "SELECT r.entry, r.state::text FROM reservation o
             JOIN reservation r ON r.concert_id = o.concert_id AND r.entry = coalesce(o.alias_of, o.entry)
             WHERE o.concert_id = $1 AND o.entry = $2 AND r.user_hash = $3 AND r.state <> 'alias'",
        )
        .await?;
    let row = client.query_opt(&statement, &[&concert_id, &place.entry.to_i64(), &place.user.to_uuid()]).await?;
    let Some(row) = row else { return Ok(None) };
    let entry = Entry::from_i64(row.get(0)).ok_or_else(|| DbError::Corrupt("a negative entry".into()))?;
    Ok(Some((entry, row.get::<_, &str>(1).parse()?)))
}
