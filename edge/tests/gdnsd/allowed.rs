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

fn same(case: &mut Case<'_>) {
    case.theirs = case.ours.clone();
}

pub(crate) const ALLOWED: &[Allowed] = &[
    // RFC 6891 §6.2.4, first sentence: the payload size in an OPT record is the sender's own maximum. gdnsd reads 1,024
    // octets, the edge more.
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
    // RFC 7828 §3.3.2: a server may say over TCP how long it keeps idle connections, whether it was asked or not; for how
    // long is its own matter. The edge says so when asked.
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
    // RFC 7873 §4.2, second paragraph: how a server cookie is made is its server's own matter; RFC 9018 §4 is the edge's way.
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
    // RFC 6891 §7, last paragraph: an error carries an OPT record; no sentence asks for options in it. gdnsd repeats those
    // that it read before the malformed one.
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
    // RFC 1034 §4.3.2, step 3a: with an alias found, the search begins again at its target, and RFC 2308 §2.1 and §2.2 add
    // the SOA record; RFC 6604 §3: the code is that of the last name. gdnsd leaves all of that to the resolver.
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
    // RFC 7871 §7.2.1, on SCOPE PREFIX-LENGTH: it may be longer or shorter than the source's. gdnsd joins neighbouring networks
    // of the same answer; the edge gives the database's networks. (That the edge's scope covers one answer only is tested
    // by itself.)
    Allowed {
        name: "networks are not joined",
        applies: |c| {
            of_both(c, |o, t| {
                let (Some(o), Some(t)) = (o.option(CLIENT_SUBNET), t.option(CLIENT_SUBNET)) else { return false };
                o.len() == t.len() && o.len() >= 4 && o[3] != t[3] && o[..3] == t[..3] && o[4..] == t[4..]
            })
        },
        forgive: |c| {
            change(c, |t, o| {
                let scope = o.option(CLIENT_SUBNET).and_then(|d| d.get(3)).copied().unwrap_or_default();
                if let Some(opt) = &mut t.opt {
                    opt.options.iter_mut().filter(|(code, _)| *code == CLIENT_SUBNET).for_each(|(_, d)| d[3] = scope);
                }
            });
        },
    },
    // RFC 8482 §4.2: the made-up HINFO is for names that have records; a name with none below which others lie has no data.
    Allowed {
        name: "ANY at an empty name",
        applies: |c| {
            of_both(c, |o, t| o.sections[0].is_empty() && t.sections[0].len() == 1 && t.sections[0][0].rtype == 13)
        },
        forgive: |c| change(c, |t, o| t.sections.clone_from(&o.sections)),
    },
    // RFC 1035 §4.1.1, RCODE 1: unable to interpret the query. A query has neither answers nor authority.
    Allowed {
        name: "counts of answers and authority in a query",
        applies: |c| only_ours_is_formerr(c) && (count(c.packet, 6) != 0 || count(c.packet, 8) != 0),
        forgive: same,
    },
    // RFC 6891 §6.1.2, table: the owner of an OPT record MUST be the root.
    Allowed {
        name: "OPT record below a name",
        applies: |c| {
            only_ours_is_formerr(c) && count(c.packet, 10) > 0 && c.ours.as_ref().is_some_and(|o| o.opt.is_some())
        },
        forgive: same,
    },
    // RFC 1035 §4.1.1, RCODE 4: the kind of query is not supported. What stands in a message of another kind (where a query
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
    // RFC 5001 §2.1: a server ignores what a query's NSID option carries. gdnsd says FORMERR.
    Allowed {
        name: "NSID with content",
        applies: |c| only_theirs_is_formerr(c) && has(c.packet, &[0, 3, 0, 1, 0]),
        forgive: same,
    },
    // RFC 7871 §6: an address family counts for what the source prefix covers; with a prefix of 0 there is no address. Such
    // an option, all zero, is what `dig +subnet=0` sends. gdnsd says FORMERR.
    Allowed {
        name: "client subnet that is all zero",
        applies: |c| only_theirs_is_formerr(c) && has(c.packet, &[0, 8, 0, 4, 0, 0, 0, 0]),
        forgive: same,
    },
    // RFC 2308 §5: a no is kept no longer than the SOA record says; one that depends on the region is kept no longer than
    // an address would be, since another region may have one.
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
    // RFC 1034 §4.3.2, step 6: add what may be useful to the additional section. gdnsd adds no addresses to name servers.
    Allowed {
        name: "addresses of name servers",
        applies: |c| {
            of_both(c, |o, t| {
                t.sections[2].is_empty() && !o.sections[2].is_empty() && o.sections[0].iter().all(|r| r.rtype == NS)
            })
        },
        forgive: |c| change(c, |t, o| t.sections[2].clone_from(&o.sections[2])),
    },
    // RFC 4892 §3: names in class CHAOS are a convention that an operator may turn off; off is the edge's default.
    Allowed {
        name: "class CHAOS",
        applies: |c| of_both(c, |o, t| o.rcode == 5 && t.sections[0].iter().any(|r| r.class == 3)),
        forgive: same,
    },
];
