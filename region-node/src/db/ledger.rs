//! The books as auditors read them: one page of rows with the newest state, in one consistent snapshot.
//!
//! PostgreSQL writes the rows as JSON in the very shape of the contract (its field names are the columns), so that nothing
//! is added or left out in between. Must never: show a payment's client secret, or take a lock.

use super::concerts::{self, ConcertRow};
use super::{Db, DbError, to_i64};
use region_api::wire::books::{
    BookKind, BookRows, BookState, CursorError, GenerationRow, KindCount, LedgerCursor, LedgerPage, QuotaRow,
};
use region_api::{ConcertName, Timestamp};
use serde::de::DeserializeOwned;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Transaction};

/// Why a page cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// `after` is not what a page's `next` was.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// See [`DbError`]; [`DbError::NoConcert`] when there is none of that name.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<tokio_postgres::Error> for PageError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error.into())
    }
}

type Parameter = Box<dyn ToSql + Sync + Send>;

/// At most `most` rows after `after`, with the newest state of the concert's books.
pub async fn page(db: &Db, concert: &ConcertName, after: &LedgerCursor, most: u32) -> Result<LedgerPage, PageError> {
    let (columns, key, keys) = select(after)?;
    let row = concerts::load(db, concert).await?.ok_or(DbError::NoConcert)?;
    let mut client = db.client().await?;
    let tx = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    let state = state(&tx, row).await?;
    let table = after.kind.as_str();
    let condition = if keys.is_empty() {
        String::new()
    } else {
        let numbers: Vec<String> = (0..keys.len()).map(|n| format!("${}", n + 3)).collect();
        format!("AND ({key}) > ({})", numbers.join(", "))
    };
    let query = format!(
        "SELECT coalesce(json_agg(row_to_json(t)), '[]')::text
         FROM (SELECT {columns} FROM {table} WHERE concert_id = $1 {condition} ORDER BY {key} LIMIT $2) t"
    );
    let most_rows = i64::from(most);
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&state.concert_id, &most_rows];
    values.extend(keys.iter().map(|key| &**key as &(dyn ToSql + Sync)));
    let text: String = tx.query_one(&query, &values).await?.get(0);
    tx.commit().await?;
    let rows = rows(after.kind, &text)?;
    let next = rows.next(most as usize);
    Ok(LedgerPage { state, rows, next })
}

/// An instant as the contract writes it.
macro_rules! at {
    ($column:literal) => {
        concat!("to_char(", $column, " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS ", $column)
    };
}

/// Columns of a page's kind, its key, and the key's values to begin after.
fn select(after: &LedgerCursor) -> Result<(String, &'static str, Vec<Parameter>), PageError> {
    let numbers = |found: Vec<i64>| found.into_iter().map(|n| Box::new(n) as Parameter).collect::<Vec<_>>();
    let one = || Ok::<_, CursorError>(numbers(after.number()?.into_iter().collect()));
    let text = || match after.after.as_str() {
        "" => vec![],
        key => vec![Box::new(key.to_owned()) as Parameter],
    };
    let uuid = || match after.after.as_str() {
        "" => Ok::<Vec<Parameter>, CursorError>(vec![]),
        key => Ok(vec![Box::new(key.parse::<uuid::Uuid>().map_err(|_| CursorError)?) as Parameter]),
    };
    Ok(match after.kind {
        BookKind::Ledger => {
            (["ledger_id, book, kind, tier, entry, tickets", at!("at")].join(", "), "ledger_id", one()?)
        }
        BookKind::Fold => ("ledger_id, book".into(), "ledger_id", one()?),
        BookKind::Unfolded => ("ledger_id, tier, tickets".into(), "ledger_id", one()?),
        BookKind::Reservation => {
            let plain =
                "entry, user_hash, request_id, identity_hash, arrival_ms, state, reason, tier, quantity, amount,
                         extended, revived, intent, alias_of, book";
            let columns = [plain, at!("held_at"), at!("hold_expires_at"), at!("changed_at")].join(", ");
            (columns, "entry", one()?)
        }
        BookKind::Waiting => {
            let columns = "entry, tier, need, arrival_ms, user_hash, request_id, identity_hash, quantity, any_quantity,
                           tiers";
            let keys = after.numbers::<2>()?.map(Vec::from).unwrap_or_default();
            (columns.into(), "entry, tier::bigint", numbers(keys))
        }
        BookKind::RejectedRange => {
            let columns = ["shard, generation, from_seq, to_seq, reason, unsold, book", at!("at")].join(", ");
            let keys = after.numbers::<4>()?.map(Vec::from).unwrap_or_default();
            (columns, "shard::bigint, generation::bigint, book, from_seq", numbers(keys))
        }
        BookKind::Payment => {
            let plain = "intent, provider, entry, amount, currency, status";
            ([plain, at!("created_at"), at!("changed_at")].join(", "), "intent", text())
        }
        BookKind::Refund => {
            let plain = "refund_id, intent, entry, amount, reason, provider_refund";
            ([plain, at!("created_at"), at!("done_at")].join(", "), "refund_id", uuid()?)
        }
        BookKind::Ticket => {
            let plain = "ticket_id, entry, number, tier, holder_hash, status";
            ([plain, at!("issued_at"), at!("used_at")].join(", "), "ticket_id", uuid()?)
        }
    })
}

