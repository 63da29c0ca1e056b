//! The configuration file: what an operator may say, with defaults, read as a whole or not at all.
//!
//! Only shapes and defaults live here; `snapshot` turns them into checked parts, so that a bad file is refused with one
//! message before anything of the running server changes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::{Deserialize, Serialize};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, is not TOML, or has a key or type that does not belong.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What figment found, with key and line.
        source: Box<figment::Error>,
    },
}

/// Everything an operator says to one edge.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Addresses served over UDP and TCP alike.
    pub listen: Vec<SocketAddr>,
    /// Address of the admin port (HTTP).
    pub admin: SocketAddr,
    /// Who may change something through the admin port: a file with one bearer token. Without it, only loopback may.
    #[serde(default)]
    pub admin_token_file: Option<PathBuf>,
    /// Where the operator's drains are kept over restarts.
    pub state_folder: PathBuf,
    /// UDP sockets, each with a thread of its own; 0: one per core.
    #[serde(default)]
    pub udp_threads: usize,
    /// The zone.
    pub zone: ZoneConfig,
    /// How answers are given.
    #[serde(default)]
    pub answers: AnswersConfig,
    /// TCP limits.
    #[serde(default)]
    pub tcp: TcpConfig,
    /// Geo databases.
    #[serde(default)]
    pub geo: GeoConfig,
    /// How a region is chosen.
    #[serde(default)]
    pub choice: ChoiceConfig,
    /// Health checks.
    #[serde(default)]
    pub health: HealthConfig,
    /// Handing over users of a full region.
    #[serde(default)]
    pub spill: SpillConfig,
    /// The regions.
    #[serde(rename = "region")]
    pub regions: Vec<RegionConfig>,
    /// HAProxy in front of each region's nodes.
    #[serde(default)]
    pub haproxy: crate::haproxy::HaproxyConfig,
}

/// The zone and its fixed records.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneConfig {
    /// The zone's name.
    pub name: String,
    /// Names answered with the chosen region's addresses; the zone's own name when empty.
    #[serde(default)]
    pub sale_names: Vec<String>,
    /// Also serve `<region>.<zone>` with that region's addresses, whatever its health.
    #[serde(default = "yes")]
    pub region_names: bool,
    /// The zone's name servers; addresses are needed for those inside the zone.
    pub nameservers: Vec<NameserverConfig>,
    /// Mailbox of the responsible person, as a domain name.
    pub contact: String,
    /// SOA serial.
    #[serde(default = "one")]
    pub serial: u32,
    /// SOA refresh, retry, expire, in seconds.
    #[serde(default = "soa_times_s")]
    pub times_s: [u32; 3],
    /// Life of a no in caches, in seconds (RFC 2308).
    #[serde(default = "negative_ttl_s")]
    pub negative_ttl_s: u32,
    /// Life of fixed records in caches, in seconds.
    #[serde(default = "static_ttl_s")]
    pub ttl_s: u32,
    /// HTTPS records for the sale's names, with the chosen region's addresses as hints.
    #[serde(default)]
    pub https: Option<HttpsConfig>,
    /// Fixed records.
    #[serde(default, rename = "record")]
    pub records: Vec<RecordConfig>,
}

/// One name server of the zone.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NameserverConfig {
    /// Its name.
    pub name: String,
    /// Its addresses, when its name lies in the zone.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// The service binding of the sale's names (RFC 9460).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpsConfig {
    /// Protocols, best first.
    pub alpn: Vec<String>,
    /// Port, when it is not 443.
    #[serde(default)]
    pub port: Option<u16>,
}

/// One fixed record in presentation format.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// Owner: absolute with a final dot, else below the zone; `@` is the zone itself.
    pub name: String,
    /// Type, by its mnemonic.
    #[serde(rename = "type")]
    pub rtype: String,
    /// Life in caches, in seconds; the zone's when absent.
    #[serde(default)]
    pub ttl_s: Option<u32>,
    /// Content, as in a zone file; names in it are absolute.
    pub data: String,
}

