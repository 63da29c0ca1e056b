//! One program of ours on a stage, running or not: start, kill, freeze, start again.

use crate::local::Lifetime;
use crate::local::process::{self, Launch, Started};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A program with a configuration file in a folder of its own.
pub struct Part {
    program: &'static str,
    record: &'static str,
    config: PathBuf,
    started: Option<Started>,
}

impl Part {
    /// Not started yet. `record` is the name under which it writes itself down.
    pub(super) fn new(program: &'static str, record: &'static str, config: PathBuf) -> Self {
        Self { program, record, config, started: None }
    }

    /// Starts it, or starts it again after it ended, on the same addresses and files; `env` is added to ours.
    pub fn start_again(&mut self, env: &[(&str, &str)]) -> Result<()> {
        if self.running() {
            bail!("{} of {} still runs", self.program, self.folder().display());
        }
        let folder = self.folder().to_owned();
        let (log, record) = (self.log(), process::record_file(&folder, self.record));
        let env = env.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))).collect();
        self.started = Some(process::launch(&Launch {
            program: &program(self.program)?,
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

    /// Its folder.
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

    /// Its process id, while it was started and not ended by us.
    pub fn pid(&self) -> Option<i32> {
        self.started.as_ref().map(|started| started.record.pid())
    }

    /// Whether it runs.
    pub fn running(&mut self) -> bool {
        self.started.as_mut().is_some_and(|started| started.ended().is_none())
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
            "{name} is not built: `cargo build --release --workspace --bins --examples` builds it beside {}",
            own.display()
        )
    })
}
