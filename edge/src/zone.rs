//! The zone: every name it has, with records encoded once, when the configuration is read.
//!
//! Must never hold a name outside itself, nor a set whose answer depends on the client: those are marked `dynamic` and
//! filled in by `answer`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::rr::{RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use crate::config::{RegionConfig, ZoneConfig};
use crate::limits::ZONE_NAMES_MAX;
use crate::wire::{Name, NameError, QueryName, rtype};

/// Records of one type at one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RrSet {
    /// Type.
    pub rtype: u16,
    /// Life in caches, in seconds.
    pub ttl_s: u32,
    /// Contents in wire format, names uncompressed.
    pub data: Vec<Box<[u8]>>,
}

/// What the zone has at one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Fixed records.
    pub sets: Vec<RrSet>,
    /// True where A, AAAA and HTTPS are those of the chosen region.
    pub dynamic: bool,
}

impl Node {
    /// The fixed records of a type.
    pub fn set(&self, rtype: u16) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }
}

/// Where a name from a question lies.
#[derive(Debug)]
pub enum Found<'z> {
    /// Not in this zone.
    Outside,
    /// In the zone, but there is no such name.
    Missing,
    /// There.
    Here(&'z Node),
}

/// Why a zone cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A record lies outside the zone.
    #[error("{0} is not in the zone {1}")]
    Outside(String, String),
    /// A record's type or content cannot be read.
    #[error("record {name} {rtype}: {why}")]
    Record {
        /// Owner.
        name: String,
        /// Type as written.
        rtype: String,
        /// What is wrong.
        why: String,
    },
    /// The zone as a whole is wrong.
    #[error("{0}")]
    Whole(String),
}

/// A zone, ready to answer from.
#[derive(Clone, Debug)]
pub struct Zone {
    apex: Name,
    names: HashMap<Box<[u8]>, Node, foldhash::fast::RandomState>,
    soa: RrSet,
    negative_ttl_s: u32,
}

impl Zone {
    /// Builds the zone.
    ///
    /// # Errors
    /// [`ZoneError`] with the record that is wrong.
    pub fn build(config: &ZoneConfig, regions: &[RegionConfig]) -> Result<Self, ZoneError> {
        let apex = Name::parse(&config.name)?;
        let soa = soa(config)?;
        let mut zone = Self {
            names: HashMap::default(),
            // One life everywhere, so that a SOA asked for does not outlive a no that it came with.
            soa: RrSet { rtype: rtype::SOA, ttl_s: config.ttl_s.min(config.negative_ttl_s), data: vec![soa] },
            negative_ttl_s: config.negative_ttl_s.min(config.ttl_s),
            apex: apex.clone(),
        };
        let top = zone.node(&apex)?;
        top.sets.push(RrSet { rtype: rtype::SOA, ttl_s: config.ttl_s, data: Vec::new() });
        zone.add_nameservers(config)?;
        for record in &config.records {
            let owner = zone.owner(&record.name)?;
            let (rtype, data) = encode_record(&owner, &record.rtype, &record.data)?;
            zone.add(&owner, rtype, record.ttl_s.unwrap_or(config.ttl_s), data)?;
        }
        if config.region_names {
            for region in regions {
                let owner = zone.owner(&region.name)?;
                for address in &region.addresses {
                    zone.add_address(&owner, config.ttl_s, *address)?;
                }
            }
        }
        let sale_names = if config.sale_names.is_empty() { vec!["@".to_owned()] } else { config.sale_names.clone() };
        for name in &sale_names {
            let owner = zone.owner(name)?;
            zone.node(&owner)?.dynamic = true;
        }
        zone.finish()
    }

    /// The zone's own name.
    pub fn apex(&self) -> &Name {
        &self.apex
    }

    /// The SOA record, and its life in a no (RFC 2308 §3), in seconds.
    pub fn soa(&self) -> (&RrSet, u32) {
        (&self.soa, self.negative_ttl_s)
    }

