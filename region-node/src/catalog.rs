//! All concerts as this node sees them, read anew about once a second by one task, never by a request.
//!
//! Readers take a snapshot without waiting. While the database or Redis is away the old one goes on serving and says how
//! old it is. The task alone writes.

use arc_swap::{ArcSwap, Guard};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use region_api::{ConcertName, Entry, RegionName};
use sale::pace::Rate;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::buyers::{Buyers, Reading};
use crate::clock;
use crate::db::concerts::{self, ConcertRow};
use crate::db::{Db, DbError, snapshot};
use crate::limits;
use crate::queue::Queue;
use crate::queue::positions::PositionTracker;
use crate::view::{Parts, Shard, View};

/// Concerts by name.
pub type Views = HashMap<ConcertName, Arc<View>, RandomState>;

/// How far back a row may become visible after its own time (a transaction's), milliseconds.
const LATE_ROWS_MS: u64 = 30_000;
/// Most early leavers remembered per concert; beyond it their polls ask the database.
const LEFT_MAX: u32 = 200_000;

/// All concerts as this node sees them.
pub struct Catalog {
    views: ArcSwap<Views>,
    wake: Notify,
    refreshed: Notify,
    /// The database's clock when this node started, milliseconds since 1970; ours until the first look at a concert.
    epoch_ms: AtomicU64,
    /// Who left the queue through this node since their concert was last read.
    left: Mutex<Vec<(i32, Entry)>>,
    /// Whether that is anybody: every poll asks, and few have to lock.
    any_left: AtomicBool,
    /// Who has bought already.
    pub buyers: Buyers,
    started: Instant,
    refreshed_at_ms: AtomicU64,
    /// Reservations not yet decided, over all concerts, as they were read.
    waiting: AtomicU64,
    /// Those that joined through this node and may not be in that number yet.
    joined: AtomicU64,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            views: ArcSwap::default(),
            wake: Notify::new(),
            refreshed: Notify::new(),
            epoch_ms: AtomicU64::new(clock::now_ms()),
            left: Mutex::default(),
            any_left: AtomicBool::new(false),
            buyers: Buyers::default(),
            started: Instant::now(),
            refreshed_at_ms: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            joined: AtomicU64::new(0),
        }
    }
}

impl Catalog {
    /// All concerts.
    pub fn views(&self) -> Guard<Arc<Views>> {
        self.views.load()
    }
    /// One concert.
    pub fn view(&self, concert: &str) -> Option<Arc<View>> {
        self.views.load().get(concert).cloned()
    }
    /// Reservations not yet decided, over all concerts: as of the last refresh, with those who came through this node
    /// since. So it goes on growing while the database is away and nothing is decided.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed) + self.joined.load(Ordering::Relaxed)
    }
    /// Counts a new place in a queue.
    pub fn note_joined(&self) {
        self.joined.fetch_add(1, Ordering::Relaxed);
    }
    /// The database's clock as far as known, milliseconds since 1970: what sale windows and signatures of webhooks are
    /// compared with. Between two looks at it time goes on steadily, whatever is done to this machine's clock.
    pub fn now_ms(&self) -> u64 {
        self.epoch_ms.load(Ordering::Relaxed) + self.started.elapsed().as_millis() as u64
    }
    /// How long ago the database was last heard, milliseconds; `None` before the first time.
    pub fn age_ms(&self) -> Option<u64> {
        let at = self.refreshed_at_ms.load(Ordering::Relaxed);
        (at > 0).then(|| (self.started.elapsed().as_millis() as u64).saturating_sub(at))
    }

    /// Remembers that somebody left the queue undecided, before the next refresh tells.
    pub fn note_left(&self, concert_id: i32, entry: Entry) {
        let mut left = self.left.lock();
        left.push((concert_id, entry));
        self.any_left.store(true, Ordering::Release);
    }
    /// Whether somebody left the queue through this node a moment ago.
    pub fn has_left(&self, concert_id: i32, entry: Entry) -> bool {
        self.any_left.load(Ordering::Acquire) && self.left.lock().contains(&(concert_id, entry))
    }

    /// Forgets those noted first: their concerts have been read.
    fn forget_left(&self, noted: usize) {
        let mut left = self.left.lock();
        left.drain(..noted);
        self.any_left.store(!left.is_empty(), Ordering::Release);
    }

    /// Has everything read anew and waits for it, at most two refreshes long: after a change made here.
    pub async fn refresh_now(&self) {
        // The first refresh may have begun before the change.
        for _ in 0..2 {
            let done = self.refreshed.notified();
            self.wake.notify_one();
            if tokio::time::timeout(limits::CATALOG_REFRESH * 2, done).await.is_err() {
                return;
            }
        }
    }
}

/// What the task remembers of a concert between refreshes.
#[derive(Default)]
struct Memory {
    rate: Rate,
    positions: PositionTracker,
    /// Shards whose earlier samples were read.
    loaded: HashSet<u16>,
    left: HashSet<Entry>,
    left_since_ms: u64,
}

