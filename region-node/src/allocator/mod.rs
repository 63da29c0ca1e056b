//! The allocator: decides everybody in the queues, in batches, one SQL transaction each.
//!
//! One task of the whole region is active, on a connection that holds an advisory lock; the others wait for the lock.
//! The lock only saves work: what makes two of them safe is the compare-and-set of the cursors under the book's lock.
//! While a batch is being written, the next one is read from Redis and looked up in SQL, and what is decided is trimmed in
//! Redis. Must never: keep a decision in memory; after any error everything is read again from SQL.

pub(crate) mod decide;
pub(crate) mod feed;
pub(crate) mod house;

use crate::books::{Books, BooksError, backoff};
use crate::db::allocate::{Ahead, Batches, CursorMove, Owned, Place};
use crate::db::book::Floor as _;
use crate::db::concerts::{self, ConcertRow};
use crate::db::{DbError, db_fail_point, to_u64};
use crate::generations;
use crate::limits;
use crate::queue::QueueEntry;
use feed::Feed;
use foldhash::HashMap;
use metrics::{counter, gauge, histogram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Reservations in a batch: one lock of the book for so many.
pub const BATCH_MAX: usize = 2_000;
/// A batch that is not full is decided after this long.
pub const BATCH_WAIT: Duration = Duration::from_millis(50);
/// So many full batches are trimmed in Redis together: each trim is an fsync there.
const TRIM_EVERY: usize = 8;
/// How often definitions, generations, ranges and closings are looked at.
const HOUSE_EVERY: Duration = Duration::from_secs(1);
/// How often a standby looks whether the lock is free.
const LOCK_EVERY: Duration = Duration::from_secs(1);
/// A transaction of the active allocator that lasts longer is stuck: longer than any statement or pause that the server
/// allows.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// The session lock of the active allocator (an arbitrary number).
pub const ALLOCATOR_LOCK: i64 = 0x626f_786f_6666_0002;

/// What others may know about this node's allocator.
#[derive(Debug, Default)]
pub struct AllocatorState {
    active: AtomicBool,
}

impl AllocatorState {
    /// Whether this node decides.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }
}

/// Runs until shutdown: waits for the lock, decides, and after every failure begins again with a new connection.
pub async fn run(books: Arc<Books>, state: Arc<AllocatorState>, shutdown: CancellationToken) {
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        let result = tokio::select! {
            result = lead(&books, &state) => result,
            () = shutdown.cancelled() => break,
        };
        state.active.store(false, Ordering::Relaxed);
        gauge!("boxoffice_allocator_active").set(0.0);
        let pause = match result {
            Ok(Led::Standby) => {
                failures = 0;
                LOCK_EVERY
            }
            Err(error) => {
                failures += 1;
                counter!("boxoffice_allocator_failures_total").increment(1);
                tracing::warn!(%error, failures, "the allocator begins again");
                backoff(failures)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
    }
    state.active.store(false, Ordering::Relaxed);
}

enum Led {
    /// Somebody else has the lock.
    Standby,
}

/// Takes the lock and decides until something fails.
async fn lead(books: &Books, state: &AllocatorState) -> Result<Led, BooksError> {
    let dedicated = books.db.dedicated("region-node allocator").await?;
    let locked = dedicated.client.query_one("SELECT pg_try_advisory_lock($1)", &[&ALLOCATOR_LOCK]).await;
    if !locked.map_err(DbError::from)?.get::<_, bool>(0) {
        end_stuck(&dedicated.client, STUCK_AFTER).await?;
        return Ok(Led::Standby);
    }
    let batches = Batches::prepare(&books.db, dedicated).await?;
    let mut active = Allocator { books, batches, lines: HashMap::default(), waiting_max: limits::WAITING_MAX };
    state.active.store(true, Ordering::Relaxed);
    gauge!("boxoffice_allocator_active").set(1.0);
    loop {
        active.round().await?;
    }
}

/// Ends the connection of whoever has the lock and is in one transaction for so long. The server itself ends statements and
/// idle transactions well before, but not a `COPY` whose sender was stopped in the middle of it: that would keep the book
/// locked for as long as it is. Returns whether there was one.
pub async fn end_stuck(client: &tokio_postgres::Client, after: Duration) -> Result<bool, DbError> {
    let query = "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
                 JOIN pg_locks l ON l.pid = a.pid AND l.database = a.datid
                 WHERE a.datname = current_database() AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                     AND (l.classid::bigint << 32) | l.objid::bigint = $1
                     AND a.xact_start < clock_timestamp() - $2 * interval '1 ms'";
    let ended: i64 = client.query_one(query, &[&ALLOCATOR_LOCK, &(after.as_millis() as f64)]).await?.get(0);
    if ended > 0 {
        tracing::warn!("another node's allocator did not finish its transaction; its connection was ended");
    }
    Ok(ended > 0)
}

/// One active allocator. After an error: drop it and make another.
pub struct Allocator<'a> {
    books: &'a Books,
    batches: Batches,
    lines: HashMap<i32, Line>,
    waiting_max: u64,
}

/// One concert.
struct Line {
    concert: ConcertRow,
    feed: Feed,
    /// Taken from the feed already.
    next: Option<Next>,
    /// Nothing to hold: the cursors stop.
    dry: bool,
    /// The arbiters were told that people wait for what is not here.
    told: bool,
    /// The last batch was full: go on at once.
    busy: bool,
    /// People who wait beside the queue: as housekeeping counted them, and those who came since.
    waiting: u64,
    /// Decided and not yet trimmed in Redis, by so many batches.
    to_trim: Vec<CursorMove>,
    untrimmed: usize,
    /// Halted or unsound: only looked at again by housekeeping.
    resting: bool,
    house_at: Instant,
}

impl Line {
    /// What is to be trimmed now.
    fn take_trims(&mut self) -> Vec<CursorMove> {
        self.untrimmed = 0;
        std::mem::take(&mut self.to_trim)
    }

    /// A batch moved these cursors.
    fn moved(&mut self, cursors: Vec<CursorMove>) {
        self.untrimmed += 1;
        let of = |cursor: &CursorMove| (cursor.shard, cursor.generation);
        self.to_trim.retain(|earlier| cursors.iter().all(|cursor| of(cursor) != of(earlier)));
        self.to_trim.extend(cursors);
    }

    /// Nobody was read who is not decided.
    fn is_idle(&self) -> bool {
        self.next.is_none() && self.feed.is_empty()
    }

    /// One that is left alone until then.
    fn resting(concert: ConcertRow, house_at: Instant) -> Self {
        let feed = Feed::new(concert.queue(), &[]);
        Self {
            concert,
            feed,
            next: None,
            dry: true,
            told: false,
            busy: false,
            waiting: 0,
            to_trim: vec![],
            untrimmed: 0,
            resting: true,
            house_at,
        }
    }
}

/// Those to decide next.
struct Next {
    taken: Vec<QueueEntry>,
    places: Vec<Place>,
    /// What they have, if it was looked up.
    ahead: Option<Ahead>,
}

impl Next {
    fn of(taken: Vec<QueueEntry>) -> Self {
        let places = taken.iter().cloned().map(Place::from).collect();
        Self { taken, places, ahead: None }
    }

    /// Reads ahead: those of a batch (at least half of one) are taken and looked up, the feed is refilled.
    async fn read(
        books: &Books,
        batches: &Batches,
        concert_id: i32,
        feed: &mut Feed,
    ) -> Result<Option<Self>, BooksError> {
        let mut taken = feed.take(BATCH_MAX);
        let refilled = taken.len() < BATCH_MAX;
        if refilled {
            feed.put_back(taken);
            feed.refill(&books.queue).await?;
            taken = feed.take(BATCH_MAX);
        }
        if taken.len() < BATCH_MAX / 2 {
            feed.put_back(taken);
            return Ok(None);
        }
        let mut next = Self::of(taken);
        let refill = async { if refilled { Ok(()) } else { feed.refill(&books.queue).await } };
        let (ahead, refill) = tokio::join!(batches.look_ahead(concert_id, &next.places), refill);
        refill?;
        next.ahead = Some(ahead?);
        Ok(Some(next))
    }
}

/// What one transaction did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Places that got a row, a waiting row or a range.
    pub(crate) decided: usize,
    /// No tier has stock left.
    pub(crate) dry: bool,
    /// The definition changed since it was read.
    pub(crate) stale: bool,
    /// Places that wait from now on.
    pub(crate) waits: usize,
}

