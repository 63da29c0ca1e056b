//! One region node of a stage: start, kill, start again, wait until ready.

use crate::local::process::{self, Launch, Started};
use crate::local::{self, Lifetime};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How long a node may take: migrations and a first look at its queues included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A node, running or not.
pub struct Node {
    /// 0-based.
    pub number: usize,
    /// Where buyers reach it.
    pub public: SocketAddr,
    /// Where operators reach it.
    pub admin: SocketAddr,
    config: PathBuf,
    started: Option<Started>,
}

impl Node {
    /// Starts one; `env` is added to ours.
    pub fn start(
        number: usize,
        config: PathBuf,
        public: SocketAddr,
        admin: SocketAddr,
        env: &[(&str, &str)],
    ) -> Result<Node> {
        let mut node = Node { number, public, admin, config, started: None };
        node.start_again(env)?;
        Ok(node)
    }

    /// Starts it again after it ended, on the same addresses and files.
    pub fn start_again(&mut self, env: &[(&str, &str)]) -> Result<()> {
        if self.started.as_mut().is_some_and(|started| started.ended().is_none()) {
            bail!("node {} still runs", self.number);
        }
        let folder = self.folder().to_owned();
        let (log, record) = (self.log(), process::record_file(&folder, "node"));
        let env = env.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))).collect();
        self.started = Some(process::launch(&Launch {
            program: &program("region-node")?,
            args: vec!["--config".into(), self.config.clone().into()],
            env,
            cwd: &folder,
            log: &log,
            record: &record,
            user: None,
            lifetime: Lifetime::WithOwner(Signal::SIGKILL),
        })?);
        Ok(())
    }

    /// Its folder: configuration, log, state.
    pub fn folder(&self) -> &Path {
        self.config.parent().unwrap_or(Path::new("/"))
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Whether buyers may be sent to it.
    pub fn roles_public(&self) -> bool {
        self.started.is_some()
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL, Duration::from_secs(10));
    }

    /// Asks it to end and waits; past 30 s it is killed.
    pub fn stop(&mut self) {
        self.end(Signal::SIGTERM, Duration::from_secs(30));
    }

    fn end(&mut self, signal: Signal, patience: Duration) {
        if let Some(mut started) = self.started.take() {
            started.stop(signal, patience);
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(started) = &self.started {
            started.record.signal(signal);
        }
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> bool {
        self.started.as_mut().is_none_or(|started| started.ended().is_some())
    }

    /// Waits until it ended by itself, and says whether it did.
    pub async fn ends_within(&mut self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        while !self.ended() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Waits until it ended by itself, and says how; `None` when it still runs after `most`.
    pub async fn exits_within(&mut self, most: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + most;
        loop {
            let ended = self.started.as_mut().and_then(Started::ended);
            if ended.is_some() || Instant::now() > deadline {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it accepts reservations.
    pub async fn ready(&mut self, http: &reqwest::Client) -> Result<()> {
        let url = format!("http://{}/readyz", self.public);
        let begun = Instant::now();
        loop {
            let why = match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(_) => "it does not answer".to_owned(),
            };
            if self.ended() || begun.elapsed() > READY_WITHIN {
                let log = local::tail(&self.log());
                bail!("node {} is not ready: {why}\nthe end of its log:\n{log}", self.number);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A program of ours: beside the one that runs, or above it where that one is a test.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let beside = own.parent().into_iter();
    let found = beside
        .flat_map(|folder| [folder.join(name), folder.join("examples").join(name), folder.join("..").join(name)])
        .chain(own.parent().map(|folder| folder.join("../examples").join(name)))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built: `cargo build --release -p region-node --bins --examples` builds it beside {}",
            own.display()
        )
    })
}
