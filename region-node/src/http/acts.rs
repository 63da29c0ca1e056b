//! What requests do to reservations and books, in the words of the modules that do it: each of these changes something,
//! and drops what this node remembered of it.
//!
//! Must never decide anything itself; whether something may be done is decided in the transaction that does it.

use region_api::wire::{ConcertDefinition, LedgerCursor, LedgerPage};
use region_api::{Code, ConcertName, ReservationId};

use super::problem::Refusal;
use crate::app::App;
use crate::books::BooksError;
use crate::db::allocate::Place;
use crate::db::concerts::{self, ConcertRow};
use crate::db::finals::{self, Ended, Ending};
use crate::db::ledger::{self, PageError};
use crate::db::{DbError, reclaim};
use crate::generations;
use crate::view::View;

impl From<BooksError> for Refusal {
    fn from(error: BooksError) -> Self {
        match error {
            BooksError::Db(error) => error.into(),
            BooksError::Queue(error) => error.into(),
            error @ BooksError::Unwitnessed { .. } => Self::unavailable("the region waits for its arbiters", error),
            BooksError::Witness(error) => Self::unavailable("the node's state folder cannot be used", error),
        }
    }
}

fn place(id: &ReservationId) -> Place {
    Place {
        entry: id.entry,
        arrival_ms: id.arrival_ms,
        user: id.user,
        request_id: None,
        identity: id.identity,
        quantity: u16::from(id.quantity),
        tiers: id.tiers.clone(),
        any_quantity: id.any_quantity,
    }
}

/// Ends a reservation by its owner's wish, whatever it is by now; its standing tells what came of it.
pub(super) async fn cancel(app: &App, view: &View, id: &ReservationId) -> Result<(), Refusal> {
    end(app, view, id, Ending::Cancel).await
}

/// Ends a queued reservation for too many polls.
pub(super) async fn void(app: &App, view: &View, id: &ReservationId) -> Result<(), Refusal> {
    end(app, view, id, Ending::Void).await
}

async fn end(app: &App, view: &View, id: &ReservationId, ending: Ending) -> Result<(), Refusal> {
    let ended = finals::end(&app.db, view.concert_id(), &place(id), ending, &*app.books).await;
    app.rows.forget(view.concert_id(), id.entry);
    match ended {
        Ok(Ended::WhileQueued) => {
            app.catalog.note_left(view.concert_id(), id.entry);
            Ok(())
        }
        Ok(Ended::WhileHeld { book, .. }) => {
            app.books.note_book(view.concert_id(), book);
            app.books.stock_back.notify_waiters();
            Ok(())
        }
        Ok(Ended::Already(_) | Ended::NotYours) => Ok(()),
        Err(error) => Err(wrote(error)),
    }
}

/// An error after which nobody here knows whether it was stored.
fn wrote(error: DbError) -> Refusal {
    let unknown = matches!(error, DbError::Postgres(_)) && error.is_transient();
    let refusal = Refusal::from(error);
    if unknown { refusal.unknown() } else { refusal }
}

/// Puts a place of a lost queue back, once; nothing happens when it was not lost.
pub(super) async fn reclaim(app: &App, view: &View, id: &ReservationId) -> Result<(), Refusal> {
    let done = reclaim::reclaim(&app.db, view.concert_id(), &place(id), &*app.books).await;
    app.rows.forget(view.concert_id(), id.entry);
    done.map(|_| ()).map_err(wrote)
}

/// Begins the generations that a concert's queue lacks.
pub(super) async fn ensure_generations(app: &App, view: &View) -> Result<(), Refusal> {
    generations::ensure(&app.books, &view.parts().concert).await?;
    Ok(())
}

/// Creates or changes a concert, and has its queue ready.
pub(super) async fn put(
    app: &App,
    concert: &ConcertName,
    wanted: &ConcertDefinition,
    who: &str,
) -> Result<(), Refusal> {
    let shards = app.config.intake.shards;
    let row = concerts::put(&app.db, concert, wanted, shards, who, &*app.books).await?;
    app.books.note_book(row.concert_id, row.book);
    // The queue's server may be away: the allocator sees to it later.
    if let Err(error) = generations::ensure(&app.books, &row).await {
        tracing::warn!(%error, concert.id = %concert, "the concert's queue is not ready yet");
    }
    Ok(())
}

/// An operator accepts the books as they are; the new book number.
pub(super) async fn accept_books(app: &App, concert: &ConcertName, who: &str) -> Result<u64, Refusal> {
    Ok(app.books.accept(&row(app, concert).await?, who).await?)
}

async fn row(app: &App, concert: &ConcertName) -> Result<ConcertRow, Refusal> {
    concerts::load(&app.db, concert).await?.ok_or_else(|| Refusal::not_found("concert"))
}

/// A page of the books.
pub(super) async fn ledger(app: &App, concert: &ConcertName, after: &LedgerCursor) -> Result<LedgerPage, Refusal> {
    const ROWS: u32 = region_api::limits::LEDGER_PAGE_ROWS_MAX as u32;
    match ledger::page(&app.db, concert, after, ROWS).await {
        Ok(page) => Ok(page),
        Err(PageError::Db(error)) => Err(error.into()),
        Err(PageError::Cursor(error)) => Err(Refusal::new(Code::InvalidRequest, error.to_string())),
    }
}
