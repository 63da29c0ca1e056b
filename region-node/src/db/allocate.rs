//! The allocator's transaction: one batch of places, decided and written.
//!
//! Lock the book and read what the decisions stand on; write; commit. Statements that do not need each other's answers are
//! pipelined. Holds go in by `COPY`; where a row of somebody else is in the way, back to the savepoint before them and in
//! again by `INSERT … ON CONFLICT`, which costs twice as much and says who is missing. Every check that could refuse is made
//! before the commit is sent, so a commit that is confirmed is whole, and one that is not confirmed is looked up again from
//! the cursors.
//!
//! Must never: move a cursor past a place that got neither a row, a waiting row nor a range; hold more than `quota` has;
//! hold anything for a place that somebody else (cancel, void) decided first.

mod ahead;
mod rows;
mod statements;
mod write;

pub use self::ahead::Ahead;
use self::statements::{AheadStatements, Statements};
use super::book::{self, Known, Locked};
use super::snapshot::{self, Generation, RejectedRange, TierStock};
use super::{DbError, db_fail_point, to_u64};
use crate::queue::QueueEntry;
use futures::try_join;
use region_api::{Entry, IdentityHash, TierNo, UserHash};
use sale::allocate::Tiers;
use tokio::sync::Notify;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Somebody to decide: from the queue, or from `waiting`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The place.
    pub entry: Entry,
    /// When it was given, milliseconds since 1970.
    pub arrival_ms: u64,
    /// Whose.
    pub user: UserHash,
    /// The client's id; unknown where a signed id was all that was left.
    pub request_id: Option<Uuid>,
    /// Where the concert asks for one.
    pub identity: Option<IdentityHash>,
    /// Tickets asked for.
    pub quantity: u16,
    /// Tiers in order of preference.
    pub tiers: Tiers,
    /// Down to one is welcome.
    pub any_quantity: bool,
}

impl Place {
    /// The fewest tickets that it would take.
    pub fn need(&self) -> u16 {
        sale::early_no::need(self.quantity, self.any_quantity)
    }
}

impl From<QueueEntry> for Place {
    fn from(queued: QueueEntry) -> Self {
        Self {
            entry: queued.entry,
            arrival_ms: queued.arrival_ms,
            user: queued.item.user,
            request_id: Some(queued.item.request_id),
            identity: queued.item.identity,
            quantity: queued.item.quantity.into(),
            tiers: queued.item.tiers,
            any_quantity: queued.item.any_quantity,
        }
    }
}

/// A cursor's compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorMove {
    /// Shard.
    pub shard: u16,
    /// Generation.
    pub generation: u16,
    /// Where the cursor must be.
    pub from_seq: u64,
    /// Where it goes.
    pub to_seq: u64,
    /// The highest sequence number seen.
    pub tail_seq: u64,
}

/// Tickets to hold for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Index into the places.
    pub place: usize,
    /// Tier.
    pub tier: TierNo,
    /// Tickets.
    pub quantity: u16,
    /// To be paid, minor units.
    pub amount: i64,
    /// How long, milliseconds (jittered, so that they do not all end at once).
    pub hold_ms: i64,
}

/// A row other than a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// Index into the places.
    pub place: usize,
    /// What it becomes.
    pub becomes: Becomes,
}

/// See [`Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// Told no: over a limit.
    RejectedLimit,
    /// Told no: nothing that it wants can come any more.
    RejectedSoldOut,
    /// The same person or request has a row already.
    AliasOf(Entry),
}

/// Everything that one transaction writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// Cursors.
    pub cursors: Vec<CursorMove>,
    /// Holds.
    pub holds: Vec<Hold>,
    /// Rejections and aliases.
    pub others: Vec<Other>,
    /// Places that wait from now on.
    pub waits: Vec<usize>,
    /// Places whose waiting rows are done with.
    pub done_waiting: Vec<Entry>,
    /// Covered by a range: no row, but their dedupe entry has to be settled.
    pub settled: Vec<usize>,
}

