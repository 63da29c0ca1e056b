//! The OPT record of an answer: size, extended code, and the options that the query asked for.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::answer::{Asked, Transport};
use crate::snapshot::Snapshot;
use crate::wire::{Edns, Rcode, rtype};

/// The OPT record, built before the records so that its length is known; the scope is filled in after the choice.
#[derive(Debug, Default)]
pub(super) struct OptRecord {
    bytes: SmallVec<[u8; 128]>,
    scope_at: Option<usize>,
}

/// What the query's OPT record says about its sender.
pub(super) struct Sender {
    /// The OPT record to send back, when one came.
    pub(super) opt: Option<OptRecord>,
    /// The address has been shown to be real.
    pub(super) verified: bool,
}

impl Sender {
    pub(super) fn read(edns: Option<&Edns<'_>>, asked: &Asked, snapshot: &Snapshot) -> Self {
        let tcp = asked.transport == Transport::Tcp;
        let Some(edns) = edns else { return Self { opt: None, verified: tcp } };
        let cookie = edns.cookie.filter(|c| !c.server.is_empty());
        let secrets = &snapshot.cookies;
        let known = cookie.is_some_and(|c| secrets.is_valid(c.client, c.server, asked.from, asked.now_s));
        Self { opt: Some(OptRecord::build(edns, asked, snapshot)), verified: tcp || known }
    }
}

impl OptRecord {
    /// An OPT record without options.
    pub(super) fn plain(udp_max_bytes: usize, dnssec_ok: bool, rcode: Rcode) -> Self {
        let mut record = Self::default();
        record.begin(udp_max_bytes, dnssec_ok);
        record.set_rcode(rcode);
        record
    }

    fn begin(&mut self, udp_max_bytes: usize, dnssec_ok: bool) {
        self.bytes.push(0);
        self.bytes.extend_from_slice(&rtype::OPT.to_be_bytes());
        self.bytes.extend_from_slice(&u16::try_from(udp_max_bytes).unwrap_or(u16::MAX).to_be_bytes());
        self.bytes.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }

    fn build(edns: &Edns<'_>, asked: &Asked, snapshot: &Snapshot) -> Self {
        use crate::wire::option_code as code;
        let rules = &snapshot.rules;
        let mut record = Self::default();
        record.begin(rules.udp_max_bytes, edns.dnssec_ok);
        if let Some(subnet) = edns.subnet.filter(|_| rules.client_subnet) {
            let octets = usize::from(subnet.source_prefix).div_ceil(8);
            let mut data: SmallVec<[u8; 20]> = SmallVec::new();
            data.extend_from_slice(&subnet.family.to_be_bytes());
            data.extend_from_slice(&[subnet.source_prefix, 0]);
            match subnet.address {
                IpAddr::V4(a) => data.extend_from_slice(&a.octets()[..octets]),
                IpAddr::V6(a) => data.extend_from_slice(&a.octets()[..octets]),
            }
            record.option(code::CLIENT_SUBNET, &data);
            record.scope_at = Some(record.bytes.len() - octets - 1);
        }
        if let Some(cookie) = edns.cookie {
            let mut data = [0u8; 24];
            data[..8].copy_from_slice(&cookie.client);
            data[8..].copy_from_slice(&snapshot.cookies.make(cookie.client, asked.from, asked.now_s));
            record.option(code::COOKIE, &data);
        }
        if let Some(nsid) = rules.nsid.as_ref().filter(|_| edns.nsid) {
            record.option(code::NSID, nsid);
        }
        if edns.keepalive && asked.transport == Transport::Tcp {
            record.option(code::TCP_KEEPALIVE, &rules.tcp_idle_100ms.to_be_bytes());
        }
        record
    }

    fn option(&mut self, code: u16, data: &[u8]) {
        self.bytes.extend_from_slice(&code.to_be_bytes());
        self.bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(data);
        let options = (self.bytes.len() - 11) as u16;
        self.bytes[9..11].copy_from_slice(&options.to_be_bytes());
    }

    /// Says for how many bits of the client's address the answer holds.
    pub(super) fn set_scope(&mut self, scope: u8) {
        if let Some(at) = self.scope_at {
            self.bytes[at] = scope;
        }
    }

    /// Puts the high bits of a response code in.
    pub(super) fn set_rcode(&mut self, rcode: Rcode) {
        self.bytes[5] = (rcode as u16 >> 4) as u8;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
