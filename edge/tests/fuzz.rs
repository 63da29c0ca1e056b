//! Any bytes at all against the pure function: it never panics, never speaks for a name outside its zone, never sends an
//! unverified address more than its multiple, and what it sends can be read.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::IpAddr;
use std::sync::LazyLock;

use common::{config, query, snapshot, subnet, with_opt};
use edge::dns::{Asked, Kind, Mode, Transport, answer};
use edge::snapshot::Snapshot;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::BinDecodable;
use proptest::prelude::*;

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let mut config = config("", "");
    config.answers.nsid = Some("0123456789abcdef0123456789abcdef".to_owned());
    config.answers.chaos_version = Some("something long enough to be of use to somebody who amplifies".to_owned());
    snapshot(&config)
});

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("sale.test".to_owned()),
        Just("big.sale.test".to_owned()),
        prop::sample::select(vec!["www", "alias", "away", "loop", "dangling", "down", "ns1", "east", "nope"])
            .prop_map(|label| format!("{label}.sale.test")),
        "[a-z]{1,10}(\\.[a-z]{1,10}){0,3}",
        Just("version.bind".to_owned()),
        Just(String::new()),
    ]
}

fn options() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let option = prop_oneof![
        Just(subnet("192.0.2.0/24")),
        Just(subnet("2001:db8::/56")),
        (0u16..16, proptest::collection::vec(any::<u8>(), 0..50)),
        Just((10, vec![1; 8])),
        Just((3, vec![])),
        Just((11, vec![])),
    ];
    proptest::collection::vec(option, 0..4)
}

/// Well-formed queries, of which some octets are then changed, cut off, or added.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let types = prop_oneof![prop::sample::select(vec![1u16, 2, 5, 6, 15, 16, 28, 41, 65, 252, 255]), any::<u16>()];
    let classes = prop_oneof![8 => Just(1u16), 1 => Just(3), 1 => any::<u16>()];
    let sound = (names(), types, classes, proptest::option::weighted(0.8, (any::<u16>(), options()))).prop_map(
        |(name, qtype, class, opt)| {
            let mut packet = query(&name, qtype);
            let at = packet.len() - 2;
            packet[at..].copy_from_slice(&class.to_be_bytes());
            match opt {
                Some((size, options)) => with_opt(packet, size, &options),
                None => packet,
            }
        },
    );
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let mutated = (sound, changes, 0usize..4, proptest::collection::vec(any::<u8>(), 0..4)).prop_map(
        |(mut packet, changes, cut, more)| {
            for (at, octet) in changes {
                let at = at.index(packet.len());
                packet[at] = octet;
            }
            packet.truncate(packet.len() - cut);
            packet.extend(more);
            packet
        },
    );
    prop_oneof![9 => mutated, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

fn judge(packet: &[u8], transport: Transport, mode: Mode) -> Result<(), TestCaseError> {
    let zone = Name::from_ascii("sale.test.").unwrap();
    let from: IpAddr = "198.51.100.1".parse().unwrap();
    let mut out = Vec::new();
    let outcome = answer(packet, &Asked { from, transport, now_s: 1_700_000_000, mode }, &SNAPSHOT, &mut out);
    if outcome.kind == Kind::Silent {
        prop_assert!(out.is_empty());
        return Ok(());
    }
    prop_assert_eq!(&out[..2], &packet[..2], "the client's id");
    prop_assert!(out[2] & 0x80 != 0 && packet[2] & 0x80 == 0, "an answer, to a question");
    if transport == Transport::Udp {
        prop_assert!(out.len() <= 1232);
        prop_assert!(outcome.verified || out.len() <= 4 * packet.len(), "{} for {}", out.len(), packet.len());
    }
    // hickory-proto refuses some types it knows when a question has them only by chance; such answers are checked by length.
    let Ok(message) = Message::from_bytes(&out) else {
        prop_assert!(matches!(outcome.kind, Kind::Error | Kind::Negative), "unreadable: {:02x?}", out);
        return Ok(());
    };
    let records = message.answers.iter().chain(&message.authorities).chain(&message.additionals);
    for record in records {
        let foreign_ns = record.name == Name::from_ascii("version.bind.").unwrap()
            || record.name == Name::from_ascii("version.server.").unwrap();
        prop_assert!(zone.zone_of(&record.name) || foreign_ns, "speaks for {}", record.name);
    }
    if matches!(outcome.kind, Kind::Error) {
        prop_assert!(message.metadata.response_code != ResponseCode::NoError && !message.metadata.authoritative);
        prop_assert!(message.answers.is_empty() && message.authorities.is_empty());
    }
    if message.metadata.truncation {
        prop_assert!(message.answers.is_empty() && message.authorities.is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200_000, ..ProptestConfig::default() })]

    #[test]
    fn invariant_any_bytes_are_safe(packet in packets(), tcp: bool, slip in proptest::bool::weighted(0.1)) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        judge(&packet, transport, if slip { Mode::Slip } else { Mode::Full })?;
    }
}
