//! Geo databases in MaxMind DB format, of any of the usual shapes: flat (`country_code`), GeoIP2 (`country.iso_code`,
//! `location.latitude`), AS numbers (`autonomous_system_number`).
//!
//! A file is walked once when it is read: every record is decoded then, so that a damaged file is refused before it is
//! used and a look-up is a walk down the tree and one table access. Must never be changed in place: a new file is a new value.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use maxminddb::Reader;
use serde::Deserialize;

use super::{Continent, Located, Point, countries};
use crate::limits::GEO_RECORDS_MAX;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The file cannot be read or is damaged.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: maxminddb::MaxMindDbError,
    },
    /// The file is sound but of no use.
    #[error("{path}: {why}")]
    Useless {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// One database in memory.
#[derive(Debug)]
pub struct GeoDatabase {
    path: PathBuf,
    reader: Reader<Vec<u8>>,
    records: HashMap<usize, Located, foldhash::fast::RandomState>,
}

/// Databases asked in order.
#[derive(Debug, Default)]
pub struct GeoSet(Vec<GeoDatabase>);

/// The fields of all usual shapes; those absent stay empty.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    country_code: Option<&'a str>,
    #[serde(borrow, default)]
    country: Option<CountryPart<'a>>,
    #[serde(borrow, default)]
    continent: Option<ContinentPart<'a>>,
    #[serde(default)]
    location: Option<LocationPart>,
    #[serde(default)]
    latitude: Option<f64>,
    #[serde(default)]
    longitude: Option<f64>,
    #[serde(default, alias = "asn")]
    autonomous_system_number: Option<u32>,
}

#[derive(Deserialize)]
struct CountryPart<'a> {
    #[serde(borrow, default)]
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct ContinentPart<'a> {
    #[serde(borrow, default)]
    code: Option<&'a str>,
}

#[derive(Deserialize)]
struct LocationPart {
    #[serde(default)]
    latitude: Option<f64>,
    #[serde(default)]
    longitude: Option<f64>,
}

impl Record<'_> {
    fn located(&self) -> Located {
        let code = self.country_code.or(self.country.as_ref().and_then(|c| c.iso_code));
        let country = code.and_then(|c| c.parse().ok());
        let known = country.and_then(|c| countries().get(&c));
        let continent: Option<Continent> = self.continent.as_ref().and_then(|c| c.code).and_then(|c| c.parse().ok());
        let (latitude, longitude) =
            self.location.as_ref().map_or((self.latitude, self.longitude), |l| (l.latitude, l.longitude));
        let position = latitude.zip(longitude).and_then(|(lat, lon)| Point::from_degrees(lat, lon));
        Located {
            country,
            continent: continent.or(known.map(|(c, _)| *c)),
            position: position.or(known.map(|(_, p)| *p)),
            asn: self.autonomous_system_number,
            scope: 0,
        }
    }
}

impl GeoDatabase {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`GeoError`] when it is unreadable, damaged, or says nothing about any network.
    pub fn open(path: &Path) -> Result<Self, GeoError> {
        let damaged = |source| GeoError::Database { path: path.to_owned(), source };
        let useless = |why: &str| GeoError::Useless { path: path.to_owned(), why: why.to_owned() };
        let reader = Reader::open_readfile(path).map_err(damaged)?;
        let mut records: HashMap<usize, Located, foldhash::fast::RandomState> = HashMap::default();
        for found in reader.networks(maxminddb::WithinOptions::default()).map_err(damaged)? {
            let found = found.map_err(damaged)?;
            let Some(offset) = found.offset() else { continue };
            if records.contains_key(&offset) {
                continue;
            }
            if records.len() >= GEO_RECORDS_MAX {
                return Err(useless("too many different records"));
            }
            let record: Option<Record<'_>> = found.decode().map_err(damaged)?;
            records.insert(offset, record.map(|r| r.located()).unwrap_or_default());
        }
        if records.values().all(|r| *r == Located::default()) {
            return Err(useless("no country, position or AS number in any record"));
        }
        Ok(Self { path: path.to_owned(), reader, records })
    }

    /// What the file says about an address; `scope` is the network's prefix length.
    fn find(&self, address: IpAddr) -> Located {
        let Ok(found) = self.reader.lookup(address) else { return Located::default() };
        let mut located = found.offset().and_then(|o| self.records.get(&o)).copied().unwrap_or_default();
        located.scope = match (address, found.network()) {
            (IpAddr::V4(_), Ok(network)) if network.is_ipv4() => network.prefix(),
            (IpAddr::V6(_), Ok(network)) => network.prefix(),
            // A file of the other family only: every address of this one is alike.
            _ => 0,
        };
        located
    }
}

