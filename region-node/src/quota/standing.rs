//! How this region's database stands with the arbiters, as this node knows it: epoch, halted, autonomy, the link.
//!
//! Filled by the sync task, about once a second from the database and at once after it changed something there. What it
//! says only saves work and tells people: whether something may be spent is decided in the transaction that spends
//! (`db::book`). Must never be the reason that something is held.

use crate::db::holder::Own;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use quota_protocol::autonomy::{Autonomy, autonomy};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// See the head of this file.
#[derive(Debug)]
pub struct Standing {
    /// How long the region sells without contact; `None` in a standalone region.
    autonomy_ms: Option<u64>,
    read: ArcSwapOption<Read>,
    /// The database's clock when this node first read it, milliseconds since 1970.
    started_ms: AtomicU64,
    link: Mutex<Link>,
    urgent: Notify,
    /// The end of the autonomy was logged.
    ended: AtomicBool,
}

#[derive(Debug)]
struct Read {
    own: Own,
    /// The epoch under which this database may spend; 0 when it is not the registered one.
    epoch: u64,
    /// It is, and was not told to stop.
    registered: bool,
    at: Instant,
}

/// The connection to the arbiters, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The last exchange went well. Of a node that leaves it to another one, always false.
    pub connected: bool,
    /// Who answered last.
    pub leader_url: Option<String>,
}

impl Standing {
    /// Of a standalone region.
    pub fn alone() -> Self {
        Self::new(None)
    }

    /// Of a region under arbiters.
    pub fn under_arbiters(autonomy_ms: u64) -> Self {
        Self::new(Some(autonomy_ms))
    }

    fn new(autonomy_ms: Option<u64>) -> Self {
        Self {
            autonomy_ms,
            read: ArcSwapOption::empty(),
            started_ms: AtomicU64::new(0),
            link: Mutex::default(),
            urgent: Notify::new(),
            ended: AtomicBool::new(false),
        }
    }

    /// Whether there is nobody to ask.
    pub fn is_alone(&self) -> bool {
        self.autonomy_ms.is_none()
    }

    /// The epoch under which this node works: 0 before its database is registered, `None` in a standalone region.
    pub fn epoch(&self) -> Option<u64> {
        self.autonomy_ms?;
        Some(self.read.load().as_ref().map_or(0, |read| read.epoch))
    }

    /// What was read last; `None` before that, and in a standalone region.
    pub fn own(&self) -> Option<Own> {
        self.read.load().as_ref().map(|read| read.own.clone())
    }

    /// Takes what was read from the database.
    pub fn note(&self, own: Own) {
        // Only the first time counts.
        let _ = self.started_ms.compare_exchange(0, own.now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed);
        let holder = own.holder();
        let epoch = holder.epoch().map_or(0, |epoch| epoch.get());
        let registered = holder.epoch().is_some() && holder.halted().is_none();
        // Between its registration and the first contact that is written down, nothing has ended yet.
        let heard = own.last_contact_ms.is_some();
        self.read.store(Some(Arc::new(Read { own, epoch, registered, at: Instant::now() })));
        let ended = heard && self.autonomy() == Some(Autonomy::Ended) && self.is_registered();
        if self.ended.swap(ended, Ordering::Relaxed) != ended {
            if ended {
                tracing::warn!("no contact with an arbiter for too long: no new holds until there is; payments go on");
            } else {
                tracing::info!("in contact with an arbiter again: holds go on");
            }
        }
    }

    /// Whether the arbiters were heard, by any node of the region, since this node started.
    pub fn heard_since_start(&self) -> bool {
        let started_ms = self.started_ms.load(Ordering::Relaxed);
        let heard = |read: &Arc<Read>| read.own.last_contact_ms.is_some_and(|at| started_ms > 0 && at >= started_ms);
        self.is_alone() || self.read.load().as_ref().is_some_and(heard)
    }

    /// Whether this database is the registered one and was not told to stop. True in a standalone region.
    pub fn is_registered(&self) -> bool {
        self.is_alone() || self.read.load().as_ref().is_some_and(|read| read.registered)
    }

    /// Whether new holds may be made: registered, and in contact lately enough.
    pub fn may_hold(&self) -> bool {
        self.is_alone() || (self.is_registered() && matches!(self.autonomy(), Some(Autonomy::Sells { .. })))
    }

    /// How long the region may still make holds; `None` in a standalone region.
    pub fn autonomy(&self) -> Option<Autonomy> {
        let autonomy_ms = self.autonomy_ms?;
        let read = self.read.load();
        let Some(read) = read.as_ref() else { return Some(Autonomy::Ended) };
        let now_ms = read.own.now_ms + read.at.elapsed().as_millis() as u64;
        Some(autonomy(now_ms, read.own.last_contact_ms, autonomy_ms))
    }

    /// The connection, for people.
    pub fn link(&self) -> Link {
        self.link.lock().clone()
    }

    /// Whether the connection changed by this.
    pub fn note_link(&self, link: Link) -> bool {
        let mut known = self.link.lock();
        let changed = known.connected != link.connected;
        *known = link;
        changed
    }

    /// The arbiters should hear now how things stand, and not with the next heartbeat: people wait here for tickets that
    /// are not here, or tickets came back and nobody here waits for them.
    pub fn note_urgent(&self) {
        self.urgent.notify_one();
    }

    /// Resolves after [`Self::note_urgent`].
    pub async fn urgent(&self) {
        self.urgent.notified().await;
    }
}
