//! Serves HTTP/1.1 on a listener: bounded connections, headers on time, a graceful end.
//!
//! One task accepts; each connection is a task of its own; all end when `shutdown` fires and their requests are
//! answered, or after the drain time. Knows nothing of what is served.

use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use region_api::{Code, Problem};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::timer::ConnectionTimer;
use super::unparsed::{self, Connection};
use crate::limits;

/// Bounds of one listener.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Open connections; one more is told `503` and closed.
    pub connections_max: usize,
    /// Headers must be complete this long after the connection opened or the last answer went out.
    pub header_timeout: Duration,
    /// Bytes of request line and headers.
    pub header_max_bytes: usize,
    /// How long requests under way may take once `shutdown` has fired.
    pub drain_timeout: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            connections_max: limits::CONNECTIONS_MAX,
            header_timeout: limits::HEADER_TIMEOUT,
            header_max_bytes: limits::HEADER_MAX_BYTES,
            drain_timeout: limits::DRAIN_TIMEOUT,
        }
    }
}

/// What a connection too many is told; written without parsing what it asked.
fn full() -> String {
    let retry_ms = limits::OVERLOAD_RETRY.as_millis() as u64;
    unparsed::answer(&Problem::new(Code::Overloaded, "too many connections").retry_after_ms(retry_ms), "")
}

/// Serves until `shutdown` fires and what is under way is answered. Every connection gets a service of its own from
/// `service`: it is cloned for each request, and a count of clones that all connections shared would go from processor to
/// processor with every one.
pub async fn serve<S>(listener: TcpListener, service: impl Fn() -> S, config: ServeConfig, shutdown: CancellationToken)
where
    S: tower::Service<http::Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let connections = Arc::new(Semaphore::new(config.connections_max));
    let graceful = GracefulShutdown::new();
    // Not `pipeline_flush`: with it hyper writes nothing while it has bytes left to read, also not what is wrong with them.
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(config.header_timeout).max_header_size(config.header_max_bytes);
    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: no connection is lost by waiting for some to close.
                    if !is_connection_error(&error) {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    continue;
                }
            },
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            refuse(stream);
            continue;
        };
        // Answers are one small write each; waiting for more to send would only delay them.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let mut builder = builder.clone();
        builder.timer(ConnectionTimer::default());
        let stream = TokioIo::new(Connection::new(stream, config.header_max_bytes));
        let connection = builder.serve_connection(stream, TowerToHyperService::new(service()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // Errors here are the other side's: reset, headers late, not HTTP. Nothing was begun that must be undone.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(config.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the drain time was up");
    }
}

fn is_connection_error(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One attempt to write, then close: a full node waits for nobody who came too late.
fn refuse(stream: TcpStream) {
    if stream.try_write(full().as_bytes()).is_err() {
        tracing::debug!("a refused connection could not be told so");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start(config: ServeConfig) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/slow", get(|| async { tokio::time::sleep(Duration::from_millis(300)).await }));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, move || router.clone(), config, shutdown.clone()));
        (address, shutdown, task)
    }

    async fn read_all(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn slow_headers_lose_their_connection() {
        let config = ServeConfig { header_timeout: Duration::from_millis(100), ..ServeConfig::default() };
        let (address, shutdown, _task) = start(config).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), read_all(&mut stream)).await.unwrap();
        assert!(!ended.contains("200"), "{ended}");
        shutdown.cancel();
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so_and_a_freed_place_is_used() {
        let (address, shutdown, _task) = start(ServeConfig { connections_max: 1, ..ServeConfig::default() }).await;
        let first = TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let answer = read_all(&mut second).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 2"), "{answer}");
        assert!(answer.contains("\r\nx-request-id: "), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
        serde_json::from_str::<serde_json::Value>(body).unwrap();
        drop(first);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(read_all(&mut third).await.ends_with("hello"));
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_before_the_end() {
        let (address, shutdown, task) = start(ServeConfig::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        shutdown.cancel();
        assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 200 "));
        task.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody may be accepted after the end");
    }

    /// The answers to something that is no request, until the end of the connection.
    async fn said_to(address: std::net::SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), read_all(&mut stream)).await.unwrap()
    }

    fn problem(answer: &str) -> Problem {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nx-request-id: ") && head.contains("\r\ndate: "), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{head}");
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", problem.status)), "{head}");
        problem
    }

    #[tokio::test]
    async fn what_cannot_be_parsed_is_answered_as_the_contract_says() {
        // But for the preface of HTTP/2, whose speakers could not read the answer: they see the end of the connection.
        let (address, shutdown, _task) = start(ServeConfig::default()).await;
        for nonsense in [
            &b"hello\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\nx\x00y: z\r\n\r\n",
            b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ] {
            let problem = problem(&said_to(address, nonsense).await);
            assert_eq!(problem.code, Code::InvalidRequest, "{nonsense:?}");
        }
        shutdown.cancel();
    }

    #[tokio::test]
    async fn what_comes_after_a_request_is_answered_after_it() {
        let (address, shutdown, _task) = start(ServeConfig::default()).await;
        let said = said_to(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nhello\r\n\r\n").await;
        let (first, second) = said.split_at(said.rfind("HTTP/1.1 ").unwrap());
        assert!(first.starts_with("HTTP/1.1 200 ") && first.ends_with("hello"), "{said}");
        assert_eq!(problem(second).code, Code::InvalidRequest);
        shutdown.cancel();
    }

    #[tokio::test]
    async fn headers_too_large_are_refused() {
        let (address, shutdown, _task) = start(ServeConfig::default()).await;
        // As many as are read before it is said: with more on the way the close would take the answer with it.
        let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}", "a".repeat(limits::HEADER_MAX_BYTES));
        let problem = problem(&said_to(address, long.as_bytes()).await);
        assert_eq!(problem.code, Code::TooLarge);
        assert!(problem.detail.contains(&limits::HEADER_MAX_BYTES.to_string()), "{}", problem.detail);
        shutdown.cancel();
    }
}
