//! Concert definitions: reading, creating, changing, closing, cancelling.
//!
//! In a standalone region the whole quota is here: `granted - returned` of a tier follows the definition's total, and
//! every change of it is a ledger row; under arbiters the quota is what they grant (`holder`). Must never: take back tickets that are held or sold, reuse a tier's number, or
//! change the number of shards.

use super::book::{self, Floor};
use super::{Db, DbError, to_i64, to_u64};
use crate::queue::ConcertQueue;
use region_api::body::Checked as _;
use region_api::wire::{ConcertDefinition, TierDefinition};
use region_api::{ConcertName, Currency, InvalidField, Money, TierName, Timestamp};
use tokio_postgres::{Row, Transaction};

/// A concert as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConcertRow {
    /// The region's number for it.
    pub concert_id: i32,
    /// Its name.
    pub concert: ConcertName,
    /// Queue shards, fixed for ever.
    pub shards: u16,
    /// The definition, complete: `tiers[n]` is tier number n.
    pub definition: ConcertDefinition,
    /// Goes up with every change of the definition or the state.
    pub version: u64,
    /// When everybody who waited was answered, milliseconds since 1970.
    pub closed_at_ms: Option<u64>,
    /// When it was called off.
    pub cancelled_at_ms: Option<u64>,
    /// Book number.
    pub book: u64,
    /// Why nothing may be held, if so.
    pub halted: Option<String>,
}

impl ConcertRow {
    /// The concert as the queue sees it.
    pub fn queue(&self) -> ConcertQueue {
        ConcertQueue { concert_id: self.concert_id, shards: self.shards }
    }
}

/// Why a definition was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Tickets that are held or sold cannot be taken back.
    #[error("tier {tier}: {in_use} tickets are held or sold, the total cannot become {wanted}")]
    TotalTooLow {
        /// The tier.
        tier: TierName,
        /// What was asked for.
        wanted: u64,
        /// What the total must be at least.
        in_use: u64,
    },
    /// A bound of the definition, or of what may change in it.
    #[error("{0}")]
    Invalid(#[from] InvalidField),
    /// The concert was called off or closed.
    #[error("the concert's sale is over")]
    Over,
    /// See [`DbError`].
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<tokio_postgres::Error> for PutError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error.into())
    }
}

const SELECT: &str = concat!(
    "
SELECT c.concert_id, c.concert, c.title, c.venue,
       (extract(epoch FROM c.starts_at) * 1000)::bigint AS starts_at,
       (extract(epoch FROM c.sale_opens_at) * 1000)::bigint AS sale_opens_at,
       (extract(epoch FROM c.sale_closes_at) * 1000)::bigint AS sale_closes_at,
       (extract(epoch FROM c.closed_at) * 1000)::bigint AS closed_at,
       (extract(epoch FROM c.cancelled_at) * 1000)::bigint AS cancelled_at,
       c.hold_ms, c.max_per_order, c.max_per_person, c.max_per_identity, c.guests, c.challenge,
       c.waitlist_factor, c.shards, c.version, b.book,
       t.names, t.titles, t.amounts, t.currencies, t.totals, ",
    book::halted!(),
    " AS halted
FROM concert c JOIN book b USING (concert_id)
JOIN LATERAL (
    SELECT array_agg(t.name ORDER BY t.tier) AS names, array_agg(t.title ORDER BY t.tier) AS titles,
           array_agg(t.price_amount ORDER BY t.tier) AS amounts,
           array_agg(t.price_currency ORDER BY t.tier) AS currencies,
           array_agg(q.granted - q.returned ORDER BY t.tier) AS totals
    FROM tier t JOIN quota q USING (concert_id, tier) WHERE t.concert_id = c.concert_id
) t ON true"
);

/// Every concert, oldest first.
pub async fn load_all(db: &Db) -> Result<Vec<ConcertRow>, DbError> {
    let client = db.client().await?;
    let statement = client.prepare_cached(&format!("{SELECT} ORDER BY c.concert_id")).await?;
    client.query(&statement, &[]).await?.iter().map(concert_row).collect()
}

/// One concert by name.
pub async fn load(db: &Db, concert: &ConcertName) -> Result<Option<ConcertRow>, DbError> {
    let client = db.client().await?;
    let statement = client.prepare_cached(&format!("{SELECT} WHERE c.concert = $1")).await?;
    client.query_opt(&statement, &[&concert.as_str()]).await?.as_ref().map(concert_row).transpose()
}

