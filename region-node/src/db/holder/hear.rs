//! What a region hears from the arbiters, made durable. Whatever came late, twice or for another database changes
//! nothing. Locks are taken in the order region, book, quota.
//!
//! Must never: raise a grant for an answer of an incarnation other than the newest that was observed, write a seed over
//! a row, or let a spender pass that waited for a book while its database was registered anew or halted.

use super::super::book::{self, Floor, Known};
use super::super::{Db, DbError, db_fail_point, to_i64, to_u64};
use super::{Did, HolderError, Own, place, read, read_in};
use quota_protocol::holder::HaltReason;
use quota_protocol::{Action, Answer, Done, Incarnation, PoolId, Registered, Tickets};
use std::collections::BTreeMap;
use tokio_postgres::Transaction;

/// Takes in what the arbiters answered: grants only rise, and a row below its floor halts the database. A pool that is
/// not known here yet is left for later: grants are sent again for ever. `own` was read a moment ago.
pub async fn deliver(db: &Db, own: &Own, answer: &Answer, floor: &impl Floor) -> Result<Did, HolderError> {
    let mut holder = own.holder();
    match holder.apply(answer.epoch, &Action::Deliver(answer.clone()))? {
        Done::Halted(reason) => return Ok(halt(db, &reason).await?.into()),
        Done::Unchanged => return Ok(Done::Unchanged.into()),
        Done::Changed => {}
    }
    let mut higher: BTreeMap<i32, Vec<(i16, Tickets)>> = BTreeMap::new();
    let client = db.client().await?;
    for (pool, row) in holder.rows() {
        let before = own.stored.rows.get(pool).map(|row| row.counters.granted).unwrap_or_default();
        if row.counters.granted > before {
            match place(&**client, pool).await? {
                Some((concert_id, tier)) => higher.entry(concert_id).or_default().push((tier, row.counters.granted)),
                None => tracing::debug!(%pool, "granted, and not known here yet"),
            }
        }
    }
    drop(client);
    let mut did = Did::from(Done::Unchanged);
    let mut failed = None;
    for (concert_id, tiers) in higher {
        match raise(db, concert_id, &tiers, answer, floor.of(concert_id)).await {
            Ok(Some(book)) => {
                did.done = Done::Changed;
                did.books.push((concert_id, book));
            }
            Ok(None) => {}
            // One concert's trouble keeps nothing from the others.
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if did.books.is_empty() => Err(error),
        Some(error) => {
            tracing::warn!(%error, "a grant waits");
            Ok(did)
        }
        None => Ok(did),
    }
}

const RAISE: &str = "
WITH was AS (
    SELECT granted FROM quota WHERE concert_id = $1 AND tier = $2 AND granted < $3 FOR NO KEY UPDATE
), raised AS (
    UPDATE quota q SET granted = $3 FROM was WHERE q.concert_id = $1 AND q.tier = $2
)
INSERT INTO ledger (concert_id, book, kind, tier, tickets)
SELECT $1, $4, 'grant', $2, ($3 - was.granted)::integer FROM was";

/// Grants of one concert. `None`: there was nothing to raise any more, or the answer is out of date.
async fn raise(
    db: &Db,
    concert_id: i32,
    tiers: &[(i16, Tickets)],
    answer: &Answer,
    known: Known,
) -> Result<Option<u64>, HolderError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    // Shared: a newer incarnation is observed before or after this, not during it.
    let current = tx
        .query_one(
            "SELECT incarnation = $1 AND registered_incarnation = $1 AND epoch = $2 FROM region FOR SHARE",
            &[&to_i64(answer.incarnation.get()), &to_i64(answer.epoch.get())],
        )
        .await?;
    if current.get::<_, Option<bool>>(0) != Some(true) {
        return Ok(None);
    }
    let known = Known { epoch: Some(answer.epoch.get()), ..known };
    let locked = book::lock(&tx, concert_id, known).await?;
    let mut raised = 0;
    for (tier, granted) in tiers {
        raised += tx.execute(RAISE, &[&concert_id, tier, &to_i64(granted.get()), &locked.book]).await?;
    }
    if raised == 0 {
        return Ok(None);
    }
    db_fail_point!("quota.deliver.before_commit");
    tx.commit().await?;
    db_fail_point!("quota.deliver.after_commit");
    Ok(Some(to_u64(locked.book)))
}

/// Remembers an incarnation of the arbiters: answers of earlier ones are ignored from now on.
pub async fn observe(db: &Db, incarnation: Incarnation) -> Result<Done, DbError> {
    let client = db.client().await?;
    let set = "UPDATE region SET incarnation = $1 WHERE incarnation < $1";
    let changed = client.execute(set, &[&to_i64(incarnation.get())]).await?;
    Ok(if changed > 0 { Done::Changed } else { Done::Unchanged })
}

