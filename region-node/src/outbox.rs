//! The outbox: tells Redis which reservations reached a final state, so that their users may join again.
//!
//! Told first, deleted after: a crash in between tells twice, which changes nothing.

use crate::books::{Books, BooksError, backoff};
use crate::db::{DbError, concerts, db_fail_point, outbox};
use crate::queue::{ConcertQueue, Settle};
use foldhash::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_millis(100);
/// Messages told at a time.
const BATCH_MAX: i64 = 1_000;

/// Runs until shutdown.
pub async fn run(books: Arc<Books>, shutdown: CancellationToken) {
    let mut failures = 0;
    loop {
        let pause = match round(&books).await {
            Ok(told) => {
                failures = 0;
                if told >= BATCH_MAX as usize { Duration::ZERO } else { EVERY }
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "the outbox tries again");
                backoff(failures)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Tells one batch; how many.
pub async fn round(books: &Books) -> Result<usize, BooksError> {
    let messages = outbox::read(&books.db, BATCH_MAX).await?;
    if messages.is_empty() {
        return Ok(0);
    }
    let queues: HashMap<i32, ConcertQueue> =
        concerts::load_all(&books.db).await?.iter().map(|c| (c.concert_id, c.queue())).collect();
    let mut by_concert: HashMap<i32, Vec<Settle>> = HashMap::default();
    for message in &messages {
        by_concert.entry(message.concert_id).or_default().push(message.settle);
    }
    for (concert_id, items) in by_concert {
        if let Some(&queue) = queues.get(&concert_id) {
            books.queue.settle(queue, &items).await?;
        }
    }
    between()?;
    let told: Vec<i64> = messages.iter().map(|message| message.outbox_id).collect();
    outbox::forget(&books.db, &told).await?;
    Ok(told.len())
}

fn between() -> Result<(), DbError> {
    db_fail_point!("outbox.between_tell_and_forget");
    Ok(())
}
