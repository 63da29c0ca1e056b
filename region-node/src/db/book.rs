//! The book of a concert: its lock, its number, and its halted state.
//!
//! Every transaction that moves a counter takes [`lock`] first. Must never: let anything move while the book is
//! halted, on a database that is behind a number witnessed outside it, or, in a region under arbiters, on a database
//! that is not the registered one: that is looked at in the transaction that spends, because a pooled connection does
//! not notice that its server was promoted.

use super::{Db, DbError, to_i64, to_u64};
use region_api::ConcertName;
use tokio_postgres::{Row, Transaction};

/// What a node brings along to a transaction, known from outside the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// The highest book number witnessed for the concert.
    pub book: u64,
    /// In a region under arbiters, the epoch under which this node works (0 before it knows one).
    pub epoch: Option<u64>,
}

/// What somebody outside the database knows.
pub trait Floor {
    /// What is known of a concert.
    fn of(&self, concert_id: i32) -> Known;
}

/// No witness, no arbiters: for tools and tests that stand alone.
#[derive(Debug, Clone, Copy)]
pub struct NoFloor;

impl Floor for NoFloor {
    fn of(&self, _: i32) -> Known {
        Known::default()
    }
}

/// A book that this transaction has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locked {
    /// This transaction's book number, for its ledger rows and, after the commit, for the witnesses.
    pub book: i64,
}

/// What [`check`] judges, of a row `b` of `book`.
macro_rules! standing {
    () => {
        "b.book, b.halted,
         NOT EXISTS (SELECT FROM quota q, region r WHERE q.concert_id = b.concert_id AND q.registered_as <> r.identity),
         b.registered_as, b.epoch, b.halted_as,
         CASE WHEN num_nonnulls(b.registered_as, b.halted_as) > 0 THEN database_identity() END,
         CASE WHEN b.halted_as IS NOT NULL THEN (SELECT halted_text FROM region) END"
    };
}

/// Why nothing may be held of a row `b` of `book`: the region's reason, or its own.
macro_rules! halted {
    () => {
        "coalesce(CASE WHEN b.halted_as IS NOT NULL AND b.halted_as = database_identity()
                       THEN (SELECT halted_text FROM region) END, b.halted)"
    };
}
pub(crate) use halted;

/// The statement behind [`lock`]: takes the concert's number.
pub(crate) const LOCK: &str =
    concat!("UPDATE book b SET book = book + 1 WHERE concert_id = $1 RETURNING ", standing!());
const LOOK: &str = concat!("SELECT ", standing!(), " FROM book b WHERE concert_id = $1");

/// Locks the book for the rest of the transaction and takes the next number. Refuses when it is halted, when the
/// database is behind what was witnessed, or when it is not the one that registered. On an error: roll back.
pub async fn lock(tx: &Transaction<'_>, concert_id: i32, known: Known) -> Result<Locked, DbError> {
    let row = tx.query_opt(LOCK, &[&concert_id]).await?.ok_or(DbError::NoConcert)?;
    check(concert_id, &row, known)
}

/// Without the lock, for a sale: it moves no counter that others share, but a database that may not spend must not sell
/// either. Nothing is asked in a standalone region.
pub(crate) async fn may_sell(tx: &Transaction<'_>, concert_id: i32, known: Known) -> Result<(), DbError> {
    if known.epoch.is_none() {
        return Ok(());
    }
    let row = tx.query_opt(LOOK, &[&concert_id]).await?.ok_or(DbError::NoConcert)?;
    Standing::of(&row).may_spend(concert_id, known.epoch)
}

/// What the row of a book says about who may spend.
struct Standing {
    is_our_copy: bool,
    registered_as: Option<String>,
    epoch: Option<i64>,
    halted_as: Option<String>,
    identity: Option<String>,
    halted_text: Option<String>,
}

impl Standing {
    fn of(row: &Row) -> Self {
        Self {
            is_our_copy: row.get(2),
            registered_as: row.get(3),
            epoch: row.get(4),
            halted_as: row.get(5),
            identity: row.get(6),
            halted_text: row.get(7),
        }
    }

    fn region_goes_on(&self) -> Result<(), DbError> {
        if self.halted_as.is_some() && self.halted_as == self.identity {
            let why = self.halted_text.clone();
            let why = why.unwrap_or_else(|| "the arbiters refused this database".to_owned());
            return Err(DbError::RegionHalted { why });
        }
        Ok(())
    }

    fn may_spend(self, concert_id: i32, node: Option<u64>) -> Result<(), DbError> {
        self.region_goes_on()?;
        match (node, self.registered_as) {
            (None, None) if self.is_our_copy => Ok(()),
            (None, _) => Err(DbError::NotRegistered { concert_id }),
            (Some(_), None) => Err(DbError::Unregistered),
            (Some(_), registered) if registered != self.identity => Err(DbError::Unregistered),
            (Some(node), _) if self.epoch != Some(to_i64(node)) => Err(DbError::OtherEpoch),
            (Some(_), _) => Ok(()),
        }
    }
}

/// Judges what [`LOCK`] returned.
pub(crate) fn check(concert_id: i32, row: &Row, known: Known) -> Result<Locked, DbError> {
    let book: i64 = row.get(0);
    let found = to_u64(book - 1);
    let standing = Standing::of(row);
    standing.region_goes_on()?;
    if let Some(why) = row.get(1) {
        return Err(DbError::Halted { concert_id, why });
    }
    if found < known.book {
        return Err(DbError::BehindWitness { concert_id, found, witnessed: known.book });
    }
    standing.may_spend(concert_id, known.epoch)?;
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
        "UPDATE quota q SET registered_as = r.identity FROM region r
         WHERE q.concert_id = $1 AND q.registered_as <> r.identity",
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
