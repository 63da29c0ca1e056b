//! Differences from gdnsd that are allowed, each with the sentence that allows it. One that is never met fails the test.

use edge::dns::Transport;

use super::common::read::Read;

/// A packet and what both made of it.
#[derive(Clone)]
pub(crate) struct Case<'a> {
    pub(crate) packet: &'a [u8],
    pub(crate) transport: Transport,
    pub(crate) ours: Option<Read>,
    pub(crate) theirs: Option<Read>,
}

/// One allowed difference.
pub(crate) struct Allowed {
    pub(crate) name: &'static str,
    /// True when it is there.
    pub(crate) applies: fn(&Case<'_>) -> bool,
    /// Takes it away.
    pub(crate) forgive: fn(&mut Case<'_>),
}

const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;
const NS: u16 = 2;
const SOA: u16 = 6;
const CNAME: u16 = 5;
const CLIENT_SUBNET: u16 = 8;
const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;

fn both<'a>(case: &'a Case<'_>) -> Option<(&'a Read, &'a Read)> {
    case.ours.as_ref().zip(case.theirs.as_ref())
}

/// True when both answered and this holds of the two.
fn of_both(case: &Case<'_>, holds: impl Fn(&Read, &Read) -> bool) -> bool {
    both(case).is_some_and(|(ours, theirs)| holds(ours, theirs))
}

fn change(case: &mut Case<'_>, how: impl Fn(&mut Read, &Read)) {
    if let (Some(ours), Some(theirs)) = (&case.ours, &mut case.theirs) {
        how(theirs, ours);
    }
}

/// One side says FORMERR to a message that the other answers, for a reason that can be seen in the packet.
fn only_ours_is_formerr(case: &Case<'_>) -> bool {
    case.ours.as_ref().is_some_and(|o| o.rcode == FORMERR) && case.theirs.as_ref().is_none_or(|t| t.rcode != FORMERR)
}

fn only_theirs_is_formerr(case: &Case<'_>) -> bool {
    of_both(case, |o, t| o.rcode != FORMERR && t.rcode == FORMERR)
}

fn has(packet: &[u8], octets: &[u8]) -> bool {
    packet.windows(octets.len()).any(|w| w == octets)
}

fn count(packet: &[u8], at: usize) -> u16 {
    packet.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

fn same_scope(case: &mut Case<'_>) {
    change(case, |t, o| {
        let scope = o.option(CLIENT_SUBNET).and_then(|d| d.get(3)).copied().unwrap_or_default();
        if let Some(opt) = &mut t.opt {
            opt.options.iter_mut().filter(|(code, _)| *code == CLIENT_SUBNET).for_each(|(_, d)| d[3] = scope);
        }
    });
}

/// Bits of the private, shared or local space that a client subnet lies in as a whole.
fn private_bits(option: &[u8]) -> Option<u8> {
    let spaces: &[(&[u8], u8)] = match option.get(1)? {
        1 => &[
            (&[10], 8),
            (&[172, 16], 12),
            (&[192, 168], 16),
            (&[100, 64], 10),
            (&[169, 254], 16),
            (&[127], 8),
            (&[0], 8),
        ],
        _ => &[(&[0xfc], 7), (&[0xfe, 0x80], 10), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128)],
    };
    let (source, address) = (*option.get(2)?, option.get(4..)?);
    let bit = |of: &[u8], at: u8| of.get(usize::from(at / 8)).copied().unwrap_or(0) >> (7 - at % 8) & 1;
    let inside =
        |(space, bits): &&(&[u8], u8)| *bits <= source && (0..*bits).all(|at| bit(space, at) == bit(address, at));
    spaces.iter().find(inside).map(|(_, bits)| *bits)
}

fn same(case: &mut Case<'_>) {
    case.theirs = case.ours.clone();
}

pub(crate) const ALLOWED: &[Allowed] = &[
    // RFC 6891 §6.1.2, table: the CLASS of an OPT record is its sender's UDP payload size, which §6.2.3 defines as "the number
    // of octets of the largest UDP payload that can be reassembled and delivered" in the sender's own network stack: nobody
    // else's matter. gdnsd reads 1,024 octets, the edge more.
    Allowed {
        name: "size of queries taken over UDP",
        applies: |c| of_both(c, |o, t| o.opt.as_ref().zip(t.opt.as_ref()).is_some_and(|(o, t)| o.size != t.size)),
        forgive: |c| {
            change(c, |t, o| {
                if let (Some(t), Some(o)) = (&mut t.opt, &o.opt) {
                    t.size = o.size;
                }
            });
        },
    },
    // RFC 7828 §3.3.2: a server "that receives a query sent using TCP transport that includes an OPT RR (with or without the
    // edns-tcp-keepalive option) MAY include the edns-tcp-keepalive option in the response". The edge does when asked.
    Allowed {
        name: "idle time of TCP connections",
        applies: |c| {
            c.transport == Transport::Tcp
                && of_both(c, |o, t| o.option(KEEPALIVE) != t.option(KEEPALIVE) && t.option(KEEPALIVE).is_some())
        },
        forgive: |c| {
            change(c, |t, o| {
                let ours = o.option(KEEPALIVE).map(<[u8]>::to_vec);
                if let Some(opt) = &mut t.opt {
                    opt.options.retain(|(code, _)| *code != KEEPALIVE);
                    opt.options.extend(ours.map(|d| (KEEPALIVE, d)));
                    opt.options.sort();
                }
            });
        },
    },
    // The same as the first: gdnsd refuses what is over its 1,024 octets.
    Allowed {
        name: "queries over 1,024 octets",
        applies: |c| c.packet.len() > 1024 && c.ours != c.theirs,
        forgive: same,
    },
    // RFC 7873 §5.2.3: a server that answers "SHALL generate its own COOKIE option containing both the Client Cookie copied
    // from the request and a Server Cookie it has generated": the second half is each server's own. RFC 9018 §4 is the edge's
    // way to make it.
    Allowed {
        name: "content of server cookies",
        applies: |c| {
            of_both(c, |o, t| {
                o.option(COOKIE) != t.option(COOKIE)
                    && o.option(COOKIE).map(<[u8]>::len) == Some(24)
                    && t.option(COOKIE)
                        .is_some_and(|d| d.len() >= 16 && d[..8] == o.option(COOKIE).unwrap_or_default()[..8])
            })
        },
        forgive: |c| {
            change(c, |t, o| {
                let ours = o.option(COOKIE).map(<[u8]>::to_vec);
                if let Some(opt) = &mut t.opt {
                    opt.options
                        .iter_mut()
                        .filter(|(code, _)| *code == COOKIE)
                        .for_each(|(_, d)| *d = ours.clone().unwrap_or_default());
                }
            });
        },
    },
    // RFC 6891 §7: "If there is a problem with processing the OPT record itself, such as an option value that is badly
    // formatted or that includes out-of-range values, a FORMERR MUST be returned." The answer has an OPT record then; no
    // sentence asks for options in it. gdnsd repeats those that it read before the malformed one.
    Allowed {
        name: "options in FORMERR",
        applies: |c| {
            of_both(c, |o, t| {
                o.rcode == FORMERR
                    && t.rcode == FORMERR
                    && o.opt.as_ref().map(|p| &p.options) != t.opt.as_ref().map(|p| &p.options)
            })
        },
        forgive: |c| change(c, |t, o| t.opt.clone_from(&o.opt)),
    },
    // RFC 1034 §4.3.2, step 3a: "copy the CNAME RR into the answer section of the response, change QNAME to the canonical name
    // in the CNAME RR, and go back to step 1". RFC 6604 §3: "The RCODE in the ultimate DNS response MUST BE set based on the
    // final query cycle". RFC 2308 §3: the SOA record comes with a no. gdnsd leaves all of that to the resolver, and so does
    // the edge when the query has a client subnet (RFC 7871 §7.2.1: "For the specific case of a Canonical Name (CNAME)
    // chain, the Authoritative Nameserver SHOULD only place the initial CNAME record in the Answer section").
    Allowed {
        name: "aliases are followed",
        applies: |c| {
            of_both(c, |o, t| {
                let alone = t.sections[0].len() == 1 && t.sections[0][0].rtype == CNAME && t.sections[1].is_empty();
                alone && o.sections != t.sections && o.sections[0].contains(&t.sections[0][0])
            })
        },
        forgive: |c| {
            change(c, |t, o| {
                t.sections.clone_from(&o.sections);
                t.rcode = o.rcode;
                t.opt.clone_from(&o.opt);
            });
        },
    },
    // RFC 7871 §10: an authoritative server that is told a private ADDRESS "SHOULD ignore ADDRESS and look up its answer based
    // on the address of the Recursive Resolver. In the response, it SHOULD set SCOPE PREFIX-LENGTH to cover all of the
    // relevant private space." gdnsd looks private networks up like all others, and finds some in the country file.
    Allowed {
        name: "private client subnets",
        applies: |c| {
            of_both(c, |o, t| {
                let (Some(o), Some(t)) = (o.option(CLIENT_SUBNET), t.option(CLIENT_SUBNET)) else { return false };
                o.len() == t.len() && private_bits(o) == Some(o[3])
            }) && of_both(c, |o, t| o.rcode == t.rcode && (&o.sections, &o.opt) != (&t.sections, &t.opt))
        },
        forgive: |c| {
            same_scope(c);
            change(c, |t, o| t.sections.clone_from(&o.sections));
        },
    },
    // RFC 7871 §6: ADDRESS "MUST be truncated to the number of bits indicated by the SOURCE PREFIX-LENGTH field, padding with 0
    // bits to pad to the end of the last octet needed": what stands behind it in memory is no part of it. Of several client
    // subnets both count the last; gdnsd reads a short one on top of the longer one before it, and looks a mixture up.
    Allowed {
        name: "a short client subnet after a longer one",
        applies: |c| {
            let option = |w: &[u8]| w[..3] == [0, 8, 0] && w[3] <= 20 && w[4] == 0 && matches!(w[5], 1 | 2);
            c.packet.windows(6).filter(|w| option(w)).count() > 1
                && of_both(c, |o, t| {
                    let (Some(ours), Some(theirs)) = (o.option(CLIENT_SUBNET), t.option(CLIENT_SUBNET)) else {
                        return false;
                    };
                    let alike = ours.len() == theirs.len() && ours[..3] == theirs[..3] && ours[4..] == theirs[4..];
                    alike && (o.rcode, t.rcode) == (0, 0) && o.sections != t.sections
                })
        },
        forgive: |c| {
            same_scope(c);
            change(c, |t, o| t.sections.clone_from(&o.sections));
        },
    },
    // RFC 7871 §7.2.1: an "Authoritative Nameserver may return different values of SCOPE PREFIX-LENGTH for different
    // networks". gdnsd joins neighbouring networks of the same answer; the edge gives the database's networks. (That the
    // edge's scope covers one answer only is tested by itself.) In a no the edge says 0: §7.4, name servers "should
    // conservatively expect that Intermediate Nameservers will treat all negative answers as /0; therefore, they SHOULD
    // set SCOPE PREFIX-LENGTH accordingly".
    Allowed {
        name: "networks are not joined",
        applies: |c| {
            of_both(c, |o, t| {
                let (Some(o), Some(t)) = (o.option(CLIENT_SUBNET), t.option(CLIENT_SUBNET)) else { return false };
                let narrower = o.get(3) == Some(&0) || o.get(3) > t.get(3);
                o.len() == t.len() && o.len() >= 4 && narrower && o[3] != t[3] && o[..3] == t[..3] && o[4..] == t[4..]
            })
        },
        forgive: same_scope,
    },
    // RFC 8482 §4.2: "If there is no CNAME present at the owner name matching the QNAME, the resource record returned in the
    // response MAY instead be synthesized": a MAY. At a name without records, below which others lie, the edge has no data.
    Allowed {
        name: "ANY at an empty name",
        applies: |c| {
            of_both(c, |o, t| o.sections[0].is_empty() && t.sections[0].len() == 1 && t.sections[0][0].rtype == 13)
        },
        forgive: |c| change(c, |t, o| t.sections.clone_from(&o.sections)),
    },
    // RFC 1035 §4.1.1, RCODE 1: "The name server was unable to interpret the query." A query has neither answers nor
    // authority.
    Allowed {
        name: "counts of answers and authority in a query",
        applies: |c| only_ours_is_formerr(c) && (count(c.packet, 6) != 0 || count(c.packet, 8) != 0),
        forgive: same,
    },
    // RFC 6891 §6.1.2, table: the NAME of an OPT record "MUST be 0 (root domain)".
    Allowed {
        name: "OPT record below a name",
        applies: |c| {
            only_ours_is_formerr(c) && count(c.packet, 10) > 0 && c.ours.as_ref().is_some_and(|o| o.opt.is_some())
        },
        forgive: same,
    },
    // RFC 1035 §4.1.1, RCODE 4: "The name server does not support the requested kind of query." What stands in a message of another kind (where a query
    // has its question, an update has its zone) is not for one that does not know the kind to judge or to repeat; gdnsd
    // reads all of it first, and may say FORMERR. Both say no.
    Allowed {
        name: "messages of other kinds than QUERY",
        applies: |c| {
            let other = c.packet.get(2).is_some_and(|flags| flags & 0x78 != 0);
            other && c.ours != c.theirs && of_both(c, |o, t| o.rcode == NOTIMP && matches!(t.rcode, FORMERR | NOTIMP))
        },
        forgive: same,
    },
    // RFC 5001 §2.2: "The name server MUST ignore any NSID payload data that might be present in the query message." gdnsd
    // says FORMERR.
    Allowed {
        name: "NSID with content",
        applies: |c| only_theirs_is_formerr(c) && has(c.packet, &[0, 3, 0, 1, 0]),
        forgive: same,
    },
    // RFC 7871 §7.1.2: "If there is no ADDRESS set, i.e., SOURCE PREFIX-LENGTH is set to 0, then FAMILY SHOULD be set to the
    // transport over which the query is sent": a SHOULD of the sender's, and §7.5: "a query MUST NOT be refused solely
    // because it provides 0 address bits". Such an option, all zero, is what `dig +subnet=0` sends. gdnsd says FORMERR.
    Allowed {
        name: "client subnet that is all zero",
        applies: |c| only_theirs_is_formerr(c) && has(c.packet, &[0, 8, 0, 4, 0, 0, 0, 0]),
        forgive: same,
    },
    // RFC 2308 §3: the TTL of the SOA record "indicates how long a resolver may cache" a no; one that depends on the region
    // is kept no longer than an address would be, since another region may have one.
    Allowed {
        name: "shorter life of a no for a chosen region",
        applies: |c| {
            of_both(c, |o, t| match (&o.sections[1][..], &t.sections[1][..]) {
                ([o], [t]) => o.rtype == SOA && o.ttl < t.ttl && o.data == t.data,
                _ => false,
            })
        },
        forgive: |c| change(c, |t, o| t.sections[1].clone_from(&o.sections[1])),
    },
    // RFC 1034 §4.3.2, step 6: "attempt to add other RRs which may be useful to the additional section". gdnsd adds no addresses to name servers.
    Allowed {
        name: "addresses of name servers",
        applies: |c| {
            of_both(c, |o, t| {
                t.sections[2].is_empty() && !o.sections[2].is_empty() && o.sections[0].iter().all(|r| r.rtype == NS)
            })
        },
        forgive: |c| change(c, |t, o| t.sections[2].clone_from(&o.sections[2])),
    },
    // RFC 4892 describes names in class CHAOS as an existing convention of some servers and is itself "Informational":
    // no sentence asks a server to have them. Off is the edge's default.
    Allowed {
        name: "class CHAOS",
        applies: |c| of_both(c, |o, t| o.rcode == 5 && t.sections[0].iter().any(|r| r.class == 3)),
        forgive: same,
    },
];
