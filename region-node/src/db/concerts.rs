//! Concert definitions: reading, creating, changing, closing, cancelling.
//!
//! In a standalone region the whole quota is here: `granted - returned` of a tier follows the definition's total, and
//! every change of it is a ledger row. Must never: take back tickets that are held or sold, reuse a tier's number, or
//! change the number of shards.

use super::book::{self, Floor};
use super::{Db, DbError, to_i64, to_u64};
use region_api::{ConcertName, TierName};
use tokio_postgres::{Row, Transaction};

/// What an operator defines.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name.
    pub concert: ConcertName,
    /// Title.
    pub title: String,
    /// Where.
    pub venue: String,
    /// When the doors open, milliseconds since 1970.
    pub starts_at_ms: Option<u64>,
    /// When the sale begins.
    pub sale_opens_at_ms: u64,
    /// When it ends; `None`: by hand.
    pub sale_closes_at_ms: Option<u64>,
    /// How long a hold lasts.
    pub hold_ms: u64,
    /// Tickets in one order.
    pub max_per_order: u16,
    /// Tickets of one user over all orders.
    pub max_per_person: u16,
    /// Tickets of one identity; `None`: no identity is asked for.
    pub max_per_identity: Option<u16>,
    /// Whether guests may buy.
    pub guests: bool,
    /// Whether a session needs a solved challenge.
    pub challenge: bool,
    /// People are kept waiting up to this multiple of the unsold tickets; `None`: everybody is.
    pub waitlist_factor: Option<f64>,
    /// Queue shards. Fixed at creation; ignored on a change.
    pub shards: u16,
    /// Tiers; those that exist keep their number whatever the order here.
    pub tiers: Vec<TierDefinition>,
}

/// One tier of a [`Definition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierDefinition {
    /// Its name.
    pub tier: TierName,
    /// Title.
    pub title: String,
    /// Price in minor units.
    pub price_amount: u64,
    /// ISO 4217 code.
    pub price_currency: String,
    /// Tickets of this tier that this region may sell.
    pub total: u64,
}

/// A concert as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConcertRow {
    /// The region's number for it.
    pub concert_id: i32,
    /// The definition; `tiers[n]` is tier number n.
    pub definition: Definition,
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
    /// A tier that exists is missing in the definition.
    #[error("tier {0} exists and is missing; set its total to what is sold instead")]
    TierMissing(TierName),
    /// More tiers than there are numbers, or none.
    #[error("a concert has 1 to 64 tiers")]
    TierCount,
    /// Two tiers of one name.
    #[error("tier {0} is named twice")]
    TierTwice(TierName),
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

const SELECT: &str = "
SELECT c.concert_id, c.concert, c.title, c.venue,
       (extract(epoch FROM c.starts_at) * 1000)::bigint AS starts_at,
       (extract(epoch FROM c.sale_opens_at) * 1000)::bigint AS sale_opens_at,
       (extract(epoch FROM c.sale_closes_at) * 1000)::bigint AS sale_closes_at,
       (extract(epoch FROM c.closed_at) * 1000)::bigint AS closed_at,
       (extract(epoch FROM c.cancelled_at) * 1000)::bigint AS cancelled_at,
       c.hold_ms, c.max_per_order, c.max_per_person, c.max_per_identity, c.guests, c.challenge,
       c.waitlist_factor, c.shards, c.version, b.book, b.halted,
       t.names, t.titles, t.amounts, t.currencies, t.totals
FROM concert c JOIN book b USING (concert_id)
JOIN LATERAL (
    SELECT array_agg(t.name ORDER BY t.tier) AS names, array_agg(t.title ORDER BY t.tier) AS titles,
           array_agg(t.price_amount ORDER BY t.tier) AS amounts,
           array_agg(t.price_currency ORDER BY t.tier) AS currencies,
           array_agg(q.granted - q.returned ORDER BY t.tier) AS totals
    FROM tier t JOIN quota q USING (concert_id, tier) WHERE t.concert_id = c.concert_id
) t ON true";

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
    let mut tiers = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        tiers.push(TierDefinition {
            tier: TierName::new(name).map_err(|error| bad(&error.to_string()))?,
            title: titles[index].clone(),
            price_amount: to_u64(amounts[index]),
            price_currency: currencies[index].clone(),
            total: to_u64(totals[index]),
        });
    }
    let definition = Definition {
        concert: ConcertName::new(row.get("concert")).map_err(|error| bad(&error.to_string()))?,
        title: row.get("title"),
        venue: row.get("venue"),
        starts_at_ms: ms("starts_at"),
        sale_opens_at_ms: ms("sale_opens_at").unwrap_or(0),
        sale_closes_at_ms: ms("sale_closes_at"),
        hold_ms: to_u64(row.get("hold_ms")),
        max_per_order: small(row.get("max_per_order"))?,
        max_per_person: small(row.get("max_per_person"))?,
        max_per_identity: row.get::<_, Option<i16>>("max_per_identity").map(small).transpose()?,
        guests: row.get("guests"),
        challenge: row.get("challenge"),
        waitlist_factor: row.get("waitlist_factor"),
        shards: small(row.get("shards"))?,
        tiers,
    };
    Ok(ConcertRow {
        concert_id: row.get("concert_id"),
        definition,
        version: to_u64(row.get("version")),
        closed_at_ms: ms("closed_at"),
        cancelled_at_ms: ms("cancelled_at"),
        book: to_u64(row.get("book")),
        halted: row.get("halted"),
    })
}

