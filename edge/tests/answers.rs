//! Answers of the pure function, read by hickory-proto: each rule of the zone once, by table.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fmt::Write;
use std::net::IpAddr;

use common::{all_up, ask, ask_as, config, query, snapshot, subnet, with_opt};
use edge::choice::{Handover, RegionIdx};
use edge::dns::{Asked, Kind, Mode, Transport, answer};
use edge::snapshot::Snapshot;
use expect_test::{Expect, expect};
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;
const ANY: u16 = 255;

fn show(message: &Message) -> String {
    let flag = |on: bool, name: &'static str| if on { name } else { "" };
    let meta = &message.metadata;
    let mut text =
        format!("{:?}{}{}\n", meta.response_code, flag(meta.authoritative, " aa"), flag(meta.truncation, " tc"),);
    for (section, records) in
        [("", &message.answers), ("authority ", &message.authorities), ("additional ", &message.additionals)]
    {
        for r in records {
            let _ = writeln!(text, "{section}{} {} {} {}", r.name, r.ttl, r.record_type(), r.data);
        }
    }
    text
}

fn check(packet: &[u8], expected: Expect) {
    expected.assert_eq(&show(&ask(&snapshot(&config("", "")), packet)));
}

#[test]
fn the_sales_name() {
    check(
        &with_opt(query("sale.test", A), 1232, &[subnet("193.99.144.0/24")]),
        expect![[r#"
        NoError aa
        sale.test. 10 A 192.0.2.1
    "#]],
    );
    check(
        &with_opt(query("WWW.Sale.Test", AAAA), 1232, &[subnet("8.8.8.0/24")]),
        expect![[r#"
        NoError aa
        WWW.Sale.Test. 10 AAAA 2001:db8::2
    "#]],
    );
    check(
        &with_opt(query("sale.test", AAAA), 1232, &[subnet("133.11.0.0/16")]),
        expect![[r#"
        NoError aa
        authority sale.test. 10 SOA ns1.sale.test. hostmaster.sale.test. 1 7200 900 1209600 60
    "#]],
    );
    check(
        &with_opt(query("sale.test", HTTPS), 1232, &[subnet("193.99.144.0/24")]),
        expect![[r#"
        NoError aa
        sale.test. 10 HTTPS 1 . alpn=h2,http/1.1, ipv4hint=192.0.2.1, ipv6hint=2001:db8::1,
    "#]],
    );
    check(
        &with_opt(query("alias.sale.test", A), 1232, &[subnet("193.99.144.0/24")]),
        expect![[r#"
        NoError aa
        alias.sale.test. 3600 CNAME www.sale.test.
    "#]],
    );
    let followed = ask(&snapshot(&config("", "")), &query("alias.sale.test", A));
    assert_eq!(followed.answers.len(), 2, "without a client subnet the alias is followed: {followed:?}");
}

#[test]
fn a_no_for_a_chosen_region_holds_for_everybody() {
    let scope = |qtype, network| {
        let answer = ask(&snapshot(&config("", "")), &with_opt(query("sale.test", qtype), 1232, &[subnet(network)]));
        match answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet)) {
            Some(EdnsOption::Subnet(subnet)) => subnet.scope_prefix(),
            other => panic!("{other:?}"),
        }
    };
    assert!(scope(A, "133.11.0.0/16") > 0, "an answer holds for its network");
    assert_eq!(scope(AAAA, "133.11.0.0/16"), 0, "that Japan's region has no IPv6 address");
    assert!(scope(AAAA, "2a02:8100::/48") > 0 && scope(HTTPS, "2a02:8100::/48") > 0);
}

#[test]
fn fixed_records() {
    check(
        &query("sale.test", SOA),
        expect![[r#"
        NoError aa
        sale.test. 60 SOA ns1.sale.test. hostmaster.sale.test. 1 7200 900 1209600 60
    "#]],
    );
    check(
        &with_opt(query("sale.test", NS), 1232, &[(10, vec![1; 8])]),
        expect![[r#"
        NoError aa
        sale.test. 3600 NS ns1.sale.test.
        sale.test. 3600 NS ns.elsewhere.test.
        additional ns1.sale.test. 3600 A 192.0.2.53
        additional ns1.sale.test. 3600 AAAA 2001:db8::53
    "#]],
    );
    check(
        &query("sale.test", MX),
        expect![[r#"
        NoError aa
        sale.test. 3600 MX 10 mail.sale.test.
    "#]],
    );
    check(
        &query("deep.er.down.sale.test", TXT),
        expect![[r#"
        NoError aa
        deep.er.down.sale.test. 3600 TXT hellothere
    "#]],
    );
    check(
        &query("east.sale.test", A),
        expect![[r#"
        NoError aa
        east.sale.test. 3600 A 192.0.2.1
    "#]],
    );
    check(
        &query("sale.test", ANY),
        expect![[r#"
        NoError aa
        sale.test. 3600 HINFO RFC8482 
    "#]],
    );
}

#[test]
fn a_no() {
    check(
        &query("nope.sale.test", A),
        expect![[r#"
        NXDomain aa
        authority sale.test. 60 SOA ns1.sale.test. hostmaster.sale.test. 1 7200 900 1209600 60
    "#]],
    );
    check(
        &query("down.sale.test", A),
        expect![[r#"
        NoError aa
        authority sale.test. 60 SOA ns1.sale.test. hostmaster.sale.test. 1 7200 900 1209600 60
    "#]],
    );
    check(
        &query("east.sale.test", TXT),
        expect![[r#"
        NoError aa
        authority sale.test. 60 SOA ns1.sale.test. hostmaster.sale.test. 1 7200 900 1209600 60
    "#]],
    );
    check(
        &query("dangling.sale.test", A),
        expect![[r#"
        NXDomain aa
        dangling.sale.test. 3600 CNAME nowhere.sale.test.
        authority sale.test. 60 SOA ns1.sale.test. hostmaster.sale.test. 1 7200 900 1209600 60
    "#]],
    );
    check(
        &query("away.sale.test", A),
        expect![[r#"
        NoError aa
        away.sale.test. 3600 CNAME elsewhere.test.
    "#]],
    );
    check(
        &query("other.test", A),
        expect![[r#"
        Refused
    "#]],
    );
    check(
        &query("test", NS),
        expect![[r#"
        Refused
    "#]],
    );
    check(
        &query("", NS),
        expect![[r#"
        Refused
    "#]],
    );
    check(
        &query("sale.test", 252),
        expect![[r#"
        NotImp
    "#]],
    );
}

#[test]
fn an_alias_in_a_circle_ends() {
    let message = ask(&snapshot(&config("", "")), &query("loop.sale.test", A));
    assert!(message.metadata.truncation || message.answers.len() <= edge::limits::CNAME_DEPTH_MAX);
}

#[test]
fn chaos_and_nsid_only_when_configured() {
    let mut version = query("version.bind", TXT);
    let class_at = version.len() - 1;
    version[class_at] = 3;
    check(
        &version,
        expect![[r#"
        Refused
    "#]],
    );
    let nsid = with_opt(query("sale.test", SOA), 1232, &[(3, vec![])]);
    let mut chatty = config("", "");
    assert_eq!(ask(&snapshot(&chatty), &nsid).edns.unwrap().options().as_ref().len(), 0);
    chatty.answers.chaos_version = Some("edge".to_owned());
    chatty.answers.nsid = Some("fra1".to_owned());
    let chatty = snapshot(&chatty);
    expect![[r#"
        NoError aa
        version.bind. 0 TXT edge
    "#]]
    .assert_eq(&show(&ask(&chatty, &version)));
    let (_, bytes) = ask_as(&chatty, &nsid, "192.0.2.9".parse().unwrap(), Transport::Udp);
    assert!(bytes.windows(8).any(|w| w == b"\x00\x03\x00\x04fra1"));
}

#[test]
fn sizes_over_udp_and_tcp() {
    let plain = snapshot(&config("", ""));
    let from: IpAddr = "198.51.100.1".parse().unwrap();
    let verified = |size: u16| {
        let client = [5u8; 8];
        let server = plain.cookies.make(client, from, 1_700_000_000);
        with_opt(query("big.sale.test", TXT), size, &[(10, [&client[..], &server].concat())])
    };
    for (size, full) in [(100, false), (512, false), (1231, false), (4096, false)] {
        let (outcome, bytes) = ask_as(&plain, &verified(size), from, Transport::Udp);
        assert!(outcome.verified && bytes.len() <= 1232);
        let message = Message::from_bytes_ok(&bytes);
        assert_eq!(message.metadata.truncation, !full, "{size}: 1,310 octets of text fit nowhere over UDP");
        assert!(message.answers.is_empty() && message.edns.is_some(), "nothing half");
    }
    let (_, bytes) = ask_as(&plain, &query("big.sale.test", TXT), from, Transport::Tcp);
    assert!(bytes.len() > 1300 && !Message::from_bytes_ok(&bytes).metadata.truncation);
}

trait Read {
    fn from_bytes_ok(bytes: &[u8]) -> Message;
}

impl Read for Message {
    fn from_bytes_ok(bytes: &[u8]) -> Message {
        use hickory_proto::serialize::binary::BinDecodable;
        Message::from_bytes(bytes).unwrap()
    }
}

#[test]
fn an_unverified_address_gets_at_most_four_times_what_it_sent() {
    let plain = snapshot(&config("", ""));
    let from: IpAddr = "198.51.100.1".parse().unwrap();
    let small = with_opt(query("big.sale.test", TXT), 4096, &[]);
    let (outcome, bytes) = ask_as(&plain, &small, from, Transport::Udp);
    assert!(!outcome.verified && bytes.len() <= 4 * small.len());
    assert!(Message::from_bytes_ok(&bytes).metadata.truncation);
}

#[test]
fn scope_of_client_subnets() {
    let here = snapshot(&config("", "[[choice.override]]\nnetwork = '8.8.8.128/25'\nregions = ['south']\n[choice]"));
    let ask = |network: &str| {
        let packet = with_opt(query("sale.test", A), 1232, &[subnet(network)]);
        let (_, bytes) = ask_as(&here, &packet, "198.51.100.1".parse().unwrap(), Transport::Udp);
        // The option stands at the end: family, source, scope, address.
        let octets = subnet(network).1.len();
        let option = &bytes[bytes.len() - octets..];
        (bytes[bytes.len() - octets - 4 - 11 - 4..][..4].to_vec(), option[2], option[3])
    };
    let (region, source, scope) = ask("8.8.8.192/26");
    assert_eq!((region, source, scope), (vec![192, 0, 2, 3], 26, 25), "an override");
    let (region, source, scope) = ask("8.8.8.0/25");
    assert_eq!((region, source, scope), (vec![192, 0, 2, 2], 25, 25), "its neighbour: no wider, or it would cover it");
    let (_, source, scope) = ask("8.9.0.0/16");
    assert!(source == 16 && scope < 24, "far from it: {scope}");
    let (_, source, scope) = ask("0.0.0.0/0");
    assert_eq!((source, scope), (0, 0), "a client that asks not to be located");
}

#[test]
fn a_private_client_subnet_counts_as_the_resolvers_own_address() {
    let override_ = "[[choice.override]]\nnetwork = '10.20.0.0/16'\nregions = ['south']\n[choice]";
    let here = snapshot(&config("", override_));
    let ask = |resolver: &str, network: &str| {
        let packet = with_opt(query("sale.test", A), 1232, &[subnet(network)]);
        let (_, bytes) = ask_as(&here, &packet, resolver.parse().unwrap(), Transport::Udp);
        let octets = subnet(network).1;
        let option = &bytes[bytes.len() - octets.len()..];
        assert_eq!((&option[..3], &option[4..]), (&octets[..3], &octets[4..]), "repeated as it was sent");
        (bytes[bytes.len() - octets.len() - 4 - 11 - 1], option[3])
    };
    let (german, american) = ("193.99.144.85", "8.8.8.8");
    for (network, scope) in [
        ("172.20.1.0/24", 12),
        ("192.168.1.0/24", 16),
        ("127.0.0.1/32", 8),
        ("100.64.3.0/24", 10),
        ("169.254.0.0/16", 16),
        ("fd00:1:2::/48", 7),
        ("fe80::/64", 10),
        ("::1/128", 128),
    ] {
        assert_eq!(ask(german, network), (1, scope), "{network}");
        assert_eq!(ask(american, network), (2, scope), "{network}");
    }
    // A network that the configuration knows is where it says; what is beside it must not be answered for it.
    assert_eq!(ask(german, "10.20.7.0/24"), (3, 16));
    assert_eq!(ask(german, "10.21.7.0/24"), (1, 16), "differs from the one configured in the sixteenth bit");
    assert_eq!(ask(german, "10.128.0.0/24"), (1, 9));
    assert_eq!(ask(american, "10.0.0.0/8").0, 2, "all of it together is nowhere");
    assert_eq!(ask(german, "8.8.8.0/24").0, 2, "all others are looked up as ever");
}

#[test]
fn a_slip_is_truncated_and_carries_a_cookie() {
    let here = snapshot(&config("", ""));
    let asked = Asked { from: "198.51.100.1".parse().unwrap(), transport: Transport::Udp, now_s: 1, mode: Mode::Slip };
    let packet = with_opt(query("sale.test", A), 1232, &[(10, vec![1; 8])]);
    let mut out = Vec::new();
    assert_eq!(answer(&packet, &asked, &here, &mut out).kind, Kind::Answer);
    let message = Message::from_bytes_ok(&out);
    assert!(message.metadata.truncation && message.answers.is_empty());
    assert!(out.len() == packet.len() + 16, "the same with a server cookie");
}

#[test]
fn life_of_an_answer_follows_from_the_earliest_change() {
    let config = config("", "");
    let base = snapshot(&config);
    let ttl = |live| {
        let snapshot: Snapshot = base.with_live(live, 5_000);
        let packet = with_opt(query("sale.test", A), 1232, &[subnet("193.99.144.0/24")]);
        let answer = &ask(&snapshot, &packet).answers[0];
        (answer.data.to_string(), answer.ttl)
    };
    let mut live = all_up(3);
    assert_eq!(ttl(live.clone()), ("192.0.2.1".to_owned(), 10));
    live[0].change_ms = 3_000;
    assert_eq!(ttl(live.clone()), ("192.0.2.1".to_owned(), 3), "three more bad checks and it is down");
    live[0].healthy = false;
    live[0].change_ms = 60_000;
    assert_eq!(ttl(live.clone()), ("192.0.2.2".to_owned(), 10), "the next one's health counts too");
    live[0].change_ms = 0;
    assert_eq!(ttl(live.clone()), ("192.0.2.2".to_owned(), 2), "never below the shortest");
    live.iter_mut().for_each(|l| l.healthy = false);
    assert_eq!(ttl(live.clone()), ("192.0.2.1".to_owned(), 2), "all down: as if they were up, for a short time");
    live[0].drained = true;
    assert_eq!(ttl(live), ("192.0.2.2".to_owned(), 2), "but not one that was taken out");
}

#[test]
fn a_handover_moves_its_share_and_always_the_same_networks() {
    let config = config("", "");
    let mut live = all_up(3);
    live[0].handover = Handover::Shares([(RegionIdx(1), 16_384), (RegionIdx(2), 32_768)].into_iter().collect());
    let snapshot = snapshot(&config).with_live(live, 5_000);
    let mut counts = [0u32; 3];
    for net in 0..2000u32 {
        let [_, b, c, _] = (net << 8).to_be_bytes();
        let packet = with_opt(query("sale.test", A), 1232, &[subnet(&format!("84.{}.{c}.0/24", 128 + b))]);
        let first = ask(&snapshot, &packet).answers[0].data.to_string();
        assert_eq!(first, ask(&snapshot, &packet).answers[0].data.to_string());
        counts[first[8..].parse::<usize>().unwrap() - 1] += 1;
    }
    assert!(
        (900..1100).contains(&counts[0]) && (420..580).contains(&counts[1]) && (420..580).contains(&counts[2]),
        "{counts:?}"
    );
}
