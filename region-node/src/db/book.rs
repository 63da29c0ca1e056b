//! The book of a concert: its lock, its number, and its halted state.
//!
//! Every transaction that moves a counter takes [`lock`] first. Must never: let anything move while the book is
//! halted, or on a database that is behind a number witnessed outside it.

use super::{Db, DbError, to_i64, to_u64};
use region_api::ConcertName;
use tokio_postgres::Transaction;

/// What somebody outside the database knows of book numbers.
pub trait Floor {
    /// The highest book number witnessed for a concert.
    fn of(&self, concert_id: i32) -> u64;
}

/// No witness: for tools and tests that stand alone.
#[derive(Debug, Clone, Copy)]
pub struct NoFloor;

impl Floor for NoFloor {
    fn of(&self, _: i32) -> u64 {
        0
    }
}

/// A book that this transaction has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locked {
    /// This transaction's book number, for its ledger rows and, after the commit, for the witnesses.
    pub book: i64,
}

/// The statement behind [`lock`]: takes the concert's number; gives book, halted, the database's identity check.
pub(crate) const LOCK: &str = "
UPDATE book SET book = book + 1 WHERE concert_id = $1
RETURNING book, halted, NOT EXISTS (
    SELECT FROM quota q, region r WHERE q.concert_id = $1 AND q.registered_as <> r.identity)";

/// Locks the book for the rest of the transaction and takes the next number. Refuses when it is halted, when the
/// database is behind `witnessed`, or when its quota was registered by another database. On an error: roll back.
pub async fn lock(tx: &Transaction<'_>, concert_id: i32, witnessed: u64) -> Result<Locked, DbError> {
    let row = tx.query_opt(LOCK, &[&concert_id]).await?.ok_or(DbError::NoConcert)?;
    check(concert_id, row.get(0), row.get(1), row.get(2), witnessed)
}

/// Judges what [`LOCK`] returned.
pub(crate) fn check(
    concert_id: i32,
    book: i64,
    halted: Option<String>,
    registered: bool,
    witnessed: u64,
) -> Result<Locked, DbError> {
    let found = to_u64(book - 1);
    if let Some(why) = halted {
        return Err(DbError::Halted { concert_id, why });
    }
    if found < witnessed {
        return Err(DbError::BehindWitness { concert_id, found, witnessed });
    }
    if !registered {
        return Err(DbError::NotRegistered { concert_id });
    }
    Ok(Locked { book })
}

/// Halts the concert, durably. An earlier reason stays.
pub async fn halt(db: &Db, concert_id: i32, why: &str) -> Result<(), DbError> {
    let client = db.client().await?;
    let set = "UPDATE book SET halted = $2 WHERE concert_id = $1 AND halted IS NULL";
    client.execute(set, &[&concert_id, &why]).await?;
    Ok(())
}

/// The book number and why it is halted, if so.
pub async fn read(db: &Db, concert_id: i32) -> Result<(u64, Option<String>), DbError> {
    let client = db.client().await?;
    let statement = client.prepare_cached("SELECT book, halted FROM book WHERE concert_id = $1").await?;
    let row = client.query_opt(&statement, &[&concert_id]).await?.ok_or(DbError::NoConcert)?;
    Ok((to_u64(row.get(0)), row.get(1)))
}

/// An operator accepts this database as it is: the book number goes above every witness, quota and region take a new
/// identity if the database was carried over from another server, and the concert is no longer halted. Audited.
/// Returns the concert's number and its book number.
pub async fn accept(db: &Db, concert: &ConcertName, witnessed: u64, who: &str) -> Result<(i32, u64), DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let row = tx
        .query_opt(
            "SELECT b.concert_id, b.book, b.halted FROM book b JOIN concert c USING (concert_id)
             WHERE c.concert = $1 FOR NO KEY UPDATE OF b",
            &[&concert.as_str()],
        )
        .await?
        .ok_or(DbError::NoConcert)?;
    let (concert_id, book, halted): (i32, i64, Option<String>) = (row.get(0), row.get(1), row.get(2));
    let next = book.max(to_i64(witnessed)) + 1;
    tx.execute("UPDATE book SET book = $2, halted = NULL WHERE concert_id = $1", &[&concert_id, &next]).await?;
    tx.execute(
        "UPDATE quota SET registered_as = identity FROM region
         WHERE concert_id = $1 AND registered_as <> identity",
        &[&concert_id],
    )
    .await?;
    let what = serde_json::json!({
        "act": "accept books", "concert": concert, "halted": halted, "book_before": book, "book_after": next,
        "witnessed": witnessed,
    });
    note_act(&tx, who, &what).await?;
    tx.commit().await?;
    Ok((concert_id, to_u64(next)))
}

/// Writes down what an operator did.
pub(crate) async fn note_act(tx: &Transaction<'_>, who: &str, what: &serde_json::Value) -> Result<(), DbError> {
    tx.execute("INSERT INTO operator_act (who, what) VALUES ($1, $2)", &[&who, what]).await?;
    Ok(())
}
