//! What the tasks that move tickets share: the database, the queue, and the witnesses of the book numbers.
//!
//! Must never: let a task go on with a concert whose database is behind a witness. Whoever finds that halts the concert,
//! durably, before anything else.

use crate::db::book::{self, Floor, Known};
use crate::db::concerts::ConcertRow;
use crate::db::{Db, DbError};
use crate::queue::{ConcertQueue, Queue, QueueError};
use crate::quota::Standing;
use crate::witness::{Witness, WitnessError};
use foldhash::HashMap;
use parking_lot::RwLock;
use region_api::{ConcertName, RegionName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Shared by allocator, recycler, folder, outbox, payments and the admin API. One per node.
#[derive(Debug)]
pub struct Books {
    /// The region's database.
    pub db: Db,
    /// The region's queue.
    pub queue: Queue,
    /// Which region this is.
    pub region: RegionName,
    /// Concerts that were checked against their witnesses since the database was last connected.
    concerts: RwLock<HashMap<i32, Checked>>,
    witness: Witness,
    /// What this node knows of the region's standing with the arbiters.
    pub standing: Arc<Standing>,
    /// Told when tickets came back, so that a dry allocator looks again at once.
    pub stock_back: Notify,
    /// One at a time of this node begins generations: whoever does waits for the database's lock with a connection of
    /// the pool in hand.
    pub(crate) beginning: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Checked {
    name: ConcertName,
    queue: ConcertQueue,
    checked_at_connect: u64,
}

/// Why a concert cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    /// See [`DbError`].
    #[error(transparent)]
    Db(#[from] DbError),
    /// See [`QueueError`].
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The witness file cannot be used.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// Under arbiters, right after a start: the database knows more than its witnesses, so nobody here can tell which
    /// copy of it this is. The arbiters can.
    #[error("at book {found}, witnessed only {witnessed}: waits until an arbiter was heard")]
    Unwitnessed {
        /// Book number in the database.
        found: u64,
        /// Highest book number known from outside.
        witnessed: u64,
    },
}

impl BooksError {
    /// Whether the same may succeed later without an operator.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Db(error) => error.is_transient(),
            Self::Queue(error) => matches!(error, QueueError::Unavailable(_) | QueueError::Unknown(_)),
            Self::Witness(_) | Self::Unwitnessed { .. } => true,
        }
    }
}

impl Floor for Books {
    fn of(&self, concert_id: i32) -> Known {
        Known { book: self.witness.highest(concert_id), epoch: self.standing.epoch() }
    }
}

impl Books {
    /// `state_dir` is the node's own folder; its witnesses lie in `books/` there.
    pub fn new(db: Db, queue: Queue, region: RegionName, state_dir: PathBuf) -> Result<Arc<Self>, WitnessError> {
        Self::under(Arc::new(Standing::alone()), db, queue, region, state_dir)
    }

    /// The same for a region that may be under arbiters.
    pub fn under(
        standing: Arc<Standing>,
        db: Db,
        queue: Queue,
        region: RegionName,
        state_dir: PathBuf,
    ) -> Result<Arc<Self>, WitnessError> {
        let witness = Witness::open(state_dir.join("books"))?;
        let concerts = RwLock::default();
        Ok(Arc::new(Self {
            db,
            queue,
            region,
            concerts,
            witness,
            standing,
            stock_back: Notify::new(),
            beginning: tokio::sync::Mutex::default(),
        }))
    }

    /// After a commit: this number was used. Cheap; the witness task writes it out.
    pub fn note_book(&self, concert_id: i32, book: u64) {
        self.witness.note(concert_id, book);
    }

