//! Which server holds which slot, and calls that follow a slot while it moves. One Redis is the map with one server.
//!
//! The refresher task alone replaces the map: when a call was sent away, when a server was lost, and every few seconds.

use super::config::QueueConfig;
use super::failure::CallError;
use super::limits::{MAP_REFRESH, REDIRECT_MAX, REDIRECT_PAUSE};
use super::server::Server;
use super::types::QueueError;
use parking_lot::RwLock;
use redis::{Pipeline, Value};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const SLOTS: usize = 16_384;
const NOBODY: u16 = u16::MAX;

pub(super) struct Router {
    config: QueueConfig,
    map: RwLock<Arc<Map>>,
    stale: Notify,
    stop: CancellationToken,
    /// Starts a new server's tasks.
    start: Box<dyn Fn(Arc<Server>) + Send + Sync>,
}

/// A snapshot of who holds what.
pub(super) struct Map {
    pub(super) servers: Vec<Arc<Server>>,
    /// Index into `servers`; `None` where one server holds everything.
    slots: Option<Vec<u16>>,
}

impl Map {
    fn server_of(&self, slot: u16) -> Option<&Arc<Server>> {
        match &self.slots {
            None => self.servers.first(),
            Some(slots) => self.servers.get(usize::from(*slots.get(usize::from(slot))?)),
        }
    }

    /// Every slot has a server that is up.
    pub(super) fn complete(&self) -> bool {
        let all_held = self.slots.as_ref().is_none_or(|slots| slots.iter().all(|server| *server != NOBODY));
        all_held && !self.servers.is_empty() && self.servers.iter().all(|server| server.health().up)
    }
}

impl Router {
    pub(super) fn new(
        config: QueueConfig,
        servers: Vec<Arc<Server>>,
        stop: CancellationToken,
        start: Box<dyn Fn(Arc<Server>) + Send + Sync>,
    ) -> Self {
        let slots = config.cluster.then(|| vec![NOBODY; SLOTS]);
        Self { config, map: RwLock::new(Arc::new(Map { servers, slots })), stale: Notify::new(), stop, start }
    }

    /// Starts the tasks of the servers that it was made with.
    pub(super) fn start_all(&self) {
        self.map().servers.iter().for_each(|server| (self.start)(server.clone()));
    }

    pub(super) fn map(&self) -> Arc<Map> {
        self.map.read().clone()
    }

    pub(super) fn server_of(&self, slot: u16) -> Result<Arc<Server>, CallError> {
        let nobody = || CallError::Refused(format!("no server is known to hold slot {slot}"));
        self.map.read().server_of(slot).cloned().ok_or_else(nobody)
    }

    /// Asks for a new map.
    pub(super) fn note_stale(&self) {
        self.stale.notify_one();
    }

    /// Sends a pipeline about one slot and follows the slot for a while. Only for what may be repeated.
    pub(super) async fn call(&self, slot: u16, pipeline: &Pipeline) -> Result<Vec<Value>, CallError> {
        let begun = Instant::now();
        let mut next: Option<(Arc<Server>, bool)> = None;
        loop {
            let (server, asking) = match next.take() {
                Some(there) => there,
                None => (self.server_of(slot)?, false),
            };
            let error = match self.attempt(&server, asking, pipeline).await {
                Err(error) => error,
                Ok(values) => return Ok(values),
            };
            match &error {
                _ if begun.elapsed() > REDIRECT_MAX => return Err(error),
                CallError::NoFunction => {
                    let mut link = server.link()?;
                    server.load_functions(&mut link.side).await.map_err(|e| CallError::Later(e.to_string()))?;
                    next = Some((server, asking));
                }
                CallError::Moved(to) => {
                    next = self.named(to, &server)?.map(|server| (server, false));
                    self.note_stale();
                    tokio::time::sleep(REDIRECT_PAUSE).await;
                }
                CallError::Ask(to) => next = self.named(to, &server)?.map(|server| (server, true)),
                CallError::Later(_) => {
                    self.note_stale();
                    tokio::time::sleep(REDIRECT_PAUSE).await;
                }
                CallError::Refused(_) | CallError::Declined(_) | CallError::Unknown(_) => return Err(error),
            }
        }
    }

