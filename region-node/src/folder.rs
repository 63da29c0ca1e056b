//! The folder: counts appended sales into the quota rows, in batches, so that payments never wait for the book.

use crate::books::{Books, BooksError, backoff};
use crate::db::{DbError, concerts, fold};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Sales may stay unfolded this long: everything that reads stock counts them in.
const EVERY: Duration = Duration::from_millis(500);
/// Sales folded in one transaction.
const BATCH_MAX: i64 = 5_000;

/// Runs until shutdown.
pub async fn run(books: Arc<Books>, shutdown: CancellationToken) {
    let mut failures = 0;
    loop {
        let pause = match round(&books).await {
            Ok(folded) => {
                failures = 0;
                if folded >= BATCH_MAX as u64 { Duration::ZERO } else { EVERY }
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "the folder tries again");
                backoff(failures)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// One batch of every concert that has sales to fold; how many were folded.
pub async fn round(books: &Books) -> Result<u64, BooksError> {
    let waiting = fold::concerts_with_unfolded(&books.db).await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let mut total = 0;
    for concert in concerts::load_all(&books.db).await?.iter().filter(|c| waiting.contains(&c.concert_id)) {
        if concert.halted.is_some() {
            continue;
        }
        match fold_one(books, concert).await {
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => tracing::error!(concert = %concert.concert, %error, "sales stay unfolded for now"),
            Ok(folded) => total += folded,
        }
    }
    Ok(total)
}

async fn fold_one(books: &Books, concert: &concerts::ConcertRow) -> Result<u64, BooksError> {
    books.check(concert).await?;
    let (book, folded) = match fold::fold(&books.db, concert.concert_id, BATCH_MAX, books).await {
        Err(error @ (DbError::BehindWitness { .. } | DbError::NotRegistered { .. })) => {
            books.halt_if_unsound(&concert.concert, &error).await?;
            return Err(error.into());
        }
        other => other?,
    };
    if folded > 0 {
        books.note_book(concert.concert_id, book);
    }
    Ok(folded)
}
