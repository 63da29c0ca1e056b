//! What several test files share: a configuration, queries, and an independent reader of answers (hickory-proto).
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it; a test may panic")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use edge::choice::{Handover, RegionLive};
use edge::config::Config;
use edge::dns::{Asked, Mode, Outcome, Transport, answer};
use edge::snapshot::Snapshot;
use hickory_proto::op::Message;
use hickory_proto::serialize::binary::BinDecodable;

pub(crate) mod live;
pub(crate) mod mmdb;
pub(crate) mod read;

/// A configuration with three regions in Germany, the USA and Japan, and a bit of everything in the zone.
pub(crate) const CONFIG: &str = r#"
listen = ["127.0.0.1:0"]
admin = "127.0.0.1:0"
state_folder = "state"
[zone]
name = "sale.test"
sale_names = ["sale.test", "www.sale.test"]
nameservers = [{ name = "ns1.sale.test", addresses = ["192.0.2.53", "2001:db8::53"] }, { name = "ns.elsewhere.test" }]
contact = "hostmaster.sale.test"
https = { alpn = ["h2", "http/1.1"] }
[[zone.record]]
name = "alias"
type = "CNAME"
data = "www.sale.test."
[[zone.record]]
name = "away"
type = "CNAME"
data = "elsewhere.test."
[[zone.record]]
name = "loop"
type = "CNAME"
data = "loop2.sale.test."
[[zone.record]]
name = "loop2"
type = "CNAME"
data = "loop.sale.test."
[[zone.record]]
name = "dangling"
type = "CNAME"
data = "nowhere.sale.test."
[[zone.record]]
name = "@"
type = "MX"
data = "10 mail.sale.test."
[[zone.record]]
name = "@"
type = "CAA"
data = "0 issue \"ca.test\""
[[zone.record]]
name = "deep.er.down"
type = "TXT"
data = "\"hello\" \"there\""
[[zone.record]]
name = "big"
type = "TXT"
data = "\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\" \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\""
[[region]]
name = "east"
addresses = ["192.0.2.1", "2001:db8::1"]
country = "DE"
[[region]]
name = "west"
addresses = ["192.0.2.2", "2001:db8::2"]
country = "US"
[[region]]
name = "south"
addresses = ["192.0.2.3"]
country = "JP"
"#;

/// The configuration with more TOML before its first table, and the country file that comes along.
pub(crate) fn config(head: &str, tail: &str) -> Config {
    let database = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/country.mmdb");
    let text = format!("{head}\n{CONFIG}\n{tail}\n[geo]\ndatabases = [{:?}]\n", database);
    toml::from_str(&text).unwrap()
}

/// Every region healthy and with all its users.
pub(crate) fn all_up(regions: usize) -> Vec<RegionLive> {
    let one = RegionLive {
        healthy: true,
        drained: false,
        state: "up".to_owned(),
        change_ms: 10_000,
        handover: Handover::None,
    };
    vec![one; regions]
}

/// A snapshot of the configuration with every region up.
pub(crate) fn snapshot(config: &Config) -> Snapshot {
    Snapshot::build(config, all_up(config.regions.len()), 5_000, [7; 16]).unwrap()
}

/// A name in wire format; each label as it stands.
pub(crate) fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|l| !l.is_empty());
    labels.flat_map(|l| std::iter::once(l.len() as u8).chain(l.bytes())).chain([0]).collect()
}

/// A query without EDNS.
pub(crate) fn query(name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend(wire_name(name));
    packet.extend(qtype.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// Adds an OPT record with options (each code and content).
pub(crate) fn with_opt(mut packet: Vec<u8>, size: u16, options: &[(u16, Vec<u8>)]) -> Vec<u8> {
    packet[11] += 1;
    let data: Vec<u8> = options
        .iter()
        .flat_map(|(code, data)| [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat())
        .collect();
    packet.extend([0, 0, 41]);
    packet.extend(size.to_be_bytes());
    packet.extend([0, 0, 0, 0]);
    packet.extend((data.len() as u16).to_be_bytes());
    packet.extend(data);
    packet
}

/// A client-subnet option for a network such as `192.0.2.0/24`.
pub(crate) fn subnet(network: &str) -> (u16, Vec<u8>) {
    let network: ipnet::IpNet = network.parse().unwrap();
    let octets = usize::from(network.prefix_len()).div_ceil(8);
    let (family, address) = match network.network() {
        IpAddr::V4(a) => (1u8, a.octets().to_vec()),
        IpAddr::V6(a) => (2, a.octets().to_vec()),
    };
    (8, [&[0, family, network.prefix_len(), 0][..], &address[..octets]].concat())
}

/// Asks the pure function.
pub(crate) fn ask_as(snapshot: &Snapshot, packet: &[u8], from: IpAddr, transport: Transport) -> (Outcome, Vec<u8>) {
    let mut out = Vec::new();
    let asked = Asked { from, transport, now_s: 1_700_000_000, mode: Mode::Full };
    let outcome = answer(packet, &asked, snapshot, &mut out);
    (outcome, out)
}

/// Asks over UDP from a documentation address, and reads the answer.
pub(crate) fn ask(snapshot: &Snapshot, packet: &[u8]) -> Message {
    let (_, out) = ask_as(snapshot, packet, IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), Transport::Udp);
    Message::from_bytes(&out).unwrap_or_else(|e| panic!("unreadable answer {out:02x?}: {e}"))
}
