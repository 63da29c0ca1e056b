//! Packets: generated ones, most of them nearly sound, and a corpus of nasty ones written by hand.

use proptest::prelude::*;

use super::common::{query, subnet, wire_name, with_opt};

fn names() -> impl Strategy<Value = String> {
    let known = vec![
        "",
        "www.",
        "WwW.",
        "alias.",
        "away.",
        "dangling.",
        "down.",
        "er.down.",
        "deep.er.down.",
        "ns1.",
        "east.",
        "west.",
        "south.",
        "nope.",
        "a.b.c.",
        "big.",
        "mail.",
    ];
    prop_oneof![
        9 => prop::sample::select(known).prop_map(|l| format!("{l}sale.test")),
        1 => prop::sample::select(vec!["", "test", "wholesale.test", "sale.tes", "example.com"]).prop_map(str::to_owned),
    ]
}

/// Networks that are no place on the Internet, some that only begin or end like one, and some that are larger than one.
const PRIVATE: [&str; 24] = [
    "10.0.0.0/8",
    "10.1.2.0/24",
    "10.255.255.255/32",
    "8.0.0.0/6",
    "11.0.0.0/8",
    "172.16.0.0/12",
    "172.31.255.0/24",
    "172.32.0.0/16",
    "172.0.0.0/8",
    "192.168.0.0/16",
    "192.168.7.0/24",
    "192.0.0.0/9",
    "100.64.0.0/10",
    "100.127.255.0/24",
    "169.254.0.0/16",
    "127.0.0.1/32",
    "0.0.0.0/8",
    "::1/128",
    "::/64",
    "fc00::/7",
    "fd00:1234::/48",
    "fe80::/10",
    "fe80::1/128",
    "fec0::/10",
];

fn networks() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let v4 =
        (any::<u32>(), 0u8..=32).prop_map(|(a, len)| ipnet::Ipv4Net::new(a.into(), len).unwrap().trunc().to_string());
    let v6 = (0u32..0x1000_0000, any::<u32>(), 0u8..=64).prop_map(|(a, b, len)| {
        let bits = u128::from(0x2000_0000 + a) << 96 | u128::from(b) << 64;
        ipnet::Ipv6Net::new(bits.into(), len).unwrap().trunc().to_string()
    });
    let private = prop::sample::select(PRIVATE.to_vec()).prop_map(str::to_owned);
    let sound = prop_oneof![5 => v4, 5 => v6, 2 => private].prop_map(|n| subnet(&n));
    let broken = (any::<u8>(), 0u8..4, any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..18))
        .prop_map(|(zero, family, source, scope, data)| (8, [&[zero & 1, family, source, scope][..], &data].concat()));
    prop_oneof![6 => sound, 1 => broken]
}

fn options() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let option = prop_oneof![
        5 => networks(),
        1 => (12u16..100, proptest::collection::vec(any::<u8>(), 0..20)),
        1 => proptest::collection::vec(any::<u8>(), 0..44).prop_map(|d| (10, d)),
        1 => proptest::collection::vec(any::<u8>(), 8).prop_map(|d| (10, d)),
        1 => Just((3, vec![])),
        1 => Just((11, vec![])),
    ];
    proptest::collection::vec(option, 0..3)
}

/// Nearly sound queries, of which some octets are changed, cut off or added.
pub(crate) fn packets() -> impl Strategy<Value = Vec<u8>> {
    let types = prop_oneof![9 => prop::sample::select(vec![1u16, 1, 1, 28, 28, 2, 5, 6, 15, 16, 65, 257, 252, 251, 255]), 1 => any::<u16>()];
    let classes = prop_oneof![20 => Just(1u16), 1 => Just(255), 1 => any::<u16>()];
    let sound = (
        names(),
        types,
        classes,
        proptest::option::weighted(0.8, (any::<u16>(), options())),
        any::<u8>(),
        any::<u16>(),
    );
    let sound = sound.prop_map(|(name, qtype, class, opt, flags, id)| {
        let mut packet = query(&name, qtype);
        packet[..2].copy_from_slice(&id.to_be_bytes());
        packet[2] = flags & 1;
        packet[3] = flags & 0x30;
        let at = packet.len() - 2;
        packet[at..].copy_from_slice(&class.to_be_bytes());
        match opt {
            Some((size, options)) => with_opt(packet, size, &options),
            None => packet,
        }
    });
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3);
    let damaged = (sound, damage, 0usize..3, proptest::collection::vec(any::<u8>(), 0..3), 0u8..10);
    damaged.prop_map(|(mut packet, damage, cut, more, how)| {
        match how {
            0 => damage.into_iter().for_each(|(at, octet)| {
                let at = at.index(packet.len());
                packet[at] = octet;
            }),
            1 => packet.truncate(packet.len() - cut),
            2 => packet.extend(more),
            _ => {}
        }
        packet
    })
}

