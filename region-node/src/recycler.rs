//! The recycler: returns holds that nobody began to pay for in time.
//!
//! Several may run at once: rows are taken with SKIP LOCKED, and every statement looks at the state again.

use crate::books::{Books, BooksError};
use crate::db::{DbError, release};
use crate::sweep::{self, Work};
use metrics::counter;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

struct Recycler;

impl Work for Recycler {
    const NAME: &'static str = "recycler";
    const EVERY: Duration = Duration::from_millis(250);
    const BATCH_MAX: u64 = 1_000;

    async fn due(books: &Books) -> Result<Vec<i32>, DbError> {
        release::concerts_with_due(&books.db).await
    }
    async fn batch(books: &Books, concert_id: i32) -> Result<(u64, u64), DbError> {
        release::expire(&books.db, concert_id, Self::BATCH_MAX as i64, books).await
    }
    fn done(books: &Books, expired: u64) {
        books.stock_back.notify_one();
        counter!("boxoffice_holds_expired_total").increment(expired);
    }
}

/// Runs until shutdown.
pub async fn run(books: Arc<Books>, shutdown: CancellationToken) {
    sweep::run::<Recycler>(&books, &shutdown).await;
}

/// One batch of every concert that has due holds; how many were expired.
pub async fn round(books: &Books) -> Result<u64, BooksError> {
    sweep::round::<Recycler>(books).await
}