    /// Looks a name up; `name` is lower case, in wire format.
    pub fn find(&self, name: &[u8]) -> Found<'_> {
        if let Some(node) = self.names.get(name) {
            return Found::Here(node);
        }
        let mut rest = name;
        while let Some((&len, tail)) = rest.split_first() {
            if rest == self.apex.wire() {
                return Found::Missing;
            }
            rest = if len == 0 { &[] } else { tail.get(usize::from(len)..).unwrap_or_default() };
        }
        Found::Outside
    }

    /// Octets of `name` that stand before the zone's own name; for names inside the zone.
    pub fn apex_offset(&self, name: &QueryName) -> usize {
        name.wire().len().saturating_sub(self.apex.wire().len())
    }

    /// An owner as the configuration writes it.
    fn owner(&self, text: &str) -> Result<Name, ZoneError> {
        let name = match text {
            "@" => self.apex.clone(),
            _ if text.ends_with('.') => Name::parse(text)?,
            _ => {
                // "sale.example" is often meant to be absolute; taken so when it lies in the zone.
                let absolute = Name::parse(text)?;
                if absolute.is_under(&self.apex) { absolute } else { Name::parse(&format!("{text}.{}", self.apex))? }
            }
        };
        if name.is_under(&self.apex) {
            Ok(name)
        } else {
            Err(ZoneError::Outside(text.to_owned(), self.apex.to_string()))
        }
    }

    /// The node of a name; names between it and the zone's own come to be, empty, so that they are no NXDOMAIN.
    fn node(&mut self, name: &Name) -> Result<&mut Node, ZoneError> {
        let mut above = name.parent();
        while let Some(name) = above.filter(|n| n.is_under(&self.apex)) {
            self.names.entry(name.wire().into()).or_default();
            above = name.parent();
        }
        if self.names.len() >= ZONE_NAMES_MAX {
            return Err(ZoneError::Whole(format!("more than {ZONE_NAMES_MAX} names")));
        }
        Ok(self.names.entry(name.wire().into()).or_default())
    }

    fn add(&mut self, owner: &Name, rtype: u16, ttl_s: u32, data: Box<[u8]>) -> Result<(), ZoneError> {
        let node = self.node(owner)?;
        match node.sets.iter_mut().find(|set| set.rtype == rtype) {
            Some(set) if set.data.contains(&data) => {}
            Some(set) => set.data.push(data),
            None => node.sets.push(RrSet { rtype, ttl_s, data: vec![data] }),
        }
        Ok(())
    }

    fn add_address(&mut self, owner: &Name, ttl_s: u32, address: IpAddr) -> Result<(), ZoneError> {
        match address {
            IpAddr::V4(v4) => self.add(owner, rtype::A, ttl_s, v4.octets().into()),
            IpAddr::V6(v6) => self.add(owner, rtype::AAAA, ttl_s, v6.octets().into()),
        }
    }

    fn add_nameservers(&mut self, config: &ZoneConfig) -> Result<(), ZoneError> {
        if config.nameservers.is_empty() {
            return Err(ZoneError::Whole("a zone needs a name server".to_owned()));
        }
        let apex = self.apex.clone();
        for server in &config.nameservers {
            let name = Name::parse(&server.name)?;
            self.add(&apex, rtype::NS, config.ttl_s, name.wire().into())?;
            if !name.is_under(&apex) {
                continue;
            }
            if server.addresses.is_empty() {
                return Err(ZoneError::Whole(format!("name server {name} lies in the zone and needs addresses")));
            }
            for address in &server.addresses {
                self.add_address(&name, config.ttl_s, *address)?;
            }
        }
        Ok(())
    }

    /// Checks what only the whole zone shows (RFC 1034 §3.6.2, RFC 2181 §10.1): an alias stands alone, below the apex.
    fn finish(mut self) -> Result<Self, ZoneError> {
        for (wire, node) in &self.names {
            let alias = node.set(rtype::CNAME);
            let alone = node.sets.len() == 1 && !node.dynamic && alias.is_none_or(|set| set.data.len() == 1);
            if alias.is_some() && !alone {
                return Err(ZoneError::Whole(format!(
                    "{:?}: an alias (CNAME) stands alone",
                    String::from_utf8_lossy(wire)
                )));
            }
            let address = |t| node.set(t).is_some();
            if node.dynamic && (address(rtype::A) || address(rtype::AAAA) || address(rtype::HTTPS)) {
                return Err(ZoneError::Whole(format!(
                    "{:?}: a sale's name gets its addresses from the regions, not from records",
                    String::from_utf8_lossy(wire)
                )));
            }
        }
        let soa = self.soa.clone();
        if let Some(set) =
            self.names.get_mut(self.apex.wire()).and_then(|n| n.sets.iter_mut().find(|s| s.rtype == rtype::SOA))
        {
            *set = soa;
        }
        Ok(self)
    }
}

