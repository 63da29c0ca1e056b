//! Connections that misbehave: slow, many, ambiguous. Others are served meanwhile, and nothing is stored.

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::buyers::Buyer;
use super::ground::*;
use super::wire::{self, must_refuse};

/// Of each kind of slow sender.
const SLOW: usize = 150;
/// The node's own patience with headers is 15 s and with a body 10 s; the rest is the machine's.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(22);

/// Sends `head` at once, then a byte of `rest` every 300 ms, for ever; when the node hung up, and what it said.
async fn trickle(address: SocketAddr, head: String, rest: u8) -> (Duration, String) {
    let begun = Instant::now();
    let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
    writing.write_all(head.as_bytes()).await.unwrap();
    let drip = async move {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if writing.write_all(&[rest]).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut came = Vec::new();
    let hear = async {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reading.read(&mut piece).await {
            came.extend_from_slice(&piece[..count]);
        }
    };
    tokio::select! {
        () = hear => {}
        () = drip => {}
        () = tokio::time::sleep(CUT_OFF_WITHIN * 2) => {}
    }
    (begun.elapsed(), String::from_utf8_lossy(&came).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_are_cut_off_while_others_are_served() {
    let mut stage = region(10).await;
    let address = stage.public();
    let buyer = Buyer::new(&stage).await;
    let before = settled(&stage).await;
    let join = format!(
        "POST /v1/concerts/demo/reservations HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n",
        bearer(&buyer.token)
    );
    let mut senders = Vec::new();
    for _ in 0..SLOW {
        let header = "GET /v1/concerts HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned();
        let body = format!("{join}content-length: 5000\r\n\r\n{{");
        let chunked = format!("{join}transfer-encoding: chunked\r\n\r\n1388\r\n{{");
        for head in [header, body, chunked, String::new()] {
            senders.push(tokio::spawn(trickle(address, head, b' ')));
        }
    }
    // Nobody else waits: new connections and kept ones, for as long as the slow ones last.
    let mut longest = Duration::ZERO;
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        let sent = Instant::now();
        let answer = wire::ask(address, "GET", "/v1/concerts/demo", &[], b"").await;
        assert_eq!(answer.status, 200);
        longest = longest.max(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(longest < Duration::from_secs(2), "somebody waited {longest:?}");
    let mut told = 0;
    for sender in senders {
        let (lasted, said) = sender.await.unwrap();
        assert!(lasted < CUT_OFF_WITHIN, "a slow sender held its connection for {lasted:?}: {said}");
        assert!(!said.contains(" 200 ") && !said.contains(" 202 "), "{said}");
        if said.contains("did not arrive in time") {
            assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("\"side_effects\":\"none\""), "{said}");
            told += 1;
        }
    }
    assert_eq!(told, 2 * SLOW, "whose body is late is told so");
    assert_eq!(settled(&stage).await, before);
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_keep_nobody_out() {
    let mut stage = region(10).await;
    let mut idle = Vec::new();
    for _ in 0..3_000 {
        idle.push(TcpStream::connect(stage.public()).await.unwrap());
    }
    let buyer = Buyer::new(&stage).await;
    let sold = buyer.buy(&stage, 1).await;
    assert_eq!(sold["tickets"].as_array().unwrap().len(), 1);
    drop(idle);
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_be_read_in_two_ways_is_refused_or_ends_the_connection() {
    let mut stage = region(10).await;
    let buyer = Buyer::new(&stage).await;
    let before = settled(&stage).await;
    let head = format!(
        "POST /v1/concerts/demo/reservations HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n",
        bearer(&buyer.token)
    );
    let inner = "GET /v1/challenge HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = inner.len();
    let shapes = [
        ("two lengths", format!("{head}content-length: 0\r\ncontent-length: {length}\r\n\r\n{inner}")),
        ("a list of lengths", format!("{head}content-length: 0, {length}\r\n\r\n{inner}")),
        ("length with a sign", format!("{head}content-length: +{length}\r\n\r\n{inner}")),
        ("negative length", format!("{head}content-length: -1\r\n\r\n{inner}")),
        ("hexadecimal length", format!("{head}content-length: 0x2\r\n\r\n{inner}")),
        ("length beyond 64 bits", format!("{head}content-length: 99999999999999999999999\r\n\r\n{inner}")),
        (
            "chunked and length",
            format!("{head}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        ),
        (
            "length and chunked",
            format!("{head}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n{inner}"),
        ),
        ("chunked in disguise", format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{inner}")),
        ("chunked, then something", format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}")),
        ("a space before the colon", format!("{head}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{inner}")),
        ("a folded header", format!("{head}x-a: b\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}")),
        ("a bad chunk size", format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n\r\n{inner}")),
        ("an overflowing chunk size", format!("{head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{inner}")),
        ("a chunk that lies", format!("{head}transfer-encoding: chunked\r\n\r\n2\r\n{{}}xx\r\n0\r\n\r\n{inner}")),
        (
            "HTTP/1.0 chunked",
            format!("{}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}", head.replace("1.1", "1.0")),
        ),
    ];
    for (what, bytes) in shapes {
        let answers = wire::send_and_finish(stage.public(), bytes.as_bytes()).await;
        for answer in &answers {
            // Nothing is taken for a join, and what hides in the body is never answered.
            assert!(matches!(answer.status, 400 | 413), "{what}: {answer:?}");
        }
    }
    let lines = [
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\nhost x\n\n",
        "\0\0\0\0\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
        "GET /\r\nx HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET http://[::1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    for line in lines {
        for answer in wire::send_and_finish(stage.public(), line.as_bytes()).await {
            must_refuse(&answer, 400, "invalid_request", line);
        }
    }
    let headers: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = format!("GET /v1/concerts HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(40_000));
    let address = format!("GET /v1/concerts/{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000));
    let many = format!("GET /v1/concerts HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    for bytes in [many, long, address] {
        for answer in wire::send_and_finish(stage.public(), bytes.as_bytes()).await {
            must_refuse(&answer, 413, "too_large", &format!("{} bytes", bytes.len()));
        }
    }
    assert_eq!(settled(&stage).await, before);
    is_well(&mut stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_come_twice_give_nobody_another_s_rights() {
    let mut stage = region(10).await;
    let (one, other) = (Buyer::new(&stage).await, Buyer::new(&stage).await);
    let place = one.hold(1).await;
    let path = format!("/v1/reservations/{place}");
    let (ours, theirs) = (bearer(&one.token), bearer(&other.token));
    // A proxy that looks at one and a node that looks at the other would each be right: so neither counts.
    for pair in [[&ours, &theirs], [&theirs, &ours]] {
        let headers = [("authorization", pair[0].as_str()), ("authorization", pair[1].as_str())];
        let answer = wire::ask(stage.public(), "DELETE", &path, &headers, b"").await;
        must_refuse(&answer, 401, "unauthenticated", "two sessions");
    }
    let ids = ["a b", "", &"y".repeat(65), "<script>"];
    for id in ids {
        let answer = wire::ask(stage.public(), "GET", "/healthz", &[("x-request-id", id)], b"").await;
        let given = answer.header("x-request-id").unwrap();
        assert!(given != id && given.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{given:?}");
    }
    assert_eq!(one.poll(&place).await.json()["status"], "held");
    is_well(&mut stage).await;
}
