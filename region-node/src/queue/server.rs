//! One Redis server: its two connections, and the task that keeps them.
//!
//! The keeper task alone connects: it authenticates, checks that the server is fit for the queue, loads the functions,
//! and only then publishes the link. Whoever sees a link fail breaks it, and from then on calls fail at once until the
//! keeper has a new one. `intake` carries joins only (a `WAIT` blocks a connection), `side` everything else.

use super::config::QueueConfig;
use super::failure::CallError;
use super::functions::LIBRARY;
use super::group::Shard;
use super::limits::{CONNECT_MAX, RECONNECT_PAUSE, RESPONSE_MAX};
use super::types::{QueueError, ServerHealth};
use parking_lot::{Mutex, RwLock};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo, PushKind, Value};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One server of the queue.
pub(super) struct Server {
    /// host:port
    pub(super) address: String,
    client: Client,
    state: RwLock<State>,
    lost: Notify,
    /// Shards with joins to take; the committer's inbox.
    pub(super) dirty: Mutex<VecDeque<Arc<Shard>>>,
    pub(super) work: Notify,
    /// Ends this server's tasks.
    pub(super) stop: CancellationToken,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    links_made: u64,
    note: Option<String>,
}

/// A working pair of connections.
#[derive(Clone)]
pub(super) struct Link {
    number: u64,
    pub(super) intake: MultiplexedConnection,
    pub(super) side: MultiplexedConnection,
}

impl Server {
    /// `address` is `host:port`. Connects nothing yet.
    pub(super) fn new(config: &QueueConfig, address: String, stop: CancellationToken) -> Result<Arc<Self>, QueueError> {
        let bad = |error: redis::RedisError| QueueError::Config(format!("{address}: {error}"));
        let info = format!("redis://{address}").into_connection_info().map_err(bad)?;
        // RESP3 because it tells when a connection has ended, before anything is sent into it.
        let mut login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = &config.username {
            login = login.set_username(username);
        }
        if let Some(password) = &config.password {
            login = login.set_password(password.reveal());
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        let client = Client::open(info).map_err(bad)?;
        Ok(Arc::new(Self {
            address,
            client,
            state: RwLock::default(),
            lost: Notify::new(),
            dirty: Mutex::default(),
            work: Notify::new(),
            stop,
        }))
    }

    /// The link, while there is one.
    pub(super) fn link(&self) -> Result<Link, CallError> {
        let state = self.state.read();
        state.link.clone().ok_or_else(|| {
            let why = state.note.as_deref().unwrap_or("not connected yet");
            CallError::Refused(format!("{}: {why}", self.address))
        })
    }

    pub(super) fn health(&self) -> ServerHealth {
        let state = self.state.read();
        ServerHealth { address: self.address.clone(), up: state.link.is_some(), note: state.note.clone() }
    }

    /// Takes a link out of use, unless a newer one has replaced it.
    pub(super) fn break_link(&self, link: &Link, why: &str) {
        self.break_numbered(link.number, why);
    }

    fn break_numbered(&self, number: u64, why: &str) {
        let mut state = self.state.write();
        if state.link.as_ref().is_some_and(|link| link.number == number) {
            tracing::warn!(redis.address = %self.address, reason = %why, "queue.server_lost");
            state.link = None;
            state.note = Some(why.to_owned());
            drop(state);
            self.lost.notify_one();
            // Whoever gathered meanwhile is told at once.
            self.work.notify_one();
        }
    }

    /// Sends a pipeline in one write; an error of the connection breaks the link.
    pub(super) async fn send(
        &self,
        link: &Link,
        mut connection: MultiplexedConnection,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        match connection.send_packed_commands(pipeline, 0, pipeline.len()).await {
            Ok(values) => Ok(values),
            Err(error) => {
                self.break_link(link, &error.to_string());
                Err(CallError::of_connection(&error))
            }
        }
    }

    /// One attempt of one command on the side connection.
    pub(super) async fn call(&self, pipeline: &Pipeline) -> Result<Vec<Value>, CallError> {
        let link = self.link()?;
        self.send(&link, link.side.clone(), pipeline).await
    }

    /// Loads the function library (again).
    pub(super) async fn load_functions(&self, connection: &mut MultiplexedConnection) -> Result<(), QueueError> {
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(LIBRARY);
        let loaded = connection.send_packed_command(&load).await.map_err(|error| CallError::of_connection(&error))?;
        CallError::of_value(loaded)?;
        Ok(())
    }

    /// Connects, checks, loads, publishes.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<(), QueueError> {
        let number = {
            let mut state = self.state.write();
            state.links_made += 1;
            state.links_made
        };
        match self.open(number).await {
            Ok((link, note)) => {
                let mut state = self.state.write();
                state.link = Some(link);
                state.note = note;
                Ok(())
            }
            Err(error) => {
                self.state.write().note = Some(error.to_string());
                Err(error)
            }
        }
    }

