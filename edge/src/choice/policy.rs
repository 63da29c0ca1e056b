//! The fixed half of the choice, checked: regions, where they stand, and what the operator prefers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use super::RegionIdx;
use crate::config::{ChoiceConfig, RegionConfig};
use crate::geo::{Continent, Country, NetworkMap, Point, countries};
use crate::limits::{OVERRIDES_MAX, REGIONS_MAX};

/// Why the regions or preferences cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PolicyError {
    /// No region, or more than the edge takes.
    #[error("{0} regions: from 1 to {REGIONS_MAX} are possible")]
    Count(usize),
    /// A region's entry is wrong.
    #[error("region {0:?}: {1}")]
    Region(String, &'static str),
    /// A preference names a region that is not configured.
    #[error("{0}: there is no region {1:?}")]
    Unknown(String, String),
    /// A preference's country or continent is none.
    #[error("{0:?} is no country or continent code")]
    Code(String),
    /// Too many overrides.
    #[error("more than {OVERRIDES_MAX} overrides")]
    Overrides,
}

/// What is fixed about a region.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionPolicy {
    /// Name.
    pub name: String,
    /// IPv4 addresses of the front door.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 addresses of the front door.
    pub v6: Vec<Ipv6Addr>,
    /// Where it stands.
    pub position: Option<Point>,
    /// Factor on distances.
    pub bias: f64,
    /// Part among equally near ones.
    pub weight: u32,
    /// Operators whose users come here first.
    pub asns: Vec<u32>,
}

/// The fixed half of the choice.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Regions in the configuration's order.
    pub regions: Vec<RegionPolicy>,
    /// Preferences by network: the value is an index into `override_lists`.
    pub overrides: NetworkMap,
    /// Regions of each override.
    pub override_lists: Vec<(IpNet, Vec<RegionIdx>)>,
    /// Preferences by country.
    pub countries: HashMap<Country, Vec<RegionIdx>, foldhash::fast::RandomState>,
    /// Preferences by continent.
    pub continents: HashMap<Continent, Vec<RegionIdx>, foldhash::fast::RandomState>,
    /// Distances this close count as equal, in kilometres.
    pub tie_km: f64,
    /// Seed of the sticky hash.
    pub sticky_seed: u64,
    /// For each region the others, nearest first: where its users are handed over to.
    pub neighbours: Vec<Vec<RegionIdx>>,
}

impl Policy {
    /// Checks and builds.
    ///
    /// # Errors
    /// [`PolicyError`] with what is wrong.
    pub fn build(choice: &ChoiceConfig, regions: &[RegionConfig]) -> Result<Self, PolicyError> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(PolicyError::Count(regions.len()));
        }
        if choice.overrides.len() > OVERRIDES_MAX {
            return Err(PolicyError::Overrides);
        }
        let mut names = HashSet::new();
        if let Some(twice) = regions.iter().find(|r| !names.insert(&r.name)) {
            return Err(PolicyError::Region(twice.name.clone(), "configured twice"));
        }
        let find = |place: &str, name: &String| {
            let at = regions.iter().position(|r| r.name == *name);
            at.map(|at| RegionIdx(at as u8)).ok_or_else(|| PolicyError::Unknown(place.to_owned(), name.clone()))
        };
        let list = |place: &str, names: &[String]| names.iter().map(|n| find(place, n)).collect::<Result<Vec<_>, _>>();
        let mut overrides = NetworkMap::default();
        let mut override_lists = Vec::with_capacity(choice.overrides.len());
        for one in &choice.overrides {
            overrides.insert(one.network, override_lists.len() as u32);
            override_lists.push((one.network, list(&one.network.to_string(), &one.regions)?));
        }
        let regions = regions.iter().map(region).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            neighbours: neighbours(&regions),
            regions,
            overrides,
            override_lists,
            countries: preferences(&choice.countries, list)?,
            continents: preferences(&choice.continents, list)?,
            tie_km: choice.tie_km.max(0.0),
            sticky_seed: choice.sticky_seed,
        })
    }

    /// A region by name.
    pub fn find(&self, name: &str) -> Option<RegionIdx> {
        self.regions.iter().position(|r| r.name == name).map(|at| RegionIdx(at as u8))
    }

    /// A region's fixed half.
    pub fn region(&self, region: RegionIdx) -> &RegionPolicy {
        &self.regions[region.at()]
    }
}

fn preferences<K: FromStr + Eq + std::hash::Hash>(
    from: &BTreeMap<String, Vec<String>>,
    list: impl Fn(&str, &[String]) -> Result<Vec<RegionIdx>, PolicyError>,
) -> Result<HashMap<K, Vec<RegionIdx>, foldhash::fast::RandomState>, PolicyError> {
    let one = |(code, names): (&String, &Vec<String>)| {
        let key = code.parse().map_err(|_| PolicyError::Code(code.clone()))?;
        Ok((key, list(code, names)?))
    };
    from.iter().map(one).collect()
}

fn region(config: &RegionConfig) -> Result<RegionPolicy, PolicyError> {
    let wrong = |why| PolicyError::Region(config.name.clone(), why);
    let name = &config.name;
    let label = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !label || !(1..=63).contains(&name.len()) {
        return Err(wrong("a name is 1 to 63 of a-z, 0-9, '-'"));
    }
    if config.addresses.is_empty() || config.addresses.len() > 16 {
        return Err(wrong("needs 1 to 16 addresses"));
    }
    // A bias of 0 would put a region first everywhere, a negative one would turn the order round.
    if !(0.01..=100.0).contains(&config.bias) {
        return Err(wrong("bias is from 0.01 to 100"));
    }
    let position = match (&config.position, &config.country) {
        (Some([lat, lon]), _) => {
            Some(Point::from_degrees(*lat, *lon).ok_or_else(|| wrong("position is [latitude, longitude] in degrees"))?)
        }
        (None, Some(code)) => {
            let country: Country = code.parse().map_err(|_| PolicyError::Code(code.clone()))?;
            Some(countries().get(&country).ok_or_else(|| PolicyError::Code(code.clone()))?.1)
        }
        (None, None) => None,
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in &config.addresses {
        match address {
            std::net::IpAddr::V4(a) => v4.push(*a),
            std::net::IpAddr::V6(a) => v6.push(*a),
        }
    }
    Ok(RegionPolicy {
        name: name.clone(),
        v4,
        v6,
        position,
        bias: config.bias,
        weight: config.weight,
        asns: config.asns.clone(),
    })
}

/// For each region the others, nearest first; those without a position come last, in the configuration's order.
fn neighbours(regions: &[RegionPolicy]) -> Vec<Vec<RegionIdx>> {
    let from = |at: usize| {
        let km = |to: usize| match (regions[at].position, regions[to].position) {
            (Some(a), Some(b)) => a.distance_km(b) * regions[to].bias,
            _ => f64::INFINITY,
        };
        let mut others: Vec<usize> = (0..regions.len()).filter(|to| *to != at).collect();
        others.sort_by(|a, b| km(*a).total_cmp(&km(*b)));
        others.into_iter().map(|to| RegionIdx(to as u8)).collect()
    };
    (0..regions.len()).map(from).collect()
}
