//! The holder of the quota protocol in SQL: what the region's database stores for it, and the transactions that only a
//! region under arbiters has. Holds, releases, sales and refunds are the ordinary transactions of the other modules;
//! that they keep the protocol's rules is the business of [`super::book::lock`].
//!
//! What follows from a message is decided by `quota_protocol::Holder`, filled with what is stored: first without locks,
//! since nearly always nothing follows; then again with them. Must never: spend or return anything here without the
//! book's lock, or take a row of zeros for a row (a tier of which nothing was ever granted has none, for the protocol).

mod give;
mod hear;

pub use give::give_back;
pub use hear::{adopt, deliver, halt, note_contact, observe};

use super::{Db, DbError, to_u64};
use quota_protocol::holder::{HaltReason, Halted, Registration, Row, Stored};
use quota_protocol::{
    ConcertId, Counters, Done, Epoch, Holder, Identity, Incarnation, PoolId, Refused, RegionId, Tickets, TierId,
};
use region_api::{ConcertName, TierName};
use std::collections::BTreeMap;
use tokio_postgres::GenericClient;

/// Why something of the protocol was not done.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// By its rules; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A seed for a tier that this database does not know yet: its concert has to be fetched first.
    #[error("{0} is not known here yet")]
    UnknownPool(PoolId),
    /// See [`DbError`].
    #[error(transparent)]
    Db(DbError),
}

impl From<DbError> for HolderError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::RegionHalted { .. } => Self::Refused(Refused::Halted),
            DbError::Unregistered => Self::Refused(Refused::NotRegistered),
            DbError::OtherEpoch => Self::Refused(Refused::OtherEpoch),
            other => Self::Db(other),
        }
    }
}

impl From<tokio_postgres::Error> for HolderError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error.into())
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Did {
    /// See [`Done`].
    pub done: Done,
    /// Book numbers that were used, for the witnesses: concert's number, book number.
    pub books: Vec<(i32, u64)>,
}

impl From<Done> for Did {
    fn from(done: Done) -> Self {
        Self { done, books: Vec::new() }
    }
}

/// What is stored, with the times that go with it.
#[derive(Debug, Clone)]
pub struct Own {
    /// For `quota_protocol`.
    pub stored: Stored,
    /// Why this database halted, in words that tell an operator what to do.
    pub halted_text: Option<String>,
    /// When the arbiters were last heard, by the database's clock, milliseconds since 1970.
    pub last_contact_ms: Option<u64>,
    /// The database's clock.
    pub now_ms: u64,
}

impl Own {
    /// The protocol's holder, filled with this.
    pub fn holder(&self) -> Holder {
        Holder::from_stored(self.stored.clone())
    }
}

const STORED: &str = "
SELECT r.region, database_identity() AS identity, r.incarnation, r.registered_incarnation, r.epoch AS region_epoch,
       r.registered_as AS region_registered_as, r.halted::text, r.halted_as, r.halted_text,
       (extract(epoch FROM r.last_contact_at) * 1000)::bigint AS last_contact_ms,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
       q.concert, q.tier, q.granted, q.returned, q.held_in, q.released, q.sold, q.refunded, q.epoch, q.registered_as,
       q.seeded
FROM region r LEFT JOIN (
    SELECT c.concert, t.name AS tier, q.granted, q.returned, q.held_in, q.released,
           q.sold + coalesce(u.tickets, 0)::bigint AS sold, q.refunded, q.epoch, b.registered_as, q.seeded
    FROM quota q JOIN concert c USING (concert_id) JOIN tier t USING (concert_id, tier) JOIN book b USING (concert_id)
    LEFT JOIN (SELECT concert_id, tier, sum(tickets) AS tickets FROM unfolded GROUP BY 1, 2) u USING (concert_id, tier)
    WHERE q.granted > 0) q ON true";

/// Reads everything that is stored, in one snapshot. Sales that are appended and not yet counted count.
pub async fn read(db: &Db) -> Result<Own, DbError> {
    let client = db.client().await?;
    read_in(&**client).await
}

