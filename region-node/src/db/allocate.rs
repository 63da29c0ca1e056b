//! The allocator's transaction: one batch of places, decided and written.
//!
//! Three round trips: lock the book and read what the decisions stand on; write; commit. Statements within a round trip
//! are pipelined. Every check that could refuse is made before the commit is sent, so a commit that is confirmed is
//! whole, and one that is not confirmed is looked up again from the cursors.
//!
//! Must never: move a cursor past a place that got neither a row, a waiting row nor a range; hold more than `quota` has;
//! hold anything for a place that somebody else (cancel, void) decided first.

mod statements;

use self::statements::Statements;
use super::book::{self, Known, Locked};
use super::snapshot::{self, Generation, RejectedRange, TierStock};
use super::{DbError, db_fail_point, to_i64, to_u64};
use crate::queue::QueueEntry;
use futures::try_join;
use region_api::{Entry, IdentityHash, TierNo, UserHash};
use sale::allocate::Tiers;
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

/// The allocator's connection with its prepared statements.
pub struct Batches {
    dedicated: super::Dedicated,
    statements: Statements,
}

type Parameter<'a> = &'a (dyn ToSql + Sync);

impl Batches {
    /// On a connection of its own.
    pub async fn connect(db: &super::Db) -> Result<Self, DbError> {
        Self::prepare(db.dedicated("region-node allocator").await?).await
    }

    /// Prepares everything on a connection of its own.
    pub(crate) async fn prepare(dedicated: super::Dedicated) -> Result<Self, DbError> {
        let statements = Statements::prepare(&dedicated.client).await?;
        Ok(Self { dedicated, statements })
    }

