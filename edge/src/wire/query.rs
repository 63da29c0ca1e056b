//! Reading a query: header, the one question, the OPT record.
//!
//! Must never panic, allocate, or follow a compression pointer: a question has nothing to point to, and a pointer in a
//! later record's owner is stepped over, not followed, so no loop can hold us.

use super::option::Edns;
use super::rtype;
use crate::limits::QUERY_RECORDS_MAX;

/// A name from a question, lower case, in a buffer of its own; no allocation.
#[derive(Clone, Copy, Debug)]
pub struct QueryName {
    octets: [u8; 255],
    len: u8,
}

impl QueryName {
    /// The name in wire format, lower case, root label included.
    pub fn wire(&self) -> &[u8] {
        &self.octets[..usize::from(self.len)]
    }
}

/// A well-formed query.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The client's message id.
    pub id: u16,
    /// Recursion desired: copied into the answer.
    pub recursion_desired: bool,
    /// The question as sent, in the client's mixture of cases: copied into the answer.
    pub question: &'a [u8],
    /// The name asked for.
    pub name: QueryName,
    /// The type asked for.
    pub qtype: u16,
    /// The class asked for.
    pub qclass: u16,
    /// The OPT record, when there is one.
    pub edns: Option<Edns<'a>>,
}

/// A query that gets an error, or nothing.
#[derive(Clone, Copy, Debug)]
pub enum Malformed<'a> {
    /// Not a query at all (too short, or an answer): silence, or two servers could talk forever.
    Silent,
    /// FORMERR, with the question when that much could be read, and an OPT record when the query had one.
    Form {
        /// The first four octets of the header.
        head: [u8; 4],
        /// The question, when readable.
        question: Option<&'a [u8]>,
        /// The DNSSEC OK bit of the OPT record, where one was seen.
        edns: Option<bool>,
    },
    /// Another kind of message than QUERY: NOTIMP.
    Opcode {
        /// The first four octets of the header.
        head: [u8; 4],
    },
}

/// Reads a query.
///
/// # Errors
/// [`Malformed`], which says what the sender gets instead of an answer.
pub fn read_query(packet: &[u8]) -> Result<Query<'_>, Malformed<'_>> {
    let Some((header, body)) = packet.split_first_chunk::<12>() else { return Err(Malformed::Silent) };
    let head = [header[0], header[1], header[2], header[3]];
    if header[2] & 0x80 != 0 {
        return Err(Malformed::Silent);
    }
    if header[2] & 0x78 != 0 {
        return Err(Malformed::Opcode { head });
    }
    let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    let form = |question, edns| Malformed::Form { head, question, edns };
    if count(4) == 0 {
        return Err(form(None, None));
    }
    let (name, name_len) = read_question_name(body).ok_or(form(None, None))?;
    let Some(&[t1, t2, c1, c2]) = body.get(name_len..name_len + 4) else { return Err(form(None, None)) };
    let question = &body[..name_len + 4];
    // A query has no answers and no authority; IXFR and UPDATE, which do, are not served.
    if count(4) != 1 || count(6) != 0 || count(8) != 0 {
        return Err(form(Some(question), None));
    }
    let edns = read_additional(&body[name_len + 4..], count(10)).map_err(|seen| form(Some(question), seen))?;
    Ok(Query {
        id: u16::from_be_bytes([header[0], header[1]]),
        recursion_desired: header[2] & 0x01 != 0,
        question,
        name,
        qtype: u16::from_be_bytes([t1, t2]),
        qclass: u16::from_be_bytes([c1, c2]),
        edns,
    })
}

/// The question's name in lower case and its length; `None` when it is cut off, too long, or compressed.
fn read_question_name(body: &[u8]) -> Option<(QueryName, usize)> {
    let mut name = QueryName { octets: [0; 255], len: 0 };
    let mut at = 0;
    loop {
        let len = usize::from(*body.get(at)?);
        if len > 63 || at + len + 1 > 255 {
            return None;
        }
        name.octets[at] = len as u8;
        let label = body.get(at + 1..at + 1 + len)?;
        for (to, from) in name.octets.get_mut(at + 1..at + 1 + len)?.iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        at += len + 1;
        if len == 0 {
            name.len = u8::try_from(at).ok()?;
            return Some((name, at));
        }
    }
}

