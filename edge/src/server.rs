//! A whole edge: binds, builds, runs, reloads, stops.
//!
//! Order at start: read and check everything, bind everything, then serve. At reload: read and check everything, then put
//! it in force as a whole; a configuration that cannot be used changes nothing and is remembered as a message. Sockets are
//! never bound anew by a reload, so none of their queries is lost.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, router};
use crate::choice::{Policy, PolicyError, RegionIdx};
use crate::config::{Config, ConfigError};
use crate::dns::RateLimiter;
use crate::limits::RATE_SLOTS;
use crate::live::{Board, BoardHandle, Door, DrainError, Drains, WatchError, spawn_watch};
use crate::net::{Shared, TcpService, UdpService};
use crate::snapshot::{BuildError, Snapshot};

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration cannot be served.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The operator's drains cannot be read.
    #[error(transparent)]
    Drains(#[from] DrainError),
    /// Health checks cannot be made.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// An address or thread is not to be had.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// No address to serve.
    #[error("`listen` names no address")]
    NoAddress,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration cannot be served.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The board did not take it.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The task that builds it failed.
    #[error("building ended early: {0}")]
    Task(String),
}

/// Reads the configuration again on demand.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    secret: [u8; 16],
    state: Mutex<State>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    config: Arc<Config>,
    token: Option<Arc<str>>,
    last_error: Option<String>,
}

impl Reloader {
    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.state.lock().config.clone()
    }

    /// The operator's token, where one is configured.
    pub fn admin_token(&self) -> Option<Arc<str>> {
        self.state.lock().token.clone()
    }

    /// Why the last reload changed nothing; `None` after a good one.
    pub fn last_error(&self) -> Option<String> {
        self.state.lock().last_error.clone()
    }

    /// Reads the file again and puts it in force; names what takes a restart instead.
    ///
    /// # Errors
    /// [`ReloadError`]; then the old configuration, databases included, stays in force.
    pub async fn reload(&self, board: &BoardHandle) -> Result<Vec<&'static str>, ReloadError> {
        let _turn = self.one_at_a_time.lock().await;
        let result = self.try_reload(board).await;
        self.state.lock().last_error = result.as_ref().err().map(ToString::to_string);
        match &result {
            Ok(restart) => tracing::info!(path = %self.path.display(), ?restart, "configuration reloaded"),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "not reloaded, the old one stays in force")
            }
        }
        result
    }

    async fn try_reload(&self, board: &BoardHandle) -> Result<Vec<&'static str>, ReloadError> {
        let (path, secret) = (self.path.clone(), self.secret);
        // Databases are large: building must not hold up the tasks that answer.
        let built = tokio::task::spawn_blocking(move || -> Result<_, ReloadError> {
            let config = Config::load(&path)?;
            let token = token(&config)?;
            let snapshot = Snapshot::build(&config, Vec::new(), config.spill.step_ms, secret)?;
            Ok((config, token, snapshot))
        });
        let (config, token, snapshot) = built.await.map_err(|e| ReloadError::Task(e.to_string()))??;
        let rate = limiter(&config, self.secret);
        let restart = needs_restart(&self.config(), &config);
        board.reload(config.clone(), snapshot, rate).await?;
        let mut state = self.state.lock();
        state.config = Arc::new(config);
        state.token = token;
        Ok(restart)
    }
}

