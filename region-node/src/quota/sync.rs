//! The sync task: tells the arbiters what this region has and wants, takes in what they grant, gives back what they ask
//! for and the region can spare, and registers the database where it is new to them.
//!
//! One node of the region syncs at a time: the one whose allocator is active, under an advisory lock of its own. The
//! lock only saves work. Two at once are harmless, since only cumulative counters travel and every change is checked in
//! its transaction; so a lock that is lost unnoticed costs nothing. The other nodes read how the region stands from the
//! database. Must never: report what is not durable, or act on an answer without looking at the database again.

use crate::allocator::AllocatorState;
use crate::books::{Books, BooksError};
use crate::catalog::Catalog;
use crate::config::Arbiter;
use crate::db::holder::{self, Did, HolderError, Own};
use crate::db::{DbError, Dedicated, db_fail_point, elsewhere};
use arbiter_api::limits::WAIT_MS_MAX;
use arbiter_api::{PoolStock, SyncBody, SyncReply};
use metrics::{counter, gauge};
use quota_protocol::autonomy::Autonomy;
use quota_protocol::holder::{Contact, HaltReason};
use quota_protocol::message::{Demand, PoolReport, RegionView};
use quota_protocol::wire::{RegisterAnswer, RegisterRequest, SyncRequest, WireError};
use quota_protocol::{Answer, Counters, Done, Epoch, PoolId, Refused, Report};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::demand::Demands;
use super::limits::{
    BACKOFF_MAX, BACKOFF_MIN, CONTACT_EVERY, GAP_MIN, HEARTBEAT_MAX, HEARTBEAT_MIN, STOCK_EVERY, URGENT_GAP,
    WATCH_EVERY,
};
use super::link::{Link, LinkError};
use super::standing::Link as LinkState;
use super::{concerts, spare};

/// The session lock of the node that syncs (an arbitrary number).
const SYNC_LOCK: i64 = 0x626f_786f_6666_0004;
/// Rounds without an active allocator here, after which another node may sync.
const IDLE_ROUNDS_MAX: u32 = 20;

/// What the task works on.
pub struct Parts {
    /// Books and standing.
    pub books: Arc<Books>,
    /// Which concerts are on sale, and what is left elsewhere.
    pub catalog: Arc<Catalog>,
    /// Whether this node allocates.
    pub allocator: Arc<AllocatorState>,
    /// `[arbiter]`
    pub config: Arbiter,
    /// Queue shards of a concert whose definition does not say.
    pub shards: u16,
}

