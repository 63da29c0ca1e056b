//! Differential test: the same raw packets to the edge and to gdnsd (Debian package `gdnsd`, started here), with the same
//! zone and the same networks. Whatever differs must be in the list of allowed differences (`gdnsd/allowed.rs`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "gdnsd/allowed.rs"]
mod allowed;
mod common;
#[path = "gdnsd/corpus.rs"]
mod corpus;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use allowed::{ALLOWED, Case};
use common::read::Read;
use common::{ask_as, config, query, snapshot, wire_name};
use edge::compare::{Peer, PeerPlan, nets};
use edge::dns::Transport;
use edge::snapshot::Snapshot;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const GENERATED: usize = 12_000;
const GENERATED_TCP: usize = 1_500;

/// The zone of `common::CONFIG` in gdnsd's dialect. Loops of aliases are left out: gdnsd refuses such zones.
const ZONE: &str = r#"
$TTL 3600
@ SOA ns1 hostmaster 1 7200 900 1209600 60
@ NS ns1
@ NS ns.elsewhere.test.
ns1 A 192.0.2.53
ns1 AAAA 2001:db8::53
@ 10 DYNA geoip!sale
www 10 DYNA geoip!sale
alias CNAME www
away CNAME elsewhere.test.
dangling CNAME nowhere
@ MX 10 mail
@ CAA 0 issue "ca.test"
deep.er.down TXT "hello" "there"
east A 192.0.2.1
east AAAA 2001:db8::1
west A 192.0.2.2
west AAAA 2001:db8::2
south A 192.0.2.3
"#;