fn concert_row(row: &Row) -> Result<ConcertRow, DbError> {
    let bad = |what: &str| DbError::Corrupt(format!("concert: {what}"));
    let ms = |column: &str| row.get::<_, Option<i64>>(column).map(to_u64);
    let small = |number: i16| u16::try_from(number).map_err(|_| bad("a negative count"));
    let names: Vec<String> = row.get("names");
    let (titles, currencies): (Vec<String>, Vec<String>) = (row.get("titles"), row.get("currencies"));
    let (amounts, totals): (Vec<i64>, Vec<i64>) = (row.get("amounts"), row.get("totals"));
    let at = |column: &str| ms(column).map(Timestamp::from_ms);
    let mut tiers = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let currency = Currency::new(&currencies[index]).map_err(|error| bad(&error.to_string()))?;
        tiers.push(TierDefinition {
            tier: TierName::new(name).map_err(|error| bad(&error.to_string()))?,
            title: titles[index].clone(),
            price: Money { amount: amounts[index], currency },
            total: to_u64(totals[index]),
        });
    }
    let concert = ConcertName::new(row.get("concert")).map_err(|error| bad(&error.to_string()))?;
    let shards = small(row.get("shards"))?;
    let definition = ConcertDefinition {
        concert: Some(concert.clone()),
        title: row.get("title"),
        venue: row.get("venue"),
        starts_at: at("starts_at"),
        sale_opens_at: at("sale_opens_at").unwrap_or(Timestamp::from_ms(0)),
        sale_closes_at: at("sale_closes_at"),
        hold_ms: to_u64(row.get("hold_ms")),
        max_per_order: small(row.get("max_per_order"))?,
        max_per_person: small(row.get("max_per_person"))?,
        max_per_identity: row.get::<_, Option<i16>>("max_per_identity").map(small).transpose()?,
        guests: row.get("guests"),
        challenge: row.get("challenge"),
        waitlist_factor: row.get("waitlist_factor"),
        shards: Some(shards),
        tiers,
        weights: None,
    };
    Ok(ConcertRow {
        concert_id: row.get("concert_id"),
        concert,
        shards,
        definition,
        version: to_u64(row.get("version")),
        closed_at_ms: ms("closed_at"),
        cancelled_at_ms: ms("cancelled_at"),
        book: to_u64(row.get("book")),
        halted: row.get("halted"),
    })
}

/// Creates a concert or changes it; idempotent. `shards` is for a new concert whose definition does not say; `floor`
/// knows the highest book number witnessed.
pub async fn put(
    db: &Db,
    concert: &ConcertName,
    definition: &ConcertDefinition,
    shards: u16,
    who: &str,
    floor: &impl Floor,
) -> Result<ConcertRow, PutError> {
    write(db, concert, definition, shards, who, Some(floor)).await
}

/// The same in a region under arbiters: its quota is what they grant, so totals move nothing here.
pub async fn define(
    db: &Db,
    concert: &ConcertName,
    definition: &ConcertDefinition,
    shards: u16,
    who: &str,
) -> Result<ConcertRow, PutError> {
    write(db, concert, definition, shards, who, None::<&book::NoFloor>).await
}

/// With a floor, totals become quota.
async fn write(
    db: &Db,
    concert: &ConcertName,
    definition: &ConcertDefinition,
    shards: u16,
    who: &str,
    floor: Option<&impl Floor>,
) -> Result<ConcertRow, PutError> {
    definition.check_name(concert)?;
    definition.check()?;
    if let Some(before) = load(db, concert).await? {
        definition.check_change(&before.definition)?;
    }
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let (concert_id, mut changed) = upsert(&tx, concert, definition, shards).await?;
    let known = tiers_of(&tx, concert_id).await?;
    let mut moves = Vec::new();
    for (index, tier) in definition.tiers.iter().enumerate() {
        // Under the row's lock now: whoever came between the check above and here is seen.
        let total = match known.get(index) {
            Some((name, _)) if *name != tier.tier => return Err(PutError::Db(DbError::Raced)),
            Some((_, total)) => *total,
            None => 0,
        };
        let number = i16::try_from(index).map_err(|_| DbError::Corrupt("more than 64 tiers".into()))?;
        changed |= upsert_tier(&tx, concert_id, number, tier).await?;
        let change = to_i64(tier.total) - total;
        if change != 0 {
            moves.push((number, change, tier));
        }
    }
    if known.len() > definition.tiers.len() {
        return Err(PutError::Db(DbError::Raced));
    }
    if let Some(floor) = floor.filter(|_| !moves.is_empty()) {
        changed = true;
        let locked = book::lock(&tx, concert_id, floor.of(concert_id)).await?;
        for (number, change, tier) in moves {
            move_total(&tx, concert_id, locked.book, number, change, tier).await?;
        }
    }
    if changed {
        tx.execute("UPDATE concert SET version = version + 1 WHERE concert_id = $1", &[&concert_id]).await?;
        book::note_act(&tx, who, &serde_json::json!({ "act": "put concert", "concert": concert })).await?;
    }
    tx.commit().await?;
    drop(client);
    Ok(load(db, concert).await?.ok_or(DbError::NoConcert)?)
}

