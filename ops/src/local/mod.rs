//! Private PostgreSQL and Redis servers on loopback: for `cargo ops up`, and for tests that need the real thing.
//!
//! One code path starts them for both, so that tests run against what people run. Servers live in a folder of their
//! own, with a port and a password of their own. Nothing here touches a server that the system runs, and nothing here
//! ever listens outside 127.0.0.0/8.
//!
//! - [`process`] starts a program so that it can be found again, or so that it dies with its starter.
//! - [`postgres`] and [`redis`] know what each server needs; [`user`] as whom it runs (PostgreSQL refuses root).
//! - [`testing`] shares one PostgreSQL among the processes of a test run and gives each test its own database.

mod address;
mod places;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod redis_cluster;
mod schemathesis;
pub mod testing;
pub mod user;

pub use address::{free_port, own_address, own_addresses};
pub use places::{OwnFolder, make_place, remove_place};
pub use postgres::{Postgres, PostgresSpec, Purpose};
pub use process::Lifetime;
pub use redis::{Redis, RedisSpec};
pub use schemathesis::schemathesis;

use std::path::PathBuf;
use std::time::Duration;

/// Why a local server could not be started, found or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A program that is needed is not installed.
    #[error("{program} is not installed: install it with `{install}`, or run `cargo ops up`, which does so")]
    Missing {
        /// What was looked for.
        program: &'static str,
        /// The command that installs it on Debian.
        install: &'static str,
    },
    /// A server ended, or did not answer in time.
    #[error("{server} did not become ready within {}s: {why}\nthe end of its log {}:\n{log_tail}", .waited.as_secs(), .log.display())]
    NotReady {
        /// Which server.
        server: String,
        /// How long it was waited for.
        waited: Duration,
        /// The last thing that went wrong.
        why: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        log_tail: String,
    },
    /// A helper command failed.
    #[error("{command} failed ({status}): {output}")]
    Command {
        /// The command, shortened.
        command: String,
        /// Its exit status.
        status: String,
        /// What it printed.
        output: String,
    },
    /// The fuzzer cannot be installed.
    #[error(
        "schemathesis {version} cannot be installed: {said}\nit needs Python 3.10 or later with its venv module and a \
         package index that pip can reach: apt-get install python3-venv"
    )]
    Python {
        /// Which version is wanted.
        version: &'static str,
        /// What the installer said.
        said: String,
    },
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// PostgreSQL refused a statement or a connection.
    #[error("PostgreSQL: {0}")]
    Sql(#[from] tokio_postgres::Error),
    /// Redis refused a command or a connection.
    #[error("Redis: {0}")]
    Redis(#[from] ::redis::RedisError),
    /// A migration or another step that fills a template failed.
    #[error("filling the template database {template}: {why}")]
    Template {
        /// Which template.
        template: String,
        /// What its filler said.
        why: String,
    },
}

impl LocalError {
    /// An `Io` error that says what was attempted.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// 32 random bytes as 43 characters that need no quoting anywhere: a generated password.
pub fn new_password() -> String {
    use base64::Engine as _;
    let bytes: [u8; 32] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// The last lines of a log file, for an error message.
pub(crate) fn tail(log: &std::path::Path) -> String {
    const LINES: usize = 15;
    let text = std::fs::read_to_string(log).unwrap_or_else(|error| format!("(unreadable: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
