//! The recycler: returns holds that nobody began to pay for in time.
//!
//! Several may run at once: rows are taken with SKIP LOCKED, and every statement looks at the state again.

use crate::books::{Books, BooksError, backoff};
use crate::db::{DbError, concerts, release};
use metrics::counter;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often due holds are looked for.
const EVERY: Duration = Duration::from_millis(250);
/// Holds released in one transaction.
const BATCH_MAX: i64 = 1_000;

/// Runs until shutdown.
pub async fn run(books: Arc<Books>, shutdown: CancellationToken) {
    let mut failures = 0;
    loop {
        let pause = match round(&books).await {
            Ok(expired) => {
                failures = 0;
                if expired >= BATCH_MAX as u64 { Duration::ZERO } else { EVERY }
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "the recycler tries again");
                backoff(failures)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// One batch of every concert that has due holds; how many were expired.
pub async fn round(books: &Books) -> Result<u64, BooksError> {
    let due = release::concerts_with_due(&books.db).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut total = 0;
    for concert in concerts::load_all(&books.db).await?.iter().filter(|c| due.contains(&c.concert_id)) {
        if concert.halted.is_some() {
            continue;
        }
        match expire_one(books, concert).await {
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => tracing::error!(concert = %concert.concert, %error, "holds stay for now"),
            Ok(expired) => total += expired,
        }
    }
    Ok(total)
}

async fn expire_one(books: &Books, concert: &concerts::ConcertRow) -> Result<u64, BooksError> {
    books.check(concert).await?;
    let (book, expired) = match release::expire(&books.db, concert.concert_id, BATCH_MAX, books).await {
        Err(error @ (DbError::BehindWitness { .. } | DbError::NotRegistered { .. })) => {
            books.halt_if_unsound(&concert.concert, &error).await?;
            return Err(error.into());
        }
        other => other?,
    };
    if expired > 0 {
        books.note_book(concert.concert_id, book);
        books.stock_back.notify_one();
        counter!("boxoffice_holds_expired_total").increment(expired);
    }
    Ok(expired)
}
