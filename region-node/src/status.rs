//! Reads reservations' rows for polls: gathered for a couple of milliseconds, one query for all, kept for a moment.
//!
//! One task gathers; each batch is a task of its own. A row in a final state is kept longer, as it changes no more but
//! for a refund. Whoever changes a reservation through this node drops its row here.

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use region_api::Entry;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::db::status::{self, Found, State};
use crate::db::{Db, DbError};
use crate::limits;

const SHARDS: usize = 32;
/// Queries under way at once: most of the pool belongs to others.
const QUERIES_MAX: usize = 4;
/// How long a final state is kept: a refund shows after that.
const FINAL_FRESH: Duration = Duration::from_secs(5);

type Key = (i32, Entry);
type Answer = Result<Arc<Found>, ReadError>;
type Cache = HashMap<Key, (Instant, Arc<Found>), RandomState>;

/// Why a row could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Too many wait already.
    #[error("too many look-ups at once")]
    Overloaded,
    /// The database did not answer.
    #[error(transparent)]
    Db(Arc<DbError>),
}

struct Ask {
    key: Key,
    answer: oneshot::Sender<Answer>,
}

/// Reads rows; cheap to share.
pub struct Reader {
    asks: mpsc::Sender<Ask>,
    hasher: RandomState,
    cache: Arc<[Mutex<Cache>]>,
}

impl Reader {
    /// Starts the gathering task; it ends when the reader is dropped.
    pub fn start(db: Db) -> Self {
        let (asks, inbox) = mpsc::channel(limits::STATUS_QUEUE_MAX);
        tokio::spawn(gather(db, inbox));
        let cache = std::iter::repeat_with(|| Mutex::new(Cache::default())).take(SHARDS).collect();
        Self { asks, hasher: RandomState::default(), cache }
    }

    fn shard(&self, key: &Key) -> &Mutex<Cache> {
        &self.cache[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// What the database knows of an entry, at most a second ago.
    pub async fn read(&self, concert_id: i32, entry: Entry) -> Answer {
        let key = (concert_id, entry);
        if let Some((at, found)) = self.shard(&key).lock().get(&key)
            && at.elapsed() < keep(found)
        {
            return Ok(found.clone());
        }
        self.read_now(concert_id, entry).await
    }

    /// The same, never from the cache.
    pub async fn read_now(&self, concert_id: i32, entry: Entry) -> Answer {
        let key = (concert_id, entry);
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask { key, answer }).map_err(|_| ReadError::Overloaded)?;
        let found = answered.await.map_err(|_| ReadError::Overloaded)??;
        let mut cache = self.shard(&key).lock();
        if cache.len() >= limits::STATUS_CACHE_MAX / SHARDS {
            cache.retain(|_, (at, found)| at.elapsed() < keep(found));
            if cache.len() >= limits::STATUS_CACHE_MAX / SHARDS {
                cache.clear();
            }
        }
        cache.insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Forgets a row that was changed here.
    pub fn forget(&self, concert_id: i32, entry: Entry) {
        let key = (concert_id, entry);
        self.shard(&key).lock().remove(&key);
    }
}

fn keep(found: &Found) -> Duration {
    match found {
        Found::Row(row) if !matches!(row.state, State::Held | State::Expiring) => FINAL_FRESH,
        _ => limits::STATUS_FRESH,
    }
}

async fn gather(db: Db, mut inbox: mpsc::Receiver<Ask>) {
    let queries = Arc::new(Semaphore::new(QUERIES_MAX));
    while let Some(first) = inbox.recv().await {
        let mut batch = vec![first];
        let until = tokio::time::Instant::now() + limits::STATUS_GATHER;
        // Whoever is alone waits for nobody: only a busy reader gathers.
        let busy = queries.available_permits() < QUERIES_MAX;
        while batch.len() < limits::STATUS_BATCH_MAX {
            match inbox.try_recv() {
                Ok(ask) => batch.push(ask),
                Err(_) if busy => match tokio::time::timeout_at(until, inbox.recv()).await {
                    Ok(Some(ask)) => batch.push(ask),
                    _ => break,
                },
                Err(_) => break,
            }
        }
        let Ok(permit) = queries.clone().acquire_owned().await else { return };
        let db = db.clone();
        tokio::spawn(async move {
            answer(&db, batch).await;
            drop(permit);
        });
    }
}

async fn answer(db: &Db, batch: Vec<Ask>) {
    let keys: Vec<Key> = batch.iter().map(|ask| ask.key).collect();
    match status::status(db, &keys).await {
        Ok(found) => {
            for (ask, found) in batch.into_iter().zip(found) {
                // Who has gone away needs no answer.
                let _ = ask.answer.send(Ok(Arc::new(found)));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for ask in batch {
                let _ = ask.answer.send(Err(ReadError::Db(error.clone())));
            }
        }
    }
}
