//! The order of regions for one client network, by what is fixed: override, operator, country, continent, distance.
//!
//! Pure and without allocation for up to eight regions; runs once for each query.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use super::{Policy, RegionIdx, unplaced};
use crate::geo::{Continent, Country, GeoSet, Located};

/// The network that asks: what the resolver said, else the resolver itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// First address of the network.
    pub address: IpAddr,
    /// Bits of it that are known.
    pub prefix: u8,
}

/// Why a region stands where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// The operator's preference for a network: index into the policy's lists.
    Override(u32),
    /// The client's operator is one of the region's.
    Operator(u32),
    /// The operator's preference for the country.
    Country(Country),
    /// The operator's preference for the continent.
    Continent(Continent),
    /// By distance.
    Nearest,
    /// The client's place, or the region's, is unknown: by weight alone.
    NoPlace,
}

/// One region in its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Which.
    pub region: RegionIdx,
    /// Why here.
    pub why: Why,
    /// Distance times bias, in kilometres, where both places are known.
    pub effective_km: Option<f64>,
    /// True when it is as near as another, so that weight and the sticky hash put it here.
    pub tied: bool,
}

/// All regions in order.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// The order.
    pub entries: SmallVec<[Ranked; 8]>,
    /// What was known about the client.
    pub located: Located,
    /// Bits of the address that the fixed part was decided by.
    pub scope: u8,
    /// The sticky hash of the client's network.
    pub key: u64,
    /// Bits of the address that went into the hash.
    pub key_bits: u8,
}

/// Orders all regions for a client.
pub fn rank(policy: &Policy, geo: &GeoSet, client: Client) -> Ranking {
    // What a geo database says of a private network is not believed, whoever asks: a resolver, its client, an operator.
    let located = if unplaced(policy, client).is_some() { Located::default() } else { geo.find(client.address) };
    let (override_found, override_scope) = policy.overrides.find(client.address);
    let override_list = override_found.map(|(at, _)| (at, &policy.override_lists[at as usize].1));
    let country = located.country.and_then(|c| Some((c, policy.countries.get(&c)?)));
    let continent = located.continent.and_then(|c| Some((c, policy.continents.get(&c)?)));
    let (key, key_bits) = sticky_key(policy.sticky_seed, client);

    let mut sorted: SmallVec<[(u8, usize, Ranked); 8]> = SmallVec::new();
    for (at, spec) in policy.regions.iter().enumerate() {
        let region = RegionIdx(at as u8);
        let place = |list: &Vec<RegionIdx>| list.iter().position(|r| *r == region);
        let operator = located.asn.filter(|asn| spec.asns.contains(asn));
        let km = located.position.zip(spec.position).map(|(a, b)| a.distance_km(b) * spec.bias);
        let (class, position, why) = if let Some((at, p)) = override_list.and_then(|(at, l)| Some((at, place(l)?))) {
            (0, p, Why::Override(at))
        } else if let Some(asn) = operator {
            (1, 0, Why::Operator(asn))
        } else if let Some((c, p)) = country.and_then(|(c, l)| Some((c, place(l)?))) {
            (2, p, Why::Country(c))
        } else if let Some((c, p)) = continent.and_then(|(c, l)| Some((c, place(l)?))) {
            (3, p, Why::Continent(c))
        } else {
            (4, 0, if km.is_some() { Why::Nearest } else { Why::NoPlace })
        };
        sorted.push((class, position, Ranked { region, why, effective_km: km, tied: false }));
    }
    let km = |r: &Ranked| r.effective_km.unwrap_or(f64::INFINITY);
    sorted.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(km(&a.2).total_cmp(&km(&b.2))));
    settle_ties(policy, key, &mut sorted);
    Ranking {
        entries: sorted.into_iter().map(|(_, _, ranked)| ranked).collect(),
        scope: located.scope.max(override_scope),
        located,
        key,
        key_bits,
    }
}

/// Regions of one class and place that are as near as the nearest of them are put in order by weight and hash.
fn settle_ties(policy: &Policy, key: u64, sorted: &mut [(u8, usize, Ranked)]) {
    let mut start = 0;
    while start < sorted.len() {
        let (class, position, head) = sorted[start];
        let same = |e: &(u8, usize, Ranked)| {
            (e.0, e.1) == (class, position)
                && match (head.effective_km, e.2.effective_km) {
                    (Some(nearest), Some(km)) => km <= nearest + policy.tie_km,
                    (None, None) => true,
                    _ => false,
                }
        };
        let len = sorted[start..].iter().take_while(|e| same(e)).count().max(1);
        if len > 1 {
            let group = &mut sorted[start..start + len];
            group.iter_mut().for_each(|e| e.2.tied = true);
            let score = |e: &(u8, usize, Ranked)| rendezvous(key, e.2.region, policy.region(e.2.region).weight);
            group.sort_by(|a, b| score(a).total_cmp(&score(b)));
        }
        start += len;
    }
}

/// Weighted rendezvous hashing: the smallest score wins, each region in proportion to its weight, and a change of one
/// region's weight moves only the users that it gains or loses.
fn rendezvous(key: u64, region: RegionIdx, weight: u32) -> f64 {
    if weight == 0 {
        return f64::INFINITY;
    }
    let unit = (mix(key, u64::from(region.0)) >> 11) as f64 / (1u64 << 53) as f64;
    -unit.max(f64::MIN_POSITIVE).ln() / f64::from(weight)
}

/// A second hash from the client's, salted.
pub(super) fn mix(key: u64, salt: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key, salt);
    hasher.write_u64(salt);
    hasher.finish()
}

/// The client's network at the width that stays the same for one household or company: /24 and /56, or less if less is known.
fn sticky_key(seed: u64, client: Client) -> (u64, u8) {
    let (bits, width) = match client.address {
        IpAddr::V4(a) => (u128::from(a.to_bits()) << 96, client.prefix.min(24)),
        IpAddr::V6(a) => (a.to_bits(), client.prefix.min(56)),
    };
    let masked = if width == 0 { 0 } else { bits & (u128::MAX << (128 - u32::from(width))) };
    let mut hasher = SipHasher13::new_with_keys(seed, u64::from(client.address.is_ipv6()));
    hasher.write_u128(masked);
    (hasher.finish(), width)
}