    async fn attempt(&self, server: &Arc<Server>, asking: bool, pipeline: &Pipeline) -> Result<Vec<Value>, CallError> {
        let values = if asking {
            let mut with_asking = Pipeline::new();
            pipeline.cmd_iter().for_each(|command| {
                with_asking.add_command(redis::cmd("ASKING"));
                with_asking.add_command(command.clone());
            });
            let values = server.call(&with_asking).await?;
            values.into_iter().skip(1).step_by(2).collect()
        } else {
            server.call(pipeline).await?
        };
        values.into_iter().map(CallError::of_value).collect()
    }

    /// The server that a redirection names, if we have a connection to it; a new one joins by the next map.
    fn named(&self, address: &str, from: &Server) -> Result<Option<Arc<Server>>, CallError> {
        // Redis leaves the host out when it is the one that we asked.
        let address = match address.strip_prefix(':') {
            Some(port) => format!("{}:{port}", from.address.rsplit_once(':').map_or("", |(host, _)| host)),
            None => address.to_owned(),
        };
        let known = self.map().servers.iter().find(|server| server.address == address).cloned();
        Ok(known.filter(|server| server.health().up))
    }

    /// The refresher task of a cluster.
    pub(super) async fn keep_map(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.stale.notified() => {}
                () = tokio::time::sleep(MAP_REFRESH) => {}
            }
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "queue.map_unknown");
            }
            // Many may have asked at once; one answer serves them.
            tokio::time::sleep(REDIRECT_PAUSE).await;
        }
    }

    /// Reads the map from the first server that answers.
    pub(super) async fn refresh(&self) -> Result<(), QueueError> {
        let old = self.map();
        let mut last = CallError::Refused("no server is up".to_owned());
        for server in &old.servers {
            match server.call(redis::pipe().cmd("CLUSTER").arg("SLOTS")).await {
                Ok(mut values) => match values.pop().map(CallError::of_value) {
                    Some(Ok(value)) => return self.install(&old, server, &value),
                    Some(Err(error)) => last = error,
                    None => {}
                },
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn install(&self, old: &Map, asked: &Server, value: &Value) -> Result<(), QueueError> {
        let ranges = slot_ranges(value, asked).ok_or(QueueError::Corrupt("the answer to CLUSTER SLOTS"))?;
        let mut servers: Vec<Arc<Server>> = Vec::new();
        let mut fresh = Vec::new();
        let mut slots = vec![NOBODY; SLOTS];
        for (first, last, address) in ranges {
            let index = match servers.iter().position(|server| server.address == address) {
                Some(index) => index,
                None => {
                    let known = old.servers.iter().find(|server| server.address == address).cloned();
                    let server = match known {
                        Some(server) => server,
                        None => {
                            let server = Server::new(&self.config, address, self.stop.child_token())?;
                            fresh.push(server.clone());
                            server
                        }
                    };
                    servers.push(server);
                    servers.len() - 1
                }
            };
            let range = slots.get_mut(first..=last).ok_or(QueueError::Corrupt("a slot out of range"))?;
            range.fill(index as u16);
        }
        for gone in old.servers.iter().filter(|server| !servers.iter().any(|kept| Arc::ptr_eq(kept, server))) {
            gone.stop.cancel();
        }
        *self.map.write() = Arc::new(Map { servers, slots: Some(slots) });
        fresh.into_iter().for_each(|server| (self.start)(server));
        Ok(())
    }
}

/// First slot, last slot, the primary's address.
fn slot_ranges(value: &Value, asked: &Server) -> Option<Vec<(usize, usize, String)>> {
    let Value::Array(ranges) = value else { return None };
    let number = |value: &Value| match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    let mut out = Vec::with_capacity(ranges.len());
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let [first, last, Value::Array(primary), ..] = parts.as_slice() else { return None };
        let host = match primary.first()? {
            Value::BulkString(host) if !host.is_empty() => std::str::from_utf8(host).ok()?,
            _ => asked.address.rsplit_once(':')?.0,
        };
        out.push((number(first)?, number(last)?, format!("{host}:{}", number(primary.get(1)?)?)));
    }
    Some(out)
}
