//! The folder: counts appended sales into the quota rows, in batches, so that payments never wait for the book. Sales may
//! stay unfolded for a while: everything that reads stock counts them in.

use crate::books::{Books, BooksError};
use crate::db::{DbError, fold};
use crate::sweep::{self, Work};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

struct Folder;

impl Work for Folder {
    const NAME: &'static str = "folder";
    const EVERY: Duration = Duration::from_millis(500);
    const BATCH_MAX: u64 = 5_000;

    async fn due(books: &Books) -> Result<Vec<i32>, DbError> {
        fold::concerts_with_unfolded(&books.db).await
    }
    async fn batch(books: &Books, concert_id: i32) -> Result<(u64, u64), DbError> {
        fold::fold(&books.db, concert_id, Self::BATCH_MAX as i64, books).await
    }
    fn done(_: &Books, _: u64) {}
}

/// Runs until shutdown.
pub async fn run(books: Arc<Books>, shutdown: CancellationToken) {
    sweep::run::<Folder>(&books, &shutdown).await;
}

/// One batch of every concert that has sales to fold; how many were folded.
pub async fn round(books: &Books) -> Result<u64, BooksError> {
    sweep::round::<Folder>(books).await
}