impl<'a> Allocator<'a> {
    /// On a connection of its own, whatever the advisory lock says: for what measures it, and what shows that two at
    /// once are safe.
    pub async fn unlocked(books: &'a Books) -> Result<Self, BooksError> {
        let batches = Batches::connect(&books.db).await?;
        Ok(Self { books, batches, lines: HashMap::default(), waiting_max: limits::WAITING_MAX })
    }

    /// With another bound than [`limits::WAITING_MAX`].
    #[must_use]
    pub fn keeping(self, waiting_max: u64) -> Self {
        Self { waiting_max, ..self }
    }

    /// Every concert once; then, when none had a full batch, a pause.
    pub async fn round(&mut self) -> Result<(), BooksError> {
        let began = Instant::now();
        self.refresh().await?;
        let mut busy = false;
        let ids: Vec<i32> = self.lines.keys().copied().collect();
        for id in ids {
            let Some(mut line) = self.lines.remove(&id) else { continue };
            // On an error the line is dropped with everything that it knew.
            self.work(&mut line).await?;
            busy |= line.busy;
            self.lines.insert(id, line);
        }
        if !busy {
            let rest = BATCH_WAIT.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.books.stock_back.notified() => {}
            }
        }
        Ok(())
    }

    /// Reads definitions, keeps house, and begins with concerts that are new.
    async fn refresh(&mut self) -> Result<(), BooksError> {
        let due = self.lines.is_empty() || self.lines.values().any(|line| line.house_at <= Instant::now());
        if !due {
            return Ok(());
        }
        for concert in concerts::load_all(&self.books.db).await? {
            let line = self.lines.remove(&concert.concert_id);
            match self.keep(concert, line).await {
                Ok(line) => {
                    self.lines.insert(line.concert.concert_id, line);
                }
                Err(error) if error.is_transient() => return Err(error),
                // One concert's trouble does not stop the others.
                Err(error) => tracing::error!(%error, "a concert is left alone for now"),
            }
        }
        if self.lines.is_empty() {
            tokio::time::sleep(BATCH_WAIT * 4).await;
        }
        Ok(())
    }

    async fn keep(&mut self, concert: ConcertRow, line: Option<Line>) -> Result<Line, BooksError> {
        let house_at = Instant::now() + HOUSE_EVERY;
        if concert.halted.is_some() {
            return Ok(Line::resting(concert, house_at));
        }
        let books = self.books;
        if !books.standing.is_registered() {
            return Ok(Line::resting(concert, Instant::now() + BATCH_WAIT));
        }
        match books.check(&concert).await {
            Ok(()) => {}
            Err(BooksError::Db(DbError::BehindWitness { .. })) => return Ok(Line::resting(concert, house_at)),
            Err(BooksError::Unwitnessed { .. }) => return Ok(Line::resting(concert, Instant::now() + BATCH_WAIT)),
            Err(error) => return Err(error),
        }
        let generations = generations::ensure(books, &concert).await?;
        let tails = books.queue.shards(concert.queue()).await?;
        let mut passed = false;
        let waiting = loop {
            let house = match house::keep(books, &concert, &tails).await {
                Err(BooksError::Db(error)) => {
                    books.halt_if_unsound(&concert.concert, &error).await?;
                    return Err(error.into());
                }
                other => other?,
            };
            if let Some(book) = house.book {
                books.note_book(concert.concert_id, book);
            }
            passed |= house.passed;
            if house.ended == 0 {
                break house.waiting;
            }
        };
        let kept = line.filter(|line| !passed && !line.resting && line.feed.covers(&generations));
        let generations =
            if passed { crate::db::generations::load(&books.db, concert.concert_id).await? } else { generations };
        Ok(match kept {
            Some(line) => Line { concert, house_at, waiting, ..line },
            None => {
                let feed = Feed::new(concert.queue(), &generations);
                Line { feed, waiting, dry: false, resting: false, ..Line::resting(concert, house_at) }
            }
        })
    }

    /// One batch of one concert, if there is something to decide and something to hold.
    async fn work(&mut self, line: &mut Line) -> Result<(), BooksError> {
        line.busy = false;
        let closed = line.concert.closed_at_ms.is_some();
        if line.resting || closed || !self.books.standing.may_hold() {
            return Ok(());
        }
        let was_dry = line.dry;
        let id = line.concert.concert_id;
        if line.is_idle() {
            line.feed.refill(&self.books.queue).await?;
        }
        let (stock, waiting) = if line.dry || line.is_idle() { self.look(id).await? } else { (true, true) };
        if !stock {
            line.dry = true;
            trim_all(self.books, line).await?;
            self.tell(line, waiting || !line.is_idle());
            return Ok(());
        }
        let Next { taken, places, ahead } = line.next.take().unwrap_or_else(|| Next::of(line.feed.take(BATCH_MAX)));
        if taken.is_empty() && !waiting {
            if was_dry {
                // Tickets came back, and nobody here waits for them: somebody elsewhere may.
                line.dry = false;
                self.books.standing.note_urgent();
            }
            trim_all(self.books, line).await?;
            return line.feed.refill(&self.books.queue).await.map_err(Into::into);
        }
        let full = taken.len() >= BATCH_MAX / 2;
        let trims = if full && line.untrimmed < TRIM_EVERY { vec![] } else { line.take_trims() };
        let (books, batches, feed) = (self.books, &self.batches, &mut line.feed);
        let began = Instant::now();
        let bound = Bound { waiting: line.waiting, most: self.waiting_max };
        // Not before PostgreSQL only has rows to write: until then every step of the decision would wait for a processor.
        let writing = Notify::new();
        let transaction = async {
            let done = transact(books, batches, &line.concert, &places, ahead.as_ref(), bound, &writing).await;
            if done.is_err() {
                // At once: it has the book's lock. Best effort: a broken connection rolls back by itself.
                let _ = batches.roll_back().await;
            }
            writing.notify_one();
            done
        };
        let meanwhile = async {
            writing.notified().await;
            tokio::join!(Next::read(books, batches, id, feed), trim(books, &line.concert, trims))
        };
        let (done, (next, trimmed)) = tokio::join!(transaction, meanwhile);
        let (batch, wrote) = match done {
            Ok(done) => done,
            Err(error) => {
                self.books.halt_if_unsound(&line.concert.concert, &error).await?;
                return Err(error.into());
            }
        };
        let mut next = next?;
        trimmed?;
        let undecided = wrote.undecided;
        line.moved(wrote.cursors);
        if let (Some(ahead), Some(book)) = (next.as_mut().and_then(|next| next.ahead.as_mut()), wrote.whole_book) {
            ahead.follow(book, wrote.rows);
        }
        histogram!("boxoffice_allocator_batch_seconds").record(began.elapsed());
        counter!("boxoffice_allocator_decided_total").increment(batch.decided as u64);
        if undecided > 0 {
            // In front of those who were read after them.
            line.feed.put_back(next.take().map_or_else(Vec::new, |next| next.taken));
            line.feed.put_back(taken.into_iter().skip(places.len() - undecided).collect());
        }
        line.next = next;
        line.waiting += batch.waits as u64;
        line.dry = batch.dry;
        if batch.dry || batch.waits == 0 {
            line.told = false;
        }
        self.tell(line, batch.waits > 0 || (batch.dry && !line.is_idle()));
        line.busy = (full || batch.decided >= BATCH_MAX / 2) && !batch.dry;
        if batch.stale {
            line.house_at = Instant::now();
            line.busy = true;
        }
        Ok(())
    }

    /// Tells the arbiters once that people wait here in vain, until it changes.
    fn tell(&self, line: &mut Line, in_vain: bool) {
        if in_vain && !line.told {
            self.books.standing.note_urgent();
        }
        line.told = in_vain;
    }

    /// Whether there is something to hold, and whether anybody waits in SQL.
    async fn look(&self, concert_id: i32) -> Result<(bool, bool), BooksError> {
        let query = "SELECT EXISTS (SELECT FROM quota WHERE concert_id = $1
                         AND granted - returned - held_in + released + refunded > 0),
                     EXISTS (SELECT FROM waiting WHERE concert_id = $1)";
        let client = self.books.db.client().await?;
        let statement = client.prepare_cached(query).await.map_err(DbError::from)?;
        let row = client.query_one(&statement, &[&concert_id]).await.map_err(DbError::from)?;
        Ok((row.get(0), row.get(1)))
    }
}