/// Stores a registration; before that nothing is spent. An empty database takes its seeds with it.
pub async fn adopt(db: &Db, registered: &Registered) -> Result<Did, HolderError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    tx.execute("SELECT FROM region FOR NO KEY UPDATE", &[]).await?;
    let own = read_in(&*tx).await?;
    let mut holder = own.holder();
    let done = holder.apply(registered.epoch, &Action::Adopt(registered.clone()))?;
    if done != Done::Changed {
        return Ok(done.into());
    }
    let (epoch, identity) = (to_i64(registered.epoch.get()), registered.identity.to_string());
    let incarnation = to_i64(registered.incarnation.get());
    tx.execute(
        "UPDATE region SET incarnation = $1, registered_incarnation = $1, epoch = $2, registered_as = $3",
        &[&incarnation, &epoch, &identity],
    )
    .await?;
    lock_books(&tx).await?;
    let books = tx
        .query(
            "UPDATE book SET book = book + 1, epoch = $1, registered_as = $2 RETURNING concert_id, book",
            &[&epoch, &identity],
        )
        .await?;
    tx.execute("UPDATE quota q SET epoch = $1, registered_as = r.identity FROM region r", &[&epoch]).await?;
    let books: BTreeMap<i32, i64> = books.iter().map(|row| (row.get(0), row.get(1))).collect();
    if own.stored.registration.is_none() {
        for (pool, row) in holder.rows().iter().filter(|(pool, _)| !own.stored.rows.contains_key(pool)) {
            seed(&tx, pool, row.counters.granted, row.seeded, &books).await?;
        }
    }
    db_fail_point!("quota.adopt.before_commit");
    tx.commit().await?;
    db_fail_point!("quota.adopt.after_commit");
    Ok(Did { done, books: books.into_iter().map(|(concert_id, book)| (concert_id, to_u64(book))).collect() })
}

/// The row with which a written-off region begins again: so many sold by databases that are gone, the rest given back.
async fn seed(
    tx: &Transaction<'_>,
    pool: &PoolId,
    granted: Tickets,
    sold: Tickets,
    books: &BTreeMap<i32, i64>,
) -> Result<(), HolderError> {
    let unknown = || HolderError::UnknownPool(*pool);
    let (concert_id, tier) = place(tx, pool).await?.ok_or_else(unknown)?;
    let book = books.get(&concert_id).ok_or_else(unknown)?;
    let (granted, sold) = (to_i64(granted.get()), to_i64(sold.get()));
    tx.execute(
        "WITH seeded AS (
            UPDATE quota SET granted = $3, returned = $3::bigint - $4::bigint, held_in = $4, sold = $4, seeded = $4
            WHERE concert_id = $1 AND tier = $2 AND granted = 0 RETURNING tier
        )
        INSERT INTO ledger (concert_id, book, kind, tier, tickets)
        SELECT $1, $5, l.kind::ledger_kind, $2, l.tickets::integer
        FROM seeded, (VALUES ('grant', $3::bigint), ('return', $3::bigint - $4::bigint)) l (kind, tickets)
        WHERE l.tickets > 0",
        &[&concert_id, &tier, &granted, &sold, book],
    )
    .await?;
    Ok(())
}

/// Stops this database for good. An earlier reason that concerns it stays.
pub async fn halt(db: &Db, reason: &HaltReason) -> Result<Done, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let stored = serde_json::to_value(reason).map_err(|error| DbError::Corrupt(error.to_string()))?;
    tx.execute(
        "UPDATE region SET halted = $1, halted_text = $2, halted_as = database_identity()
         WHERE halted_as IS DISTINCT FROM database_identity()",
        &[&stored, &reason.to_string()],
    )
    .await?;
    lock_books(&tx).await?;
    tx.execute("UPDATE book SET halted_as = r.halted_as FROM region r", &[]).await?;
    tx.commit().await?;
    Ok(Done::Halted(reason.clone()))
}

/// All books, always in the same order.
async fn lock_books(tx: &Transaction<'_>) -> Result<(), DbError> {
    tx.execute("SELECT FROM book ORDER BY concert_id FOR NO KEY UPDATE", &[]).await?;
    Ok(())
}

/// The arbiters were heard just now, and know this database as the registered one.
pub async fn note_contact(db: &Db) -> Result<Own, DbError> {
    let client = db.client().await?;
    client.execute("UPDATE region SET last_contact_at = clock_timestamp()", &[]).await?;
    drop(client);
    read(db).await
}
