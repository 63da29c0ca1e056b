//! The one function from query bytes to answer bytes.
//!
//! Order of judgement, first match wins: no query at all (silence), not QUERY (NOTIMP), malformed (FORMERR), EDNS version
//! (BADVERS), meta-types (NOTIMP), class, outside the zone (REFUSED), no such name (NXDOMAIN), then the name's records.

use std::net::IpAddr;

use super::opt::{OptRecord, Sender};
use super::sale;
use crate::choice::{Client, unplaced};
use crate::limits::{CNAME_DEPTH_MAX, TCP_ANSWER_MAX_BYTES, UDP_ANSWER_PLAIN_BYTES};
use crate::snapshot::Snapshot;
use crate::wire::{AnswerWriter, Malformed, Query, Rcode, Section, class, read_query, rtype};
use crate::zone::{Found, Node};

/// Life of the answer to ANY, in seconds: long, since it never changes (RFC 8482 §4.2 leaves it to the operator).
const HINFO_TTL_S: u32 = 3600;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP: the address may be forged.
    Udp,
    /// TCP: the address has answered a handshake.
    Tcp,
}

/// Whether the answer may carry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Yes.
    Full,
    /// No: a rate limit lets through only a truncated answer.
    Slip,
}

/// Who asks, how, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The sender's address: a resolver's, most of the time.
    pub from: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// Unix time in seconds, modulo 2³² (for cookies).
    pub now_s: u32,
    /// What the answer may carry.
    pub mode: Mode,
}

/// What sort of answer it became; rates are limited by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing is sent.
    Silent,
    /// Records.
    Answer,
    /// A no with authority: NXDOMAIN or no data.
    Negative,
    /// An error or refusal.
    Error,
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The sort of answer.
    pub kind: Kind,
    /// The sender's address is known to be real.
    pub verified: bool,
}

/// Writes the answer to `packet` into `out` (cleared first; empty when nothing is to be sent).
pub fn answer(packet: &[u8], asked: &Asked, snapshot: &Snapshot, out: &mut Vec<u8>) -> Outcome {
    out.clear();
    match read_query(packet) {
        Ok(query) => Answering::new(packet.len(), asked, snapshot, &query).run(out),
        Err(malformed) => refuse_malformed(malformed, asked, snapshot, out),
    }
}

fn refuse_malformed(malformed: Malformed<'_>, asked: &Asked, snapshot: &Snapshot, out: &mut Vec<u8>) -> Outcome {
    let (head, question, edns, rcode) = match malformed {
        Malformed::Silent => return Outcome { kind: Kind::Silent, verified: false },
        Malformed::Form { head, question, edns } => (head, question, edns, Rcode::FormErr),
        Malformed::Opcode { head } => (head, None, None, Rcode::NotImp),
    };
    let flags = [0x80 | head[2] & 0x79, 0];
    let opt = edns.map(|dnssec_ok| OptRecord::plain(snapshot.rules.udp_max_bytes, dnssec_ok, rcode));
    let id = u16::from_be_bytes([head[0], head[1]]);
    let writer = AnswerWriter::new(out, UDP_ANSWER_PLAIN_BYTES, 0, id, flags, question.unwrap_or_default());
    writer.finish(rcode, opt.as_ref().map(OptRecord::bytes));
    Outcome { kind: Kind::Error, verified: asked.transport == Transport::Tcp }
}

/// One query being answered.
struct Answering<'a> {
    asked: &'a Asked,
    snapshot: &'a Snapshot,
    query: &'a Query<'a>,
    sender: Sender,
    limit_bytes: usize,
}

/// Response code, sort, and whether with authority.
type Judged = (Rcode, Kind);

impl<'a> Answering<'a> {
    fn new(packet_bytes: usize, asked: &'a Asked, snapshot: &'a Snapshot, query: &'a Query<'a>) -> Self {
        let rules = &snapshot.rules;
        let sender = Sender::read(query.edns.as_ref(), asked, snapshot);
        let udp_bytes = query.edns.map_or(UDP_ANSWER_PLAIN_BYTES, |edns| {
            usize::from(edns.udp_size_bytes).max(UDP_ANSWER_PLAIN_BYTES).min(rules.udp_max_bytes)
        });
        let limit_bytes = match asked.transport {
            Transport::Tcp => TCP_ANSWER_MAX_BYTES,
            Transport::Udp if sender.verified => udp_bytes,
            Transport::Udp => udp_bytes.min((packet_bytes as f64 * rules.amplification_max) as usize),
        };
        Self { asked, snapshot, query, sender, limit_bytes }
    }

