//! What a payment's news does: one transaction per piece of news, which also marks its webhook as dealt with.
//!
//! A sale locks its reservation's row and nothing that others share. Only what moves counters (holding again after a
//! late payment, undoing a sale) takes the book. The payment's own status tells a repeat from news: it leaves `open` or
//! `cancelled` once, in the transaction that acts on it. Never calls the provider: money that must go back becomes a
//! row of `refund`.

use super::super::book::{self, Floor};
use super::super::{Db, DbError, to_u64};
use crate::payments::notice::Attached;
use deadpool_postgres::Transaction;
use sale::lifecycle::State;
use sale::payment::{Action, Facts, News, RefundReason, decide};
use uuid::Uuid;

/// News of a payment.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// `pi_…`
    pub intent: &'a str,
    /// Minor units received or undone.
    pub amount: i64,
    /// ISO 4217, upper case.
    pub currency: &'a str,
    /// Paid, or undone.
    pub undone: bool,
    /// Whose it says it is: for intents that are not in the database.
    pub attached: Option<&'a Attached>,
    /// The webhook that said so, marked as dealt with in the same transaction.
    pub event: Option<&'a str>,
}

/// The end of one shard's queue, as Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The shard.
    pub shard: u16,
    /// Its generation.
    pub generation: u16,
    /// The last sequence number given out.
    pub tail_seq: u64,
}

/// Whether free tickets may be had for a hold that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare<'a> {
    /// Not looked at: the book is not taken.
    Unasked,
    /// None: to take them would be a new hold, and the region makes none now.
    NoneNow,
    /// Those that nobody waits for, with the queue's ends here.
    After(&'a [Tail]),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// This was done.
    Done {
        /// What the table says.
        deed: Action,
        /// Which concert.
        concert_id: i32,
        /// Which reservation.
        entry: i64,
        /// The book number, if counters moved.
        book: Option<i64>,
    },
    /// Nothing was done: the book is needed, and for a late payment to know what may be had.
    NeedsBook {
        /// Of this concert.
        concert_id: i32,
        /// Whether it may be late and still be had.
        revives: bool,
    },
    /// A payment that belongs to no reservation here.
    NotOurs,
}

struct Row {
    state: State,
    intent: Option<String>,
    quantity: i16,
    amount: Option<i64>,
    currency: Option<String>,
    revived: bool,
    /// The concert takes place.
    selling: bool,
}

struct Place {
    concert_id: i32,
    entry: i64,
}

/// Acts on a payment's news. Called with `Spare::Unasked` first; when it answers `NeedsBook`, again with what is so.
pub async fn settle(
    db: &Db,
    told: Told<'_>,
    spare: Spare<'_>,
    floor: &(impl Floor + ?Sized),
    provider: &str,
) -> Result<Settled, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let Some(place) = find(&tx, &told).await? else {
        mark(&tx, told.event).await?;
        tx.commit().await?;
        return Ok(Settled::NotOurs);
    };
    let Place { concert_id, entry } = place;
    let book = match spare {
        Spare::Unasked => {
            book::may_sell(&tx, concert_id, floor.of(concert_id)).await?;
            None
        }
        Spare::NoneNow | Spare::After(_) => Some(book::lock(&tx, concert_id, floor.of(concert_id)).await?.book),
    };
    let row = lock_reservation(&tx, &place).await?;
    let status = lock_payment(&tx, &place, &told, provider).await?;
    let facts = facts(&tx, &place, &row, &told, &status, spare).await?;
    let news = if told.undone { News::TakenBack } else { News::Succeeded };
    // A success counts once; a taking back counts unless it was counted before.
    let counted = status == "refunded" || status == "succeeded" && !told.undone;
    let deed = if counted { Action::Nothing } else { decide(news, &facts) };
    let maybe_revived = decide(news, &Facts { free_for_it: true, limits_allow: true, ..facts }) == Action::Revive;
    if spare == Spare::Unasked && !counted && (maybe_revived || deed == Action::TakeBack) {
        return Ok(Settled::NeedsBook { concert_id, revives: maybe_revived });
    }
    carry_out(&tx, &place, &row, &told, deed, book).await?;
    if !counted {
        let status = if told.undone { "refunded" } else { "succeeded" };
        let update = "UPDATE payment SET status = $2, changed_at = now() WHERE intent = $1";
        tx.execute(&tx.prepare_cached(update).await?, &[&told.intent, &status]).await?;
    }
    mark(&tx, told.event).await?;
    fail::fail_point!("payments.settle.before_commit");
    tx.commit().await?;
    Ok(Settled::Done { deed, concert_id, entry, book })
}

