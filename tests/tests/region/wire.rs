//! HTTP as bytes: what no client library would send, and exactly what came back.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than the node's own longest patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One answer, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Reads answers out of what a connection sent, in order. Bytes that are no answer end the list.
    fn all(mut bytes: &[u8]) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some((answer, rest)) = Answer::first(bytes) {
            answers.push(answer);
            bytes = rest;
        }
        answers
    }

    fn first(bytes: &[u8]) -> Option<(Answer, &[u8])> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let headers: Vec<(String, String)> = pairs.map(|(k, v)| (k.to_lowercase(), v.trim().to_owned())).collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let rest = &bytes[end + 4..];
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(rest.len());
        let (body, rest) = rest.split_at_checked(length)?;
        answer.body = body.to_vec();
        Some((answer, rest))
    }
}

/// A request's bytes; the body gets a matching `content-length`, and the connection closes after the answer.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: tickets.test\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !body.is_empty() || method == "POST" || method == "PUT" {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Sends bytes as they are, and reads until the node closes; every answer that came.
pub(crate) async fn send(address: SocketAddr, bytes: &[u8]) -> Vec<Answer> {
    exchange(address, bytes, true).await
}

/// The same without waiting for a close that a persistent connection never makes: our side is shut down instead.
pub(crate) async fn send_and_finish(address: SocketAddr, bytes: &[u8]) -> Vec<Answer> {
    exchange(address, bytes, false).await
}

async fn exchange(address: SocketAddr, bytes: &[u8], keep_open: bool) -> Vec<Answer> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    // The node may refuse and close before it has read everything.
    let write = async move {
        let _ = writing.write_all(bytes).await;
        if !keep_open {
            let _ = writing.shutdown().await;
        }
        writing
    };
    let read = async move {
        let mut came = Vec::new();
        let mut piece = [0; 16 * 1024];
        // A reset after the answer is an end as well.
        while let Ok(count @ 1..) = reading.read(&mut piece).await {
            came.extend_from_slice(&piece[..count]);
        }
        came
    };
    let both = async { tokio::join!(write, read) };
    let (_, came) = tokio::time::timeout(PATIENCE, both).await.expect("the node neither answers nor closes");
    Answer::all(&came)
}

/// One request, one answer.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let answers = send(address, &request(method, path, headers, body)).await;
    let [answer] = answers.as_slice() else { panic!("{method} {path}: {} answers: {answers:?}", answers.len()) };
    answer.clone()
}

/// Panics unless the answer is the contract's error with that code.
#[track_caller]
pub(crate) fn must_refuse(answer: &Answer, status: u16, code: &str, what: &str) {
    let context = || format!("{what}: expected {status} {code}, got {} {}", answer.status, answer.text());
    assert_eq!(answer.status, status, "{}", context());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", context());
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{}", context());
    let body = answer.json();
    assert_eq!(body["code"], code, "{}", context());
    assert_eq!(body["status"], status, "{}", context());
    assert_eq!(body["side_effects"], "none", "{}", context());
    for field in ["type", "title", "detail"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {}", context());
    }
    let waits = matches!(status, 429 | 503);
    assert_eq!(answer.header("retry-after").is_some(), waits, "{}", context());
    assert_eq!(body["retry_after_ms"].is_u64(), waits, "{}", context());
}