/// Reads everything anew, about once a second, until the end.
pub async fn run(catalog: Arc<Catalog>, db: Db, queue: Queue, region: RegionName, shutdown: CancellationToken) {
    let mut memory: HashMap<i32, Memory> = HashMap::new();
    let mut reading = Reading::default();
    let mut failing = false;
    loop {
        let refreshed = async {
            refresh(&catalog, &db, &queue, &region, &mut memory).await?;
            catalog.buyers.read(&db, &mut reading).await
        };
        match refreshed.await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the catalog is being refreshed again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the catalog cannot be refreshed; the last one goes on serving");
                }
            }
        }
        catalog.refreshed.notify_waiters();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(limits::CATALOG_REFRESH) => {}
            () = catalog.wake.notified() => {}
        }
    }
}

async fn refresh(
    catalog: &Catalog,
    db: &Db,
    queue: &Queue,
    region: &RegionName,
    memory: &mut HashMap<i32, Memory>,
) -> Result<(), DbError> {
    let mut views = Views::default();
    let noted = catalog.left.lock().len();
    let joined = catalog.joined.load(Ordering::Relaxed);
    for concert in concerts::load_all(db).await? {
        let name = concert.concert.clone();
        let memory = memory.entry(concert.concert_id).or_default();
        views.insert(name, Arc::new(view(catalog, db, queue, region, concert, memory).await?));
    }
    catalog.waiting.store(views.values().map(|view| view.waiting()).sum(), Ordering::Relaxed);
    catalog.joined.fetch_sub(joined, Ordering::Relaxed);
    catalog.views.store(Arc::new(views));
    // Those were in the database before it was read.
    catalog.forget_left(noted);
    let elapsed_ms = (catalog.started.elapsed().as_millis() as u64).max(1);
    catalog.refreshed_at_ms.store(elapsed_ms, Ordering::Relaxed);
    Ok(())
}

async fn view(
    catalog: &Catalog,
    db: &Db,
    queue: &Queue,
    region: &RegionName,
    concert: ConcertRow,
    memory: &mut Memory,
) -> Result<View, DbError> {
    let concert_id = concert.concert_id;
    let snapshot = snapshot::snapshot(db, concert_id).await?;
    let epoch_ms = snapshot.now_ms.saturating_sub(catalog.started.elapsed().as_millis() as u64);
    catalog.epoch_ms.store(epoch_ms, Ordering::Relaxed);
    let since_ms = memory.left_since_ms.saturating_sub(LATE_ROWS_MS);
    let left = snapshot::left_since(db, concert_id, since_ms, LEFT_MAX).await?;
    memory.left_since_ms = left.last().map_or(memory.left_since_ms, |last| last.at_ms);
    memory.left.extend(left.iter().map(|left| left.entry));
    let shards = shards(queue, &concert, &snapshot, memory).await;
    // Who was passed by a cursor has to be looked up anyway.
    memory.left.retain(|entry| {
        let shard = shards.get(usize::from(entry.shard()));
        shard.is_some_and(|s| s.generation == entry.generation() && s.cursor_seq < entry.sequence())
    });
    let decided: u64 = snapshot.generations.iter().map(|generation| generation.cursor_seq).sum();
    memory.rate.observe(snapshot.now_ms, decided);
    Ok(View::new(Parts {
        region: region.clone(),
        concert,
        snapshot,
        shards,
        positions: memory.positions.snapshot(),
        left: memory.left.clone(),
        decided_per_s: memory.rate.per_s(),
    }))
}

/// The shards' queues: cursors from the database; tails from Redis, or what the database knows of them.
async fn shards(queue: &Queue, concert: &ConcertRow, snapshot: &snapshot::Snapshot, memory: &mut Memory) -> Vec<Shard> {
    let (count, name) = (concert.shards, concert.queue());
    let mut shards = vec![Shard::default(); usize::from(count)];
    for generation in snapshot.generations.iter().filter(|generation| generation.survived_seq.is_none()) {
        if let Some(shard) = shards.get_mut(usize::from(generation.shard)) {
            shard.generation = generation.generation;
            shard.cursor_seq = generation.cursor_seq;
            shard.tail_seq = generation.tail_seq;
        }
    }
    for generation in &snapshot.generations {
        let (shard, number) = (generation.shard, generation.generation);
        memory.positions.cursor(shard, number, generation.cursor_seq, generation.survived_seq);
    }
    for shard in (0..count).filter(|shard| !memory.loaded.contains(shard)).collect::<Vec<_>>() {
        // While Redis is away they are asked for again.
        let Ok(samples) = queue.samples(name, shard).await else { break };
        memory.positions.load(shard, &samples);
        memory.loaded.insert(shard);
    }
    // While Redis is away positions stand still.
    for state in queue.shards(name).await.unwrap_or_default() {
        memory.positions.observe(&state);
        if let Some(shard) = shards.get_mut(usize::from(state.shard))
            && state.generation == shard.generation
        {
            shard.tail_seq = state.tail_seq.max(shard.cursor_seq);
        }
    }
    shards
}