/// How many may wait beside the queue.
#[derive(Debug, Clone, Copy)]
struct Bound {
    /// So many do already.
    waiting: u64,
    /// So many more than there are unsold tickets may.
    most: u64,
}

/// What one transaction leaves to its caller.
#[derive(Default)]
struct Wrote {
    /// How many of the places stay in the queue, counted from the end.
    undecided: usize,
    /// To be trimmed in Redis.
    cursors: Vec<CursorMove>,
    /// Its book number, if it is known exactly what it wrote: then these rows.
    whole_book: Option<i64>,
    rows: Vec<Owned>,
}

impl Wrote {
    fn nothing(undecided: usize) -> Self {
        Self { undecided, ..Self::default() }
    }
}

/// One transaction. Says when there are only rows left to write.
async fn transact(
    books: &Books,
    batches: &Batches,
    concert: &ConcertRow,
    places: &[Place],
    ahead: Option<&Ahead>,
    bound: Bound,
    writing: &Notify,
) -> Result<(Batch, Wrote), DbError> {
    let id = concert.concert_id;
    let mut ground = batches.open(id, books.of(id), places, ahead, BATCH_MAX as i64).await?;
    let stale = ground.version != concert.version;
    if stale || ground.over {
        batches.roll_back().await?;
        return Ok((Batch { stale, dry: ground.over, ..Batch::default() }, Wrote::nothing(places.len())));
    }
    let mut all = std::mem::take(&mut ground.waiting);
    let waited = all.len();
    // When those who waited fill a batch, the queue's turn comes with the next.
    let room = BATCH_MAX.saturating_sub(waited).min(places.len());
    all.extend_from_slice(&places[..room]);
    let unsold: u64 = ground.stock.iter().map(|tier| tier.unsold()).sum();
    let room = unsold.saturating_add(bound.most).saturating_sub(bound.waiting);
    let outcome = decide::decide(&concert.definition, &ground, &all, waited, room, rand::random::<f64>);
    let from_queue = outcome.taken.saturating_sub(waited);
    let decided = outcome.decided;
    let batch = Batch { decided: outcome.taken, dry: outcome.dry, stale: false, waits: decided.waits.len() };
    if decided.is_empty() {
        batches.roll_back().await?;
        return Ok((batch, Wrote::nothing(places.len() - from_queue)));
    }
    let whole = batches.commit(id, &ground, &all, &decided, writing).await?;
    books.note_book(id, to_u64(ground.locked.book));
    db_fail_point!("allocator.after_note");
    let whole_book = whole.then_some(ground.locked.book);
    let (rows, undecided) = (decided.owned(&all), places.len() - from_queue);
    Ok((batch, Wrote { undecided, cursors: decided.cursors, whole_book, rows }))
}

/// Everything that is decided and not trimmed yet.
async fn trim_all(books: &Books, line: &mut Line) -> Result<(), BooksError> {
    let trims = line.take_trims();
    trim(books, &line.concert, trims).await
}

/// Lets go in Redis of what is decided in SQL.
async fn trim(books: &Books, concert: &ConcertRow, trims: Vec<CursorMove>) -> Result<(), BooksError> {
    for decided in trims {
        books.queue.trim(concert.queue(), decided.shard, decided.generation, decided.to_seq, false).await?;
        db_fail_point!("allocator.between_trims");
    }
    Ok(())
}
