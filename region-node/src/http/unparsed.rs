//! What hyper answers by itself, in the contract's words.
//!
//! A request that hyper cannot parse reaches no service: it is answered with a bare 400, 414 or 431 and a close, and there
//! is no hook for another body (hyperium/hyper#3225). So a connection looks at the end of everything that it is given to
//! write, and puts a problem document in the place of such an answer. It belongs to its connection's task alone.

use region_api::{Code, Problem};
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::limits;

/// A connection whose every answer is the contract's.
pub(super) struct Connection {
    tcp: TcpStream,
    header_max_bytes: usize,
    /// What is being written in the place of a bare answer, and how much of it was.
    instead: Option<(Vec<u8>, usize)>,
}

impl Connection {
    /// Over this stream; a request that is too large is told what its headers may have.
    pub(super) fn new(tcp: TcpStream, header_max_bytes: usize) -> Self {
        Self { tcp, header_max_bytes, instead: None }
    }
}

/// A whole answer with a close, for who has no service to ask. `head` is more of its headers, a line each.
pub(super) fn answer(problem: &Problem, head: &str) -> String {
    let body = serde_json::to_string(problem).unwrap_or_default();
    let reason = http::StatusCode::from_u16(problem.status).ok().and_then(|status| status.canonical_reason());
    let mut text = format!("HTTP/1.1 {} {}\r\n{head}", problem.status, reason.unwrap_or_default());
    if let Some(seconds) = problem.retry_after_seconds() {
        let _ = write!(text, "retry-after: {seconds}\r\n");
    }
    let _ = write!(
        text,
        "content-type: {}\r\nx-request-id: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        Problem::CONTENT_TYPE,
        uuid::Uuid::new_v4().simple(),
        body.len(),
    );
    text
}

/// Where a bare answer of hyper's begins, if these bytes end with one. None of our own answers ends with its headers and
/// has one of these statuses.
fn bare_at(bytes: &[u8]) -> Option<usize> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let at = memchr::memmem::rfind(bytes, b"HTTP/1.")?;
    let head = &bytes[at..];
    let bare = matches!(head.get(8..13), Some(b" 400 " | b" 414 " | b" 431 "));
    (bare && memchr::memmem::find(head, b"\r\ncontent-length: 0\r\n").is_some()).then_some(at)
}

/// What is said instead of a bare answer: its date is kept.
fn instead_of(bare: &[u8], header_max_bytes: usize) -> Vec<u8> {
    let problem = if bare.get(8..13) == Some(b" 400 ") {
        Problem::new(Code::InvalidRequest, "this is not HTTP/1.1: the request line or a header cannot be read")
    } else {
        let most = limits::HEADERS_MAX;
        let detail = format!("request line and headers may have {header_max_bytes} bytes together, in {most} headers");
        Problem::new(Code::TooLarge, detail)
    };
    let lines = bare.split_inclusive(|&byte| byte == b'\n');
    let date = lines.filter(|line| line.starts_with(b"date:")).find_map(|line| std::str::from_utf8(line).ok());
    answer(&problem, date.unwrap_or_default()).into_bytes()
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { tcp, header_max_bytes, instead } = self.get_mut();
        let mut tcp = Pin::new(tcp);
        if instead.is_none() {
            match bare_at(bytes) {
                None => return tcp.poll_write(cx, bytes),
                Some(0) => *instead = Some((instead_of(bytes, *header_max_bytes), 0)),
                Some(at) => return tcp.poll_write(cx, &bytes[..at]),
            }
        }
        while let Some((text, written)) = instead {
            match ready!(tcp.as_mut().poll_write(cx, &text[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                some => *written += some,
            }
            if *written == text.len() {
                *instead = None;
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let last = parts.iter().rposition(|part| !part.is_empty()).unwrap_or_default();
        match parts.get(last) {
            Some(only) if self.instead.is_some() || (last == 0 && bare_at(only).is_some()) => self.poll_write(cx, only),
            Some(bare) if bare_at(bare).is_some() => {
                Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, &parts[..last])
            }
            _ => Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                          date: Mon, 23 Nov 2026 05:00:00 GMT\r\n\r\n";

    #[test]
    fn only_an_answer_that_is_not_ours_is_taken_for_one() {
        assert_eq!(bare_at(BARE), Some(0));
        let ours = b"HTTP/1.1 204 No Content\r\nx-request-id: 1\r\n\r\n";
        assert_eq!(bare_at(ours), None);
        assert_eq!(bare_at(&[ours, BARE].concat()), Some(ours.len()));
        assert_eq!(bare_at(b"5\r\nhello\r\n0\r\n\r\n"), None);
        assert_eq!(bare_at(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n"), None);
        assert_eq!(bare_at(b""), None);
    }

    #[test]
    fn it_is_said_as_the_contract_says_it() {
        let text = String::from_utf8(instead_of(BARE, 99)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 413 Payload Too Large\r\ndate: Mon, 23 Nov 2026 05:00:00 GMT\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nx-request-id: ") && head.contains("\r\nconnection: close\r\n"), "{head}");
        assert!(head.ends_with(&format!("\r\ncontent-length: {}", body.len())), "{head}");
        let problem: Problem = serde_json::from_str(body).unwrap();
        let detail = "request line and headers may have 99 bytes together, in 100 headers";
        assert_eq!(problem, Problem::new(Code::TooLarge, detail));
    }
}