/// Settings that a reload cannot change.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let tcp = |c: &Config| serde_json::to_value(&c.tcp).ok();
    [
        ("listen", old.listen != new.listen),
        ("admin", old.admin != new.admin),
        ("udp_threads", old.udp_threads != new.udp_threads),
        ("state_folder", old.state_folder != new.state_folder),
        ("tcp", tcp(old) != tcp(new)),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

fn token(config: &Config) -> Result<Option<Arc<str>>, BuildError> {
    let Some(path) = &config.admin_token_file else { return Ok(None) };
    let wrong = |why: String| BuildError::Value(format!("admin_token_file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let token = text.trim();
    if token.len() < 16 { Err(wrong("a token has at least 16 characters".to_owned())) } else { Ok(Some(token.into())) }
}

fn limiter(config: &Config, secret: [u8; 16]) -> RateLimiter {
    let seed = u64::from_le_bytes(std::array::from_fn(|i| secret[i]));
    RateLimiter::new(&config.answers.rate, RATE_SLOTS, seed)
}

/// Checks a configuration file as a start would, without serving; returns what it found.
///
/// # Errors
/// [`StartError`] with the first thing that is wrong.
pub fn check(path: &Path) -> Result<(Config, Snapshot), StartError> {
    let config = Config::load(path)?;
    token(&config)?;
    let policy = Policy::build(&config.choice, &config.regions).map_err(BuildError::from)?;
    let board = Board::new(&config, &policy, None, 0);
    let snapshot = Snapshot::build(&config, board.live(), board.step_ms(), [0; 16])?;
    Ok((config, snapshot))
}

/// An edge that serves.
#[derive(Debug)]
pub struct Edge {
    /// Addresses served over UDP and TCP, ports filled in.
    pub dns: Vec<SocketAddr>,
    /// Address of the admin port.
    pub admin: SocketAddr,
    /// Reads the configuration again.
    pub reloader: Arc<Reloader>,
    /// The board.
    pub board: BoardHandle,
    udp: Vec<UdpService>,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

impl Edge {
    /// Starts an edge from a configuration file; it serves when this returns. `metrics` renders the process's recorder.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is bound any more.
    pub async fn start(path: &Path, metrics: Option<PrometheusHandle>) -> Result<Self, StartError> {
        let config = Config::load(path)?;
        if config.listen.is_empty() {
            return Err(StartError::NoAddress);
        }
        let secret = rand::random();
        let token = token(&config)?;
        let mut drains = Drains::open(&config.state_folder)?;
        let (board, snapshot) = build(&config, &mut drains, secret)?;
        let sockets = bind_all(&config).await?;
        let admin_listener =
            TcpListener::bind(config.admin).await.map_err(|e| StartError::Io(format!("admin {}", config.admin), e))?;

        let shared = Shared::new(snapshot, limiter(&config, secret));
        let stop = CancellationToken::new();
        let (board, watch) = spawn_watch(&config, board, drains, shared.clone(), stop.clone())?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let _ = watch.await;
        });
        let mut udp = Vec::new();
        let mut dns = Vec::new();
        let tcp = TcpService::new(shared.clone(), config.tcp.clone(), stop.clone());
        for (address, datagrams, listener) in sockets {
            let thread = |e| StartError::Io("UDP thread".to_owned(), e);
            udp.push(UdpService::start(datagrams, &shared).map_err(thread)?);
            tasks.spawn(tcp.clone().supervise(listener));
            dns.push(address);
        }
        let state = Mutex::new(State { config: Arc::new(config), token, last_error: None });
        let reloader =
            Arc::new(Reloader { path: path.to_owned(), secret, state, one_at_a_time: tokio::sync::Mutex::default() });
        let door = Arc::new(Door::default());
        let current = reloader.clone();
        tasks.spawn(door.clone().run(move || current.config(), stop.clone()));
        let admin = admin_listener.local_addr().map_err(|e| StartError::Io("admin".to_owned(), e))?;
        let node: Arc<str> = dns.first().map_or_else(String::new, ToString::to_string).into();
        let service = router(Admin { node, shared, board: board.clone(), reloader: reloader.clone(), door, metrics });
        tasks.spawn(serve_admin(admin_listener, service, stop.clone()));
        Ok(Self { dns, admin, reloader, board, udp, stop, tasks })
    }

    /// Stops serving; open connections get a moment to end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let udp = std::mem::take(&mut self.udp);
        let _ = tokio::task::spawn_blocking(move || udp.into_iter().for_each(UdpService::stop)).await;
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    }
}

fn build(config: &Config, drains: &mut Drains, secret: [u8; 16]) -> Result<(Board, Snapshot), StartError> {
    let policy = Policy::build(&config.choice, &config.regions).map_err(|e: PolicyError| BuildError::from(e))?;
    let mut board = Board::new(config, &policy, None, 0);
    for (at, region) in config.regions.iter().enumerate() {
        board.set_drained(RegionIdx(at as u8), drains.contains(&region.name), 0);
    }
    let snapshot = Snapshot::build(config, board.live(), board.step_ms(), secret)?;
    Ok((board, snapshot))
}

type Sockets = (SocketAddr, Vec<std::net::UdpSocket>, TcpListener);

/// Binds UDP and TCP of every address; where the port is left to the system, both get the same.
async fn bind_all(config: &Config) -> Result<Vec<Sockets>, StartError> {
    let threads = match config.udp_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n.min(256),
    };
    let mut all = Vec::new();
    for address in &config.listen {
        let wrong = |e| StartError::Io(format!("listen {address}"), e);
        let mut tries = if address.port() == 0 { 20 } else { 1 };
        loop {
            tries -= 1;
            let datagrams = UdpService::bind(*address, threads).map_err(wrong)?;
            let bound = datagrams.first().map_or(Ok(*address), std::net::UdpSocket::local_addr).map_err(wrong)?;
            match TcpListener::bind(bound).await {
                Ok(listener) => {
                    all.push((bound, datagrams, listener));
                    break;
                }
                // A port that UDP had free, TCP need not.
                Err(e) if tries > 0 && e.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(e) => return Err(wrong(e)),
            }
        }
    }
    Ok(all)
}

async fn serve_admin(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serve = axum::serve(listener, service).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = serve.await {
        tracing::error!(%error, "admin port ended");
    }
}