pub(super) async fn read_in(client: &impl GenericClient) -> Result<Own, DbError> {
    let found = client.query(STORED, &[]).await?;
    let first = found.first().ok_or_else(|| DbError::Corrupt("a database that belongs to no region".into()))?;
    let mut rows = BTreeMap::new();
    for row in found.iter().filter(|row| row.get::<_, Option<i64>>("granted").is_some()) {
        let count = |column: &str| tickets(row.get(column));
        let counters = Counters {
            granted: count("granted")?,
            returned: count("returned")?,
            held_in: count("held_in")?,
            released: count("released")?,
            sold: count("sold")?,
            refunded: count("refunded")?,
        };
        let registered_as = row.get::<_, Option<&str>>("registered_as").ok_or_else(|| {
            DbError::Corrupt("tickets that no arbiter granted, in the database of a region under arbiters".into())
        })?;
        let row_of = Row {
            counters,
            epoch: Epoch::new(to_u64(row.get("epoch"))),
            registered_as: parse(registered_as)?,
            seeded: count("seeded")?,
        };
        let pool = PoolId { concert: parse(row.get("concert"))?, tier: parse(row.get("tier"))? };
        rows.insert(pool, row_of);
    }
    let registration = match first.get::<_, Option<i64>>("region_epoch") {
        None => None,
        Some(epoch) => Some(Registration {
            incarnation: Incarnation::new(to_u64(first.get("registered_incarnation"))),
            epoch: Epoch::new(to_u64(epoch)),
            registered_as: parse(first.get("region_registered_as"))?,
        }),
    };
    let identity: Identity = parse(first.get("identity"))?;
    let halted = match first.get::<_, Option<&str>>("halted") {
        None => None,
        Some(text) => Some(Halted { identity: parse(first.get("halted_as"))?, reason: reason(text)? }),
    };
    let halted_text = first.get::<_, Option<String>>("halted_text");
    Ok(Own {
        halted_text: halted_text.filter(|_| halted.as_ref().is_some_and(|halted| halted.identity == identity)),
        stored: Stored {
            region: parse::<RegionId>(first.get("region"))?,
            identity,
            incarnation: Incarnation::new(to_u64(first.get("incarnation"))),
            registration,
            halted,
            rows,
        },
        last_contact_ms: first.get::<_, Option<i64>>("last_contact_ms").map(to_u64),
        now_ms: to_u64(first.get("now_ms")),
    })
}

fn reason(text: &str) -> Result<HaltReason, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::Corrupt(format!("region.halted: {error}")))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, DbError> {
    text.parse().map_err(|error| DbError::Corrupt(format!("{text:?}: {error}")))
}

fn tickets(count: i64) -> Result<Tickets, DbError> {
    Tickets::new(to_u64(count)).map_err(|error| DbError::Corrupt(error.to_string()))
}

/// A pool's name for the arbiters.
pub fn pool_id(concert: &ConcertName, tier: &TierName) -> Result<PoolId, DbError> {
    Ok(PoolId { concert: parse::<ConcertId>(concert.as_str())?, tier: parse::<TierId>(tier.as_str())? })
}

/// The numbers of a pool here, if its tier is known.
async fn place(client: &impl GenericClient, pool: &PoolId) -> Result<Option<(i32, i16)>, DbError> {
    let find = "SELECT concert_id, tier FROM tier JOIN concert USING (concert_id) WHERE concert = $1 AND name = $2";
    let row = client.query_opt(find, &[&pool.concert.as_str(), &pool.tier.as_str()]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Whether a node with or without arbiters may run on this database; in one that is new, writes down which it is.
/// A standalone region owns its whole quota, one under arbiters only what was granted: neither may become the other
/// while there are concerts.
pub async fn settle_mode(db: &Db, arbiters: bool) -> Result<(), DbError> {
    let client = db.client().await?;
    if arbiters {
        let set = "UPDATE region SET mode = 'arbiters' WHERE mode = 'standalone' AND NOT EXISTS (SELECT FROM concert)";
        client.execute(set, &[]).await?;
    }
    let mode: String = client.query_one("SELECT mode FROM region", &[]).await?.get(0);
    match (arbiters, mode.as_str()) {
        (true, "arbiters") | (false, "standalone") => Ok(()),
        (true, _) => Err(DbError::OtherMode(
            "this database sells its own concerts as a standalone region; one under arbiters ([arbiter] in the \
             configuration) begins on an empty database",
        )),
        (false, _) => Err(DbError::OtherMode(
            "this database belongs to a region under arbiters; the configuration has no [arbiter]",
        )),
    }
}