fn soa(config: &ZoneConfig) -> Result<Box<[u8]>, ZoneError> {
    let primary =
        config.nameservers.first().ok_or_else(|| ZoneError::Whole("a zone needs a name server".to_owned()))?;
    let mut data = Name::parse(&primary.name)?.wire().to_vec();
    data.extend_from_slice(Name::parse(&config.contact)?.wire());
    let [refresh, retry, expire] = config.times_s;
    for number in [config.serial, refresh, retry, expire, config.negative_ttl_s] {
        data.extend_from_slice(&number.to_be_bytes());
    }
    Ok(data.into_boxed_slice())
}

/// Content in wire format, names in lower case and uncompressed: the message in which it will stand is not known yet.
fn encode_record(owner: &Name, rtype: &str, text: &str) -> Result<(u16, Box<[u8]>), ZoneError> {
    let wrong = |why: String| ZoneError::Record { name: owner.to_string(), rtype: rtype.to_owned(), why };
    let kind = RecordType::from_str(rtype).map_err(|e| wrong(e.to_string()))?;
    if matches!(kind, RecordType::SOA | RecordType::NS | RecordType::ANAME) {
        return Err(wrong("SOA and NS come from the zone's own keys; there are no delegations".to_owned()));
    }
    let data = RData::try_from_str(kind, text).map_err(|e| wrong(e.to_string()))?;
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_canonical_form(true);
    data.emit(&mut encoder).map_err(|e| wrong(e.to_string()))?;
    if bytes.len() > 4096 {
        return Err(wrong("over 4,096 octets".to_owned()));
    }
    Ok((u16::from(kind), bytes.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(toml: &str) -> Result<Zone, ZoneError> {
        let base = "name = 'sale.test'\nnameservers = [{name='ns1.sale.test', addresses=['192.0.2.1']}]\ncontact='h.sale.test'\n";
        Zone::build(&toml::from_str(&format!("{base}{toml}")).unwrap(), &[])
    }

    fn wire(name: &str) -> Name {
        Name::parse(name).unwrap()
    }

    #[test]
    fn knows_inside_outside_and_empty_names() {
        let zone = build("[[record]]\nname='a.b'\ntype='TXT'\ndata='\"x\"'").unwrap();
        assert!(matches!(zone.find(wire("a.b.sale.test").wire()), Found::Here(n) if n.set(rtype::TXT).is_some()));
        assert!(matches!(zone.find(wire("b.sale.test").wire()), Found::Here(n) if n.sets.is_empty()));
        assert!(matches!(zone.find(wire("c.sale.test").wire()), Found::Missing));
        assert!(matches!(zone.find(wire("test").wire()), Found::Outside));
        assert!(matches!(zone.find(wire("wholesale.test").wire()), Found::Outside));
        assert!(matches!(zone.find(wire("sale.test").wire()), Found::Here(n) if n.dynamic));
    }

    #[test]
    fn records_are_encoded_without_compression() {
        let zone = build("[[record]]\nname='@'\ntype='MX'\ndata='10 Mail.Sale.Test.'").unwrap();
        let Found::Here(apex) = zone.find(wire("sale.test").wire()) else { panic!("no apex") };
        assert_eq!(&*apex.set(rtype::MX).unwrap().data[0], b"\x00\x0a\x04mail\x04sale\x04test\x00");
    }

    mod rtype {
        pub(super) use super::super::rtype::*;
        pub(super) const MX: u16 = 15;
    }

    #[test]
    fn refuses_what_cannot_be_served() {
        for (toml, says) in [
            ("[[record]]\nname='x.'\ntype='A'\ndata='192.0.2.1'", "not in the zone"),
            ("[[record]]\nname='x'\ntype='A'\ndata='nonsense'", "record x.sale.test. A"),
            ("[[record]]\nname='x'\ntype='NOPE'\ndata='1'", "record x.sale.test. NOPE"),
            ("[[record]]\nname='@'\ntype='A'\ndata='192.0.2.1'", "from the regions"),
            ("[[record]]\nname='@'\ntype='CNAME'\ndata='a.'", "stands alone"),
            ("[[record]]\nname='*'\ntype='A'\ndata='192.0.2.1'", "no wildcards"),
        ] {
            let error = build(toml).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
