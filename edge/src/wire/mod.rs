//! The DNS wire format, as much of it as an authoritative server needs: reading queries, writing answers.
//!
//! Reading is our own because every malformed packet must get the one answer that the RFCs give it, without
//! allocating; records with content (`zone`) are encoded by `hickory-proto` when the configuration is read.
//! Nothing here may panic on any bytes, do I/O, or read a clock.

mod name;
mod option;
mod query;
mod writer;

pub use name::{Name, NameError};
pub(crate) use option::code as option_code;
pub use option::{ClientCookie, ClientSubnet, Edns, OptionError};
pub use query::{Malformed, Query, QueryName, read_query};
pub use writer::{AnswerWriter, Section};

/// Record types that the server itself speaks of (IANA registry "DNS parameters").
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Host information; carries the answer to ANY (RFC 8482).
    pub const HINFO: u16 = 13;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS pseudo-record (RFC 6891).
    pub const OPT: u16 = 41;
    /// Service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Service binding for HTTPS (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// All records.
    pub const ANY: u16 = 255;
}

/// Classes that the server tells apart.
pub mod class {
    /// The Internet.
    pub const IN: u16 = 1;
    /// Chaos: questions about the server itself.
    pub const CH: u16 = 3;
    /// Any class, in questions only.
    pub const ANY: u16 = 255;
}

/// Response codes that the server gives. Those over 15 need an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Rcode {
    /// No error.
    NoError = 0,
    /// The query is malformed.
    FormErr = 1,
    /// Something is wrong here, not with the query.
    ServFail = 2,
    /// No such name.
    NxDomain = 3,
    /// Not a kind of query that this server knows.
    NotImp = 4,
    /// Not for this server to answer.
    Refused = 5,
    /// EDNS of a version above 0 (RFC 6891 §9).
    BadVers = 16,
}
