//! Reads request bodies, bounded in size and time. What is in them is for `region_api::body` to judge.

use axum::body::HttpBody;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use region_api::Code;
use std::future::Future as _;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::problem::Refusal;
use crate::limits;

/// Reads a whole body of at most `max_bytes`.
pub(crate) async fn read<B>(body: B, max_bytes: usize) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    read_within(body, max_bytes, limits::BODY_TIMEOUT).await
}

async fn read_within<B>(body: B, max_bytes: usize, limit: Duration) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(too_large(max_bytes));
    }
    let mut reading = pin!(collect(body, max_bytes));
    // Nearly always everything is here already: then no timer is set up.
    let first = std::future::poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
    match first {
        Poll::Ready(done) => done,
        Poll::Pending => tokio::time::timeout(limit, reading)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Code::InvalidRequest, "body: did not arrive in time"))),
    }
}

async fn collect<B>(mut body: B, max_bytes: usize) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(Code::InvalidRequest, "body: was cut off or not well framed"))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(rest.chunk());
    Ok(whole.freeze())
}

fn too_large(max_bytes: usize) -> Refusal {
    Refusal::new(Code::TooLarge, format!("body: at most {max_bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let chunks = |n: usize| {
            let parts = (0..n).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"0123456789")));
            Body::from_stream(futures::stream::iter(parts))
        };
        assert_eq!(read(chunks(3), 30).await.unwrap(), "012345678901234567890123456789");
        assert_eq!(read(chunks(4), 30).await.unwrap_err().code(), Code::TooLarge);
        assert_eq!(read(Body::from(vec![b'x'; 31]), 30).await.unwrap_err().code(), Code::TooLarge);
        assert_eq!(read(Body::empty(), 30).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_given_up() {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read_within(body, 30, Duration::from_millis(20)).await.unwrap_err().code(), Code::InvalidRequest);
    }
}
