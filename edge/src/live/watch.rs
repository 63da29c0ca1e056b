//! The shell around the board: one task owns it, one task for each region checks and asks, everybody else has a handle.
//!
//! Whatever changes what clients are told is published as a new snapshot before the next message is taken. A drain is on
//! disk before it is answered.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Client;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Board, DrainError, Drains, RegionView, Report, StatusMeter};
use crate::config::{Config, HealthConfig, RegionConfig};
use crate::dns::RateLimiter;
use crate::limits::STATUS_MAX_BYTES;
use crate::net::Shared;
use crate::snapshot::Snapshot;

/// How often time passes on the board without anything else happening.
const TICK: Duration = Duration::from_millis(100);

/// Why the board cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No region of that name.
    #[error("there is no region {0:?}")]
    UnknownRegion(String),
    /// A drain cannot be kept.
    #[error(transparent)]
    Drain(#[from] DrainError),
    /// The edge is stopping.
    #[error("the edge is stopping")]
    Stopping,
    /// The client for health checks cannot be built.
    #[error("health checks: {0}")]
    Client(String),
}

type Answer<T> = oneshot::Sender<Result<T, WatchError>>;

enum Message {
    Checked { generation: u64, region: String, result: Result<(), String>, report: Option<Report> },
    Report { region: String, report: Report, done: Answer<()> },
    Drain { region: String, drained: bool, done: Answer<RegionView> },
    Views { done: Answer<Vec<RegionView>> },
    Reload { config: Box<Config>, snapshot: Box<Snapshot>, rate: Box<RateLimiter>, done: Answer<()> },
}

/// Talks to the task that owns the board.
#[derive(Clone, Debug)]
pub struct BoardHandle(mpsc::Sender<Message>);

impl BoardHandle {
    async fn ask<T>(&self, message: impl FnOnce(Answer<T>) -> Message) -> Result<T, WatchError> {
        let (done, answer) = oneshot::channel();
        self.0.send(message(done)).await.map_err(|_| WatchError::Stopping)?;
        answer.await.map_err(|_| WatchError::Stopping)?
    }

    /// Takes in what a region reports of itself.
    ///
    /// # Errors
    /// [`WatchError::UnknownRegion`], [`WatchError::Stopping`].
    pub async fn report(&self, region: String, report: Report) -> Result<(), WatchError> {
        self.ask(|done| Message::Report { region, report, done }).await
    }

    /// Takes a region out, or in again; on disk when this returns.
    ///
    /// # Errors
    /// [`WatchError`]; then nothing has changed.
    pub async fn set_drained(&self, region: String, drained: bool) -> Result<RegionView, WatchError> {
        self.ask(|done| Message::Drain { region, drained, done }).await
    }

    /// All regions as an operator sees them.
    ///
    /// # Errors
    /// [`WatchError::Stopping`].
    pub async fn views(&self) -> Result<Vec<RegionView>, WatchError> {
        self.ask(|done| Message::Views { done }).await
    }

    /// Puts a new configuration in force, all of it at once. `snapshot` was built from it.
    ///
    /// # Errors
    /// [`WatchError`]; then the old one stays in force.
    pub async fn reload(&self, config: Config, snapshot: Snapshot, rate: RateLimiter) -> Result<(), WatchError> {
        let (config, snapshot, rate) = (Box::new(config), Box::new(snapshot), Box::new(rate));
        self.ask(|done| Message::Reload { config, snapshot, rate, done }).await
    }
}