/// Creates a concert or changes it; idempotent. `floor` is the highest book number witnessed.
pub async fn put(db: &Db, definition: &Definition, who: &str, floor: &impl Floor) -> Result<ConcertRow, PutError> {
    check(definition)?;
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let (concert_id, changed) = upsert(&tx, definition).await?;
    let mut touched = changed;
    let known = tiers_of(&tx, concert_id).await?;
    if let Some((_, name, _)) = known.iter().find(|(_, name, _)| !definition.tiers.iter().any(|t| t.tier == *name)) {
        return Err(PutError::TierMissing(name.clone()));
    }
    let mut moves = Vec::new();
    let mut next = known.len();
    for tier in &definition.tiers {
        let (number, total) = match known.iter().find(|(_, name, _)| *name == tier.tier) {
            Some((number, _, total)) => (*number, *total),
            None => {
                next += 1;
                (i16::try_from(next - 1).map_err(|_| PutError::TierCount)?, 0)
            }
        };
        touched |= upsert_tier(&tx, concert_id, number, tier).await?;
        let change = to_i64(tier.total) - total;
        if change != 0 {
            moves.push((number, change, tier));
        }
    }
    if !moves.is_empty() {
        touched = true;
        let locked = book::lock(&tx, concert_id, floor.of(concert_id)).await?;
        for (number, change, tier) in moves {
            move_total(&tx, concert_id, locked.book, number, change, tier).await?;
        }
    }
    if touched {
        tx.execute("UPDATE concert SET version = version + 1 WHERE concert_id = $1", &[&concert_id]).await?;
        let what = serde_json::json!({ "act": "put concert", "concert": definition.concert });
        book::note_act(&tx, who, &what).await?;
    }
    tx.commit().await?;
    drop(client);
    Ok(load(db, &definition.concert).await?.ok_or(DbError::NoConcert)?)
}

fn check(definition: &Definition) -> Result<(), PutError> {
    if !(1..=64).contains(&definition.tiers.len()) {
        return Err(PutError::TierCount);
    }
    for (index, tier) in definition.tiers.iter().enumerate() {
        if definition.tiers[..index].iter().any(|other| other.tier == tier.tier) {
            return Err(PutError::TierTwice(tier.tier.clone()));
        }
    }
    Ok(())
}

/// Inserts or updates the concert's row and locks it; whether it changed.
async fn upsert(tx: &Transaction<'_>, d: &Definition) -> Result<(i32, bool), PutError> {
    let small = |number: u16| i16::try_from(number).unwrap_or(i16::MAX);
    let (starts, opens) = (d.starts_at_ms.map(to_i64), to_i64(d.sale_opens_at_ms));
    let (closes, hold) = (d.sale_closes_at_ms.map(to_i64), to_i64(d.hold_ms));
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
                &d.concert.as_str(), &d.title, &d.venue, &starts, &opens, &closes, &hold, &small(d.max_per_order),
                &small(d.max_per_person), &d.max_per_identity.map(small), &d.guests, &d.challenge,
                &d.waitlist_factor, &small(d.shards),
            ],
        )
        .await?;
    let Some(row) = row else {
        // As it was: only its number is needed, and its row locked against another change.
        let find = "SELECT concert_id FROM concert WHERE concert = $1 FOR NO KEY UPDATE";
        return Ok((tx.query_one(find, &[&d.concert.as_str()]).await?.get(0), false));
    };
    if row.get(1) {
        return Err(PutError::Over);
    }
    let concert_id: i32 = row.get(0);
    tx.execute("INSERT INTO book (concert_id) VALUES ($1) ON CONFLICT DO NOTHING", &[&concert_id]).await?;
    Ok((concert_id, true))
}

/// Number, name and total of each tier, by number.
async fn tiers_of(tx: &Transaction<'_>, concert_id: i32) -> Result<Vec<(i16, TierName, i64)>, PutError> {
    let rows = tx
        .query(
            "SELECT tier, name, granted - returned FROM tier JOIN quota USING (concert_id, tier)
             WHERE concert_id = $1 ORDER BY tier",
            &[&concert_id],
        )
        .await?;
    let mut tiers = Vec::with_capacity(rows.len());
    for row in rows {
        let name = TierName::new(row.get(1)).map_err(|error| DbError::Corrupt(error.to_string()))?;
        tiers.push((row.get(0), name, row.get(2)));
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
            &[&concert_id, &number, &tier.tier.as_str(), &tier.title, &to_i64(tier.price_amount), &tier.price_currency],
        )
        .await?;
    tx.execute(
        "INSERT INTO quota (concert_id, tier, registered_as) SELECT $1, $2, identity FROM region
         ON CONFLICT DO NOTHING",
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