    /// Makes sure that this concert was checked against its witnesses since the database was last connected: Redis and
    /// the state folder may not know of a higher book number than the database. Halts the concert if they do.
    pub async fn check(&self, concert: &ConcertRow) -> Result<(), BooksError> {
        let connects = self.db.connects();
        let known = self.concerts.read().get(&concert.concert_id).is_some_and(|k| k.checked_at_connect == connects);
        if known {
            return Ok(());
        }
        let in_redis = self.queue.book(concert.queue()).await?.unwrap_or(0);
        let in_file = self.witness.read(&concert.concert)?;
        let witnessed = in_redis.max(in_file).max(self.witness.highest(concert.concert_id));
        let (found, halted) = book::read(&self.db, concert.concert_id).await?;
        if found < witnessed {
            let error = DbError::BehindWitness { concert_id: concert.concert_id, found, witnessed };
            if halted.is_none() {
                book::halt(&self.db, concert.concert_id, &how_to_go_on(&concert.concert, found, witnessed)).await?;
                tracing::error!(concert = %concert.concert, found, witnessed, "halted: the database is an older copy");
            }
            return Err(error.into());
        }
        let first = !self.concerts.read().contains_key(&concert.concert_id);
        if first && found > witnessed && !self.standing.heard_since_start() {
            return Err(BooksError::Unwitnessed { found, witnessed });
        }
        self.witness.note(concert.concert_id, witnessed);
        let known = Checked { name: concert.concert.clone(), queue: concert.queue(), checked_at_connect: connects };
        self.concerts.write().insert(concert.concert_id, known);
        Ok(())
    }

    /// Halts a concert whose database turned out to be behind in the middle of something, or carried over from another
    /// server.
    pub async fn halt_if_unsound(&self, concert: &ConcertName, error: &DbError) -> Result<(), DbError> {
        match error {
            DbError::BehindWitness { concert_id, found, witnessed } => {
                book::halt(&self.db, *concert_id, &how_to_go_on(concert, *found, *witnessed)).await
            }
            DbError::NotRegistered { concert_id } => {
                let why = format!(
                    "the quota of {concert} was registered by another database than this one: a copy or a restore. \
                     Make sure that the other database can never commit again, then \
                     POST /v1/concerts/{concert}/accept-books"
                );
                book::halt(&self.db, *concert_id, &why).await
            }
            _ => Ok(()),
        }
    }

    /// An operator accepts the books as they are: above every witness, no longer halted. Audited in `operator_act`.
    pub async fn accept(&self, concert: &ConcertRow, who: &str) -> Result<u64, BooksError> {
        let in_redis = self.queue.book(concert.queue()).await?.unwrap_or(0);
        let in_file = self.witness.read(&concert.concert)?;
        let witnessed = in_redis.max(in_file).max(self.witness.highest(concert.concert_id));
        let (concert_id, book) = book::accept(&self.db, &concert.concert, witnessed, who).await?;
        self.note_book(concert_id, book);
        tracing::warn!(concert = %concert.concert, book, who, "books accepted by an operator");
        Ok(book)
    }

    /// Writes one round of what was noted to the state folder and to Redis; how many concerts had news.
    pub async fn write_witnesses(&self) -> Result<usize, BooksError> {
        let news = self.witness.take_news();
        for &(concert_id, book) in &news {
            let Some(known) = self.concerts.read().get(&concert_id).cloned() else { continue };
            let written = self.witness.write(&known.name, book).await.map_err(BooksError::from);
            let noted = self.queue.note_book(known.queue, book).await.map_err(BooksError::from);
            if let Err(error) = written.and(noted) {
                self.witness.note_again(concert_id);
                return Err(error);
            }
        }
        Ok(news.len())
    }

    /// Resolves when something was noted.
    pub async fn news(&self) {
        self.witness.changed().await;
    }
}

fn how_to_go_on(concert: &ConcertName, found: u64, witnessed: u64) -> String {
    format!(
        "the database of {concert} is at book {found}, but book {witnessed} was witnessed outside it: it is an older \
         copy (a restore, a snapshot, a standby that was behind). Nothing is held until this is resolved. Bring the \
         newer database back; or, if it is lost for good and can never commit again, go on with this one: \
         POST /v1/concerts/{concert}/accept-books"
    )
}

/// How long a task waits after failing `failures` times in a row: from 50 ms, doubling, up to 5 s.
pub fn backoff(failures: u32) -> Duration {
    Duration::from_millis(50u64 << failures.min(7)).min(Duration::from_secs(5))
}