    fn run(mut self, out: &mut Vec<u8>) -> Outcome {
        let query = self.query;
        // CD is cleared in authoritative answers (RFC 4035 §3.1.6).
        let flags = [0x80 | u8::from(query.recursion_desired), 0];
        let reserve = self.sender.opt.as_ref().map_or(0, |opt| opt.bytes().len());
        let mut writer = AnswerWriter::new(out, self.limit_bytes, reserve, query.id, flags, query.question);
        let (rcode, kind) = self.judge(&mut writer);
        if matches!(kind, Kind::Answer | Kind::Negative) {
            writer.set_authoritative();
            if self.asked.mode == Mode::Slip {
                writer.truncate();
            }
        }
        if let Some(opt) = &mut self.sender.opt {
            opt.set_rcode(rcode);
            // What was cut off must not be cached for a network.
            if writer.is_truncated() {
                opt.set_scope(0);
            }
        }
        writer.finish(rcode, self.sender.opt.as_ref().map(OptRecord::bytes));
        Outcome { kind, verified: self.sender.verified }
    }

    fn judge(&mut self, writer: &mut AnswerWriter<'_>) -> Judged {
        let query = self.query;
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return (Rcode::BadVers, Kind::Error);
        }
        // Meta-types other than ANY (RFC 6895 §3.1): transfers, TKEY and the like, none of which is implemented.
        if (128..255).contains(&query.qtype) {
            return (Rcode::NotImp, Kind::Error);
        }
        match query.qclass {
            class::IN | class::ANY => {}
            class::CH => return self.chaos(writer),
            _ => return (Rcode::Refused, Kind::Error),
        }
        match self.snapshot.zone.find(query.name.wire()) {
            Found::Outside => (Rcode::Refused, Kind::Error),
            Found::Missing => self.no(writer, Rcode::NxDomain, u32::MAX),
            Found::Here(node) => self.records(writer, node),
        }
    }

    /// Records of a name, through aliases inside the zone; the code is that of the last name (RFC 6604 §3).
    fn records(&mut self, writer: &mut AnswerWriter<'_>, mut node: &'a Node) -> Judged {
        let snapshot = self.snapshot;
        let qtype = self.query.qtype;
        let mut owner = 12;
        for _ in 0..CNAME_DEPTH_MAX {
            let Some(alias) = node.set(rtype::CNAME).filter(|_| qtype != rtype::CNAME && qtype != rtype::ANY) else {
                return self.records_at(writer, node, owner, owner != 12);
            };
            let Some(target) = alias.data.first() else { return (Rcode::ServFail, Kind::Error) };
            let target_at = writer.position() + 12;
            writer.record(Section::Answer, owner, rtype::CNAME, alias.ttl_s, target);
            owner = target_at;
            // RFC 7871 §7.2.1: one scope cannot speak for two names, so a query with a client subnet gets the first alias.
            if self.query.edns.is_some_and(|edns| edns.subnet.is_some()) {
                return (Rcode::NoError, Kind::Answer);
            }
            match snapshot.zone.find(target) {
                Found::Here(next) => node = next,
                Found::Missing => return self.no(writer, Rcode::NxDomain, u32::MAX),
                Found::Outside => return (Rcode::NoError, Kind::Answer),
            }
        }
        // A chain this long is a mistake; what was found of it is given, as for a target outside.
        (Rcode::NoError, Kind::Answer)
    }

    fn records_at(&mut self, writer: &mut AnswerWriter<'_>, node: &Node, owner: usize, alias: bool) -> Judged {
        let qtype = self.query.qtype;
        let exists = node.dynamic || !node.sets.is_empty();
        if qtype == rtype::ANY && exists {
            // RFC 8482 §4.2: a made-up HINFO instead of everything, unless there is an alias.
            match node.set(rtype::CNAME) {
                Some(alias) => alias.data.iter().for_each(|data| {
                    writer.record(Section::Answer, owner, rtype::CNAME, alias.ttl_s, data);
                }),
                None => writer.record(Section::Answer, owner, rtype::HINFO, HINFO_TTL_S, b"\x07RFC8482\x00"),
            }
            return (Rcode::NoError, Kind::Answer);
        }
        if node.dynamic && sale::is_dynamic_type(self.snapshot, qtype) {
            let (client, scope) = self.client();
            let pick = sale::choose(self.snapshot, client);
            if sale::write(self.snapshot, writer, owner, qtype, &pick) {
                if let Some(opt) = &mut self.sender.opt {
                    opt.set_scope(match scope {
                        Scope::Everybody => 0,
                        Scope::AsDecided => pick.scope,
                        Scope::Bits(bits) => bits,
                    });
                }
                return (Rcode::NoError, Kind::Answer);
            }
            // A no keeps a scope of 0: RFC 7871 §7.4 expects resolvers to keep it for everybody.
            let ttl_s = self.snapshot.rules.ttl_s(&pick);
            return self.no(writer, Rcode::NoError, ttl_s);
        }
        match node.set(qtype) {
            Some(set) => {
                let first_at = writer.position();
                set.data.iter().for_each(|data| writer.record(Section::Answer, owner, qtype, set.ttl_s, data));
                if qtype == rtype::NS {
                    self.glue(writer, first_at, &set.data);
                }
                (Rcode::NoError, Kind::Answer)
            }
            None => {
                let (_, kind) = self.no(writer, Rcode::NoError, u32::MAX);
                (Rcode::NoError, if alias { Kind::Answer } else { kind })
            }
        }
    }

    /// Addresses of the name servers just written, the first at `at`.
    fn glue(&self, writer: &mut AnswerWriter<'_>, mut at: usize, servers: &[Box<[u8]>]) {
        if writer.is_truncated() {
            return;
        }
        for server in servers {
            let owner = at + 12;
            at = owner + server.len();
            let Found::Here(node) = self.snapshot.zone.find(server) else { continue };
            for set in [rtype::A, rtype::AAAA].into_iter().filter_map(|t| node.set(t)) {
                set.data.iter().for_each(|data| writer.record(Section::Additional, owner, set.rtype, set.ttl_s, data));
            }
        }
    }

    /// A no, with the SOA record that says how long it holds (RFC 2308 §3).
    fn no(&self, writer: &mut AnswerWriter<'_>, rcode: Rcode, ttl_max_s: u32) -> Judged {
        let zone = &self.snapshot.zone;
        let (soa, ttl_s) = zone.soa();
        let owner = 12 + zone.apex_offset(&self.query.name);
        soa.data
            .iter()
            .for_each(|data| writer.record(Section::Authority, owner, rtype::SOA, ttl_s.min(ttl_max_s), data));
        (rcode, Kind::Negative)
    }

    /// The version, only where the operator wants it known.
    fn chaos(&self, writer: &mut AnswerWriter<'_>) -> Judged {
        let name = self.query.name.wire();
        let asks_version = name == b"\x07version\x04bind\x00" || name == b"\x07version\x06server\x00";
        match &self.snapshot.rules.chaos_version {
            Some(text) if asks_version && matches!(self.query.qtype, rtype::TXT | rtype::ANY) => {
                writer.chaos_text(text);
                (Rcode::NoError, Kind::Answer)
            }
            _ => (Rcode::Refused, Kind::Error),
        }
    }

    /// The network to choose for, and for whom the answer holds. A prefix of 0 asks to leave the client's network out.
    fn client(&self) -> (Client, Scope) {
        let from = self.asked.from.to_canonical();
        let resolver = Client { address: from, prefix: if from.is_ipv4() { 32 } else { 128 } };
        let subnet = self.query.edns.and_then(|edns| edns.subnet).filter(|_| self.snapshot.rules.client_subnet);
        let Some(subnet) = subnet.filter(|subnet| subnet.source_prefix > 0) else {
            return (resolver, Scope::Everybody);
        };
        let named = Client { address: subnet.address, prefix: subnet.source_prefix };
        match unplaced(&self.snapshot.policy, named) {
            Some(bits) => (resolver, Scope::Bits(bits)),
            None => (named, Scope::AsDecided),
        }
    }
}

/// For whom an answer holds, as the client-subnet option says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Whoever asks that resolver.
    Everybody,
    /// The networks that share the bits that decided.
    AsDecided,
    /// The networks that share so many bits.
    Bits(u8),
}
