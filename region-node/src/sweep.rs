//! What recycler and folder have in common: again and again one batch of every concert that has work, and what becomes of
//! a concert whose work fails.
//!
//! A server that is away stops the round; it is tried again, ever more rarely. A concert that is sick by itself does not
//! stop the others: it rests for a while, and everybody who asks (log, metrics, the caller of a round) is told.

use crate::books::{Books, BooksError, backoff};
use crate::db::DbError;
use crate::db::concerts::{self, ConcertRow};
use foldhash::{HashMap, HashMapExt as _};
use metrics::gauge;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Work on concerts, a batch at a time.
pub(crate) trait Work {
    /// As log and metrics call it.
    const NAME: &'static str;
    /// Pause when there was no full batch.
    const EVERY: Duration;
    /// What a full batch did.
    const BATCH_MAX: u64;
    /// Concerts that have something to do.
    async fn due(books: &Books) -> Result<Vec<i32>, DbError>;
    /// One batch of one concert: its book number and how much was done.
    async fn batch(books: &Books, concert_id: i32) -> Result<(u64, u64), DbError>;
    /// So much was done.
    fn done(books: &Books, much: u64);
}

/// Concerts whose work failed, and when they are tried again.
#[derive(Default)]
struct Resting(HashMap<i32, (u32, Instant)>);

impl Resting {
    fn rests(&self, concert_id: i32) -> bool {
        self.0.get(&concert_id).is_some_and(|(_, until)| Instant::now() < *until)
    }
    fn failed(&mut self, concert_id: i32) {
        let (failures, until) = self.0.entry(concert_id).or_insert((0, Instant::now()));
        *failures += 1;
        *until = Instant::now() + backoff(*failures);
    }
}

/// Runs until shutdown.
pub(crate) async fn run<W: Work>(books: &Books, shutdown: &CancellationToken) {
    let mut failures = 0;
    let mut resting = Resting(HashMap::new());
    let sick = gauge!("boxoffice_sick_concerts", "task" => W::NAME);
    loop {
        let pause = match sweep::<W>(books, &mut resting).await {
            Ok(round) => {
                failures = 0;
                if round.done >= W::BATCH_MAX { Duration::ZERO } else { W::EVERY }
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, "the {} tries again", W::NAME);
                backoff(failures)
            }
        };
        sick.set(resting.0.len() as f64);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// One batch of every concert that has work; how much was done, or the first failure of any after all were tried.
pub(crate) async fn round<W: Work>(books: &Books) -> Result<u64, BooksError> {
    let round = sweep::<W>(books, &mut Resting::default()).await?;
    round.sick.map_or(Ok(round.done), Err)
}

/// What a round did.
#[derive(Default)]
struct Round {
    done: u64,
    /// The first concert's trouble that is its own.
    sick: Option<BooksError>,
}

async fn sweep<W: Work>(books: &Books, resting: &mut Resting) -> Result<Round, BooksError> {
    let due = W::due(books).await?;
    let mut round = Round::default();
    if due.is_empty() {
        return Ok(round);
    }
    for concert in concerts::load_all(&books.db).await?.iter().filter(|c| due.contains(&c.concert_id)) {
        if concert.halted.is_some() || resting.rests(concert.concert_id) {
            continue;
        }
        match one::<W>(books, concert).await {
            Ok(done) => {
                resting.0.remove(&concert.concert_id);
                round.done += done;
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                resting.failed(concert.concert_id);
                tracing::error!(concert.id = %concert.concert, %error, "the {} leaves a concert alone for now", W::NAME);
                round.sick.get_or_insert(error);
            }
        }
    }
    Ok(round)
}

async fn one<W: Work>(books: &Books, concert: &ConcertRow) -> Result<u64, BooksError> {
    books.check(concert).await?;
    let (book, done) = match W::batch(books, concert.concert_id).await {
        Err(error @ (DbError::BehindWitness { .. } | DbError::NotRegistered { .. })) => {
            books.halt_if_unsound(&concert.concert, &error).await?;
            return Err(error.into());
        }
        other => other?,
    };
    if done > 0 {
        books.note_book(concert.concert_id, book);
        W::done(books, done);
    }
    Ok(done)
}
