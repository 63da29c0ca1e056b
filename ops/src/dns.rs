//! A resolver's side of DNS: one question, with a client subnet if wanted, over UDP, then over TCP where the answer did
//! not fit.
//!
//! Asks the name server that it is told to ask and nobody else; caches nothing.

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinEncodable as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one try may take; a datagram that got lost is sent again.
const TRY: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;
/// Largest answer taken over UDP, bytes: what fits an IPv6 packet everywhere.
const UDP_MAX_BYTES: u16 = 1232;

/// Why a name could not be resolved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DnsError {
    /// The name or the server's answer is not DNS.
    #[error("{0}")]
    Malformed(String),
    /// No answer.
    #[error("the name server {0} does not answer")]
    NoAnswer(SocketAddr),
    /// It said no.
    #[error("the name server says {0}")]
    Refused(ResponseCode),
}

/// What a name server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Addresses of the name asked for.
    pub addresses: Vec<IpAddr>,
    /// How long they may be kept, seconds.
    pub ttl_s: u32,
    /// The answer holds for all clients that share so many bits; none where the server did not look at the client.
    pub scope: Option<u8>,
}

/// Asks for the addresses of a name on behalf of a network: IPv4 addresses, or IPv6 ones.
pub async fn addresses(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    client: Option<(IpAddr, u8)>,
) -> Result<Answer, DnsError> {
    let malformed = |error: &dyn std::fmt::Display| DnsError::Malformed(error.to_string());
    let mut query = Message::query();
    let mut name = Name::from_ascii(name).map_err(|e| malformed(&e))?;
    name.set_fqdn(true);
    query.add_query(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX_BYTES);
    if let Some((address, prefix)) = client {
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address, prefix, 0)));
    }
    query.set_edns(edns);
    let packet = query.to_bytes().map_err(|e| malformed(&e))?;
    let read = |bytes: &[u8]| Message::from_bytes(bytes).ok().filter(|answer| belongs(&query, answer));
    let mut answer = None;
    for _ in 0..TRIES {
        answer = timeout(TRY, over_udp(server, &packet, read)).await.ok().and_then(Result::ok);
        if answer.is_some() {
            break;
        }
    }
    let mut answer = answer.ok_or(DnsError::NoAnswer(server))?;
    if answer.metadata.truncation {
        let bytes = timeout(TRY, over_tcp(server, &packet)).await.ok().and_then(Result::ok);
        answer = bytes.and_then(|bytes| read(&bytes)).ok_or(DnsError::NoAnswer(server))?;
    }
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(summary(&answer)),
        code => Err(DnsError::Refused(code)),
    }
}

fn belongs(query: &Message, answer: &Message) -> bool {
    answer.metadata.id == query.metadata.id && answer.queries == query.queries
}

fn summary(answer: &Message) -> Answer {
    let records = || answer.answers.iter().filter(|record| record.data.ip_addr().is_some());
    let subnet = answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet));
    Answer {
        addresses: records().filter_map(|record| record.data.ip_addr()).collect(),
        ttl_s: records().map(|record| record.ttl).min().unwrap_or(0),
        scope: match subnet {
            Some(EdnsOption::Subnet(subnet)) => Some(subnet.scope_prefix()),
            _ => None,
        },
    }
}

async fn over_udp(
    server: SocketAddr,
    packet: &[u8],
    read: impl Fn(&[u8]) -> Option<Message>,
) -> std::io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = [0; UDP_MAX_BYTES as usize];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Anything else is somebody's guess, or late.
        if let Some(answer) = read(&buffer[..len]) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], packet].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