/// Sells a hold that costs nothing, at once and without a provider. Whether it is sold now, by this call or before.
/// `id_text`: the reservation's id as its buyer has it.
pub async fn sell_free(
    db: &Db,
    concert_id: i32,
    entry: i64,
    id_text: &str,
    floor: &(impl Floor + ?Sized),
) -> Result<bool, DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    let place = Place { concert_id, entry };
    let row = lock_reservation(&tx, &place).await?;
    if row.amount != Some(0) || !matches!(row.state, State::Held | State::Sold) {
        return Ok(false);
    }
    if row.state == State::Held {
        book::may_sell(&tx, concert_id, floor.of(concert_id)).await?;
        sell(&tx, &place, &row, None, None).await?;
        let update = "UPDATE reservation SET id_text = coalesce(id_text, $3) WHERE concert_id = $1 AND entry = $2";
        tx.execute(&tx.prepare_cached(update).await?, &[&concert_id, &entry, &id_text]).await?;
        tx.commit().await?;
    }
    Ok(true)
}

/// What the decision table wants to know. Unless the queue's ends are known nothing counts as free.
async fn facts(
    tx: &Transaction<'_>,
    place: &Place,
    row: &Row,
    told: &Told<'_>,
    status: &str,
    spare: Spare<'_>,
) -> Result<Facts, DbError> {
    let ended = matches!(row.state, State::Expired | State::Cancelled) && row.amount.is_some();
    let (free_for_it, limits_allow) = match spare {
        Spare::After(tails) if ended => revivable(tx, place, tails).await?,
        _ => (false, false),
    };
    Ok(Facts {
        state: row.state,
        sold_by_this: row.state == State::Sold && row.intent.as_deref() == Some(told.intent),
        money_back: status == "refunded",
        amount_right: row.amount == Some(told.amount) && row.currency.as_deref() == Some(told.currency),
        revived: row.revived || !ended,
        free_for_it,
        limits_allow,
        selling: row.selling,
    })
}

/// A webhook needs nothing more.
pub async fn mark_processed(db: &Db, event: &str) -> Result<(), DbError> {
    let mut client = db.client().await?;
    let tx = client.transaction().await?;
    mark(&tx, Some(event)).await?;
    Ok(tx.commit().await?)
}

async fn mark(tx: &Transaction<'_>, event: Option<&str>) -> Result<(), DbError> {
    let Some(event) = event else { return Ok(()) };
    let update = "UPDATE webhook_event SET processed_at = now() WHERE event_id = $1 AND processed_at IS NULL";
    tx.execute(&tx.prepare_cached(update).await?, &[&event]).await?;
    Ok(())
}

/// Which reservation a payment is for: what we wrote down when we opened it, else what it says itself.
async fn find(tx: &Transaction<'_>, told: &Told<'_>) -> Result<Option<Place>, DbError> {
    let known = tx.prepare_cached("SELECT concert_id, entry FROM payment WHERE intent = $1").await?;
    if let Some(row) = tx.query_opt(&known, &[&told.intent]).await? {
        return Ok(Some(Place { concert_id: row.get(0), entry: row.get(1) }));
    }
    let Some(attached) = told.attached else { return Ok(None) };
    let claimed = tx
        .prepare_cached(
            "SELECT r.concert_id, coalesce(r.alias_of, r.entry) FROM reservation r JOIN concert c USING (concert_id)
             WHERE c.concert = $1 AND r.entry = $2",
        )
        .await?;
    let row = tx.query_opt(&claimed, &[&attached.concert, &attached.entry]).await?;
    Ok(row.map(|row| Place { concert_id: row.get(0), entry: row.get(1) }))
}