/// How answers are given.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswersConfig {
    /// Shortest life of a chosen address in caches, in seconds.
    pub ttl_min_s: u32,
    /// Longest, in seconds; between them lies the earliest moment at which the answer could change.
    pub ttl_max_s: u32,
    /// Whether client subnets (RFC 7871) are used.
    pub client_subnet: bool,
    /// Largest UDP answer, in bytes.
    pub udp_max_bytes: usize,
    /// Over UDP and without a valid cookie an answer has at most this many times the query's bytes; else it is truncated.
    pub amplification_max: f64,
    /// Identifier given to those who ask for it (RFC 5001); none by default.
    pub nsid: Option<String>,
    /// Answer to `version.bind` and `version.server` in class CHAOS; refused by default.
    pub chaos_version: Option<String>,
    /// File of server-cookie secrets (RFC 9018): 32 hexadecimal digits a line, newest first; edges of one zone share it.
    /// Without it a secret is made at start.
    pub cookie_secret_file: Option<PathBuf>,
    /// Response-rate limit.
    pub rate: RateConfig,
}

impl Default for AnswersConfig {
    fn default() -> Self {
        Self {
            ttl_min_s: 2,
            ttl_max_s: 30,
            client_subnet: true,
            udp_max_bytes: crate::limits::UDP_ANSWER_MAX_BYTES,
            amplification_max: 4.0,
            nsid: None,
            chaos_version: None,
            cookie_secret_file: None,
            rate: RateConfig::default(),
        }
    }
}

/// Limit on answers over UDP to one network, for those without a valid cookie.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateConfig {
    /// Answers of one kind a second to one network; 0: no limit.
    pub responses_per_s: u32,
    /// The same for errors and refusals.
    pub errors_per_s: u32,
    /// Of the answers held back every n-th is sent truncated, so that a real client comes back over TCP; 0: none.
    pub slip: u32,
    /// Networks that are not limited (own resolvers, monitors).
    pub exempt: Vec<ipnet::IpNet>,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self { responses_per_s: 200, errors_per_s: 20, slip: 2, exempt: Vec::new() }
    }
}

/// TCP limits.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpConfig {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_client_max: usize,
    /// A connection is closed when it asks nothing for so long, in milliseconds.
    pub idle_ms: u64,
    /// A query, once begun, and the answer to it, must pass within this time, in milliseconds.
    pub transfer_ms: u64,
    /// A connection is closed after so many queries.
    pub queries_max: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_client_max: 256,
            idle_ms: 10_000,
            transfer_ms: 3_000,
            queries_max: 100_000,
        }
    }
}

/// Geo databases, in MaxMind DB format.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeoConfig {
    /// Files; of two that know the same thing the first counts (say: a country file, then an AS number file).
    pub databases: Vec<PathBuf>,
}

/// How a region is chosen.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChoiceConfig {
    /// Regions nearer than the nearest plus this many kilometres count as equally near; weights decide between them.
    pub tie_km: f64,
    /// Seed of the sticky hash; the same on every edge.
    pub sticky_seed: u64,
    /// Regions to prefer by country (ISO 3166-1 alpha-2).
    pub countries: BTreeMap<String, Vec<String>>,
    /// Regions to prefer by continent (AF, AN, AS, EU, NA, OC, SA).
    pub continents: BTreeMap<String, Vec<String>>,
    /// Regions to prefer by network; the longest that contains the client counts.
    #[serde(rename = "override")]
    pub overrides: Vec<OverrideConfig>,
}

impl Default for ChoiceConfig {
    fn default() -> Self {
        Self {
            tie_km: 100.0,
            sticky_seed: 0,
            countries: BTreeMap::new(),
            continents: BTreeMap::new(),
            overrides: Vec::new(),
        }
    }
}

/// One network and the regions it gets first.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideConfig {
    /// The network.
    pub network: ipnet::IpNet,
    /// The regions, best first.
    pub regions: Vec<String>,
}

/// Health checks and damping.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Time between checks of a region, in milliseconds.
    pub interval_ms: u64,
    /// A check that takes longer is a bad one, in milliseconds.
    pub timeout_ms: u64,
    /// A region that is down comes up after so many good checks in a row.
    pub up_after: u32,
    /// A region that is up goes down after so many bad checks.
    pub down_after: u32,
    /// Bad checks are forgotten after so many good ones in a row.
    pub ok_after: u32,
    /// What a region reported counts for so long, in milliseconds.
    pub report_life_ms: u64,
    /// Certificate (PEM) of who signed the regions' admin ports' certificates, where those speak TLS.
    pub ca_file: Option<PathBuf>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval_ms: 1_000,
            timeout_ms: 900,
            up_after: 20,
            down_after: 10,
            ok_after: 10,
            report_life_ms: 15_000,
            ca_file: None,
        }
    }
}