fn rows(kind: BookKind, text: &str) -> Result<BookRows, DbError> {
    Ok(match kind {
        BookKind::Ledger => BookRows::Ledger(parse(text)?),
        BookKind::Fold => BookRows::Fold(parse(text)?),
        BookKind::Unfolded => BookRows::Unfolded(parse(text)?),
        BookKind::Reservation => BookRows::Reservation(parse(text)?),
        BookKind::Waiting => BookRows::Waiting(parse(text)?),
        BookKind::RejectedRange => BookRows::RejectedRange(parse(text)?),
        BookKind::Payment => BookRows::Payment(parse(text)?),
        BookKind::Refund => BookRows::Refund(parse(text)?),
        BookKind::Ticket => BookRows::Ticket(parse(text)?),
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::Corrupt(format!("the books as JSON: {error}")))
}

async fn state(tx: &Transaction<'_>, concert: ConcertRow) -> Result<BookState, DbError> {
    let id = concert.concert_id;
    let generations = format!(
        "SELECT coalesce(json_agg(row_to_json(g)), '[]')::text FROM (
            SELECT shard, generation, cursor_seq, tail_seq, {}, survived_seq FROM queue_generation
            WHERE concert_id = $1 ORDER BY shard, generation) g",
        at!("lost_at")
    );
    let quota = "SELECT coalesce(json_agg(row_to_json(q)), '[]')::text FROM (
            SELECT tier, granted, returned, held_in, released, sold, refunded, epoch, registered_as, seeded
            FROM quota WHERE concert_id = $1 ORDER BY tier) q";
    let counts: Vec<String> = BookKind::ALL
        .iter()
        .map(|kind| format!("(SELECT count(*) FROM {} WHERE concert_id = $1)", kind.as_str()))
        .collect();
    let counts = format!("SELECT ARRAY[{}]", counts.join(", "));
    let head = concat!(
        "SELECT b.book, ",
        super::book::halted!(),
        ", (extract(epoch FROM clock_timestamp()) * 1000)::bigint, r.region, r.identity
         FROM book b, region r WHERE concert_id = $1"
    );
    let head = tx.query_one(head, &[&id]).await?;
    let quota: Vec<QuotaRow> = parse(tx.query_one(quota, &[&id]).await?.get(0))?;
    let generations: Vec<GenerationRow> = parse(tx.query_one(&generations, &[&id]).await?.get(0))?;
    let counts: Vec<i64> = tx.query_one(&counts, &[&id]).await?.get(0);
    let region = head.get::<_, String>(3);
    Ok(BookState {
        concert: concert.concert,
        concert_id: id,
        region: region.parse().map_err(|_| DbError::Corrupt(format!("region {region:?}")))?,
        identity: head.get(4),
        definition: concert.definition,
        version: to_i64(concert.version),
        closed_at: concert.closed_at_ms.map(Timestamp::from_ms),
        cancelled_at: concert.cancelled_at_ms.map(Timestamp::from_ms),
        book: head.get(0),
        halted: head.get(1),
        quota,
        generations,
        counts: BookKind::ALL
            .into_iter()
            .zip(counts)
            .map(|(kind, n)| KindCount { kind, rows: super::to_u64(n) })
            .collect(),
        as_of: Timestamp::from_ms(super::to_u64(head.get(2))),
    })
}
