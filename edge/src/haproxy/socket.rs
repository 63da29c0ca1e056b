//! HAProxy's own sockets: how its servers stand, what they are told to be, and having its file read again.
//!
//! Every call is one connection and may block for a few seconds: not for a task of the runtime.

use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{GROUPS, HaproxyError};

/// What a server of HAProxy's is told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Gets requests, health permitting.
    Ready,
    /// Finishes what it has, gets nothing new.
    Drain,
    /// Gets nothing, and is not checked.
    Maintenance,
}

/// What somebody told HAProxy to do with a server, over this socket or from its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// Nothing: its health decides.
    Not,
    /// To drain.
    Drain,
    /// Maintenance.
    Maintenance,
}

/// A server of HAProxy's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The group that it stands in.
    pub group: String,
    /// Its name there.
    pub name: String,
    /// The node that it is.
    pub node: SocketAddr,
    /// What it was told to be.
    pub held: Held,
}

/// For an answer to anything but a reload.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A reload is done when another process answers; it has as long to say so.
const RELOAD_WITHIN: Duration = Duration::from_secs(10);

/// Bits of `srv_admin_state` (HAProxy's management guide, "show servers state"): put into maintenance, or told to drain,
/// by somebody. Others come from its own file or from names that do not resolve.
const FORCED_MAINTENANCE: u32 = 0x01;
const FORCED_DRAIN: u32 = 0x08;

/// Servers that somebody told something: what HAProxy forgets when it reads its file again.
///
/// # Errors
/// [`HaproxyError::Io`] when the socket cannot be reached.
pub fn held(socket: &Path) -> Result<Vec<Server>, HaproxyError> {
    Ok(servers(socket)?.into_iter().filter(|server| server.held != Held::Not).collect())
}

/// All servers that have an address.
///
/// # Errors
/// [`HaproxyError::Io`] when the socket cannot be reached.
pub fn servers(socket: &Path) -> Result<Vec<Server>, HaproxyError> {
    let said = asked(socket, "show servers state\n")?;
    Ok(said.lines().filter(|line| !line.starts_with('#')).filter_map(read_server).collect())
}

/// One line of `show servers state`: group, name, address, states, and further on the port.
fn read_server(line: &str) -> Option<Server> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = (fields.get(4)?.parse::<IpAddr>().ok()?, fields.get(18)?.parse().ok()?);
    let told: u32 = fields.get(6)?.parse().ok()?;
    let held = match told {
        told if told & FORCED_MAINTENANCE != 0 => Held::Maintenance,
        told if told & FORCED_DRAIN != 0 => Held::Drain,
        _ => Held::Not,
    };
    let (group, name) = ((*fields.get(1)?).to_owned(), (*fields.get(3)?).to_owned());
    Some(Server { group, name, node: SocketAddr::new(address, port), held })
}

/// Tells HAProxy what one server is to be.
///
/// # Errors
/// [`HaproxyError::Io`] when the socket cannot be reached, [`HaproxyError::Refused`] with HAProxy's words.
pub fn tell(socket: &Path, group: &str, name: &str, state: ServerState) -> Result<(), HaproxyError> {
    let word = match state {
        ServerState::Ready => "ready",
        ServerState::Drain => "drain",
        ServerState::Maintenance => "maint",
    };
    let said = asked(socket, &format!("set server {group}/{name} state {word}\n"))?;
    if said.trim().is_empty() { Ok(()) } else { Err(HaproxyError::Refused(said.trim().to_owned())) }
}

/// Tells a running HAProxy what state a node is to be in, in all of its groups. `node` counts from 1.
///
/// # Errors
/// As [`tell`].
pub fn set_server_state(socket: &Path, node: usize, state: ServerState) -> Result<(), HaproxyError> {
    GROUPS.iter().try_for_each(|group| tell(socket, group, &format!("node{node}"), state))
}

/// States of all servers as HAProxy sees them: group, server, status (`UP`, `DOWN`, `DRAIN`, …).
///
/// # Errors
/// [`HaproxyError::Io`] when the socket cannot be reached.
pub fn server_states(socket: &Path) -> Result<Vec<(String, String, String)>, HaproxyError> {
    let csv = asked(socket, "show stat -1 4 -1\n")?;
    let line = |line: &str| {
        let mut fields = line.split(',');
        Some((fields.next()?.to_owned(), fields.next()?.to_owned(), fields.nth(15)?.to_owned()))
    };
    Ok(csv.lines().filter(|l| !l.starts_with('#')).filter_map(line).collect())
}

/// Has HAProxy's master process read its file again; connections under way are finished by the old workers. HAProxy
/// forgets by that what it was told of its servers, so what was [`held`] is told again, by their addresses: who took a
/// server out by hand must find it out afterwards.
///
/// # Errors
/// [`HaproxyError`]; then it may be that nothing was read again, or that not all of `held` was told.
pub fn reload(master_socket: &Path, socket: Option<&Path>, held: &[Server]) -> Result<(), HaproxyError> {
    let worker = socket.and_then(worker);
    // Up to 2.6 the master closes the connection as it begins anew; later ones answer when they are done. What either says
    // tells nothing: whether another process answers does.
    ask(master_socket, "reload\n", RELOAD_WITHIN)
        .map_err(|e| HaproxyError::Io(master_socket.display().to_string(), e))?;
    let Some(socket) = socket else { return Ok(()) };
    let begun = Instant::now();
    while self::worker(socket).is_none_or(|now| Some(now) == worker) {
        if begun.elapsed() > RELOAD_WITHIN {
            return Err(HaproxyError::Refused("it was told to read its file again and has not".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for server in servers(socket)? {
        let before = held.iter().find(|before| (&before.group, before.node) == (&server.group, server.node));
        match before.map(|before| before.held) {
            Some(Held::Drain) => tell(socket, &server.group, &server.name, ServerState::Drain)?,
            Some(Held::Maintenance) => tell(socket, &server.group, &server.name, ServerState::Maintenance)?,
            Some(Held::Not) | None => {}
        }
    }
    Ok(())
}

/// The process that answers at HAProxy's socket.
fn worker(socket: &Path) -> Option<u32> {
    let said = asked(socket, "show info\n").ok()?;
    said.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

fn asked(socket: &Path, command: &str) -> Result<String, HaproxyError> {
    ask(socket, command, ANSWER_WITHIN).map_err(|e| HaproxyError::Io(socket.display().to_string(), e))
}

fn ask(socket: &Path, command: &str, within: Duration) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    stream.write_all(command.as_bytes())?;
    let mut said = String::new();
    stream.take(1 << 20).read_to_string(&mut said)?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_haproxys_about_a_server() {
        let read = |told: u32| {
            read_server(&format!("4 nodes 1 node1 127.0.0.7 2 {told} 1 1 9 6 3 4 6 0 0 0 - 8080 - 0 0 - - 0")).unwrap()
        };
        assert_eq!((read(0).held, read(1).held, read(8).held), (Held::Not, Held::Maintenance, Held::Drain));
        assert_eq!(read(9).held, Held::Maintenance);
        assert_eq!(read(0x20).held, Held::Not, "a name that does not resolve is not anybody's wish");
        assert_eq!(
            (read(0).group.as_str(), read(0).name.as_str(), read(0).node),
            ("nodes", "node1", ([127, 0, 0, 7], 8080).into())
        );
        assert_eq!(read_server("1"), None);
    }
}
