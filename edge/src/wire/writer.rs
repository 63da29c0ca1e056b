//! Writing an answer within a limit of bytes.
//!
//! What does not fit is taken back whole: an answer that lost records says so (TC) and carries none of them, so that no
//! resolver takes half a set for all of it. Room for the OPT record is kept from the start.

use super::Rcode;

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// The SOA record of a no.
    Authority,
    /// Addresses of name servers; left out first when there is no room.
    Additional,
}

/// An answer being written. Offsets are those of the message, so `out` holds nothing else.
#[derive(Debug)]
pub struct AnswerWriter<'b> {
    out: &'b mut Vec<u8>,
    limit_bytes: usize,
    question_end: usize,
    counts: [u16; 3],
    truncated: bool,
}

impl<'b> AnswerWriter<'b> {
    /// Begins an answer of at most `limit_bytes`, its OPT record of `reserve_bytes` included. `flags` are octets three and
    /// four of the header; the response code's low bits are put in at the end.
    pub fn new(
        out: &'b mut Vec<u8>,
        limit_bytes: usize,
        reserve_bytes: usize,
        id: u16,
        flags: [u8; 2],
        question: &[u8],
    ) -> Self {
        out.clear();
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&flags);
        out.extend_from_slice(&[0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(question);
        let question_end = out.len();
        Self {
            out,
            limit_bytes: limit_bytes.saturating_sub(reserve_bytes),
            question_end,
            counts: [0; 3],
            truncated: false,
        }
    }

    /// Where the next record begins, in bytes from the message's start.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// Appends a record whose owner is a pointer to offset `owner` (below 2¹⁴) in this message.
    pub fn record(&mut self, section: Section, owner: usize, rtype: u16, ttl_s: u32, data: &[u8]) {
        let Ok(data_len) = u16::try_from(data.len()) else { return self.no_room(section) };
        if self.truncated {
            return;
        }
        if self.out.len() + 12 + data.len() > self.limit_bytes || owner > 0x3FFF {
            return self.no_room(section);
        }
        let pointer = 0xC000u16 | owner as u16;
        let mut fixed = [0u8; 12];
        fixed[..2].copy_from_slice(&pointer.to_be_bytes());
        fixed[2..4].copy_from_slice(&rtype.to_be_bytes());
        fixed[4..6].copy_from_slice(&super::class::IN.to_be_bytes());
        fixed[6..10].copy_from_slice(&ttl_s.to_be_bytes());
        fixed[10..12].copy_from_slice(&data_len.to_be_bytes());
        self.out.extend_from_slice(&fixed);
        self.out.extend_from_slice(data);
        self.counts[section as usize] += 1;
    }

    /// Says that the answer comes from the zone's own data.
    pub fn set_authoritative(&mut self) {
        self.out[2] |= 0x04;
    }

    /// Appends a TXT record in class CHAOS; `data` is its content.
    pub fn chaos_text(&mut self, data: &[u8]) {
        let class_at = self.out.len() + 4;
        self.record(Section::Answer, 12, super::rtype::TXT, 0, data);
        if let Some(class) = self.out.get_mut(class_at..class_at + 2) {
            class.copy_from_slice(&super::class::CH.to_be_bytes());
        }
    }

    /// Records in the additional section are a courtesy and are left out; any other loss truncates the answer.
    fn no_room(&mut self, section: Section) {
        if section != Section::Additional {
            self.truncate();
        }
    }

    /// Drops every record and says so in the header.
    pub fn truncate(&mut self) {
        self.out.truncate(self.question_end);
        self.counts = [0; 3];
        self.truncated = true;
    }

    /// True once records were lost.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Ends the answer: code, counts, and the OPT record when there is one (`opt` is all of it).
    pub fn finish(mut self, rcode: Rcode, opt: Option<&[u8]>) {
        if let Some(opt) = opt {
            self.out.extend_from_slice(opt);
            self.counts[Section::Additional as usize] += 1;
        }
        if self.truncated {
            self.out[2] |= 0x02;
        }
        self.out[3] = (self.out[3] & 0xF0) | (rcode as u16 & 0x0F) as u8;
        for (i, count) in self.counts.iter().enumerate() {
            self.out[6 + 2 * i..8 + 2 * i].copy_from_slice(&count.to_be_bytes());
        }
    }
}
