//! The configuration file of an edge: of a local cluster's, and of those that tests start.

use anyhow::Result;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// One region as an edge is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct EdgeRegion {
    /// Its name.
    pub name: String,
    /// Addresses of its front door; buyers know the port.
    pub addresses: Vec<IpAddr>,
    /// Where it stands on earth: latitude and longitude in degrees.
    pub position: [f64; 2],
    /// Where buyers reach it.
    pub public: SocketAddr,
    /// Where operators reach it.
    pub admin: SocketAddr,
}

/// What an edge is told; whatever is left out here has the edge's own default.
#[derive(Debug, Clone, Copy)]
pub struct EdgeConfig<'a> {
    /// DNS, over UDP and TCP.
    pub dns: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
    /// File with the bearer token of its own operators.
    pub operator_token_file: &'a Path,
    /// File with the bearer token that shows it the regions' state, and does nothing else there.
    pub reader_token_file: &'a Path,
    /// File with the secret of its DNS cookies.
    pub cookies_file: &'a Path,
    /// The zone; its own name is the sale's.
    pub zone: &'a str,
    /// Addresses of all name servers of the zone.
    pub nameservers: &'a [IpAddr],
    /// The regions.
    pub regions: &'a [EdgeRegion],
    /// Time between health checks, milliseconds; the edge's own when absent.
    pub check_every_ms: Option<u64>,
}

#[derive(Serialize)]
struct File<'a> {
    listen: [SocketAddr; 1],
    admin: SocketAddr,
    admin_token_file: &'a Path,
    state_folder: &'a str,
    zone: Zone<'a>,
    answers: Answers<'a>,
    geo: Geo,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
    region: Vec<Region<'a>>,
}

#[derive(Serialize)]
struct Zone<'a> {
    name: &'a str,
    contact: String,
    nameservers: Vec<Nameserver>,
}

#[derive(Serialize)]
struct Nameserver {
    name: String,
    addresses: [IpAddr; 1],
}

#[derive(Serialize)]
struct Answers<'a> {
    cookie_secret_file: &'a Path,
    rate: Rate,
}

#[derive(Serialize)]
struct Rate {
    exempt: [&'static str; 1],
}

#[derive(Serialize)]
struct Geo {
    databases: [&'static str; 1],
}

#[derive(Serialize)]
struct Health {
    interval_ms: u64,
}

#[derive(Serialize)]
struct Region<'a> {
    name: &'a str,
    addresses: &'a [IpAddr],
    position: [f64; 2],
    ready_url: String,
    status_url: String,
    status_token_file: &'a Path,
}

/// The country database's name beside an edge's configuration.
pub const DATABASE: &str = "country.mmdb";

impl EdgeConfig<'_> {
    /// The file's text. Secrets are named by their files, so the text itself is none. The database is expected beside
    /// it as [`DATABASE`], the state below it.
    pub fn text(&self) -> Result<String> {
        let nameserver = |(address, number): (&IpAddr, usize)| Nameserver {
            name: format!("ns{number}.{}", self.zone),
            addresses: [*address],
        };
        let file = File {
            listen: [self.dns],
            admin: self.admin,
            admin_token_file: self.operator_token_file,
            state_folder: "state",
            zone: Zone {
                name: self.zone,
                contact: format!("hostmaster.{}", self.zone),
                nameservers: self.nameservers.iter().zip(1..).map(nameserver).collect(),
            },
            // A crowd that asks from this machine comes from one network, whatever networks it stands for.
            answers: Answers { cookie_secret_file: self.cookies_file, rate: Rate { exempt: ["127.0.0.0/8"] } },
            geo: Geo { databases: [DATABASE] },
            health: self.check_every_ms.map(|interval_ms| Health { interval_ms }),
            region: self.regions.iter().map(|region| self.region(region)).collect(),
        };
        Ok(format!("# Written by `cargo ops`; changes are overwritten.\n{}", toml::to_string(&file)?))
    }

    fn region<'a>(&'a self, region: &'a EdgeRegion) -> Region<'a> {
        Region {
            name: &region.name,
            addresses: &region.addresses,
            position: region.position,
            ready_url: format!("http://{}/readyz", region.public),
            // What it says of its queues and stock.
            status_url: format!("http://{}/v1/status", region.admin),
            status_token_file: self.reader_token_file,
        }
    }
}
