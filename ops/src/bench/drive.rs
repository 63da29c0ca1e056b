//! The load generator of every bench: a closed loop over kept-alive HTTP/1.1 connections.
//!
//! One task owns one connection and one histogram; the only thing they share is the counter that hands out request
//! numbers. The same generator drives the server under test and its baseline, so that its own cost is on both sides
//! of every ratio.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What to send and what to do with the answers.
pub trait Work: Send + Sync + 'static {
    /// The request with this number, 0-based.
    fn request(&self, number: u64) -> Request<Full<Bytes>>;
    /// Takes the answer to it.
    fn answered(&self, number: u64, status: StatusCode, body: &Bytes) -> Result<()>;
}

/// How long and how wide to drive.
#[derive(Debug, Clone, Copy)]
pub struct Drive {
    /// Where.
    pub address: SocketAddr,
    /// Connections, each with one request under way.
    pub connections: usize,
    /// Stop handing out numbers at this one.
    pub requests_max: u64,
    /// Stop handing out numbers after this long.
    pub time_max: Duration,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Driven {
    /// When every connection stood and the first request went out.
    pub started: Instant,
    /// Requests answered.
    pub answered: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Latency in microseconds.
    pub latency_us: Histogram<u64>,
}

impl Driven {
    /// Answers per second.
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }
}

fn histogram() -> Histogram<u64> {
    // 1 µs to 60 s at 3 digits: bounds that `new_with_bounds` accepts by its own documentation.
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|e| unreachable!("histogram bounds: {e}"))
}

/// Drives `work` against one server and waits for every answer.
pub async fn drive(drive: Drive, work: Arc<impl Work>) -> Result<Driven> {
    let next = Arc::new(AtomicU64::new(0));
    let mut senders = Vec::with_capacity(drive.connections);
    for _ in 0..drive.connections {
        senders.push(connect(drive.address).await?);
    }
    let started = Instant::now();
    let tasks: Vec<_> = senders
        .into_iter()
        .map(|sender| tokio::spawn(one_connection(sender, drive, started, Arc::clone(&next), Arc::clone(&work))))
        .collect();
    let mut driven = Driven { started, answered: 0, elapsed: Duration::ZERO, latency_us: histogram() };
    for task in tasks {
        let latencies = task.await.context("a connection's task ended badly")??;
        driven.answered += latencies.len();
        driven.latency_us.add(&latencies).context("adding histograms of equal bounds")?;
    }
    driven.elapsed = started.elapsed();
    Ok(driven)
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = tokio::net::TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn one_connection(
    mut sender: SendRequest<Full<Bytes>>,
    drive: Drive,
    started: Instant,
    next: Arc<AtomicU64>,
    work: Arc<impl Work>,
) -> Result<Histogram<u64>> {
    let mut latency_us = histogram();
    while started.elapsed() < drive.time_max {
        let number = next.fetch_add(1, Relaxed);
        if number >= drive.requests_max {
            break;
        }
        let request = work.request(number);
        let sent = Instant::now();
        if sender.ready().await.is_err() {
            bail!("{} closed a connection after {} answers on it", drive.address, latency_us.len());
        }
        let answer = sender.send_request(request).await.context("sending a request")?;
        let status = answer.status();
        let body = answer.into_body().collect().await.context("reading an answer")?.to_bytes();
        latency_us.saturating_record(sent.elapsed().as_micros() as u64);
        work.answered(number, status, &body).with_context(|| format!("request {number}"))?;
    }
    Ok(latency_us)
}