/// Inserts or updates the concert's row and locks it; whether it changed.
async fn upsert(
    tx: &Transaction<'_>,
    concert: &ConcertName,
    d: &ConcertDefinition,
    shards: u16,
) -> Result<(i32, bool), PutError> {
    let small = |number: u16| i16::try_from(number).unwrap_or(i16::MAX);
    let ms = |at: Timestamp| to_i64(at.ms());
    let (starts, opens, closes) = (d.starts_at.map(ms), ms(d.sale_opens_at), d.sale_closes_at.map(ms));
    let (hold, shards) = (to_i64(d.hold_ms), small(d.shards.unwrap_or(shards)));
    let row = tx
        .query_opt(
            "INSERT INTO concert AS c (concert, title, venue, starts_at, sale_opens_at, sale_closes_at, hold_ms,
                 max_per_order, max_per_person, max_per_identity, guests, challenge, waitlist_factor, shards)
             SELECT $1, $2, $3, 'epoch'::timestamptz + $4::bigint * interval '1 ms',
                 'epoch'::timestamptz + $5::bigint * interval '1 ms', 'epoch'::timestamptz + $6::bigint * interval '1 ms',
                 $7, $8, $9, $10, $11, $12, $13, $14
             ON CONFLICT (concert) DO UPDATE SET title = excluded.title, venue = excluded.venue,
                 starts_at = excluded.starts_at, sale_opens_at = excluded.sale_opens_at,
                 sale_closes_at = excluded.sale_closes_at, hold_ms = excluded.hold_ms,
                 max_per_order = excluded.max_per_order, max_per_person = excluded.max_per_person,
                 max_per_identity = excluded.max_per_identity, guests = excluded.guests,
                 challenge = excluded.challenge, waitlist_factor = excluded.waitlist_factor
             WHERE (c.title, c.venue, c.starts_at, c.sale_opens_at, c.sale_closes_at, c.hold_ms, c.max_per_order,
                    c.max_per_person, c.max_per_identity, c.guests, c.challenge, c.waitlist_factor)
                 IS DISTINCT FROM
                   (excluded.title, excluded.venue, excluded.starts_at, excluded.sale_opens_at,
                    excluded.sale_closes_at, excluded.hold_ms, excluded.max_per_order, excluded.max_per_person,
                    excluded.max_per_identity, excluded.guests, excluded.challenge, excluded.waitlist_factor)
             RETURNING concert_id, closed_at IS NOT NULL OR cancelled_at IS NOT NULL, xmax = 0",
            &[
                &concert.as_str(), &d.title, &d.venue, &starts, &opens, &closes, &hold, &small(d.max_per_order),
                &small(d.max_per_person), &d.max_per_identity.map(small), &d.guests, &d.challenge,
                &d.waitlist_factor, &shards,
            ],
        )
        .await?;
    let Some(row) = row else {
        // As it was: only its number is needed, and its row locked against another change.
        let find = "SELECT concert_id FROM concert WHERE concert = $1 FOR NO KEY UPDATE";
        return Ok((tx.query_one(find, &[&concert.as_str()]).await?.get(0), false));
    };
    if row.get(1) {
        return Err(PutError::Over);
    }
    let concert_id: i32 = row.get(0);
    // Under arbiters it stands as the region does; shared, so that nobody registers in between.
    tx.execute("SELECT FROM region FOR SHARE", &[]).await?;
    tx.execute(
        "INSERT INTO book (concert_id, epoch, registered_as, halted_as)
         SELECT $1, epoch, registered_as, halted_as FROM region ON CONFLICT DO NOTHING",
        &[&concert_id],
    )
    .await?;
    Ok((concert_id, true))
}

