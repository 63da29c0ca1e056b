//! Reads any answer into a form that can be compared, names decompressed; independent of the edge's own code.

use std::fmt;

/// An answer, or why it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) id: u16,
    pub(crate) opcode: u8,
    pub(crate) aa: bool,
    pub(crate) tc: bool,
    pub(crate) rd: bool,
    /// RA, Z, AD, CD.
    pub(crate) other_flags: u8,
    pub(crate) rcode: u16,
    pub(crate) question: Vec<u8>,
    /// Answer, authority, additional without OPT; each sorted.
    pub(crate) sections: [Vec<Record>; 3],
    pub(crate) opt: Option<Opt>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Vec<u8>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} c{} t{} {}",
            self.name,
            self.ttl,
            self.class,
            self.rtype,
            String::from_utf8_lossy(&self.data).escape_debug()
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opt {
    pub(crate) size: u16,
    pub(crate) version: u8,
    pub(crate) flags: u16,
    pub(crate) options: Vec<(u16, Vec<u8>)>,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

fn name_at(b: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end, mut jumps) = (String::new(), None, 0);
    loop {
        let len = usize::from(*b.get(at)?);
        match len {
            0 => {
                return Some((
                    if name.is_empty() { ".".to_owned() } else { name.to_ascii_lowercase() },
                    end.unwrap_or(at + 1),
                ));
            }
            1..=63 => {
                for octet in b.get(at + 1..at + 1 + len)? {
                    name.extend(std::ascii::escape_default(*octet).map(char::from));
                }
                name.push('.');
                at += 1 + len;
            }
            _ => {
                jumps += 1;
                let to = usize::from(u16_at(b, at)? & 0x3FFF);
                if jumps > 20 || len < 0xC0 || to >= at {
                    return None;
                }
                end = end.or(Some(at + 2));
                at = to;
            }
        }
    }
}

/// Contents with names spelt out, since servers compress as they like.
fn data_at(b: &[u8], rtype: u16, at: usize, len: usize) -> Option<Vec<u8>> {
    let raw = b.get(at..at + len)?;
    let names_from = match rtype {
        2 | 5 | 12 => 0,
        15 => 2,
        6 => {
            let (mname, next) = name_at(b, at)?;
            let (rname, next) = name_at(b, next)?;
            return Some([mname.as_bytes(), rname.as_bytes(), b.get(next..at + len)?].concat());
        }
        _ => return Some(raw.to_vec()),
    };
    let (name, _) = name_at(b, at + names_from)?;
    Some([&raw[..names_from], name.as_bytes()].concat())
}

impl Read {
    pub(crate) fn from(b: &[u8]) -> Option<Self> {
        let (f2, f3) = (*b.get(2)?, *b.get(3)?);
        let counts = [u16_at(b, 4)?, u16_at(b, 6)?, u16_at(b, 8)?, u16_at(b, 10)?];
        let mut at = 12;
        for _ in 0..counts[0] {
            // The question is repeated as it came, not compressed.
            at = name_at(b, at)?.1 + 4;
        }
        let question = b.get(12..at)?.to_vec();
        let mut sections: [Vec<Record>; 3] = Default::default();
        let mut opt = None;
        let mut rcode = u16::from(f3 & 0x0F);
        for (section, count) in sections.iter_mut().zip(&counts[1..]) {
            for _ in 0..*count {
                let (name, next) = name_at(b, at)?;
                let (rtype, class) = (u16_at(b, next)?, u16_at(b, next + 2)?);
                let (high, low) = (u16_at(b, next + 4)?, u16_at(b, next + 6)?);
                let len = usize::from(u16_at(b, next + 8)?);
                at = next + 10 + len;
                if rtype == 41 {
                    rcode |= (high >> 8) << 4;
                    opt = Some(Opt {
                        size: class,
                        version: high as u8,
                        flags: low,
                        options: options(b.get(next + 10..at)?)?,
                    });
                } else {
                    let data = data_at(b, rtype, next + 10, len)?;
                    section.push(Record { name, rtype, class, ttl: u32::from(high) << 16 | u32::from(low), data });
                }
            }
            section.sort();
        }
        (at == b.len()).then_some(Self {
            id: u16_at(b, 0)?,
            opcode: f2 >> 3 & 0xF,
            aa: f2 & 4 != 0,
            tc: f2 & 2 != 0,
            rd: f2 & 1 != 0,
            other_flags: f3 >> 4,
            rcode,
            question,
            sections,
            opt,
        })
    }

    pub(crate) fn option(&self, code: u16) -> Option<&[u8]> {
        self.opt.as_ref()?.options.iter().find(|(c, _)| *c == code).map(|(_, d)| d.as_slice())
    }
}

fn options(mut b: &[u8]) -> Option<Vec<(u16, Vec<u8>)>> {
    let mut all = Vec::new();
    while !b.is_empty() {
        let (code, len) = (u16_at(b, 0)?, usize::from(u16_at(b, 2)?));
        all.push((code, b.get(4..4 + len)?.to_vec()));
        b = &b[4 + len..];
    }
    all.sort();
    Some(all)
}