#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("an arbiter's answer: {0}")]
    Wire(#[from] WireError),
    #[error(transparent)]
    Books(#[from] BooksError),
    #[error(transparent)]
    Holder(#[from] HolderError),
}

impl From<DbError> for SyncError {
    fn from(error: DbError) -> Self {
        Self::Books(error.into())
    }
}

/// Runs until shutdown: reads how the region stands, and syncs where nobody else does.
pub async fn run(parts: Parts, shutdown: CancellationToken) {
    let mut syncing: Option<Syncing> = None;
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        let round = async {
            match &mut syncing {
                Some(syncing) => syncing.round(&parts).await,
                None => {
                    parts.books.standing.note(holder::read(&parts.books.db).await?);
                    syncing = Syncing::begin(&parts).await?;
                    Ok(if syncing.is_some() { Duration::ZERO } else { WATCH_EVERY })
                }
            }
        };
        let done = tokio::select! {
            done = round => done,
            () = shutdown.cancelled() => return,
        };
        let pause = match done {
            Ok(pause) => {
                failures = 0;
                pause
            }
            Err(error) => {
                failures += 1;
                counter!("boxoffice_quota_sync_failures_total").increment(1);
                note_failure(&parts, &error, failures);
                if matches!(&error, SyncError::Books(_)) {
                    // The database: its lock may be gone as well.
                    syncing = None;
                }
                let backoff = (BACKOFF_MIN * 2u32.pow(failures.min(6))).min(BACKOFF_MAX);
                backoff.mul_f64(0.5 + rand::random::<f64>())
            }
        };
        if syncing.as_ref().is_some_and(|syncing| syncing.is_over()) {
            syncing = None;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn note_failure(parts: &Parts, error: &SyncError, failures: u32) {
    let standing = &parts.books.standing;
    let lost = standing.note_link(LinkState { connected: false, leader_url: standing.link().leader_url });
    gauge!("boxoffice_quota_connected").set(0.0);
    match error {
        // Once a round would be a flood: the first says what happened, the others are counted.
        _ if lost || failures == 1 => {
            tracing::warn!(%error, "no sync with the arbiters; the region goes on from its slice")
        }
        _ => tracing::debug!(%error, failures, "no sync with the arbiters"),
    }
}

/// The node that syncs.
struct Syncing {
    /// Holds the lock while it lives.
    lock: Dedicated,
    link: Link,
    demands: Demands,
    /// The version of the concerts that were carried over.
    concerts_version: u64,
    /// The database has to be made sure of first.
    must_look: bool,
    /// Under this epoch the same question was asked again, and the arbiters had no registration to repeat.
    asked_again: Option<Epoch>,
    heartbeat: Duration,
    sent_at: Instant,
    contact_at: Option<Instant>,
    stock: (BTreeMap<PoolId, PoolStock>, Option<Instant>),
    idle_rounds: u32,
}

impl Syncing {
    /// If this node allocates and nobody else syncs.
    async fn begin(parts: &Parts) -> Result<Option<Self>, SyncError> {
        if !parts.allocator.is_active() {
            return Ok(None);
        }
        let lock = parts.books.db.dedicated("region-node quota").await?;
        let locked = lock.client.query_one("SELECT pg_try_advisory_lock($1)", &[&SYNC_LOCK]).await;
        if !locked.map_err(DbError::from)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let link = Link::open(parts.config.clone(), parts.books.region.clone())?;
        Ok(Some(Self {
            lock,
            link,
            demands: Demands::default(),
            concerts_version: 0,
            must_look: true,
            asked_again: None,
            heartbeat: Duration::from_secs(1),
            sent_at: Instant::now(),
            contact_at: None,
            stock: (BTreeMap::new(), None),
            idle_rounds: 0,
        }))
    }

    fn is_over(&self) -> bool {
        self.lock.client.is_closed() || self.idle_rounds > IDLE_ROUNDS_MAX
    }

    /// One exchange; how long to wait before the next.
    async fn round(&mut self, parts: &Parts) -> Result<Duration, SyncError> {
        self.idle_rounds = if parts.allocator.is_active() { 0 } else { self.idle_rounds + 1 };
        self.link.refresh();
        let own = self.read(parts).await?;
        if own.holder().halted().is_some() {
            return Ok(WATCH_EVERY);
        }
        self.sent_at = Instant::now();
        let news = if self.must_look { self.look(parts, own).await? } else { self.report(parts, own).await? };
        let passed = self.sent_at.elapsed();
        let pause = if news { GAP_MIN } else { self.heartbeat };
        Ok(pause.saturating_sub(passed).max(if news { GAP_MIN } else { Duration::ZERO }))
    }

    async fn read(&self, parts: &Parts) -> Result<Own, SyncError> {
        let own = holder::read(&parts.books.db).await?;
        let standing = &parts.books.standing;
        standing.note(own.clone());
        gauge!("boxoffice_quota_halted").set(f64::from(u8::from(own.holder().halted().is_some())));
        gauge!("boxoffice_quota_epoch").set(own.holder().epoch().map_or(0, |epoch| epoch.get()) as f64);
        let left_ms = match standing.autonomy() {
            Some(Autonomy::Sells { for_ms }) => for_ms,
            _ => 0,
        };
        gauge!("boxoffice_quota_autonomy_seconds").set(left_ms as f64 / 1_000.0);
        Ok(own)
    }

    fn body(&self, own: &Own, report: Option<Report>, wait_ms: u64, look: bool) -> SyncBody {
        let stored = &own.stored;
        // A report counts under the incarnation that registered the database, whatever was heard of since.
        let incarnation = report.as_ref().map_or(stored.incarnation, |report| report.incarnation);
        let sync = SyncRequest::new(stored.region, stored.identity, incarnation, report);
        SyncBody { sync, concerts_version: self.concerts_version, wait_ms, look }
    }

    /// A heartbeat. Waits for news at the arbiters'; when there is news here meanwhile, it reports again at once.
    async fn report(&mut self, parts: &Parts, own: Own) -> Result<bool, SyncError> {
        let demands = self.demands.measure(&parts.books, &parts.catalog, &own).await?;
        let Some(mut report) = own.holder().report(|pool| demands.get(pool).cloned().unwrap_or_default()) else {
            self.must_look = true;
            return Ok(true);
        };
        // A pool of which nothing was granted yet has no row, and may have a queue.
        for (pool, demand) in &demands {
            if !own.stored.rows.contains_key(pool) && *demand != Demand::default() {
                report.pools.push(PoolReport { pool: *pool, counters: Counters::ZERO, demand: demand.clone() });
            }
        }
        db_fail_point!("quota.before_report");
        let wait_ms = (self.heartbeat.as_millis() as u64).min(WAIT_MS_MAX);
        let body = self.body(&own, Some(report), wait_ms, false);
        let gap = URGENT_GAP.saturating_sub(self.sent_at.elapsed());
        let urgent = async {
            tokio::time::sleep(gap).await;
            parts.books.standing.urgent().await;
        };
        let reply = tokio::select! {
            reply = self.link.sync(&body) => reply?,
            () = urgent => return Ok(true),
        };
        counter!("boxoffice_quota_syncs_total").increment(1);
        self.hear(parts, reply, &demands).await
    }

    /// What came back: concerts, then grants, then what is asked back. Whether there is something to report at once.
    async fn hear(
        &mut self,
        parts: &Parts,
        reply: SyncReply,
        demands: &BTreeMap<PoolId, Demand>,
    ) -> Result<bool, SyncError> {
        let (view, answer) = self.take_rest(parts, reply).await?;
        let own = self.read(parts).await?;
        match own.holder().contact(&view) {
            Contact::Registered => {}
            Contact::Superseded(reason) => {
                self.halt(parts, &reason).await?;
                return Ok(false);
            }
            Contact::AskAgain | Contact::Register => {
                self.must_look = true;
                return Ok(true);
            }
            Contact::ArbitersBehind(behind) => {
                tracing::warn!(%behind, "took nothing from the arbiters");
                return Ok(false);
            }
        }
        self.note_contact(parts).await?;
        let did = match holder::deliver(&parts.books.db, &own, &answer, &*parts.books).await {
            Ok(Did { done: Done::Halted(reason), .. }) => {
                self.halted(parts, &reason).await?;
                return Ok(false);
            }
            other => other?,
        };
        let mut news = did.done == Done::Changed;
        if news {
            let before: u64 = own.stored.rows.values().map(|row| row.counters.granted.get()).sum();
            self.used(parts, &did);
            parts.books.stock_back.notify_one();
            let after = self.read(parts).await?.stored.rows.values().map(|row| row.counters.granted.get()).sum::<u64>();
            counter!("boxoffice_quota_granted_tickets_total").increment(after.saturating_sub(before));
        }
        news |= self.give_back(parts, &answer, demands).await?;
        Ok(news)
    }

    /// Everything of a reply that needs no registration.
    async fn take_rest(&mut self, parts: &Parts, reply: SyncReply) -> Result<(RegionView, Answer), SyncError> {
        let (view, answer) = reply.sync.parts()?;
        self.heartbeat = Duration::from_millis(reply.heartbeat_ms).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        let leader_url = self.link.leader().map(ToString::to_string);
        if parts.books.standing.note_link(LinkState { connected: true, leader_url }) {
            tracing::info!(arbiter = reply.meta.node, term = reply.meta.term, "in sync with the arbiters");
        }
        gauge!("boxoffice_quota_connected").set(1.0);
        if let Some(orders) = &reply.concerts {
            concerts::carry_over(&parts.books, parts.shards, orders).await?;
        }
        self.concerts_version = reply.concerts_version;
        let fresh = self.stock.1.is_some_and(|at| at.elapsed() < STOCK_EVERY);
        if !fresh || self.stock.0 != reply.stock {
            elsewhere::note(&parts.books.db, &reply.stock).await?;
            self.stock = (reply.stock, Some(Instant::now()));
        }
        Ok((view, answer))
    }

    async fn note_contact(&mut self, parts: &Parts) -> Result<(), SyncError> {
        let every = CONTACT_EVERY.min(Duration::from_millis(parts.config.autonomy_ms / 4));
        if self.contact_at.is_none_or(|at| at.elapsed() >= every) {
            parts.books.standing.note(holder::note_contact(&parts.books.db).await?);
            self.contact_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Returns what was asked back and can be spared: durable first, reported after.
    async fn give_back(
        &mut self,
        parts: &Parts,
        answer: &Answer,
        demands: &BTreeMap<PoolId, Demand>,
    ) -> Result<bool, SyncError> {
        let mut news = false;
        let own = holder::read(&parts.books.db).await?;
        for slice in &answer.slices {
            let Some(row) = own.stored.rows.get(&slice.pool) else { continue };
            let asked = slice.return_up_to.minus_or_zero(row.counters.returned).get();
            if asked == 0 {
                continue;
            }
            let nothing = Demand::default();
            let demand = demands.get(&slice.pool).unwrap_or(&nothing);
            let spare = spare::spare(row.counters.available().get(), demand);
            let Ok(tickets) = quota_protocol::Tickets::new(asked.min(spare)) else { continue };
            if tickets.is_zero() {
                continue;
            }
            match holder::give_back(&parts.books.db, &slice.pool, tickets, &*parts.books).await {
                Ok(did) => {
                    self.used(parts, &did);
                    counter!("boxoffice_quota_returned_tickets_total").increment(tickets.get());
                    news = true;
                }
                // Somebody here was quicker, or the concert is halted: nothing is returned of it now.
                Err(HolderError::Refused(Refused::TooFew(_)) | HolderError::Db(DbError::Halted { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(news)
    }

    fn used(&self, parts: &Parts, did: &Did) {
        for (concert_id, book) in &did.books {
            parts.books.note_book(*concert_id, *book);
        }
    }

    /// Reads how the arbiters know this region, and does what follows.
    async fn look(&mut self, parts: &Parts, own: Own) -> Result<bool, SyncError> {
        let reply = self.link.sync(&self.body(&own, None, 0, true)).await?;
        let (view, _) = self.take_rest(parts, reply).await?;
        let mut own = self.read(parts).await?;
        let mut read = view;
        match own.holder().contact(&view) {
            Contact::Registered => {
                self.must_look = false;
                self.note_contact(parts).await?;
                return Ok(true);
            }
            Contact::Superseded(reason) => {
                self.halt(parts, &reason).await?;
                return Ok(false);
            }
            Contact::ArbitersBehind(behind) => {
                tracing::warn!(%behind, "took nothing from the arbiters");
                return Ok(false);
            }
            // Registered, and the answer was lost: the same question gets the same answer, where another one would
            // register anew, which an empty database may do but once. If there is no answer either, the region was written
            // off since: that is for the arbiters to say.
            Contact::AskAgain if self.asked_again == Some(view.epoch) => {}
            Contact::AskAgain => read.epoch = Epoch::new(view.epoch.get().saturating_sub(1)),
            Contact::Register => {
                if own.stored.incarnation < view.incarnation {
                    holder::observe(&parts.books.db, view.incarnation).await?;
                    own = self.read(parts).await?;
                }
            }
        }
        db_fail_point!("quota.before_register");
        let register = RegisterRequest::new(own.holder().register_request(&read));
        match self.link.register(&register).await?.answer {
            RegisterAnswer::Registered(registered) => {
                let did = match holder::adopt(&parts.books.db, &registered).await {
                    // Its concert is not known here yet: all of them are asked for with the next look.
                    Err(HolderError::UnknownPool(pool)) => {
                        tracing::warn!(%pool, "seeded, and not known here yet");
                        self.concerts_version = 0;
                        return Ok(false);
                    }
                    other => other?,
                };
                self.used(parts, &did);
                if did.done == Done::Changed {
                    tracing::info!(epoch = %registered.epoch, identity = %registered.identity, "registered with the arbiters");
                }
                self.contact_at = None;
                self.must_look = false;
                self.read(parts).await?;
                parts.books.stock_back.notify_one();
                Ok(true)
            }
            RegisterAnswer::ReadAgain => {
                self.asked_again = (read.epoch != view.epoch).then_some(view.epoch);
                Ok(true)
            }
            RegisterAnswer::Refused(reason) => {
                self.halt(parts, &reason).await?;
                Ok(false)
            }
        }
    }

    async fn halt(&mut self, parts: &Parts, reason: &HaltReason) -> Result<(), SyncError> {
        holder::halt(&parts.books.db, reason).await?;
        self.halted(parts, reason).await
    }

    /// Said once: from now on the region rests, and its status says why.
    async fn halted(&mut self, parts: &Parts, reason: &HaltReason) -> Result<(), SyncError> {
        tracing::error!(reason = %reason, "the region is halted: nothing is sold until an operator has acted");
        self.read(parts).await?;
        Ok(())
    }
}
