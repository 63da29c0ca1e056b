//! A load of UDP queries, each with another client subnet: what dnsperf cannot do, since its options are the same for all.
//!
//! One thread, one connected socket for each lane, a fixed number of queries under way; answers are checked for their code
//! and matched by id. Bounded by time, ends by itself.

use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

/// What came of a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadResult {
    /// Queries answered without an error.
    pub answered: u64,
    /// Answers with an error.
    pub errors: u64,
    /// Queries without an answer.
    pub lost: u64,
    /// How long it took, in seconds.
    pub elapsed_s: f64,
}

/// Sends queries from `queries` round and round for `length`, at most `under_way` unanswered at a time. With `per_s`, no
/// more than that a second.
///
/// # Errors
/// What the system says about sockets.
pub fn blast(
    to: SocketAddr,
    queries: &[Vec<u8>],
    length: Duration,
    under_way: usize,
    mut each: impl FnMut(Duration),
    per_s: Option<u64>,
) -> std::io::Result<LoadResult> {
    const BATCH: usize = 32;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    let begun = Instant::now();
    let mut sent_at = vec![None::<Instant>; usize::from(u16::MAX) + 1];
    let (mut next, mut open, mut sent) = (0u16, 0usize, 0u64);
    let mut result = LoadResult::default();
    let mut buffer = [0u8; 2048];
    let mut quiet_since = Instant::now();
    let mut packets = vec![Vec::new(); BATCH];
    loop {
        let now = Instant::now();
        let over = now.duration_since(begun) >= length;
        if over && (open == 0 || now.duration_since(quiet_since) > Duration::from_millis(500)) {
            break;
        }
        let allowed = per_s.map_or(u64::MAX, |rate| (rate as f64 * begun.elapsed().as_secs_f64()) as u64 + 1);
        let room = under_way.saturating_sub(open).min(BATCH).min(allowed.saturating_sub(sent) as usize);
        if room > 0 && !over && !queries.is_empty() {
            for packet in packets.iter_mut().take(room) {
                packet.clone_from(&queries[sent as usize % queries.len()]);
                packet[..2].copy_from_slice(&next.to_be_bytes());
                open += usize::from(sent_at[usize::from(next)].replace(now).is_none());
                next = next.wrapping_add(1);
                sent += 1;
            }
            send(&socket, &packets[..room])?;
        }
        loop {
            match socket.recv(&mut buffer) {
                Ok(len) if len >= 12 => {
                    let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                    if let Some(at) = sent_at[id].take() {
                        open -= 1;
                        if buffer[3] & 0x0F == 0 {
                            result.answered += 1
                        } else {
                            result.errors += 1
                        }
                        each(at.elapsed());
                    }
                    quiet_since = Instant::now();
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => break,
                Err(e) => return Err(e),
            }
        }
        // Queries that got lost must not stop the load for ever.
        if open >= under_way && quiet_since.elapsed() > Duration::from_millis(200) {
            sent_at.iter_mut().for_each(|at| *at = None);
            open = 0;
            quiet_since = Instant::now();
        }
    }
    result.lost = sent - result.answered - result.errors;
    result.elapsed_s = begun.elapsed().as_secs_f64();
    Ok(result)
}

fn send(socket: &UdpSocket, packets: &[Vec<u8>]) -> std::io::Result<()> {
    let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|p| [IoSlice::new(p)]).collect();
    let mut control: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        packets.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<MMsgHdr<'_>> = slices.iter().zip(&mut control).map(|(s, c)| MMsgHdr::new(s, c)).collect();
    let mut sent = 0;
    while sent < messages.len() {
        match sendmmsg(socket, &mut messages[sent..], SendFlags::empty()) {
            Ok(count) => sent += count.max(1),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => std::thread::yield_now(),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
