//! The sandbox's one shared state: the account behind a lock, its record, the faults in force, the way to webhooks.
//!
//! Who owns what: request handlers change the account under the lock and write the record there, so that the record's
//! order is the account's; the task in `webhooks` alone delivers. Never holds the lock across an await.

use super::account::{Account, Done};
use super::errors::ApiError;
use super::faults::{Faults, Operation};
use super::record::{Line, Record, Replayed};
use super::{SandboxConfig, limits, wire};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// An event on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// `evt_…`
    pub(crate) id: String,
    /// What is sent.
    pub(crate) body: Arc<str>,
}

/// Something for the task that owns time.
#[derive(Debug)]
pub(crate) enum Job {
    /// Tell an event, as the faults say.
    Tell(Event),
    /// Tell an event at once and once.
    TellNow(Event),
    /// The money of this payment arrives after so long: `true` only if it is still processing then.
    Arrive(String, Duration, bool),
}

struct Inner {
    account: Account,
    record: Record,
    held: Vec<Event>,
}

/// See the file's head.
pub(crate) struct Shop {
    /// As given at the start.
    pub(crate) config: SandboxConfig,
    inner: Mutex<Inner>,
    faults: Mutex<Arc<Faults>>,
    jobs: mpsc::UnboundedSender<Job>,
    /// Events that are neither delivered nor dropped.
    pub(crate) pending: AtomicU64,
    /// Events delivered to every endpoint.
    pub(crate) delivered: AtomicU64,
    /// Events never delivered: on purpose, or past a bound.
    pub(crate) dropped: AtomicU64,
}

/// Random letters and digits, as Stripe's ids have them.
pub(crate) fn fresh(prefix: &str) -> String {
    const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let letters = (0..24).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]));
    prefix.chars().chain(letters).collect()
}

/// Seconds since 1970.
pub(crate) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Shop {
    /// Opens the record, takes up events and processing payments where they were left.
    pub(crate) fn open(config: SandboxConfig) -> anyhow::Result<(Arc<Self>, mpsc::UnboundedReceiver<Job>)> {
        let (record, Replayed { account, events }) = Record::open(config.record.as_deref())?;
        // Unbounded in form only: `tell` counts what is pending and drops past its bound.
        let (jobs, receiver) = mpsc::unbounded_channel();
        let processing: Vec<String> = account.processing().map(|intent| intent.id.clone()).collect();
        let shop = Arc::new(Self {
            config,
            inner: Mutex::new(Inner { account, record, held: Vec::new() }),
            faults: Mutex::default(),
            jobs,
            pending: AtomicU64::new(events.len() as u64),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        events.into_iter().for_each(|(id, body)| shop.job(Job::Tell(Event { id, body: body.into() })));
        processing.into_iter().for_each(|id| shop.job(Job::Arrive(id, shop.config.processing, true)));
        Ok((shop, receiver))
    }

    /// The faults in force.
    pub(crate) fn faults(&self) -> Arc<Faults> {
        self.faults.lock().clone()
    }

    /// Replaces the faults.
    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.faults.lock() = Arc::new(faults);
    }

    /// Reads the account.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Account) -> T) -> T {
        look(&self.inner.lock().account)
    }

    /// Changes the account, records the change, and sends the news on its way.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Account) -> Result<(T, Done), ApiError>,
    ) -> Result<(T, Done), ApiError> {
        let mut inner = self.inner.lock();
        let (value, done) = change(&mut inner.account)?;
        let mut lines: Vec<Line> = done.changes.iter().cloned().map(Line::Change).collect();
        let event = done.told.map(|told| {
            let id = fresh("evt_");
            let body = wire::event(&id, now_s(), told, &done.intent).to_string();
            Event { id, body: body.into() }
        });
        let room = self.pending.load(Ordering::Relaxed) < limits::EVENTS_MAX as u64;
        if let Some(event) = event.as_ref().filter(|_| room) {
            lines.push(Line::Event { id: event.id.clone(), body: event.body.to_string() });
        }
        if !lines.is_empty() {
            inner.record.add(&lines).map_err(|error| {
                tracing::error!(%error, "the record cannot be written");
                ApiError::internal("The record cannot be written.")
            })?;
        }
        match event {
            Some(event) if room => {
                self.pending.fetch_add(1, Ordering::Relaxed);
                if self.faults().webhook_hold { inner.held.push(event) } else { self.job(Job::Tell(event)) }
            }
            Some(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            None => {}
        }
        Ok((value, done))
    }

    /// Sends what was held back, oldest or newest first; how many.
    pub(crate) fn release(&self, reversed: bool) -> usize {
        let mut held = std::mem::take(&mut self.inner.lock().held);
        if reversed {
            held.reverse();
        }
        let released = held.len();
        held.into_iter().for_each(|event| self.job(Job::TellNow(event)));
        released
    }

    /// An event needs nothing more: delivered everywhere, or dropped.
    pub(crate) fn told(&self, event: &str, dropped: bool) {
        let counter = if dropped { &self.dropped } else { &self.delivered };
        counter.fetch_add(1, Ordering::Relaxed);
        self.pending.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = self.inner.lock().record.add(&[Line::Told(event.to_owned())]) {
            tracing::error!(%error, "the record cannot be written");
        }
    }

    /// Hands something to the task that owns time. Nothing happens when that has ended: the sandbox is stopping.
    pub(crate) fn job(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// Faults before an operation: slowness, and failing without doing anything.
    pub(crate) async fn before(&self, operation: Operation) -> Result<(), ApiError> {
        let faults = self.faults();
        if !faults.concern(operation) {
            return Ok(());
        }
        if faults.slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(faults.slow_ms)).await;
        }
        if rand::random_bool(faults.fail_before) {
            return Err(ApiError::internal("Failed as asked, nothing done."));
        }
        Ok(())
    }

    /// Faults after an operation: done, and yet answered with an error.
    pub(crate) fn after(&self, operation: Operation) -> Result<(), ApiError> {
        let faults = self.faults();
        if faults.concern(operation) && rand::random_bool(faults.fail_after) {
            return Err(ApiError::internal("Failed as asked, though done."));
        }
        Ok(())
    }
}