struct Pair {
    gdnsd: Peer,
    snapshot: Snapshot,
    socket: UdpSocket,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn start() -> Self {
        let mut config = config("", "");
        config.zone.https = None;
        config.zone.records.retain(|r| !r.name.starts_with("loop"));
        // Clients of no known place go to the first datacenter in gdnsd, by weight here: so the first has all of it.
        config.regions.iter_mut().skip(1).for_each(|r| r.weight = 0);
        // gdnsd has no such limit; what it does is in the tests of the edge alone.
        config.answers.amplification_max = 100.0;
        let snapshot = snapshot(&config);
        let folder = tempfile::tempdir().unwrap();
        let text: Vec<String> = (0..10).map(|_| format!("\"{}\"", "0123456789".repeat(13))).collect();
        let zone = format!("{ZONE}big TXT {}\n", text.join(" "));
        let plan = PeerPlan { folder: folder.path(), zone: "sale.test", zone_text: &zone, core: None };
        let datacenters: Vec<_> = config.regions.iter().map(|r| (r.name.clone(), r.addresses.clone())).collect();
        let gdnsd = Peer::gdnsd(&plan, &datacenters, &nets(&snapshot).unwrap().0).unwrap_or_else(|e| panic!("{e}"));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(gdnsd.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { gdnsd, snapshot, socket, _folder: folder }
    }

    fn ours(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let (_, out) = ask_as(&self.snapshot, packet, IpAddr::V4(Ipv4Addr::LOCALHOST), transport);
        (!out.is_empty()).then_some(out)
    }

    /// gdnsd answers in order, so a packet is known to be passed over when the answer to the next one comes.
    fn theirs(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut sentinel = query("sentinel.sale.test", 1);
        sentinel[..2].copy_from_slice(&[!packet.first().unwrap_or(&0), 0x77]);
        self.socket.send(packet).unwrap();
        self.socket.send(&sentinel).unwrap();
        let mut answer = None;
        loop {
            let mut buffer = vec![0; 65_535];
            let len = self.socket.recv(&mut buffer).expect("gdnsd answers the sentinel");
            buffer.truncate(len);
            if buffer[..2] == sentinel[..2] && buffer[12..].starts_with(&wire_name("sentinel.sale.test")) {
                return answer;
            }
            answer = Some(buffer);
        }
    }
}

/// One query on a connection of its own; `None` when it is closed without an answer.
fn theirs_tcp(to: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
    stream.write_all(&[&len[..], packet].concat()).ok()?;
    // Nothing more comes: whatever gdnsd does not answer it closes.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(head))];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

/// Counts of allowed differences met, and those that are not allowed.
#[derive(Default)]
struct Verdict {
    met: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
    alike: usize,
}

impl Verdict {
    fn judge(&mut self, packet: &[u8], transport: Transport, ours: Option<Vec<u8>>, theirs: Option<Vec<u8>>) {
        let read = |answer: &Option<Vec<u8>>| {
            answer.as_ref().map(|a| Read::from(a).unwrap_or_else(|| panic!("unreadable: {a:02x?}")))
        };
        let case = Case { packet, transport, ours: read(&ours), theirs: read(&theirs) };
        // Each allowed difference is taken away; what is left must be alike.
        let mut left = case.clone();
        let mut names = Vec::new();
        for one in ALLOWED {
            if (one.applies)(&left) {
                (one.forgive)(&mut left);
                names.push(one.name);
            }
        }
        if left.ours == left.theirs {
            // The size that a server states for itself differs in all of them and says nothing.
            self.alike += usize::from(names.iter().all(|name| *name == ALLOWED[0].name));
            names.into_iter().for_each(|name| *self.met.entry(name).or_default() += 1);
        } else {
            let brief = |r: &Option<Read>| {
                r.as_ref().map_or("silence".to_owned(), |r| {
                    format!(
                        "rcode {} aa {} tc {} rd {} other {} q {} sections {:?} opt {:?}",
                        r.rcode,
                        r.aa,
                        r.tc,
                        r.rd,
                        r.other_flags,
                        r.question.len(),
                        r.sections,
                        r.opt
                    )
                })
            };
            self.wrong.push(format!(
                "{transport:?} {packet:02x?}\n  ours   {}\n  theirs {}",
                brief(&case.ours),
                brief(&case.theirs)
            ));
        }
    }

    fn assert_fine(&self, what: &str) {
        if let Ok(path) = std::env::var("GDNSD_DIFFERENCES") {
            std::fs::write(format!("{path}.{what}"), self.wrong.join("\n")).unwrap();
        }
        let shown: Vec<_> = self.wrong.iter().take(8).cloned().collect();
        assert!(
            shown.is_empty(),
            "{what}: {} differences not allowed, {} alike, met {:?}\n{}",
            self.wrong.len(),
            self.alike,
            self.met,
            shown.join("\n")
        );
    }
}

/// Packets by a fixed seed, so that a run can be repeated.
fn generate(count: usize, seed: u8) -> Vec<Vec<u8>> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let packets = corpus::packets();
    (0..count).map(|_| packets.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn raw_packets_are_answered_as_gdnsd_answers_them() {
    let pair = Pair::start();
    let mut verdict = Verdict::default();
    for packet in corpus::nasty().into_iter().chain(generate(GENERATED, 1)) {
        verdict.judge(&packet, Transport::Udp, pair.ours(&packet, Transport::Udp), pair.theirs(&packet));
    }
    verdict.assert_fine("UDP");
    assert!(
        verdict.alike > GENERATED / 3,
        "the packets should mostly be of a kind that both answer alike: {}",
        verdict.alike
    );
    let met_udp = verdict.met;

    let mut verdict = Verdict::default();
    for packet in corpus::nasty().into_iter().chain(generate(GENERATED_TCP, 2)).filter(|p| p.len() >= 12) {
        verdict.judge(
            &packet,
            Transport::Tcp,
            pair.ours(&packet, Transport::Tcp),
            theirs_tcp(pair.gdnsd.address, &packet),
        );
    }
    verdict.assert_fine("TCP");
    let met = |name: &str| met_udp.contains_key(name) || verdict.met.contains_key(name);
    let stale: Vec<_> = ALLOWED.iter().map(|one| one.name).filter(|name| !met(name)).collect();
    assert!(stale.is_empty(), "allowed but never met, so to be taken off the list: {stale:?}");
}
