//! HAProxy beside this edge, kept in step: its file with the configuration, its servers with what the nodes say.
//!
//! One task owns it. Nothing is remembered between rounds: what should be is compared with what is, so that a HAProxy
//! that was started anew is told again. A file that HAProxy itself refuses never takes the place of a good one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Client;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::WatchError;
use super::watch::{client, read_bounded};
use crate::config::Config;
use crate::haproxy::{self, HaproxyError, ServerState};

/// What `GET /readyz` of a node says when it is not ready.
#[derive(Deserialize)]
struct NotReady {
    #[serde(default)]
    missing: Vec<String>,
}

/// Keeps HAProxy in step; see the head of this file.
#[derive(Debug, Default)]
pub struct Door {
    trouble: Mutex<Option<String>>,
}

impl Door {
    /// Why HAProxy is not in step; `None` when it is, or when none is configured.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Runs until `stop`. `config` gives the configuration in force.
    pub async fn run(self: Arc<Self>, config: impl Fn() -> Arc<Config>, stop: CancellationToken) {
        loop {
            let now = config();
            let trouble = round(&now).await.err().map(|error| error.to_string());
            let before = std::mem::replace(&mut *self.trouble.lock(), trouble.clone());
            match trouble {
                Some(trouble) if before.as_ref() != Some(&trouble) => {
                    tracing::error!(trouble, "HAProxy is not in step");
                }
                None if before.is_some() => tracing::info!("HAProxy is in step again"),
                _ => {}
            }
            let pause = Duration::from_millis(now.health.interval_ms.max(10));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Why a round did not end as it should.
#[derive(Debug, thiserror::Error)]
enum DoorError {
    #[error(transparent)]
    Haproxy(#[from] HaproxyError),
    #[error(transparent)]
    Client(#[from] WatchError),
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

async fn round(config: &Arc<Config>) -> Result<(), DoorError> {
    let name = config.haproxy.region.as_ref();
    let Some(region) = name.and_then(|name| config.regions.iter().find(|region| region.name == *name)) else {
        return Ok(());
    };
    let text = config.haproxy.write(region)?;
    let (again, nodes) = (config.clone(), region.nodes.clone());
    // HAProxy is asked over sockets that may block, and for its opinion on a file as a program.
    tokio::task::spawn_blocking(move || put_file(&again, &text)).await??;
    let client = client(&config.health)?;
    let asked = nodes.iter().map(|node| wanted(client.clone(), *node)).map(tokio::spawn).collect::<Vec<_>>();
    let mut states = Vec::new();
    for asking in asked {
        states.push(asking.await?);
    }
    let Some(socket) = config.haproxy.socket.clone() else { return Ok(()) };
    tokio::task::spawn_blocking(move || put_states(&socket, &states)).await??;
    Ok(())
}

/// What HAProxy is to do with a node. One that does not answer is for HAProxy's own checks to judge.
async fn wanted(client: Client, node: SocketAddr) -> ServerState {
    let read = async {
        let answer = client.get(format!("http://{node}/readyz")).send().await.ok()?;
        if answer.status().is_success() {
            return None;
        }
        serde_json::from_slice::<NotReady>(&read_bounded(answer).await.ok()?).ok()
    };
    let leaves = |why: &String| why.starts_with("draining") || why.starts_with("the node is stopping");
    match read.await {
        Some(said) if said.missing.iter().any(leaves) => ServerState::Drain,
        _ => ServerState::Ready,
    }
}

/// Puts the file in place and has it read, when it is another one than before.
fn put_file(config: &Config, text: &str) -> Result<(), HaproxyError> {
    let Some(file) = &config.haproxy.file else { return Ok(()) };
    if std::fs::read(file).is_ok_and(|before| before == text.as_bytes()) {
        return Ok(());
    }
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |error| HaproxyError::Io(path, error)
    };
    let new = file.with_extension("new");
    std::fs::write(&new, text).map_err(io(&new))?;
    haproxy::check_with_haproxy(&new)?;
    std::fs::rename(&new, file).map_err(io(file))?;
    tracing::info!(file = %file.display(), "HAProxy's file written");
    match &config.haproxy.master_socket {
        // Not there: it has not been started yet, and will read the file when it is.
        Some(socket) if socket.exists() => haproxy::reload(socket),
        _ => Ok(()),
    }
}

fn put_states(socket: &Path, wanted: &[ServerState]) -> Result<(), HaproxyError> {
    let shown = haproxy::server_states(socket)?;
    for (number, wanted) in (1..).zip(wanted) {
        let server = format!("node{number}");
        let drained = |state: &str| state.starts_with("DRAIN") || state.starts_with("MAINT");
        let mut servers = shown.iter().filter(|(_, name, _)| *name == server);
        let differs = match wanted {
            ServerState::Ready => servers.any(|(_, _, state)| drained(state)),
            ServerState::Drain => servers.any(|(_, _, state)| !drained(state)),
        };
        if differs {
            tracing::info!(server, ?wanted, "told HAProxy");
            haproxy::set_server_state(socket, number, *wanted)?;
        }
    }
    Ok(())
}
