//! A door before a server through which some may be kept from passing: how a stage cuts a network without asking the
//! system for rights.
//!
//! TLS goes through untouched, so a redirect to the server's address leads through its door again. Who knocks is found
//! out by the owner of the socket: on loopback every caller has the same address. A cut is what a cut is in a real
//! network: no refusal, only silence, in both directions.

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Who may pass; shared by all doors of a stage.
#[derive(Debug, Default)]
struct Rules {
    /// Processes that may knock, by name; others pass unnamed.
    callers: BTreeMap<i32, String>,
    /// Pairs that cannot hear each other: caller and door.
    cut: BTreeSet<(String, u64)>,
    /// How much longer what a caller sends takes to arrive, and what it is sent.
    delays: BTreeMap<String, Duration>,
    /// Ends connections that were silenced, when their cut heals.
    silenced: BTreeMap<(String, u64), CancellationToken>,
}

/// The doors of a stage.
#[derive(Debug, Clone, Default)]
pub struct Relay {
    rules: Arc<Mutex<Rules>>,
    stop: CancellationToken,
}

impl Relay {
    /// Opens a door on `listener` to `target`. Its number is what [`Relay::cut`] names it by.
    pub fn open(&self, door: u64, listener: TcpListener, target: SocketAddr) {
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = this.stop.cancelled() => return,
                };
                let Ok((stream, from)) = accepted else { continue };
                let this = this.clone();
                tokio::spawn(async move {
                    let looking = this.clone();
                    let caller = tokio::task::spawn_blocking(move || looking.who(from)).await.ok().flatten();
                    if let Err(error) = this.pass(door, &caller.unwrap_or_default(), stream, target).await {
                        tracing::debug!(%error, door, "a connection ended");
                    }
                });
            }
        });
    }

    /// This process is called so from now on. To be told again when it was started again.
    pub fn caller(&self, pid: i32, name: &str) {
        let mut rules = self.rules.lock();
        rules.callers.retain(|_, known| known != name);
        rules.callers.insert(pid, name.to_owned());
    }

    /// Silence between a caller and a door, from now on.
    pub fn cut(&self, caller: &str, door: u64) {
        self.rules.lock().cut.insert((caller.to_owned(), door));
    }

    /// Everybody hears everybody again. Connections that were silenced end.
    pub fn heal(&self) {
        let mut rules = self.rules.lock();
        rules.cut.clear();
        rules.delays.clear();
        for (_, silenced) in std::mem::take(&mut rules.silenced) {
            silenced.cancel();
        }
    }

    /// What this caller sends and is sent takes so much longer.
    pub fn delay(&self, caller: &str, by: Duration) {
        self.rules.lock().delays.insert(caller.to_owned(), by);
    }

    /// Closes all doors.
    pub fn close(&self) {
        self.stop.cancel();
    }

    fn is_cut(&self, caller: &str, door: u64) -> Option<CancellationToken> {
        let (pair, mut rules) = ((caller.to_owned(), door), self.rules.lock());
        rules.cut.contains(&pair).then(|| rules.silenced.entry(pair).or_default().clone())
    }

    async fn pass(&self, door: u64, caller: &str, near: TcpStream, target: SocketAddr) -> Result<()> {
        if let Some(healed) = self.is_cut(caller, door) {
            healed.cancelled().await;
            return Ok(());
        }
        let far = TcpStream::connect(target).await.context("connecting")?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let there = self.copy(door, caller, near_in, far_out);
        let back = self.copy(door, caller, far_in, near_out);
        tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            ended = async { tokio::try_join!(there, back).map(|_| ()) } => ended,
        }
    }

    async fn copy(
        &self,
        door: u64,
        caller: &str,
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
    ) -> Result<()> {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut bytes).await?;
            if let Some(healed) = self.is_cut(caller, door) {
                healed.cancelled().await;
                anyhow::bail!("was cut");
            }
            if count == 0 {
                return Ok(to.shutdown().await?);
            }
            let delay = self.rules.lock().delays.get(caller).copied();
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            to.write_all(&bytes[..count]).await?;
        }
    }
}

impl Relay {
    /// Which of the callers owns the socket at the other end.
    fn who(&self, from: SocketAddr) -> Option<String> {
        let wanted = format!("socket:[{}]", inode_of(from)?);
        let callers = self.rules.lock().callers.clone();
        let owner = callers.into_iter().find(|(pid, _)| {
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            let mut links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
            links.any(|link| link.as_os_str() == wanted.as_str())
        });
        owner.map(|(_, name)| name)
    }
}

/// The inode of the socket that has this local address, from `/proc/net/tcp`.
fn inode_of(local: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(local) = local else { return None };
    let hex = format!("{:08X}:{:04X}", u32::from_ne_bytes(local.ip().octets()), local.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.get(1) == Some(&hex.as_str())).and_then(|row| row.get(9)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(stream: &mut TcpStream, text: &str) -> bool {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = vec![0; text.len()];
        let read = tokio::time::timeout(Duration::from_millis(500), stream.read_exact(&mut back)).await;
        matches!(read, Ok(Ok(_))) && back == text.as_bytes()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_is_silence_for_the_one_who_is_cut_and_ends_when_it_heals() {
        let here = std::net::Ipv4Addr::LOCALHOST;
        let echo = TcpListener::bind((here, 0)).await.unwrap();
        let target = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let (relay, listener) = (Relay::default(), TcpListener::bind((here, 0)).await.unwrap());
        let door = listener.local_addr().unwrap();
        relay.open(1, listener, target);
        relay.caller(std::process::id().cast_signed(), "us");
        let mut before = TcpStream::connect(door).await.unwrap();
        assert!(says(&mut before, "one").await);
        relay.cut("somebody else", 1);
        assert!(says(&mut before, "two").await);
        relay.cut("us", 1);
        assert!(!says(&mut before, "three").await, "an old connection");
        let mut during = TcpStream::connect(door).await.unwrap();
        assert!(!says(&mut during, "four").await, "a new connection");
        relay.heal();
        let mut after = TcpStream::connect(door).await.unwrap();
        assert!(says(&mut after, "five").await);
    }
}