/// How users of a region that is full, empty or gone are handed over.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpillConfig {
    /// Time between steps, in milliseconds: not below the shortest life of an answer, or a step acts before it is seen.
    pub step_ms: u64,
    /// At most this share of a region's users is moved in one step (0 to 1).
    pub step_share: f64,
    /// A region gives away users above this part of its capacity (0 to 1).
    pub high_water: f64,
    /// A region takes in users up to this part of its capacity (0 to 1).
    pub low_water: f64,
    /// At most this share of a living region's users goes elsewhere (0 to 1): some want to be where they are.
    pub share_max: f64,
}

impl Default for SpillConfig {
    fn default() -> Self {
        Self { step_ms: 5_000, step_share: 0.1, high_water: 0.9, low_water: 0.8, share_max: 0.9 }
    }
}

/// One region.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Its name, one DNS label.
    pub name: String,
    /// Addresses of its front door.
    pub addresses: Vec<IpAddr>,
    /// Where it stands: a country, by its code.
    #[serde(default)]
    pub country: Option<String>,
    /// Where it stands exactly, in degrees: latitude, longitude.
    #[serde(default)]
    pub position: Option<[f64; 2]>,
    /// Distances to it are multiplied by this: below 1 draws users, above 1 keeps them off.
    #[serde(default = "bias")]
    pub bias: f64,
    /// Its part of users who are equally near to several.
    #[serde(default = "one")]
    pub weight: u32,
    /// Operators (autonomous systems) whose users come here first.
    #[serde(default)]
    pub asns: Vec<u32>,
    /// Address of its readiness check; without it the region counts as up.
    #[serde(default)]
    pub ready_url: Option<String>,
    /// Address of its status, for load and stock; without it only pushed reports count.
    #[serde(default)]
    pub status_url: Option<String>,
    /// File with the bearer token for `status_url`.
    #[serde(default)]
    pub status_token_file: Option<PathBuf>,
    /// Arrivals a second that it can take, until it reports its own figure.
    #[serde(default)]
    pub capacity_per_s: Option<f64>,
    /// Its nodes behind HAProxy: host and port of each.
    #[serde(default)]
    pub nodes: Vec<SocketAddr>,
}

fn yes() -> bool {
    true
}
fn one() -> u32 {
    1
}
fn bias() -> f64 {
    1.0
}
fn soa_times_s() -> [u32; 3] {
    [7_200, 900, 1_209_600]
}
fn negative_ttl_s() -> u32 {
    60
}
fn static_ttl_s() -> u32 {
    3_600
}

impl Config {
    /// Reads a TOML file; `EDGE_ADMIN`, `EDGE_STATE_FOLDER` and the like in the environment go before it.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file, the key and the place.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let figment = Figment::from(Toml::file_exact(path)).merge(Env::prefixed("EDGE_").only(&[
            "admin",
            "state_folder",
            "udp_threads",
        ]));
        let mut config: Self = figment
            .extract()
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source: Box::new(source) })?;
        // Paths in the file are relative to the file, so that a folder can be moved as a whole.
        let base = path.parent().unwrap_or(Path::new("."));
        let absolute = |p: &mut PathBuf| {
            if p.is_relative() {
                *p = base.join(&p);
            }
        };
        absolute(&mut config.state_folder);
        config.geo.databases.iter_mut().for_each(absolute);
        config.admin_token_file.iter_mut().for_each(absolute);
        config.health.ca_file.iter_mut().for_each(absolute);
        config.answers.cookie_secret_file.iter_mut().for_each(absolute);
        config.regions.iter_mut().filter_map(|r| r.status_token_file.as_mut()).for_each(absolute);
        let haproxy = &mut config.haproxy;
        let paths = [&mut haproxy.certificate, &mut haproxy.socket, &mut haproxy.file, &mut haproxy.master_socket];
        paths.into_iter().flatten().for_each(absolute);
        Ok(config)
    }
}