async fn lock_reservation(tx: &Transaction<'_>, place: &Place) -> Result<Row, DbError> {
    let statement = tx
        .prepare_cached(
            "SELECT r.state::text, r.intent, r.quantity, r.amount, t.price_currency, r.revived,
                    (SELECT cancelled_at IS NULL FROM concert c WHERE c.concert_id = r.concert_id)
             FROM reservation r LEFT JOIN tier t ON t.concert_id = r.concert_id AND t.tier = r.tier
             WHERE r.concert_id = $1 AND r.entry = $2 FOR NO KEY UPDATE OF r",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&place.concert_id, &place.entry]).await?;
    let row = row.ok_or_else(|| DbError::Corrupt(format!("a payment for no reservation ({})", place.entry)))?;
    let state: String = row.get(0);
    let state = State::parse(&state).ok_or_else(|| DbError::Corrupt(format!("state {state} of a paid reservation")))?;
    Ok(Row {
        state,
        intent: row.get(1),
        quantity: row.get(2),
        amount: row.get(3),
        currency: row.get(4),
        revived: row.get(5),
        selling: row.get(6),
    })
}

/// Locks the payment's row, after writing it down if it is one that we did not know.
async fn lock_payment(tx: &Transaction<'_>, place: &Place, told: &Told<'_>, provider: &str) -> Result<String, DbError> {
    let insert = tx
        .prepare_cached(
            "INSERT INTO payment (intent, provider, concert_id, entry, amount, currency, status, client_secret)
             VALUES ($1, $2, $3, $4, $5, $6, 'open', '') ON CONFLICT DO NOTHING",
        )
        .await?;
    tx.execute(&insert, &[&told.intent, &provider, &place.concert_id, &place.entry, &told.amount, &told.currency])
        .await?;
    let lock = tx.prepare_cached("SELECT status FROM payment WHERE intent = $1 FOR NO KEY UPDATE").await?;
    Ok(tx.query_one(&lock, &[&told.intent]).await?.get(0))
}

/// Whether the tickets of an ended hold may be had again: free and wanted by nobody who still waits; and within the
/// limits. True only under the book's lock.
async fn revivable(tx: &Transaction<'_>, place: &Place, tails: &[Tail]) -> Result<(bool, bool), DbError> {
    let statement = tx
        .prepare_cached(
            "WITH mine AS (SELECT * FROM reservation WHERE concert_id = $1 AND entry = $2),
             stock AS (
                SELECT q.tier, q.granted - q.returned - q.held_in + q.released + q.refunded AS free
                FROM quota q, mine WHERE q.concert_id = $1 AND q.tier = mine.tier),
             others AS (
                SELECT coalesce(sum(r.quantity) FILTER (WHERE r.user_hash = mine.user_hash), 0) AS by_user,
                       coalesce(sum(r.quantity) FILTER (WHERE r.identity_hash = mine.identity_hash), 0) AS by_identity
                FROM reservation r, mine
                WHERE r.concert_id = $1 AND r.entry <> $2 AND r.state IN ('held', 'expiring', 'sold')
                  AND (r.user_hash = mine.user_hash OR r.identity_hash = mine.identity_hash))
             SELECT others.by_user + mine.quantity <= c.max_per_person
                AND (c.max_per_identity IS NULL OR mine.identity_hash IS NULL
                     OR others.by_identity + mine.quantity <= c.max_per_identity),
                stock.free >= mine.quantity
                AND NOT EXISTS (SELECT FROM waiting w
                                WHERE w.concert_id = $1 AND w.tier = stock.tier AND w.need <= stock.free)
                AND NOT EXISTS (
                    SELECT FROM unnest($3::smallint[], $4::smallint[], $5::bigint[]) AS s (shard, generation, tail)
                    LEFT JOIN queue_generation g
                        ON g.concert_id = $1 AND g.shard = s.shard AND g.generation = s.generation
                    WHERE s.tail > coalesce(g.cursor_seq, 0) AND NOT EXISTS (
                        SELECT FROM rejected_range x
                        WHERE x.concert_id = $1 AND x.shard = s.shard AND x.generation = s.generation
                          AND x.unsold IS NULL AND x.from_seq <= coalesce(g.cursor_seq, 0) + 1 AND x.to_seq >= s.tail))
             FROM mine, stock, others, concert c WHERE c.concert_id = $1",
        )
        .await?;
    let narrow = |number: u16| i16::try_from(number).unwrap_or(i16::MAX);
    let shards: Vec<i16> = tails.iter().map(|tail| narrow(tail.shard)).collect();
    let generations: Vec<i16> = tails.iter().map(|tail| narrow(tail.generation)).collect();
    let ends: Vec<i64> = tails.iter().map(|tail| super::super::to_i64(tail.tail_seq)).collect();
    let row = tx.query_opt(&statement, &[&place.concert_id, &place.entry, &shards, &generations, &ends]).await?;
    Ok(row.map_or((false, false), |row| (row.get(1), row.get(0))))
}

async fn carry_out(
    tx: &Transaction<'_>,
    place: &Place,
    row: &Row,
    told: &Told<'_>,
    deed: Action,
    book: Option<i64>,
) -> Result<(), DbError> {
    match (deed, book) {
        (Action::Nothing, _) => Ok(()),
        (Action::Sell, _) => sell(tx, place, row, Some(told.intent), None).await,
        (Action::Revive, Some(book)) => sell(tx, place, row, Some(told.intent), Some(book)).await,
        (Action::TakeBack, Some(book)) => undo(tx, place, book).await,
        (Action::Refund(why), _) => refund(tx, place, told, why).await,
        (Action::Revive | Action::TakeBack, None) => Err(DbError::Corrupt("counters move without the book".into())),
    }
}

const SELL: &str = "
WITH sold AS (
    UPDATE reservation SET state = 'sold', reason = NULL, intent = $3, changed_at = now(),
           revived = revived OR $5::bigint IS NOT NULL, book = coalesce($5, book),
           held_at = CASE WHEN $5 IS NULL THEN held_at ELSE now() END,
           hold_expires_at = CASE WHEN $5 IS NULL THEN hold_expires_at ELSE now() END
    WHERE concert_id = $1 AND entry = $2
    RETURNING tier, quantity, user_hash, identity_hash),
again AS (
    INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
    SELECT $1, $5, 'hold', tier, $2, quantity FROM sold WHERE $5 IS NOT NULL),
counted AS (
    UPDATE quota q SET held_in = q.held_in + sold.quantity FROM sold
    WHERE q.concert_id = $1 AND q.tier = sold.tier AND $5 IS NOT NULL),
booked AS (
    INSERT INTO ledger (concert_id, kind, tier, entry, tickets) SELECT $1, 'sell', tier, $2, quantity FROM sold
    RETURNING ledger_id, tier, tickets),
to_fold AS (
    INSERT INTO unfolded (ledger_id, concert_id, tier, tickets) SELECT ledger_id, $1, tier, tickets FROM booked),
told AS (
    INSERT INTO outbox (concert_id, entry, user_hash, state) SELECT $1, $2, user_hash, 'sold' FROM sold)
INSERT INTO ticket (ticket_id, concert_id, entry, number, tier, holder_hash, status)
SELECT new.id, $1, $2, new.number::smallint, sold.tier, coalesce(sold.identity_hash, sold.user_hash), 'valid'
FROM sold, unnest($4::uuid[]) WITH ORDINALITY AS new (id, number)";

/// Held becomes sold, with its tickets; with a book number an ended hold is held again first, in the same breath.
async fn sell(
    tx: &Transaction<'_>,
    place: &Place,
    row: &Row,
    intent: Option<&str>,
    book: Option<i64>,
) -> Result<(), DbError> {
    let ids: Vec<Uuid> = (0..row.quantity).map(|_| Uuid::now_v7()).collect();
    let statement = tx.prepare_cached(SELL).await?;
    let made = tx.execute(&statement, &[&place.concert_id, &place.entry, &intent, &ids, &book]).await?;
    assert_eq!(made, to_u64(i64::from(row.quantity)), "a sale issues as many tickets as were paid");
    Ok(())
}

const UNDO: &str = "
WITH undone AS (
    UPDATE reservation SET state = 'refunded', changed_at = now() WHERE concert_id = $1 AND entry = $2
    RETURNING tier, quantity, user_hash),
due AS (
    DELETE FROM unfolded WHERE ledger_id IN
        (SELECT ledger_id FROM ledger WHERE concert_id = $1 AND entry = $2 AND kind = 'sell')
    RETURNING ledger_id, tickets),
folded AS (
    INSERT INTO fold (ledger_id, concert_id, book) SELECT ledger_id, $1, $3 FROM due),
booked AS (
    INSERT INTO ledger (concert_id, book, kind, tier, entry, tickets)
    SELECT $1, $3, 'refund', tier, $2, quantity FROM undone),
counted AS (
    UPDATE quota q SET refunded = q.refunded + undone.quantity,
           sold = q.sold + coalesce((SELECT sum(tickets) FROM due), 0)::bigint
    FROM undone WHERE q.concert_id = $1 AND q.tier = undone.tier),
told AS (
    INSERT INTO outbox (concert_id, entry, user_hash, state) SELECT $1, $2, user_hash, 'refunded' FROM undone)
UPDATE ticket SET status = 'void' WHERE concert_id = $1 AND entry = $2";

/// Sold becomes refunded: the sale is folded in if it was not yet, tickets are void, stock comes back.
async fn undo(tx: &Transaction<'_>, place: &Place, book: i64) -> Result<(), DbError> {
    let statement = tx.prepare_cached(UNDO).await?;
    tx.execute(&statement, &[&place.concert_id, &place.entry, &book]).await?;
    Ok(())
}

/// Money that must go back: once per payment, in full. Where there is no sale, the reservation says why.
async fn refund(tx: &Transaction<'_>, place: &Place, told: &Told<'_>, why: RefundReason) -> Result<(), DbError> {
    let insert = tx
        .prepare_cached(
            "INSERT INTO refund (refund_id, intent, concert_id, entry, amount, reason) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (intent) DO NOTHING",
        )
        .await?;
    let id = Uuid::now_v7();
    let why_text = why.as_str();
    tx.execute(&insert, &[&id, &told.intent, &place.concert_id, &place.entry, &told.amount, &why_text]).await?;
    if why == RefundReason::Late {
        let update = "UPDATE reservation SET reason = 'late_payment', changed_at = now()
                      WHERE concert_id = $1 AND entry = $2 AND state IN ('expired', 'cancelled', 'voided')";
        tx.execute(&tx.prepare_cached(update).await?, &[&place.concert_id, &place.entry]).await?;
    }
    Ok(())
}