/// Name and total of each tier, by number.
async fn tiers_of(tx: &Transaction<'_>, concert_id: i32) -> Result<Vec<(TierName, i64)>, PutError> {
    let rows = tx
        .query(
            "SELECT name, granted - returned FROM tier JOIN quota USING (concert_id, tier)
             WHERE concert_id = $1 ORDER BY tier",
            &[&concert_id],
        )
        .await?;
    let mut tiers = Vec::with_capacity(rows.len());
    for row in rows {
        let name = TierName::new(row.get(0)).map_err(|error| DbError::Corrupt(error.to_string()))?;
        tiers.push((name, row.get(1)));
    }
    Ok(tiers)
}

/// Inserts or updates a tier and makes sure of its quota row; whether anything changed.
async fn upsert_tier(
    tx: &Transaction<'_>,
    concert_id: i32,
    number: i16,
    tier: &TierDefinition,
) -> Result<bool, PutError> {
    let changed = tx
        .execute(
            "INSERT INTO tier AS t (concert_id, tier, name, title, price_amount, price_currency)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (concert_id, tier) DO UPDATE SET title = excluded.title,
                 price_amount = excluded.price_amount, price_currency = excluded.price_currency
             WHERE (t.title, t.price_amount, t.price_currency)
                 IS DISTINCT FROM (excluded.title, excluded.price_amount, excluded.price_currency)",
            &[
                &concert_id,
                &number,
                &tier.tier.as_str(),
                &tier.title(),
                &tier.price.amount,
                &tier.price.currency.as_str(),
            ],
        )
        .await?;
    tx.execute(
        "INSERT INTO quota (concert_id, tier, registered_as, epoch) SELECT $1, $2, identity, coalesce(epoch, 0)
         FROM region ON CONFLICT DO NOTHING",
        &[&concert_id, &number],
    )
    .await?;
    Ok(changed > 0)
}

/// Grants or takes back, with its ledger row. The book is locked.
async fn move_total(
    tx: &Transaction<'_>,
    concert_id: i32,
    book: i64,
    number: i16,
    change: i64,
    tier: &TierDefinition,
) -> Result<(), PutError> {
    let row = tx
        .query_one(
            "SELECT granted - returned, granted - returned - held_in + released + refunded FROM quota
             WHERE concert_id = $1 AND tier = $2 FOR NO KEY UPDATE",
            &[&concert_id, &number],
        )
        .await?;
    let (total, available): (i64, i64) = (row.get(0), row.get(1));
    if available + change < 0 {
        let in_use = to_u64(total - available);
        return Err(PutError::TotalTooLow { tier: tier.tier.clone(), wanted: tier.total, in_use });
    }
    let (column, kind) = if change > 0 { ("granted", "grant") } else { ("returned", "return") };
    let update = format!("UPDATE quota SET {column} = {column} + $3 WHERE concert_id = $1 AND tier = $2");
    tx.execute(&update, &[&concert_id, &number, &change.abs()]).await?;
    let tickets = i32::try_from(change.abs()).map_err(|_| DbError::Corrupt("a total beyond 2^31".into()))?;
    tx.execute(
        "INSERT INTO ledger (concert_id, book, kind, tier, tickets)
         VALUES ($1, $2, $3::text::ledger_kind, $4, $5)",
        &[&concert_id, &book, &kind, &number, &tickets],
    )
    .await?;
    Ok(())
}

/// Ends the sale now: `sale_closes_at` becomes the database's now, and the allocator answers everybody who waits.
/// Idempotent.
pub async fn close(db: &Db, concert: &ConcertName, who: &str) -> Result<ConcertRow, DbError> {
    end(db, concert, who, "close", "sale_closes_at IS NULL OR sale_closes_at > now()", "sale_closes_at = now()").await
}

/// Calls the concert off: closed, and shown as cancelled. Money goes back by refunds, one by one. Idempotent.
pub async fn cancel(db: &Db, concert: &ConcertName, who: &str) -> Result<ConcertRow, DbError> {
    let set = "cancelled_at = now(), sale_closes_at = least(sale_closes_at, now())";
    end(db, concert, who, "cancel concert", "cancelled_at IS NULL", set).await
}

async fn end(
    db: &Db,
    concert: &ConcertName,
    who: &str,
    act: &str,
    only_if: &str,
    set: &str,
) -> Result<ConcertRow, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let update = format!("UPDATE concert SET {set}, version = version + 1 WHERE concert = $1 AND ({only_if})");
    if tx.execute(&update, &[&concert.as_str()]).await? > 0 {
        book::note_act(&tx, who, &serde_json::json!({ "act": act, "concert": concert })).await?;
    }
    tx.commit().await?;
    drop(client);
    load(db, concert).await?.ok_or(DbError::NoConcert)
}
