//! UDP: one socket and one thread per core, datagrams in batches.
//!
//! The kernel spreads senders over the sockets (SO_REUSEPORT), so threads share nothing but the snapshot and the limiter.
//! `nix` receives (`recvmmsg`), `rustix` sends (its `sendmmsg` tells how many went out; nix's result cannot be counted).
//! Each thread owns its socket and buffers. A thread that ends without being asked to is started again.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, recvmmsg,
    setsockopt, socket, sockopt,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};

use super::stats::{Shared, unix_s};
use crate::dns::{Asked, Kind, Mode, RateVerdict, Transport, answer};
use crate::limits::{QUERY_MAX_BYTES, UDP_BATCH, UDP_RECEIVE_BUFFER_BYTES};

/// How often a thread without queries looks whether it should end.
const STOP_CHECK: Duration = Duration::from_millis(200);

/// Threads that serve UDP on some addresses.
#[derive(Debug)]
pub struct UdpService {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl UdpService {
    /// Binds `count` sockets to an address; with port 0 all get the port of the first.
    ///
    /// # Errors
    /// What the system says about the address.
    pub fn bind(address: SocketAddr, count: usize) -> std::io::Result<Vec<UdpSocket>> {
        let first = bind_one(address)?;
        let address = first.local_addr()?;
        let more = (1..count.max(1)).map(|_| bind_one(address));
        std::iter::once(Ok(first)).chain(more).collect()
    }

    /// Starts one thread for each socket.
    ///
    /// # Errors
    /// What the system says when it gives no thread.
    pub fn start(sockets: Vec<UdpSocket>, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |(at, socket): (usize, UdpSocket)| {
            let (shared, stop) = (shared.clone(), stop.clone());
            let body = move || supervise(&socket, &shared, &stop);
            std::thread::Builder::new().name(format!("dns-udp-{at}")).spawn(body)
        };
        let threads = sockets.into_iter().enumerate().map(thread).collect::<std::io::Result<_>>()?;
        Ok(Self { stop, threads })
    }

    /// Ends all threads and waits for them; takes at most about 200 ms.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                tracing::error!("a UDP thread ended in a panic");
            }
        }
    }
}

impl Drop for UdpService {
    /// Nobody may be left serving an address that its owner has given up.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn bind_one(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    // The system may grant less; that is no reason not to serve.
    let _ = setsockopt(&fd, sockopt::RcvBuf, &UDP_RECEIVE_BUFFER_BYTES);
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(STOP_CHECK))?;
    Ok(socket)
}

/// Serves until told to stop; a panic costs the batch it happened in, not the socket.
fn supervise(socket: &UdpSocket, shared: &Shared, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let ended =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Worker::new().serve(socket, shared, stop)));
        let why = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "panic".to_owned(),
        };
        shared.stats.restarts.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = why, "UDP thread starts again");
        std::thread::sleep(STOP_CHECK);
    }
}

struct Worker {
    queries: Vec<[u8; QUERY_MAX_BYTES]>,
    answers: Vec<Vec<u8>>,
    received: Vec<(usize, SocketAddr)>,
    to_send: Vec<(usize, SocketAddrAny)>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Worker {
    fn new() -> Self {
        Self {
            queries: vec![[0; QUERY_MAX_BYTES]; UDP_BATCH],
            answers: (0..UDP_BATCH).map(|_| Vec::with_capacity(2048)).collect(),
            received: Vec::with_capacity(UDP_BATCH),
            to_send: Vec::with_capacity(UDP_BATCH),
            headers: MultiHeaders::preallocate(UDP_BATCH, None),
        }
    }

    fn serve(&mut self, socket: &UdpSocket, shared: &Shared, stop: &AtomicBool) -> Result<(), Errno> {
        while !stop.load(Ordering::Relaxed) {
            match self.receive(socket) {
                Ok(()) => {
                    self.answer_all(shared);
                    self.send(socket, shared);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // An earlier answer could not be delivered: no matter of this socket's.
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for one datagram and takes along what else is there.
    fn receive(&mut self, socket: &UdpSocket) -> Result<(), Errno> {
        self.received.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self.queries.iter_mut().map(|q| [IoSliceMut::new(q)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let messages = recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), flags, None)?;
        for message in messages {
            let from = message.address.and_then(|a| socket_address(&a));
            // An address without port or host is forged, and the kernel would not send there.
            let usable = from.filter(|a| a.port() != 0 && !a.ip().is_unspecified());
            let unusable = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            self.received.push(usable.map_or((0, unusable), |from| (message.bytes, from)));
        }
        Ok(())
    }

    fn answer_all(&mut self, shared: &Shared) {
        let (snapshot, rate) = (shared.snapshot.load(), shared.rate.load());
        let (now_us, now_s) = (shared.now_us(), unix_s());
        let mut counts = [0u64; 4];
        self.to_send.clear();
        for (at, (len, from)) in self.received.iter().enumerate() {
            let mut asked = Asked { from: from.ip(), transport: Transport::Udp, now_s, mode: Mode::Full };
            let (query, out) = (&self.queries[at][..*len], &mut self.answers[at]);
            let outcome = answer(query, &asked, &snapshot, out);
            counts[outcome.kind as usize] += 1;
            if outcome.kind == Kind::Silent {
                continue;
            }
            if !outcome.verified {
                match rate.check(asked.from, outcome.kind, now_us) {
                    RateVerdict::Send => {}
                    RateVerdict::Slip => {
                        shared.stats.rate_slipped.fetch_add(1, Ordering::Relaxed);
                        asked.mode = Mode::Slip;
                        answer(query, &asked, &snapshot, out);
                    }
                    RateVerdict::Drop => {
                        shared.stats.rate_dropped.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                }
            }
            self.to_send.push((at, SocketAddrAny::from(*from)));
        }
        shared.stats.add(Transport::Udp, &counts);
    }

    fn send(&mut self, socket: &UdpSocket, shared: &Shared) {
        if self.to_send.is_empty() {
            return;
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.to_send.iter().map(|(at, _)| [IoSlice::new(&self.answers[*at])]).collect();
        let mut control: [SendAncillaryBuffer<'_, '_, '_>; UDP_BATCH] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let parts = self.to_send.iter().zip(&slices).zip(&mut control);
        let mut messages: Vec<MMsgHdr<'_>> =
            parts.map(|(((_, to), slice), control)| MMsgHdr::new_with_addr(to, slice, control)).collect();
        let mut sent = 0;
        while sent < messages.len() {
            match sendmmsg(socket, &mut messages[sent..], SendFlags::empty()) {
                Ok(count) => sent += count.max(1),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // The first of them cannot be sent (no route, a firewall): the others still can.
                    shared.stats.send_failed.fetch_add(1, Ordering::Relaxed);
                    sent += 1;
                }
            }
        }
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        AddressFamily::Inet => {
            let v4 = address.as_sockaddr_in()?;
            Some(SocketAddr::from((v4.ip(), v4.port())))
        }
        AddressFamily::Inet6 => {
            let v6 = address.as_sockaddr_in6()?;
            // Flow label and scope go along: a link-local client is answered on its link.
            Some(SocketAddr::V6(std::net::SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id())))
        }
        _ => None,
    }
}