/// Starts the board's task and the checks; they end with `stop`. `board` is what `shared` was built with.
///
/// # Errors
/// [`WatchError::Client`].
pub fn spawn(
    config: &Config,
    board: Board,
    drains: Drains,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> Result<(BoardHandle, tokio::task::JoinHandle<()>), WatchError> {
    let (sender, receiver) = mpsc::channel(256);
    let mut owner = Owner {
        names: config.regions.iter().map(|r| r.name.clone()).collect(),
        board,
        drains,
        shared,
        started: Instant::now(),
        checks: JoinSet::new(),
        generation: 0,
        sender: sender.downgrade(),
    };
    owner.start_checks(config, client(&config.health)?);
    let task = tokio::spawn(owner.run(receiver, stop));
    Ok((BoardHandle(sender), task))
}

struct Owner {
    names: Vec<String>,
    board: Board,
    drains: Drains,
    shared: Arc<Shared>,
    started: Instant,
    checks: JoinSet<()>,
    generation: u64,
    sender: mpsc::WeakSender<Message>,
}

impl Owner {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.publish();
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => None,
                message = receiver.recv() => match message {
                    Some(message) => Some(message),
                    None => return,
                },
            };
            let changed = message.is_some_and(|message| self.handle(message));
            if self.board.pass(self.now_ms()) || changed {
                self.publish();
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn publish(&self) {
        let next = self.shared.snapshot.load().with_live(self.board.live(), self.board.step_ms());
        self.shared.snapshot.store(Arc::new(next));
    }

    fn find(&self, region: &str) -> Result<crate::choice::RegionIdx, WatchError> {
        let at = self.names.iter().position(|name| name == region);
        at.map(|at| crate::choice::RegionIdx(at as u8)).ok_or_else(|| WatchError::UnknownRegion(region.to_owned()))
    }

    /// True when what clients are told may have changed. Nobody listening for an answer is no error.
    fn handle(&mut self, message: Message) -> bool {
        let now_ms = self.now_ms();
        match message {
            Message::Checked { generation, region, result, report } => {
                // A check that began under another configuration may be of another address.
                let Ok(at) = self.find(&region) else { return false };
                if generation != self.generation {
                    return false;
                }
                if let Some(report) = report {
                    self.board.reckoned(at, report, now_ms);
                }
                self.board.check(at, result, now_ms);
                true
            }
            Message::Report { region, report, done } => {
                let found = self.find(&region).map(|at| self.board.report(at, report, now_ms));
                let _ = done.send(found);
                false
            }
            Message::Drain { region, drained, done } => {
                let result = self.drain(&region, drained, now_ms);
                let changed = result.is_ok();
                if changed {
                    // Who asked is told when clients are told the same.
                    self.board.pass(now_ms);
                    self.publish();
                }
                let _ = done.send(result);
                false
            }
            Message::Views { done } => {
                let _ = done.send(Ok(self.board.views(now_ms)));
                false
            }
            Message::Reload { config, snapshot, rate, done } => {
                let _ = done.send(self.reload(&config, *snapshot, *rate, now_ms));
                false
            }
        }
    }

    fn drain(&mut self, region: &str, drained: bool, now_ms: u64) -> Result<RegionView, WatchError> {
        let at = self.find(region)?;
        self.drains.set(region, drained)?;
        tracing::info!(region, drained, "drain set by the operator");
        self.board.set_drained(at, drained, now_ms);
        self.board.views(now_ms).into_iter().nth(at.at()).ok_or_else(|| WatchError::UnknownRegion(region.to_owned()))
    }

    fn reload(
        &mut self,
        config: &Config,
        snapshot: Snapshot,
        rate: RateLimiter,
        now_ms: u64,
    ) -> Result<(), WatchError> {
        let client = client(&config.health)?;
        let mut board = Board::new(config, &snapshot.policy, Some(&self.board), now_ms);
        for (at, region) in config.regions.iter().enumerate() {
            board.set_drained(crate::choice::RegionIdx(at as u8), self.drains.contains(&region.name), now_ms);
        }
        board.pass(now_ms);
        self.names = config.regions.iter().map(|r| r.name.clone()).collect();
        self.board = board;
        self.shared.rate.store(Arc::new(rate));
        self.shared.snapshot.store(Arc::new(snapshot.with_live(self.board.live(), self.board.step_ms())));
        self.start_checks(config, client);
        Ok(())
    }

    fn start_checks(&mut self, config: &Config, client: Client) {
        self.checks.abort_all();
        self.checks = JoinSet::new();
        self.generation += 1;
        for region in &config.regions {
            if region.ready_url.is_none() && region.status_url.is_none() {
                continue;
            }
            let check = Check {
                client: client.clone(),
                region: region.clone(),
                interval: Duration::from_millis(config.health.interval_ms.max(10)),
                window_ms: config.spill.step_ms.max(100) * 2,
                generation: self.generation,
                sender: self.sender.clone(),
            };
            self.checks.spawn(check.run());
        }
    }
}

/// A client for checks, with the operator's limits.
pub(super) fn client(config: &HealthConfig) -> Result<Client, WatchError> {
    let wrong = |e: &dyn std::fmt::Display| WatchError::Client(e.to_string());
    // The library needs one process-wide choice; a second one is refused, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = match &config.ca_file {
        None => Vec::new(),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|e| WatchError::Client(format!("{}: {e}", path.display())))?;
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| wrong(&e))?
        }
    };
    Client::builder()
        .timeout(Duration::from_millis(config.timeout_ms.max(10)))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tls_certs_only(certificates)
        .build()
        .map_err(|e| wrong(&e))
}

/// Checks one region again and again.
struct Check {
    client: Client,
    region: RegionConfig,
    interval: Duration,
    /// Over how long joins are counted, in milliseconds.
    window_ms: u64,
    generation: u64,
    sender: mpsc::WeakSender<Message>,
}

impl Check {
    async fn run(self) {
        let mut tick = tokio::time::interval(self.interval);
        // A late check does not make all that follow late: so many bad ones are counted within so many intervals.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let (started, mut meter) = (Instant::now(), StatusMeter::new(self.window_ms));
        loop {
            tick.tick().await;
            let (result, status) = tokio::join!(self.ready(), self.status());
            let now_ms = started.elapsed().as_millis() as u64;
            let report = match status.map(|body| meter.read(&body, now_ms)) {
                Some(Ok(report)) => report,
                Some(Err(error)) => {
                    tracing::debug!(region = self.region.name, %error, "status not understood");
                    None
                }
                None => None,
            };
            let Some(sender) = self.sender.upgrade() else { return };
            let (generation, region) = (self.generation, self.region.name.clone());
            if sender.send(Message::Checked { generation, region, result, report }).await.is_err() {
                return;
            }
        }
    }

    async fn ready(&self) -> Result<(), String> {
        let Some(url) = &self.region.ready_url else { return Ok(()) };
        let answer = self.client.get(url).send().await.map_err(|e| plain(&e))?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("{url} answers {}", answer.status())) }
    }

    /// What the region says of itself; a region without it, or too busy to say, is still checked for readiness.
    async fn status(&self) -> Option<Vec<u8>> {
        let url = self.region.status_url.as_ref()?;
        let token = self.region.status_token_file.as_deref().and_then(read_token);
        let request = self.client.get(url);
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        let answer = request.send().await.and_then(reqwest::Response::error_for_status);
        let read = match answer {
            Ok(answer) => read_bounded(answer).await,
            Err(error) => Err(plain(&error)),
        };
        read.inspect_err(|error| tracing::debug!(region = self.region.name, error, "no status")).ok()
    }
}

/// A body of sane size.
pub(super) async fn read_bounded(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| plain(&e))? {
        body.extend_from_slice(&chunk);
        if body.len() > STATUS_MAX_BYTES {
            return Err("the status is too long".to_owned());
        }
    }
    Ok(body)
}

/// The token in a file; read each time, so that it may be replaced.
fn read_token(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|token| !token.is_empty())
}

/// The innermost cause, which is the one that says something.
fn plain(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