    /// Opens the transaction, locks the book and reads what decisions about `places` stand on; also up to `waiting_most`
    /// people from `waiting` who may be served now. After an error or to give up: [`Batches::roll_back`].
    pub async fn open(
        &self,
        concert_id: i32,
        known: Known,
        places: &[Place],
        waiting_most: i64,
    ) -> Result<Ground, DbError> {
        let (client, s) = (&self.dedicated.client, &self.statements);
        let id: Parameter<'_> = &concert_id;
        let by_concert = [id];
        let users = users_of(places);
        let identities = identities_of(places);
        let (users, waiting): ([Parameter<'_>; 2], [Parameter<'_>; 2]) = ([id, &users], [id, &waiting_most]);
        let ids: [Parameter<'_>; 2] = [id, &identities];
        db_fail_point!("allocator.before_open");
        // In this order on the wire: whatever is read after the lock is not changed by anybody else who moves counters.
        let ((), lock, concert, stock, generations, ranges, owned, identities, waiting) = try_join!(
            client.batch_execute("BEGIN"),
            client.query_opt(&s.lock, &by_concert),
            client.query_opt(&s.concert, &by_concert),
            client.query(&s.stock, &by_concert),
            client.query(&s.generations, &by_concert),
            client.query(&s.ranges, &by_concert),
            client.query(&s.owned, &users),
            client.query(&s.identities, &ids),
            client.query(&s.waiting, &waiting),
        )?;
        let (lock, concert) = (lock.ok_or(DbError::NoConcert)?, concert.ok_or(DbError::NoConcert)?);
        let mut ground = Ground {
            locked: book::check(concert_id, &lock, known)?,
            version: to_u64(concert.get(0)),
            over: concert.get(1),
            stock: stock.iter().map(snapshot::stock_row).collect(),
            generations: generations.iter().map(snapshot::generation_row).collect(),
            ranges: ranges.iter().map(snapshot::range_row).collect::<Result<_, _>>()?,
            owned: owned.iter().map(owned_row).collect::<Result<_, _>>()?,
            identities: identities.iter().map(identity_row).collect(),
            waiting: waiting.iter().map(waiting_row).collect::<Result<_, _>>()?,
        };
        if !ground.waiting.is_empty() {
            let users = users_of(&ground.waiting);
            let identities = identities_of(&ground.waiting);
            let (users, ids): ([Parameter<'_>; 2], [Parameter<'_>; 2]) = ([id, &users], [id, &identities]);
            let (owned, identities) = try_join!(client.query(&s.owned, &users), client.query(&s.identities, &ids))?;
            for row in &owned {
                ground.owned.push(owned_row(row)?);
            }
            ground.identities.extend(identities.iter().map(identity_row));
        }
        db_fail_point!("allocator.after_open");
        Ok(ground)
    }

    /// Writes what was decided and commits. `Raced`: somebody else moved a cursor; nothing was stored.
    pub async fn commit(
        &self,
        concert_id: i32,
        locked: Locked,
        places: &[Place],
        decided: &Decided,
    ) -> Result<(), DbError> {
        let s = &self.statements;
        let (cursors, holds) = try_join!(
            self.write_cursors(concert_id, &decided.cursors),
            self.write_holds(concert_id, locked.book, places, &decided.holds),
        )?;
        if cursors != decided.cursors.len() as u64 {
            return Err(DbError::Raced);
        }
        db_fail_point!("allocator.after_holds");
        if holds != decided.holds.len() {
            self.write_missing(concert_id, places, &decided.holds).await?;
        }
        let (client, id): (_, Parameter<'_>) = (&self.dedicated.client, &concert_id);
        let done: Vec<i64> = decided.done_waiting.iter().map(|entry| entry.to_i64()).collect();
        let settled: (Vec<i64>, Vec<Uuid>) =
            decided.settled.iter().map(|&n| (places[n].entry.to_i64(), places[n].user.to_uuid())).unzip();
        let done_waiting = async {
            if !done.is_empty() {
                client.execute(&s.done_waiting, &[id, &done]).await?;
            }
            if !settled.0.is_empty() {
                client.execute(&s.settled, &[id, &settled.0, &settled.1]).await?;
            }
            Ok::<_, DbError>(())
        };
        try_join!(
            self.write_others(concert_id, places, &decided.others),
            self.write_waits(concert_id, places, &decided.waits),
            done_waiting,
        )?;
        db_fail_point!("allocator.before_commit");
        client.batch_execute("COMMIT").await?;
        db_fail_point!("allocator.after_commit");
        Ok(())
    }

    /// Gives up the open transaction.
    pub async fn roll_back(&self) -> Result<(), DbError> {
        Ok(self.dedicated.client.batch_execute("ROLLBACK").await?)
    }

    async fn write_cursors(&self, concert_id: i32, cursors: &[CursorMove]) -> Result<u64, DbError> {
        if cursors.is_empty() {
            return Ok(0);
        }
        let small = |number: u16| i16::try_from(number).unwrap_or(i16::MAX);
        let shards: Vec<i16> = cursors.iter().map(|c| small(c.shard)).collect();
        let generations: Vec<i16> = cursors.iter().map(|c| small(c.generation)).collect();
        let from: Vec<i64> = cursors.iter().map(|c| to_i64(c.from_seq)).collect();
        let to: Vec<i64> = cursors.iter().map(|c| to_i64(c.to_seq)).collect();
        let tails: Vec<i64> = cursors.iter().map(|c| to_i64(c.tail_seq)).collect();
        let values: [Parameter<'_>; 6] = [&concert_id, &shards, &generations, &from, &to, &tails];
        Ok(self.dedicated.client.execute(&self.statements.cursors, &values).await?)
    }

    async fn write_holds(&self, concert_id: i32, book: i64, all: &[Place], holds: &[Hold]) -> Result<usize, DbError> {
        if holds.is_empty() {
            return Ok(0);
        }
        let columns = Columns::of(all, holds.iter().map(|hold| hold.place));
        let tiers: Vec<i16> = holds.iter().map(|hold| hold.tier.into()).collect();
        let quantities: Vec<i16> = holds.iter().map(|hold| hold.quantity as i16).collect();
        let amounts: Vec<i64> = holds.iter().map(|hold| hold.amount).collect();
        let hold_ms: Vec<i64> = holds.iter().map(|hold| hold.hold_ms).collect();
        let values: [Parameter<'_>; 11] = [
            &concert_id,
            &book,
            &columns.entries,
            &columns.users,
            &columns.requests,
            &columns.identities,
            &columns.arrivals,
            &tiers,
            &quantities,
            &amounts,
            &hold_ms,
        ];
        let row = self.dedicated.client.query_one(&self.statements.holds, &values).await?;
        Ok(row.get::<_, i64>(0) as usize)
    }

    /// Some holds met a row that appeared after `open`: whoever has no row now becomes an alias of what was in the way.
    async fn write_missing(&self, concert_id: i32, places: &[Place], holds: &[Hold]) -> Result<(), DbError> {
        let columns = Columns::of(places, holds.iter().map(|hold| hold.place));
        let values: [Parameter<'_>; 4] = [&concert_id, &columns.entries, &columns.users, &columns.requests];
        let missing = self.dedicated.client.query(&self.statements.missing, &values).await?;
        let mut aliases = Vec::with_capacity(missing.len());
        for row in missing {
            let place = holds[row.get::<_, i64>(0) as usize - 1].place;
            let other = row.get::<_, Option<i64>>(1).and_then(Entry::from_i64).ok_or(DbError::Raced)?;
            aliases.push(Other { place, becomes: Becomes::AliasOf(other) });
        }
        self.write_others(concert_id, places, &aliases).await
    }

    async fn write_others(&self, concert_id: i32, places: &[Place], others: &[Other]) -> Result<(), DbError> {
        if others.is_empty() {
            return Ok(());
        }
        let columns = Columns::of(places, others.iter().map(|other| other.place));
        let quantities: Vec<i16> = others.iter().map(|other| places[other.place].quantity as i16).collect();
        let (mut states, mut reasons, mut aliases) = (Vec::new(), Vec::new(), Vec::new());
        for other in others {
            let (state, reason, alias) = match other.becomes {
                Becomes::RejectedLimit => ("rejected", Some("limit"), None),
                Becomes::RejectedSoldOut => ("rejected", Some("sold_out"), None),
                Becomes::AliasOf(entry) => ("alias", None, Some(entry.to_i64())),
            };
            states.push(state);
            reasons.push(reason);
            aliases.push(alias);
        }
        let values: [Parameter<'_>; 10] = [
            &concert_id,
            &columns.entries,
            &columns.users,
            &columns.requests,
            &columns.identities,
            &columns.arrivals,
            &states,
            &reasons,
            &quantities,
            &aliases,
        ];
        self.dedicated.client.execute(&self.statements.others, &values).await?;
        Ok(())
    }

    async fn write_waits(&self, concert_id: i32, places: &[Place], waits: &[usize]) -> Result<(), DbError> {
        if waits.is_empty() {
            return Ok(());
        }
        let columns = Columns::of(places, waits.iter().copied());
        let waiting = || waits.iter().map(|&n| &places[n]);
        let needs: Vec<i16> = waiting().map(|place| place.need() as i16).collect();
        let quantities: Vec<i16> = waiting().map(|place| place.quantity as i16).collect();
        let any: Vec<bool> = waiting().map(|place| place.any_quantity).collect();
        let tiers: Vec<String> = waiting().map(|place| array_text(&place.tiers)).collect();
        let values: [Parameter<'_>; 10] = [
            &concert_id,
            &columns.entries,
            &needs,
            &columns.arrivals,
            &columns.users,
            &columns.requests,
            &columns.identities,
            &quantities,
            &any,
            &tiers,
        ];
        self.dedicated.client.execute(&self.statements.waits, &values).await?;
        Ok(())
    }
}

/// What every kind of row has, as columns.
struct Columns {
    entries: Vec<i64>,
    users: Vec<Uuid>,
    requests: Vec<Option<Uuid>>,
    identities: Vec<Option<Uuid>>,
    arrivals: Vec<i64>,
}

impl Columns {
    fn of(places: &[Place], which: impl Iterator<Item = usize> + Clone) -> Self {
        let picked = || which.clone().map(|n| &places[n]);
        Self {
            entries: picked().map(|place| place.entry.to_i64()).collect(),
            users: picked().map(|place| place.user.to_uuid()).collect(),
            requests: picked().map(|place| place.request_id).collect(),
            identities: picked().map(|place| place.identity.map(IdentityHash::to_uuid)).collect(),
            arrivals: picked().map(|place| to_i64(place.arrival_ms)).collect(),
        }
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

/// `{0,3}`: arrays of arrays must be rectangular, texts need not.
fn array_text(tiers: &[TierNo]) -> String {
    let numbers: Vec<String> = tiers.iter().map(TierNo::to_string).collect();
    format!("{{{}}}", numbers.join(","))
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
