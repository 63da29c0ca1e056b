//! TCP: the same answers with a length before each, within limits of time, number and size.
//!
//! Our own accept loop and framing, not hickory-server's: that one answers malformed packets itself, cannot send prepared
//! bytes, and takes any number of connections. One task accepts and owns nothing but the listener; one task for each
//! connection owns its buffers. A supervisor starts the accepting task again if it ends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stats::{Shared, unix_s};
use crate::config::TcpConfig;
use crate::dns::{Asked, Kind, Mode, Transport, answer};
use crate::limits::QUERY_MAX_BYTES;

/// Answers gathered before they are written, in bytes: a client that sends many queries at once gets few packets.
const GATHER_BYTES: usize = 16 * 1024;
/// Time before a failing listener is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Serves TCP on one address.
#[derive(Clone, Debug)]
pub struct TcpService {
    shared: Arc<Shared>,
    config: TcpConfig,
    places: Arc<Semaphore>,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl TcpService {
    /// A service; `stop` ends it. Limits count over all addresses served by clones of it.
    pub fn new(shared: Arc<Shared>, config: TcpConfig, stop: CancellationToken) -> Self {
        let places = Arc::new(Semaphore::new(config.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        Self { shared, config, places, clients: Arc::default(), stop, connections: TaskTracker::new() }
    }

    /// Serves a listener until stopped. If accepting ends in any other way, the address is bound again.
    pub async fn supervise(self, listener: TcpListener) {
        let address = listener.local_addr();
        let mut listener = Some(listener);
        while !self.stop.is_cancelled() {
            if let Some(listener) = listener.take() {
                let service = self.clone();
                match tokio::spawn(async move { service.accept(listener).await }).await {
                    Ok(()) if self.stop.is_cancelled() => break,
                    ended => tracing::error!(?address, ?ended, "TCP listener ended, starting again"),
                }
                self.shared.stats.restarts.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(RETRY).await;
            if let Ok(address) = address {
                match TcpListener::bind(address).await {
                    Ok(again) => listener = Some(again),
                    Err(error) => tracing::error!(%address, %error, "cannot bind TCP again"),
                }
            }
        }
        self.connections.close();
        // Open connections see the same token; none outlives its transfer time.
        let _ = timeout(Duration::from_millis(self.config.transfer_ms), self.connections.wait()).await;
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.take(stream, from),
                // Out of descriptors, or a client that left while waiting: neither is the listener's end.
                Err(error) if !is_fatal(&error) => {
                    tracing::warn!(%error, "cannot accept a TCP connection");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::error!(%error, "TCP listener is broken");
                    return;
                }
            }
        }
    }

    /// Starts serving a connection, or closes it at once when there are too many.
    fn take(&self, stream: TcpStream, from: SocketAddr) {
        let stats = &self.shared.stats;
        let place = self.places.clone().try_acquire_owned().ok();
        let guest = place.and_then(|place| Guest::enter(self, from.ip(), place));
        let Some(guest) = guest else {
            stats.tcp_refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        stats.tcp_accepted.fetch_add(1, Ordering::Relaxed);
        let service = self.clone();
        self.connections.spawn(async move {
            let _guest = guest;
            let _ = stream.set_nodelay(true);
            let stop = service.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                ended = service.connection(stream, from) => {
                    if let Err(error) = ended {
                        tracing::debug!(%from, %error, "TCP connection ended");
                    }
                }
            }
        });
    }

    async fn connection(&self, mut stream: TcpStream, from: SocketAddr) -> std::io::Result<()> {
        let idle = Duration::from_millis(self.config.idle_ms);
        let transfer = Duration::from_millis(self.config.transfer_ms);
        let mut input = Vec::with_capacity(1024);
        let mut output = Vec::with_capacity(1024);
        let mut scratch = Vec::with_capacity(1024);
        let mut queries = 0;
        loop {
            // The first octet may take its time; once there, the rest of the query may not.
            if timeout(idle, stream.read_buf(&mut input)).await?? == 0 {
                return Ok(());
            }
            let mut deadline = tokio::time::Instant::now() + transfer;
            loop {
                let unread = input.len();
                let sound = self.answer_frames(&mut input, &mut output, &mut scratch, from, &mut queries);
                if !output.is_empty() {
                    timeout(transfer, stream.write_all(&output)).await??;
                    output.clear();
                }
                if !sound || queries >= self.config.queries_max {
                    return stream.shutdown().await;
                }
                if input.is_empty() {
                    break;
                }
                if input.len() < unread {
                    // What is left belongs to another query, with a time of its own.
                    deadline = tokio::time::Instant::now() + transfer;
                }
                if !is_complete(&input) && tokio::time::timeout_at(deadline, stream.read_buf(&mut input)).await?? == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Answers whole queries of `input` until there are no more or enough is gathered; false when what comes is no DNS.
    fn answer_frames(
        &self,
        input: &mut Vec<u8>,
        output: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
        from: SocketAddr,
        queries: &mut u32,
    ) -> bool {
        let snapshot = self.shared.snapshot.load();
        let asked = Asked { from: from.ip(), transport: Transport::Tcp, now_s: unix_s(), mode: Mode::Full };
        let mut counts = [0u64; 4];
        let (mut at, mut sound) = (0, true);
        while output.len() < GATHER_BYTES && *queries < self.config.queries_max {
            let Some((head, rest)) = input[at..].split_first_chunk::<2>() else { break };
            let len = usize::from(u16::from_be_bytes(*head));
            sound = (12..=QUERY_MAX_BYTES).contains(&len);
            let Some(query) = rest.get(..len).filter(|_| sound) else { break };
            let outcome = answer(query, &asked, &snapshot, scratch);
            counts[outcome.kind as usize] += 1;
            *queries += 1;
            at += 2 + len;
            if outcome.kind == Kind::Silent {
                continue;
            }
            output.extend_from_slice(&(scratch.len() as u16).to_be_bytes());
            output.extend_from_slice(scratch);
        }
        input.drain(..at);
        self.shared.stats.add(Transport::Tcp, &counts);
        sound
    }
}

/// True when a whole query is there, so that reading on would wait for nothing.
fn is_complete(input: &[u8]) -> bool {
    input.split_first_chunk::<2>().is_some_and(|(head, rest)| rest.len() >= usize::from(u16::from_be_bytes(*head)))
}

/// Errors after which a listener never accepts again.
fn is_fatal(error: &std::io::Error) -> bool {
    use nix::libc::{EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP};
    matches!(error.raw_os_error(), Some(EBADF | EINVAL | ENOTSOCK | EOPNOTSUPP))
}

/// A connection's place, given back when it ends.
struct Guest {
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    shared: Arc<Shared>,
    network: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    fn enter(service: &TcpService, from: IpAddr, place: OwnedSemaphorePermit) -> Option<Self> {
        // One household has a whole /64 of IPv6.
        let network = match from.to_canonical() {
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() & !u128::from(u64::MAX)).into()),
            v4 => v4,
        };
        let mut clients = service.clients.lock();
        let count = clients.entry(network).or_default();
        if *count >= service.config.connections_per_client_max {
            return None;
        }
        *count += 1;
        service.shared.stats.tcp_open.fetch_add(1, Ordering::Relaxed);
        Some(Self { clients: service.clients.clone(), shared: service.shared.clone(), network, _place: place })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut clients = self.clients.lock();
        if let Some(count) = clients.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.network);
            }
        }
        self.shared.stats.tcp_open.fetch_sub(1, Ordering::Relaxed);
    }
}