impl Decided {
    /// Whether there is anything to write.
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty() && self.done_waiting.is_empty()
    }

    /// The rows that stand for their owners from now on, aliases not among them.
    pub(crate) fn owned(&self, places: &[Place]) -> Vec<Owned> {
        let row = |n: usize, active| {
            let Place { user, entry, request_id, .. } = places[n];
            Owned { user, entry, active, sold: 0, request_id }
        };
        let rejected = self.others.iter().filter(|other| !matches!(other.becomes, Becomes::AliasOf(_)));
        let rejected = rejected.map(|other| row(other.place, false));
        self.holds.iter().map(|hold| row(hold.place, true)).chain(rejected).collect()
    }
}

/// A row that a user of the batch has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Whose.
    pub user: UserHash,
    /// Which.
    pub entry: Entry,
    /// Held or expiring.
    pub active: bool,
    /// Tickets, where sold.
    pub sold: u16,
    /// The client's id.
    pub request_id: Option<Uuid>,
}

/// What the decisions stand on, read under the book's lock.
#[derive(Debug)]
pub struct Ground {
    /// The locked book.
    pub locked: Locked,
    /// Version of the definition.
    pub version: u64,
    /// The sale is over: nothing is held any more.
    pub over: bool,
    /// The transaction's time by the database's clock, microseconds since 2000.
    pub now_us: i64,
    /// Stock by tier.
    pub stock: Vec<TierStock>,
    /// Cursors.
    pub generations: Vec<Generation>,
    /// Ranges that were told no.
    pub ranges: Vec<RejectedRange>,
    /// Rows of the batch's users.
    pub owned: Vec<Owned>,
    /// Tickets held or sold per identity of the batch.
    pub identities: Vec<(IdentityHash, u16)>,
    /// Who waits in SQL and may be served now, by arrival.
    pub waiting: Vec<Place>,
}

impl Ground {
    /// Takes in what [`Batches::look_up`] found.
    fn add(&mut self, (owned, identities): (Vec<Row>, Vec<Row>)) -> Result<(), DbError> {
        for row in &owned {
            self.owned.push(owned_row(row)?);
        }
        self.identities.extend(identities.iter().map(identity_row));
        Ok(())
    }
}

/// The allocator's connection with its prepared statements, and a second one that looks ahead.
pub struct Batches {
    dedicated: super::Dedicated,
    statements: Statements,
    ahead: super::Dedicated,
    ahead_statements: AheadStatements,
}

type Parameter<'a> = &'a (dyn ToSql + Sync);

impl Batches {
    /// On a connection of its own.
    pub async fn connect(db: &super::Db) -> Result<Self, DbError> {
        Self::prepare(db, db.dedicated("region-node allocator").await?).await
    }

    /// Prepares everything on a connection of its own, and on another of the same server.
    pub(crate) async fn prepare(db: &super::Db, dedicated: super::Dedicated) -> Result<Self, DbError> {
        let ahead = db.dedicated("region-node allocator, ahead").await?;
        let server = "SELECT pg_postmaster_start_time()::text || system_identifier FROM pg_control_system()";
        let (here, there) = try_join!(dedicated.client.query_one(server, &[]), ahead.client.query_one(server, &[]))?;
        if here.get::<_, String>(0) != there.get::<_, String>(0) {
            return Err(DbError::Raced);
        }
        let statements = Statements::prepare(&dedicated.client).await?;
        let ahead_statements = AheadStatements::prepare(&ahead.client).await?;
        Ok(Self { dedicated, statements, ahead, ahead_statements })
    }

    /// Looks up what the users of these places have, outside of any transaction: for [`Batches::open`] later.
    pub async fn look_ahead(&self, concert_id: i32, places: &[Place]) -> Result<Ahead, DbError> {
        let (client, s) = (&self.ahead.client, &self.ahead_statements);
        let users = users_of(places);
        let (by_concert, by_users): ([Parameter<'_>; 1], [Parameter<'_>; 2]) = ([&concert_id], [&concert_id, &users]);
        // In this order on the wire, each with a snapshot of its own: the rows are those of this book number or later.
        let (book, owned) = try_join!(client.query_opt(&s.book, &by_concert), client.query(&s.owned, &by_users))?;
        let book = book.ok_or(DbError::NoConcert)?.get(0);
        Ok(Ahead::new(book, places, owned.iter().map(owned_row).collect::<Result<_, _>>()?))
    }

