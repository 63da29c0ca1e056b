//! A local cluster as `cluster.json` describes it: every address, and where the operator's credentials lie.
//!
//! Written by `up` alone, once everything is ready; read by every other command. Credentials are never in it, only the
//! paths of the files that hold them.

pub mod arbiter_config;
pub mod arbiters;
pub mod certificates;
pub mod client;
pub mod edge_config;
pub mod home;
pub mod layout;
pub mod node_config;
pub mod secrets;

use crate::cli::Failure;
use anyhow::{Context as _, Result};
use certificates::TlsFiles;
use home::Home;
use region_api::RegionName;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The content of `cluster.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Regions, in the order in which they were started.
    pub regions: Vec<Region>,
    /// Name servers that send buyers to regions.
    #[serde(default)]
    pub edges: Vec<Edge>,
    /// Arbiters; none where the region is standalone.
    #[serde(default)]
    pub arbiters: Vec<Arbiter>,
    /// What an operator shows to the arbiters.
    #[serde(default)]
    pub operator_certificate: Option<TlsFiles>,
    /// File with the operators' bearer token for the arbiters' port for people.
    #[serde(default)]
    pub people_token_file: Option<PathBuf>,
    /// The sandbox payment provider.
    pub sandbox: Option<Sandbox>,
    /// File with the key ring of ids and tokens, the same in every region.
    pub key_ring_file: PathBuf,
    /// Folder for the records of crowds (`load`), which `verify` holds the books against.
    pub records_folder: PathBuf,
}

/// One region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Its name.
    pub region: RegionName,
    /// Base URL for buyers.
    pub public: String,
    /// Base URL for operators.
    pub admin: String,
    /// Where it stands on earth, for the edges: latitude and longitude in degrees.
    #[serde(default)]
    pub position: Option<[f64; 2]>,
    /// File with the operators' bearer token.
    pub operator_token_file: PathBuf,
    /// File with the door's bearer token.
    pub door_token_file: PathBuf,
    /// File with the public key that checks tickets offline (PEM).
    pub ticket_public_key_file: PathBuf,
    /// Its database.
    pub postgres: PostgresAccess,
    /// Its queue.
    pub redis: RedisAccess,
    /// The node's folder: configuration, log, state.
    pub node_folder: PathBuf,
}

/// One edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Its name.
    pub edge: String,
    /// Where it answers DNS, over UDP and TCP.
    pub dns: SocketAddr,
    /// Base URL for operators.
    pub admin: String,
    /// The zone, and the name that buyers ask for.
    pub zone: String,
    /// File with the operators' bearer token.
    pub operator_token_file: PathBuf,
    /// The edge's folder: configuration, log, state.
    pub folder: PathBuf,
}

/// One arbiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arbiter {
    /// Its raft id.
    pub id: u64,
    /// Base URL for machines, with mutual TLS.
    pub address: String,
    /// Base URL for people, with TLS and a bearer token.
    pub people: String,
    /// Its log and snapshots.
    pub data_dir: PathBuf,
}

/// How to reach a region's database as the region does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresAccess {
    /// Address.
    pub host: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// File with the role's password.
    pub password_file: PathBuf,
}

/// How to reach a region's Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisAccess {
    /// `redis://…`, without the password.
    pub url: String,
    /// File with the password.
    pub password_file: PathBuf,
}

/// The sandbox payment provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Base URL.
    pub url: String,
    /// File with the seller's API key.
    pub secret_key_file: PathBuf,
    /// File with the bearer token of its control interface.
    pub control_token_file: PathBuf,
}

impl Cluster {
    /// Reads the running cluster's description; the error says how to start one.
    pub fn read(home: &Home) -> Result<Self> {
        let file = home.cluster_file();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let why =
                    format!("no cluster is running ({} is not there): start one with `cargo ops up`", file.display());
                return Err(Failure::Unreachable(why).into());
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        serde_json::from_str(&text).with_context(|| format!("{} is not what `up` writes", file.display()))
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, home: &Home) -> Result<()> {
        let (file, new) = (home.cluster_file(), home.cluster_file().with_extension("json.new"));
        std::fs::write(&new, serde_json::to_string_pretty(self)? + "\n")
            .and_then(|()| std::fs::rename(&new, &file))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// One region by name, or the first.
    pub fn region(&self, name: Option<&RegionName>) -> Result<&Region> {
        let found = match name {
            Some(name) => self.regions.iter().find(|region| region.region == *name),
            None => self.regions.first(),
        };
        let names: Vec<&str> = self.regions.iter().map(|region| region.region.as_str()).collect();
        found.ok_or_else(|| {
            Failure::Usage(format!("no such region in this cluster; it has: {}", names.join(", "))).into()
        })
    }
}

/// Reads a file that holds one secret on one line.
pub fn read_secret(file: &std::path::Path) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading the credential {}", file.display()))?;
    Ok(text.trim_end().to_owned())
}
