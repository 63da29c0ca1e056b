//! HAProxy beside this edge, kept in step: its file with the configuration, its servers with what the nodes say.
//!
//! One task owns it. What should be is compared with what is, so that a HAProxy that was started anew is told again. Only
//! who was drained from here is remembered, on disk: a server that somebody else drained, or put into maintenance, is
//! left alone until they take that back. A file that HAProxy itself refuses never takes the place of a good one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Client;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::watch::{client, read_bounded};
use super::{DrainError, Drains, WatchError};
use crate::config::Config;
use crate::haproxy::{self, HaproxyError, Held, Server, ServerState};

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
        let mut ours = None;
        loop {
            let now = config();
            let trouble = round(&now, &mut ours).await.err().map(|error| error.to_string());
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
    #[error(transparent)]
    Kept(#[from] DrainError),
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The file in the state folder that says which servers were drained from here.
const OURS: &str = "haproxy-drained.json";

async fn round(config: &Arc<Config>, ours: &mut Option<Drains>) -> Result<(), DoorError> {
    let name = config.haproxy.region.as_ref();
    let Some(region) = name.and_then(|name| config.regions.iter().find(|region| region.name == *name)) else {
        return Ok(());
    };
    let text = config.haproxy.write(region)?;
    let (again, nodes) = (config.clone(), region.nodes.clone());
    // HAProxy is asked over sockets that may block, and for its opinion on a file as a program.
    // Whatever becomes of the file, the servers that HAProxy has are told what they are to be.
    let put_file = tokio::task::spawn_blocking(move || put_file(&again, &text)).await?;
    let client = client(&config.health)?;
    let asked = nodes.iter().map(|node| (*node, tokio::spawn(wanted(client.clone(), *node)))).collect::<Vec<_>>();
    let mut states = Vec::new();
    for (node, asking) in asked {
        states.push((node, asking.await?));
    }
    let Some(socket) = config.haproxy.socket.clone() else { return put_file.map_err(DoorError::from) };
    let mut kept = match ours.take() {
        Some(kept) => kept,
        None => Drains::open_as(&config.state_folder, OURS)?,
    };
    let (kept, put) = tokio::task::spawn_blocking(move || {
        let put = put_states(&socket, &states, &mut kept);
        (kept, put)
    })
    .await?;
    *ours = Some(kept);
    put_file?;
    put
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

/// Puts the file in place when it is another one than before, and has it read. A file that is in place and perhaps not
/// read is remembered beside it, with what HAProxy had been told until then, and is read in a later round.
fn put_file(config: &Config, text: &str) -> Result<(), HaproxyError> {
    let Some(file) = &config.haproxy.file else { return Ok(()) };
    // Not there: it has not been started yet, and will read the file when it is.
    let master = config.haproxy.master_socket.as_deref().filter(|master| master.exists());
    let socket = config.haproxy.socket.as_deref().filter(|socket| socket.exists());
    let owed = file.with_extension("unread");
    let new = file.with_extension("new");
    let differs = std::fs::read(file).map_or(true, |before| before != text.as_bytes());
    if differs {
        std::fs::write(&new, text).map_err(io(&new))?;
        haproxy::check_with_haproxy(&new)?;
        if master.is_some() && !owed.exists() {
            let held = socket.map_or_else(|| Ok(Vec::new()), haproxy::held)?;
            let held = serde_json::to_vec(&held).map_err(|error| io(&owed)(error.into()))?;
            std::fs::write(&owed, held).map_err(io(&owed))?;
        }
        std::fs::rename(&new, file).map_err(io(file))?;
        tracing::info!(file = %file.display(), "HAProxy's file written");
    }
    if !owed.exists() {
        return Ok(());
    }
    if let Some(master) = master {
        let held = std::fs::read(&owed).map_err(io(&owed))?;
        // Half written when this edge was ended: then HAProxy had not been told to forget anything yet.
        let held: Vec<Server> = match serde_json::from_slice(&held) {
            Ok(held) => held,
            Err(_) => socket.map_or_else(|| Ok(Vec::new()), haproxy::held)?,
        };
        haproxy::reload(master, socket, &held)?;
    }
    std::fs::remove_file(&owed).map_err(io(&owed))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HaproxyError {
    let path = path.display().to_string();
    move |error| HaproxyError::Io(path, error)
}

/// Drains in HAProxy the nodes that are to be drained, and takes back the drains that were made here and no others.
fn put_states(socket: &Path, wanted: &[(SocketAddr, ServerState)], ours: &mut Drains) -> Result<(), DoorError> {
    for server in haproxy::servers(socket)? {
        let Some((_, wanted)) = wanted.iter().find(|(node, _)| *node == server.node) else { continue };
        let key = format!("{} {}", server.group, server.node);
        match act(server.held, *wanted, ours.contains(&key)) {
            Act::Nothing => {}
            Act::Forget => ours.set(&key, false)?,
            Act::Drain => {
                // Noted first: a drain that nobody remembers making would stay for ever.
                ours.set(&key, true)?;
                told(socket, &server, ServerState::Drain)?;
            }
            Act::TakeBack => {
                told(socket, &server, ServerState::Ready)?;
                ours.set(&key, false)?;
            }
        }
    }
    Ok(())
}

fn told(socket: &Path, server: &Server, state: ServerState) -> Result<(), HaproxyError> {
    tracing::info!(group = server.group, node = %server.node, ?state, "told HAProxy");
    haproxy::tell(socket, &server.group, &server.name, state)
}

/// What becomes of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    /// It was drained from here, and somebody has changed that since.
    Forget,
    Drain,
    TakeBack,
}

fn act(held: Held, wanted: ServerState, ours: bool) -> Act {
    match (held, wanted, ours) {
        (Held::Not, ServerState::Drain, _) => Act::Drain,
        (Held::Drain, ServerState::Ready, true) => Act::TakeBack,
        (Held::Maintenance, _, true) | (Held::Not, _, true) => Act::Forget,
        // Held by somebody else, or as it should be.
        _ => Act::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_did_is_left_alone() {
        use ServerState::{Drain, Ready};
        assert_eq!(act(Held::Not, Drain, false), Act::Drain);
        assert_eq!(act(Held::Not, Drain, true), Act::Drain, "a HAProxy that was started anew is told again");
        assert_eq!(act(Held::Drain, Ready, true), Act::TakeBack);
        assert_eq!(act(Held::Not, Ready, true), Act::Forget, "taken back by hand, or forgotten by a restart");
        assert_eq!(act(Held::Maintenance, Ready, true), Act::Forget, "taken over by somebody");
        for (held, wanted) in
            [(Held::Drain, Ready), (Held::Drain, Drain), (Held::Maintenance, Ready), (Held::Maintenance, Drain)]
        {
            assert_eq!(act(held, wanted, false), Act::Nothing, "{held:?} {wanted:?}");
        }
        assert_eq!(act(Held::Drain, Drain, true), Act::Nothing);
    }
}