    /// Opens the transaction, locks the book and reads what decisions about `places` stand on (of their users only what
    /// `ahead` cannot tell); also up to `waiting_most` people from `waiting` who may be served now. After an error or to
    /// give up: [`Batches::roll_back`].
    pub async fn open(
        &self,
        concert_id: i32,
        known: Known,
        places: &[Place],
        ahead: Option<&Ahead>,
        waiting_most: i64,
    ) -> Result<Ground, DbError> {
        let (client, s) = (&self.dedicated.client, &self.statements);
        let id: Parameter<'_> = &concert_id;
        let by_concert = [id];
        let waiting: [Parameter<'_>; 2] = [id, &waiting_most];
        db_fail_point!("allocator.before_open");
        // In this order on the wire: whatever is read after the lock is not changed by anybody else who moves counters.
        let ((), lock, concert, stock, generations, ranges, looked, waiting) = try_join!(
            client.batch_execute("BEGIN"),
            client.query_opt(&s.lock, &by_concert),
            client.query_opt(&s.concert, &by_concert),
            client.query(&s.stock, &by_concert),
            client.query(&s.generations, &by_concert),
            client.query(&s.ranges, &by_concert),
            async { if ahead.is_some() { Ok(Default::default()) } else { self.look_up(concert_id, places).await } },
            client.query(&s.waiting, &waiting),
        )?;
        let (lock, concert) = (lock.ok_or(DbError::NoConcert)?, concert.ok_or(DbError::NoConcert)?);
        let mut ground = Ground {
            locked: book::check(concert_id, &lock, known)?,
            version: to_u64(concert.get(0)),
            over: concert.get(1),
            now_us: concert.get(2),
            stock: stock.iter().map(snapshot::stock_row).collect(),
            generations: generations.iter().map(snapshot::generation_row).collect(),
            ranges: ranges.iter().map(snapshot::range_row).collect::<Result<_, _>>()?,
            owned: Vec::new(),
            identities: Vec::new(),
            waiting: waiting.iter().map(waiting_row).collect::<Result<_, _>>()?,
        };
        let looked = match ahead.map(|ahead| ahead.serves(ground.locked.book, places)) {
            Some(Some(owned)) => {
                ground.owned.extend_from_slice(owned);
                Default::default()
            }
            Some(None) => self.look_up(concert_id, places).await?,
            None => looked,
        };
        ground.add(looked)?;
        if !ground.waiting.is_empty() {
            ground.add(self.look_up(concert_id, &ground.waiting).await?)?;
        }
        db_fail_point!("allocator.after_open");
        Ok(ground)
    }

    /// What these places' users and identities have.
    async fn look_up(&self, concert_id: i32, places: &[Place]) -> Result<(Vec<Row>, Vec<Row>), tokio_postgres::Error> {
        let (client, s) = (&self.dedicated.client, &self.statements);
        let (users, identities) = (users_of(places), identities_of(places));
        let (by_users, ids): ([Parameter<'_>; 2], [Parameter<'_>; 2]) =
            ([&concert_id, &users], [&concert_id, &identities]);
        let identities =
            async { if identities.is_empty() { Ok(Vec::new()) } else { client.query(&s.identities, &ids).await } };
        try_join!(client.query(&s.owned, &by_users), identities)
    }

    /// Writes what was decided and commits; says through `writing` when there are only rows left to write. `Raced`: somebody
    /// else moved a cursor; nothing was stored. Returns whether everything was written as decided: `false` where a row of
    /// somebody else was in the way of a hold.
    pub async fn commit(
        &self,
        concert_id: i32,
        ground: &Ground,
        places: &[Place],
        decided: &Decided,
        writing: &Notify,
    ) -> Result<bool, DbError> {
        let (s, book) = (&self.statements, ground.locked.book);
        let (client, id): (_, Parameter<'_>) = (&self.dedicated.client, &concert_id);
        let done: Vec<i64> = decided.done_waiting.iter().map(|entry| entry.to_i64()).collect();
        // Rows of `waiting` before those of `reservation`, as whoever cancels takes them: else each may wait for the other.
        let done_waiting = async {
            if !done.is_empty() {
                client.execute(&s.done_waiting, &[id, &done]).await?;
            }
            Ok::<_, DbError>(())
        };
        let (cursors, (), whole) = try_join!(
            self.write_cursors(concert_id, &decided.cursors),
            done_waiting,
            self.copy_holds(concert_id, ground, places, &decided.holds, writing),
        )?;
        if cursors != decided.cursors.len() as u64 {
            return Err(DbError::Raced);
        }
        if !whole {
            self.dedicated.client.batch_execute("ROLLBACK TO SAVEPOINT held").await?;
            let holds = self.write_holds(concert_id, book, places, &decided.holds).await?;
            if holds != decided.holds.len() {
                self.write_missing(concert_id, places, &decided.holds).await?;
            }
        }
        db_fail_point!("allocator.after_holds");
        let settled: (Vec<i64>, Vec<Uuid>) =
            decided.settled.iter().map(|&n| (places[n].entry.to_i64(), places[n].user.to_uuid())).unzip();
        let settled = async {
            if !settled.0.is_empty() {
                client.execute(&s.settled, &[id, &settled.0, &settled.1]).await?;
            }
            Ok::<_, DbError>(())
        };
        try_join!(
            self.write_others(concert_id, places, &decided.others),
            self.write_waits(concert_id, places, &decided.waits),
            settled,
        )?;
        db_fail_point!("allocator.before_commit");
        client.batch_execute("COMMIT").await?;
        db_fail_point!("allocator.after_commit");
        Ok(whole)
    }

    /// Gives up the open transaction. After an error of [`Batches::commit`] everything here is to be dropped as well: where
    /// a `COPY` could not begin, answers no longer belong to the questions before them.
    pub async fn roll_back(&self) -> Result<(), DbError> {
        Ok(self.dedicated.client.batch_execute("ROLLBACK").await?)
    }
}

fn users_of(places: &[Place]) -> Vec<Uuid> {
    let mut users: Vec<Uuid> = places.iter().map(|place| place.user.to_uuid()).collect();
    users.sort_unstable();
    users.dedup();
    users
}

fn identities_of(places: &[Place]) -> Vec<Uuid> {
    let mut identities: Vec<Uuid> = places.iter().filter_map(|place| Some(place.identity?.to_uuid())).collect();
    identities.sort_unstable();
    identities.dedup();
    identities
}

fn entry_of(number: i64) -> Result<Entry, DbError> {
    Entry::from_i64(number).ok_or_else(|| DbError::Corrupt("a negative entry".into()))
}

fn owned_row(row: &Row) -> Result<Owned, DbError> {
    Ok(Owned {
        user: UserHash::from_uuid(row.get(0)),
        entry: entry_of(row.get(1))?,
        active: row.get(2),
        sold: u16::try_from(row.get::<_, i32>(3)).unwrap_or(u16::MAX),
        request_id: row.get(4),
    })
}

fn identity_row(row: &Row) -> (IdentityHash, u16) {
    (IdentityHash::from_uuid(row.get(0)), row.get::<_, i16>(1).unsigned_abs())
}

fn waiting_row(row: &Row) -> Result<Place, DbError> {
    let tiers: Vec<i16> = row.get(7);
    Ok(Place {
        entry: entry_of(row.get(0))?,
        arrival_ms: to_u64(row.get(1)),
        user: UserHash::from_uuid(row.get(2)),
        request_id: row.get(3),
        identity: row.get::<_, Option<Uuid>>(4).map(IdentityHash::from_uuid),
        quantity: row.get::<_, i16>(5).unsigned_abs(),
        tiers: tiers.into_iter().filter_map(|tier| TierNo::try_from(tier).ok()).collect(),
        any_quantity: row.get(6),
    })
}