/// Written by hand: each is a known way to trip a server.
pub(crate) fn nasty() -> Vec<Vec<u8>> {
    let header = |counts: [u8; 4]| [&[0x66, 0x66, 0, 0][..], &counts.map(|c| [0, c]).concat()].concat();
    let question = [&wire_name("sale.test")[..], &[0, 1, 0, 1]].concat();
    let opt = [0u8, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
    let with = |counts, parts: &[&[u8]]| [&header(counts)[..], &parts.concat()].concat();
    let sound = || query("sale.test", 1);
    let changed = |at: usize, octet: u8| {
        let mut packet = sound();
        packet[at] = octet;
        packet
    };
    let mut all = vec![
        vec![],
        vec![0],
        vec![0; 11],
        vec![0; 12],
        header([1, 0, 0, 0]),
        // Compression in the question: to itself, forward, into the header.
        with([1, 0, 0, 0], &[&[0xc0, 0x0c, 0, 1, 0, 1]]),
        with([1, 0, 0, 0], &[&[0xc0, 0x20, 0, 1, 0, 1]]),
        with([1, 0, 0, 0], &[&[0xc0, 0x00, 0, 1, 0, 1]]),
        with([1, 0, 0, 0], &[&[4], b"sale", &[0xc0, 0x0c, 0, 1, 0, 1]]),
        // Label types that were never used.
        with([1, 0, 0, 0], &[&[0x40, 0, 0, 1, 0, 1]]),
        with([1, 0, 0, 0], &[&[0x80, 0, 0, 1, 0, 1]]),
        // Names that are too long, or just not.
        query(&"abcdefg.".repeat(31), 1),
        query(&format!("{}abcdef", "abcdefg.".repeat(30)), 1),
        query(&format!("{}.sale.test", "x".repeat(63)), 1),
        with([1, 0, 0, 0], &[&[64], "x".repeat(64).as_bytes(), &[0, 0, 1, 0, 1]]),
        // Lies about counts.
        with([0, 0, 0, 0], &[&question]),
        with([2, 0, 0, 0], &[&question]),
        with([2, 0, 0, 0], &[&question, &question]),
        with([1, 1, 0, 0], &[&question]),
        with([1, 0, 1, 0], &[&question]),
        with([1, 0, 0, 1], &[&question]),
        with([1, 0, 0, 2], &[&question, &opt]),
        with([1, 0, 0, 200], &[&question, &opt]),
        [&header([1, 0, 0, 0])[..4], &[0xff; 8], &question].concat(),
        // OPT records: two, below a name, in the wrong section, cut off, with a lie about their length.
        with([1, 0, 0, 2], &[&question, &opt, &opt]),
        with([1, 0, 0, 1], &[&question, &[1, b'a'], &opt]),
        with([1, 1, 0, 0], &[&question, &opt]),
        with([1, 0, 0, 1], &[&question, &opt[..9]]),
        with([1, 0, 0, 1], &[&question, &opt[..10], &[9]]),
        with([1, 0, 0, 1], &[&question, &opt[..9], &[0, 3, 0, 8, 0]]),
        with([1, 0, 0, 1], &[&question, &opt[..9], &[0, 4, 0, 8, 0, 9]]),
        // Another record before the OPT record, its owner compressed to the question and to itself.
        with([1, 0, 0, 2], &[&question, &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4], &opt]),
        with([1, 0, 0, 2], &[&question, &[0xc0, 27, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4], &opt]),
        with([1, 0, 0, 1], &[&question, &[0xc0]]),
        // A signature that nobody here can check (TSIG).
        with([1, 0, 0, 1], &[&question, &[0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0]]),
        // EDNS of other versions, with sizes from 0 to the largest, with every flag.
        with([1, 0, 0, 1], &[&question, &[0, 0, 41, 4, 0xd0, 0, 1, 0, 0, 0, 0]]),
        with([1, 0, 0, 1], &[&question, &[0, 0, 41, 4, 0xd0, 0, 255, 0x80, 0, 0, 0]]),
        with([1, 0, 0, 1], &[&question, &[0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0]]),
        with([1, 0, 0, 1], &[&question, &[0, 0, 41, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0, 0]]),
        // Huge options: many small ones, one large one.
        with_opt(sound(), 1232, &vec![(65_001, vec![]); 500]),
        with_opt(sound(), 1232, &[(65_001, vec![7; 3_000])]),
        with_opt(sound(), 1232, &[(12, vec![0; 468])]),
        with_opt(sound(), 1232, &[subnet("192.0.2.0/24"), subnet("198.51.100.0/24")]),
        // An answer, other opcodes, flags that no query has.
        changed(2, 0x80),
        changed(3, 0x8f),
        changed(3, 0x40),
        changed(2, 0x07),
        // Trailing octets.
        [sound(), vec![0; 5]].concat(),
        [with_opt(sound(), 1232, &[]), vec![1, 2, 3]].concat(),
    ];
    all.extend(PRIVATE.map(|network| with_opt(sound(), 1232, &[subnet(network)])));
    all.extend((1..16).map(|opcode| changed(2, opcode << 3)));
    all.extend([0u8, 2, 3, 4, 254, 255].map(|class| {
        let mut packet = sound();
        *packet.last_mut().unwrap() = class;
        packet
    }));
    all.extend((0..=44).map(|len| with_opt(sound(), 1232, &[(10, vec![1; len])])));
    all.extend(
        [(3u16, 1usize), (11, 2), (8, 0), (8, 3), (8, 4), (8, 200)]
            .map(|(code, len)| with_opt(sound(), 1232, &[(code, vec![0; len])])),
    );
    all
}