impl GeoSet {
    /// Reads all files.
    ///
    /// # Errors
    /// [`GeoError`] of the first that is wrong.
    pub fn open(paths: &[PathBuf]) -> Result<Self, GeoError> {
        paths.iter().map(|path| GeoDatabase::open(path)).collect::<Result<_, _>>().map(Self)
    }

    /// What all files say about an address: of each part, the first that knows it.
    pub fn find(&self, address: IpAddr) -> Located {
        let mut all = Located::default();
        for database in &self.0 {
            let one = database.find(address);
            all.country = all.country.or(one.country);
            all.continent = all.continent.or(one.continent);
            all.position = all.position.or(one.position);
            all.asn = all.asn.or(one.asn);
            all.scope = all.scope.max(one.scope);
        }
        all
    }

    /// Every network of the first file, with its country; for writing it out for other programs.
    ///
    /// # Errors
    /// [`GeoError`] when the file turns out damaged.
    pub fn networks(&self) -> Result<Vec<(IpNet, Located)>, GeoError> {
        let Some(first) = self.0.first() else { return Ok(Vec::new()) };
        let damaged = |source| GeoError::Database { path: first.path.clone(), source };
        let mut all = Vec::new();
        for found in first.reader.networks(maxminddb::WithinOptions::default()).map_err(damaged)? {
            let found = found.map_err(damaged)?;
            let network = found.network().map_err(damaged)?;
            let Ok(network) = IpNet::new(network.network(), network.prefix()) else { continue };
            let located = found.offset().and_then(|o| first.records.get(&o)).copied().unwrap_or_default();
            all.push((network, located));
        }
        Ok(all)
    }

    /// One line for each file: path, type, when it was built, how many different records.
    pub fn describe(&self) -> Vec<String> {
        let line = |d: &GeoDatabase| {
            let metadata = d.reader.metadata();
            let built = metadata.build_epoch;
            format!(
                "{}: {}, built {built} (Unix time), {} records",
                d.path.display(),
                metadata.database_type,
                d.records.len()
            )
        };
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_country_file_that_comes_along() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/country.mmdb");
        let set = GeoSet(vec![GeoDatabase::open(&path).unwrap()]);
        let google = set.find("8.8.8.8".parse().unwrap());
        assert_eq!(google.country.unwrap().to_string(), "US");
        assert_eq!(google.continent, Some(Continent::NorthAmerica));
        assert!(google.scope >= 8 && google.scope <= 32);
        let ripe = set.find("2001:67c:2e8::1".parse().unwrap());
        assert_eq!(ripe.country.unwrap().to_string(), "NL");
        assert_eq!(set.find("127.0.0.1".parse().unwrap()).country, None);
    }

    #[test]
    fn refuses_what_is_no_database() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.mmdb");
        std::fs::write(&path, b"not a database").unwrap();
        assert!(GeoDatabase::open(&path).unwrap_err().to_string().contains("bad.mmdb"));
        // A good file cut off in the middle is refused as well: every record is read at the start.
        let good = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/country.mmdb")).unwrap();
        std::fs::write(&path, &good[good.len() / 2..]).unwrap();
        assert!(GeoDatabase::open(&path).is_err());
    }
}