    async fn open(self: &Arc<Self>, number: u64) -> Result<(Link, Option<String>), QueueError> {
        let intake = self.dial(number).await?;
        let mut side = self.dial(number).await?;
        let note = self.check_fit(&mut side).await?;
        self.load_functions(&mut side).await?;
        Ok((Link { number, intake, side }, note))
    }

    async fn dial(self: &Arc<Self>, number: u64) -> Result<MultiplexedConnection, QueueError> {
        let server = Arc::downgrade(self);
        let on_push = move |push: PushInfo| -> Result<(), ()> {
            if push.kind == PushKind::Disconnection
                && let Some(server) = server.upgrade()
            {
                server.break_numbered(number, "the server closed the connection");
            }
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(RESPONSE_MAX))
            .set_push_sender(on_push);
        let away = |error: redis::RedisError| QueueError::Unavailable(format!("{}: {error}", self.address));
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        match tokio::time::timeout(CONNECT_MAX * 2, connecting).await {
            Ok(connected) => connected.map_err(away),
            Err(_) => Err(QueueError::Unavailable(format!("{}: no answer", self.address))),
        }
    }

    /// Refuses a server that would lose or drop what it confirmed. Where it does not let us look (managed servers
    /// often forbid `CONFIG`), the operator is told that this rests on them.
    async fn check_fit(&self, connection: &mut MultiplexedConnection) -> Result<Option<String>, QueueError> {
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("appendonly").arg("appendfsync").arg("maxmemory-policy");
        let asked = connection.send_packed_command(&ask).await;
        let value = match asked.map_err(|error| CallError::of_connection(&error)).and_then(CallError::of_value) {
            Ok(value) => value,
            Err(CallError::Later(text)) => return Err(QueueError::Unavailable(text)),
            Err(CallError::Refused(text) | CallError::Unknown(text)) if forbids(&text) => {
                let note = "CONFIG is forbidden here: that appendonly is yes, appendfsync is always and \
                            maxmemory-policy is noeviction could not be checked";
                tracing::warn!(redis.address = %self.address, reason = %text, "queue.durability_unchecked");
                return Ok(Some(note.to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let found: std::collections::HashMap<String, String> =
            redis::from_redis_value(value).map_err(|_| QueueError::Corrupt("the answer to CONFIG GET"))?;
        for (setting, wanted) in [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")]
        {
            let is = found.get(setting).map_or("", String::as_str);
            if is != wanted {
                let problem = format!("{setting} is {is:?}, and must be {wanted:?}");
                return Err(QueueError::Unfit { server: self.address.clone(), problem });
            }
        }
        Ok(None)
    }

    /// The keeper task: connects whenever there is no link, and asks for a sign of life every second.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut pause = RECONNECT_PAUSE.0;
        loop {
            let step = async {
                if self.state.read().link.is_none() {
                    match self.connect().await {
                        Ok(()) => {
                            pause = RECONNECT_PAUSE.0;
                            tracing::info!(redis.address = %self.address, "queue.server_connected");
                        }
                        Err(error) => {
                            tracing::debug!(redis.address = %self.address, %error, "queue.server_away");
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(RECONNECT_PAUSE.1);
                        }
                    }
                    return;
                }
                let quiet = tokio::time::timeout(Duration::from_secs(1), self.lost.notified()).await;
                if quiet.is_err() {
                    // Breaks the link by itself when nobody answers.
                    let _ = self.call(redis::pipe().cmd("PING")).await;
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = step => {}
            }
        }
    }
}

fn forbids(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.starts_with("noperm") || text.contains("unknown command") || text.contains("not allowed")
}