/// Looks through the additional records for the OPT record; the error says of one that was seen whether DNSSEC is OK.
fn read_additional(mut rest: &[u8], records: usize) -> Result<Option<Edns<'_>>, Option<bool>> {
    let mut edns: Option<Edns<'_>> = None;
    for at in 0..records {
        let seen = edns.map(|edns| edns.dnssec_ok);
        if at == QUERY_RECORDS_MAX {
            return Err(seen);
        }
        let owner_len = owner_len(rest).ok_or(seen)?;
        let Some((fixed, data)) = rest[owner_len..].split_first_chunk::<10>() else { return Err(seen) };
        let data_len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let is_opt = u16::from_be_bytes([fixed[0], fixed[1]]) == rtype::OPT;
        let dnssec_ok = fixed[6] & 0x80 != 0;
        let data = data.get(..data_len).ok_or(seen.or(is_opt.then_some(dnssec_ok)))?;
        if is_opt {
            // RFC 6891 §6.1.1: one OPT record, owned by the root.
            if seen.is_some() || owner_len != 1 {
                return Err(seen.or(Some(dnssec_ok)));
            }
            let mut opt = Edns {
                udp_size_bytes: u16::from_be_bytes([fixed[2], fixed[3]]),
                version: fixed[5],
                dnssec_ok,
                ..Edns::default()
            };
            // The options of a version that we do not know are not ours to judge.
            if opt.version == 0 {
                opt.read_options(data).map_err(|_| Some(dnssec_ok))?;
            }
            edns = Some(opt);
        }
        rest = &rest[owner_len + 10 + data_len..];
    }
    Ok(edns)
}

/// Octets that a record's owner takes here: labels, or labels and a pointer. Pointers are not followed.
fn owner_len(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let len = usize::from(*rest.get(at)?);
        match len {
            0 => return Some(at + 1),
            1..=63 => at += len + 1,
            0xC0.. => return rest.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at > 255 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(counts: [u8; 4], rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0xAB, 0xCD, 0x01, 0x10];
        for count in counts {
            p.extend([0, count]);
        }
        p.extend(rest);
        p
    }

    #[test]
    fn reads_a_plain_question() {
        let p = packet([1, 0, 0, 0], b"\x03WwW\x04Sale\x00\x00\x1c\x00\x01");
        let q = read_query(&p).unwrap();
        assert_eq!(q.name.wire(), b"\x03www\x04sale\x00");
        assert_eq!((q.id, q.qtype, q.qclass), (0xABCD, 28, 1));
        assert!(q.recursion_desired && q.edns.is_none());
        assert_eq!(q.question, &p[12..]);
    }

    #[test]
    fn reads_an_opt_record() {
        let p =
            packet([1, 0, 0, 1], b"\x00\x00\x02\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x04\x00\x03\x00\x00");
        let edns = read_query(&p).unwrap().edns.unwrap();
        assert_eq!((edns.udp_size_bytes, edns.version, edns.dnssec_ok, edns.nsid), (1232, 0, true, true));
    }

    #[test]
    fn silence_for_what_is_no_query() {
        assert!(matches!(read_query(&[0; 11]), Err(Malformed::Silent)));
        let mut answer = packet([1, 0, 0, 0], b"\x00\x00\x01\x00\x01");
        answer[2] |= 0x80;
        assert!(matches!(read_query(&answer), Err(Malformed::Silent)));
    }

    #[test]
    fn format_errors() {
        for (why, p, question, edns) in [
            ("no question", packet([0, 0, 0, 0], b""), false, false),
            ("two questions", packet([2, 0, 0, 0], b"\x00\x00\x01\x00\x01\x00\x00\x01\x00\x01"), true, false),
            ("pointer in the question", packet([1, 0, 0, 0], b"\xc0\x0c\x00\x01\x00\x01"), false, false),
            ("cut off name", packet([1, 0, 0, 0], b"\x05abc"), false, false),
            ("cut off type", packet([1, 0, 0, 0], b"\x00\x00\x01\x00"), false, false),
            ("an answer section", packet([1, 1, 0, 0], b"\x00\x00\x01\x00\x01"), true, false),
            ("a missing record", packet([1, 0, 0, 1], b"\x00\x00\x01\x00\x01"), true, false),
            (
                "two OPT records",
                packet([1, 0, 0, 2], &[&b"\x00\x00\x01\x00\x01"[..], &OPT_EMPTY, &OPT_EMPTY].concat()),
                true,
                true,
            ),
            (
                "OPT below a name",
                packet([1, 0, 0, 1], b"\x00\x00\x01\x00\x01\x01a\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"),
                true,
                true,
            ),
        ] {
            match read_query(&p) {
                Err(Malformed::Form { question: q, edns: e, .. }) => {
                    assert_eq!((q.is_some(), e.is_some()), (question, edns), "{why}");
                }
                other => panic!("{why}: {other:?}"),
            }
        }
    }

    const OPT_EMPTY: [u8; 11] = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
}
