//! The queue of a region: Redis, its function library, group commit, generations, positions.
//!
//! A join is answered only when Redis has it on disk (and on as many replicas as configured). It is then in two places
//! that one function call writes together: the shard's stream (what the allocator reads, in order) and the shard's
//! table of places (one per user: dedupe, cool-downs). Nothing here ever gives a user two places at a time, gives one
//! number out twice, or reports a place that was not confirmed.
//!
//! Tasks: per server a keeper (`server`) and a committer (`commit`), per cluster a refresher of its map (`router`). They
//! end when the last [`Queue`] is dropped.

mod calls;
mod codec;
mod commit;
mod config;
mod failure;
mod functions;
mod group;
mod keys;
pub mod limits;
pub mod positions;
mod router;
mod server;
mod types;

pub use config::{QueueConfig, Secret};
pub use types::{
    ConcertQueue, JoinError, JoinItem, JoinOutcome, Joined, QueueEntry, QueueError, QueueHealth, Sample, ServerHealth,
    Settle, SettleOutcome, ShardState,
};

use commit::Committing;
use foldhash::HashMap;
use group::{Pushed, Shard};
use limits::{GROUP_ITEMS_MAX, TIERS_MAX};
use parking_lot::RwLock;
use region_api::UserHash;
use router::Router;
use server::Server;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A handle on the queue; cheap to clone.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    router: Arc<Router>,
    concerts: RwLock<HashMap<i32, Arc<[Arc<Shard>]>>>,
    in_flight: Arc<AtomicUsize>,
    inflight_max: usize,
    _stop: DropGuard,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("health", &self.state()).finish()
    }
}

impl Queue {
    /// Connects to every server, checks that each keeps what it confirms (appendonly, appendfsync always, noeviction),
    /// and loads the functions. Fails when a server is away or unfit; later outages heal by themselves.
    pub async fn connect(config: &QueueConfig) -> Result<Queue, QueueError> {
        let mut config = config.clone();
        config.batch_items_max = config.batch_items_max.clamp(1, GROUP_ITEMS_MAX);
        if config.urls.is_empty() || (!config.cluster && config.urls.len() != 1) {
            let text = "name one Redis, or some nodes of a cluster with cluster = true";
            return Err(QueueError::Config(text.to_owned()));
        }
        let stop = CancellationToken::new();
        let mut servers = Vec::new();
        for url in &config.urls {
            let address = url.trim_start_matches("redis://").trim_end_matches('/').to_owned();
            servers.push(Server::new(&config, address, stop.child_token())?);
        }
        let mut result = Ok(());
        for server in &servers {
            result = server.connect().await;
            // Of a cluster, any node that answers will do.
            if config.cluster == result.is_ok() {
                break;
            }
        }
        result?;
        let in_flight = Arc::new(AtomicUsize::new(0));
        let router = start(config.clone(), servers, &stop, &in_flight);
        if config.cluster {
            router.refresh().await?;
            for server in &router.map().servers {
                if !server.health().up {
                    server.connect().await?;
                }
            }
        }
        let inflight_max = config.inflight_max.max(1);
        let inner = Inner { router, concerts: RwLock::default(), in_flight, inflight_max, _stop: stop.drop_guard() };
        Ok(Queue { inner: Arc::new(inner) })
    }

    /// Puts somebody into the queue, once: durable when it returns `Ok` (see [`JoinOutcome`]).
    pub async fn join(&self, concert: ConcertQueue, item: JoinItem) -> Result<Joined, JoinError> {
        let inner = &*self.inner;
        if item.tiers.len() > TIERS_MAX {
            return Err(JoinError::Unavailable(format!("{} tiers in one join", item.tiers.len())));
        }
        let shard = inner.shard(concert, shard_of(&item.user, concert.shards));
        loop {
            if inner.in_flight.fetch_add(1, Ordering::Relaxed) >= inner.inflight_max {
                inner.in_flight.fetch_sub(1, Ordering::Relaxed);
                return Err(JoinError::Overloaded);
            }
            // The push needs the task's waker, hence the detour; it never waits.
            match poll_fn(|cx| Poll::Ready(shard.push(&item, cx.waker()))).await {
                Pushed::In { mut ticket, first } => {
                    if first {
                        inner.announce(&shard);
                    }
                    (&mut ticket).await;
                    return ticket.redeem(shard.shard, item);
                }
                Pushed::Twin(ticket) => {
                    inner.in_flight.fetch_sub(1, Ordering::Relaxed);
                    ticket.await;
                }
            }
        }
    }

    /// For `/readyz` and metrics.
    pub fn state(&self) -> QueueHealth {
        let map = self.inner.router.map();
        QueueHealth {
            servers: map.servers.iter().map(|server| server.health()).collect(),
            ready: map.complete(),
            joins_in_flight: self.inner.in_flight.load(Ordering::Relaxed),
        }
    }
}

/// Which shard of `shards` a user's joins go to.
pub fn shard_of(user: &UserHash, shards: u16) -> u16 {
    let [a, b, c, d, e, f, g, h, ..] = user.0;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]) % u64::from(shards.max(1))) as u16
}

impl Inner {
    fn shards(&self, concert: ConcertQueue) -> Arc<[Arc<Shard>]> {
        if let Some(shards) = self.concerts.read().get(&concert.concert_id) {
            return shards.clone();
        }
        let mut concerts = self.concerts.write();
        let make = || (0..concert.shards.max(1)).map(|shard| Arc::new(Shard::new(concert.concert_id, shard))).collect();
        concerts.entry(concert.concert_id).or_insert_with(make).clone()
    }

    fn shard(&self, concert: ConcertQueue, shard: u16) -> Arc<Shard> {
        if let Some(known) = self.concerts.read().get(&concert.concert_id).and_then(|all| all.get(usize::from(shard))) {
            return known.clone();
        }
        let all = self.shards(concert);
        // A concert's number of shards is fixed for ever; out of range would be a caller's defect.
        all[usize::from(shard) % all.len()].clone()
    }

    /// Tells the committer of the shard's server that there is something to take.
    fn announce(&self, shard: &Arc<Shard>) {
        match self.router.server_of(shard.keys.slot) {
            Ok(server) => {
                server.dirty.lock().push_back(shard.clone());
                server.work.notify_one();
            }
            Err(error) => {
                self.router.note_stale();
                let error = JoinError::from(error);
                while let Some((group, _)) = shard.take(&self.in_flight) {
                    group.fail(error.clone());
                }
            }
        }
    }
}

/// Starts every task; new servers of a cluster get theirs when the map names them.
fn start(
    config: QueueConfig,
    servers: Vec<Arc<Server>>,
    stop: &CancellationToken,
    in_flight: &Arc<AtomicUsize>,
) -> Arc<Router> {
    let cluster = config.cluster;
    let in_flight = in_flight.clone();
    let router = Arc::new_cyclic(|router: &std::sync::Weak<Router>| {
        let (router, committer_config) = (router.clone(), config.clone());
        let start = move |server: Arc<Server>| {
            let Some(router) = router.upgrade() else { return };
            let committing = Committing { config: committer_config.clone(), router, in_flight: in_flight.clone() };
            tokio::spawn(server.clone().keep());
            tokio::spawn(Arc::new(committing).run(server));
        };
        Router::new(config, servers, stop.clone(), Box::new(start))
    });
    router.start_all();
    if cluster {
        tokio::spawn(router.clone().keep_map());
    }
    router
}
