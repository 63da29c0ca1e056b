//! What the allocator's transaction writes, kind by kind.
//!
//! Must never: write a hold's row without its ledger row and its tickets in `quota`, or the other way round.

use super::rows::Rows;
use super::{Batches, Becomes, CursorMove, Ground, Hold, Other, Parameter, Place};
use crate::db::{DbError, db_fail_point, to_i64};
use bytes::Bytes;
use futures::{SinkExt as _, try_join};
use region_api::{Entry, IdentityHash, TierNo};
use std::collections::BTreeMap;
use std::pin::pin;
use tokio::sync::Notify;
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

impl Batches {
    pub(super) async fn write_cursors(&self, concert_id: i32, cursors: &[CursorMove]) -> Result<u64, DbError> {
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

    /// Holds with ledger and counters, behind a savepoint, sent one behind the other (each `COPY` waits for the server to be
    /// ready for it, and for nothing else). `false`: a row was there already, and the
    /// transaction has to go back to the savepoint. Says when there are only rows left to write.
    pub(super) async fn copy_holds(
        &self,
        concert_id: i32,
        ground: &Ground,
        all: &[Place],
        holds: &[Hold],
        writing: &Notify,
    ) -> Result<bool, DbError> {
        if holds.is_empty() {
            return Ok(true);
        }
        let (client, s) = (&self.dedicated.client, &self.statements);
        let (of_tiers, sums) = sums_of(holds);
        let counted: [Parameter<'_>; 3] = [&concert_id, &of_tiers, &sums];
        let ((), counted, booked, held) = try_join!(
            async { Ok::<_, DbError>(client.batch_execute("SAVEPOINT held").await?) },
            async { Ok::<_, DbError>(client.execute(&s.counted, &counted).await?) },
            async {
                let booked = self.copy(&s.booked, ledger_of(concert_id, ground, all, holds)).await;
                writing.notify_one();
                db_fail_point!("allocator.after_booked");
                Ok::<_, DbError>(booked?)
            },
            async {
                match self.copy(&s.held, rows_of(concert_id, ground, all, holds)).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            },
        )?;
        // Guards quota: what is held is in the ledger and in the counters, each once.
        if booked != holds.len() as u64 || counted != of_tiers.len() as u64 {
            let found = format!("{} holds made {booked} rows in the ledger, {counted} tiers changed", holds.len());
            return Err(DbError::Corrupt(found));
        }
        Ok(held)
    }

    /// How many rows there were.
    async fn copy(&self, statement: &Statement, rows: Bytes) -> Result<u64, tokio_postgres::Error> {
        let mut sink = pin!(self.dedicated.client.copy_in(statement).await?);
        // Why it was refused, or that the connection is gone, is said at the end.
        let _ = sink.send(rows).await;
        sink.finish().await
    }

    /// Holds with ledger and counters, of those who have nothing in the way; returns how many.
    pub(super) async fn write_holds(
        &self,
        concert_id: i32,
        book: i64,
        all: &[Place],
        holds: &[Hold],
    ) -> Result<usize, DbError> {
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
    pub(super) async fn write_missing(&self, concert_id: i32, places: &[Place], holds: &[Hold]) -> Result<(), DbError> {
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

    pub(super) async fn write_others(
        &self,
        concert_id: i32,
        places: &[Place],
        others: &[Other],
    ) -> Result<(), DbError> {
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

    pub(super) async fn write_waits(&self, concert_id: i32, places: &[Place], waits: &[usize]) -> Result<(), DbError> {
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

/// Tickets held by tier.
fn sums_of(holds: &[Hold]) -> (Vec<i16>, Vec<i64>) {
    let mut sums = BTreeMap::<i16, i64>::new();
    for hold in holds {
        *sums.entry(hold.tier.into()).or_default() += i64::from(hold.quantity);
    }
    sums.into_iter().unzip()
}

/// The holds' ledger as [`statements`] names its columns.
fn ledger_of(concert_id: i32, ground: &Ground, all: &[Place], holds: &[Hold]) -> Bytes {
    const COLUMNS: i16 = 6;
    let mut rows = Rows::new(holds.len(), COLUMNS);
    for hold in holds {
        rows.row()
            .integer(concert_id)
            .big(ground.locked.book)
            .text("hold")
            .small(hold.tier.into())
            .big(all[hold.place].entry.to_i64())
            .integer(hold.quantity.into());
    }
    rows.finish()
}

/// Held reservations as [`statements`] names their columns.
fn rows_of(concert_id: i32, ground: &Ground, all: &[Place], holds: &[Hold]) -> Bytes {
    const COLUMNS: i16 = 13;
    let mut by_user: Vec<&Hold> = holds.iter().collect();
    // Two of the indexes begin with the user: neighbours there are found in the cache.
    by_user.sort_unstable_by_key(|hold| all[hold.place].user.0);
    let mut rows = Rows::new(holds.len(), COLUMNS);
    for hold in by_user {
        let place = &all[hold.place];
        rows.row()
            .integer(concert_id)
            .big(place.entry.to_i64())
            .uuid(Some(place.user.to_uuid()))
            .uuid(place.request_id)
            .uuid(place.identity.map(IdentityHash::to_uuid))
            .big(to_i64(place.arrival_ms))
            .text("held")
            .small(hold.tier.into())
            .small(hold.quantity as i16)
            .big(hold.amount)
            .big(ground.now_us)
            .big(ground.now_us + hold.hold_ms * 1_000)
            .big(ground.locked.book);
    }
    rows.finish()
}

/// `{0,3}`: arrays of arrays must be rectangular, texts need not.
fn array_text(tiers: &[TierNo]) -> String {
    let numbers: Vec<String> = tiers.iter().map(TierNo::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}
