//! The configuration file of a region node: of a local cluster's, and of those that tests, benches and drills start.

use crate::cluster::certificates::TlsFiles;
use crate::cluster::secrets::SecretFiles;
use crate::cluster::{PostgresAccess, RedisAccess};
use anyhow::Result;
use region_api::RegionName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// All roles of a node.
pub const ALL_ROLES: [&str; 3] = ["intake", "allocator", "recycler"];

/// What a node is told; whatever is left out here has the node's own default.
#[derive(Debug, Clone, Copy)]
pub struct NodeConfig<'a> {
    /// Its region.
    pub region: &'a RegionName,
    /// Its own folder for the witness of the book numbers.
    pub state_dir: &'a Path,
    /// `intake`, `allocator`, `recycler`.
    pub roles: &'a [&'a str],
    /// Threads of its runtime; as many as processors when absent.
    pub worker_threads: Option<usize>,
    /// For buyers.
    pub public: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
    /// The region's database.
    pub postgres: &'a PostgresAccess,
    /// The region's queue.
    pub redis: &'a RedisAccess,
    /// Keys, tokens and passwords.
    pub secrets: &'a SecretFiles,
    /// Base URL of the sandbox provider.
    pub sandbox_url: &'a str,
    /// Names and public addresses of the other regions.
    pub peers: &'a [(RegionName, SocketAddr)],
    /// How it reaches the arbiters; absent in a standalone region.
    pub arbiter: Option<&'a ArbiterAccess>,
    /// What the region can take; the node's defaults when absent.
    pub room: Option<Room>,
}

/// What a region can take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Room {
    /// Joins per second, as the edges are told.
    pub capacity_per_s: f64,
    /// Reservations that may wait to be decided.
    pub queue_max: u64,
}

/// How a region reaches the arbiters, and who it is to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArbiterAccess {
    /// Base URLs of all arbiters, for machines.
    pub urls: Vec<String>,
    /// The region's certificate.
    #[serde(flatten)]
    pub tls: TlsFiles,
    /// How long it sells without having heard from them; the node's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autonomy_ms: Option<u64>,
}

#[derive(Serialize)]
struct File<'a> {
    region: &'a str,
    state_dir: &'a Path,
    roles: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_threads: Option<usize>,
    public: Public,
    admin: Admin<'a>,
    postgres: Postgres<'a>,
    redis: Redis<'a>,
    keys: Keys<'a>,
    payments: Payments<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intake: Option<Room>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arbiter: Option<&'a ArbiterAccess>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    peers: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct Public {
    listen: SocketAddr,
    base_url: String,
}

#[derive(Serialize)]
struct Admin<'a> {
    listen: SocketAddr,
    operator_token_file: &'a Path,
    reader_token_file: &'a Path,
    door_token_file: &'a Path,
}

#[derive(Serialize)]
struct Postgres<'a> {
    host: String,
    port: u16,
    user: &'a str,
    database: &'a str,
    password_file: &'a Path,
}

#[derive(Serialize)]
struct Redis<'a> {
    urls: [&'a str; 1],
    password_file: &'a Path,
}

#[derive(Serialize)]
struct Keys<'a> {
    ring_file: &'a Path,
    ticket_key_file: &'a Path,
}

#[derive(Serialize)]
struct Payments<'a> {
    provider: &'a str,
    api_url: &'a str,
    secret_key_file: &'a Path,
    webhook_secret_file: &'a Path,
}

impl NodeConfig<'_> {
    /// The file's text. Secrets are named by their files, so the text itself is none.
    pub fn text(&self) -> Result<String> {
        let (secrets, postgres, redis) = (self.secrets, self.postgres, self.redis);
        let file = File {
            region: self.region.as_str(),
            state_dir: self.state_dir,
            roles: self.roles,
            worker_threads: self.worker_threads,
            public: Public { listen: self.public, base_url: format!("http://{}", self.public) },
            admin: Admin {
                listen: self.admin,
                operator_token_file: &secrets.operator_token,
                reader_token_file: &secrets.reader_token,
                door_token_file: &secrets.door_token,
            },
            postgres: Postgres {
                host: postgres.host.to_string(),
                port: postgres.port,
                user: &postgres.user,
                database: &postgres.database,
                password_file: &postgres.password_file,
            },
            redis: Redis { urls: [&redis.url], password_file: &redis.password_file },
            keys: Keys { ring_file: &secrets.ring, ticket_key_file: &secrets.ticket_key },
            payments: Payments {
                provider: "sandbox",
                api_url: self.sandbox_url,
                secret_key_file: &secrets.payment_key,
                webhook_secret_file: &secrets.webhook_secret,
            },
            intake: self.room,
            arbiter: self.arbiter,
            peers: self.peers.iter().map(|(region, public)| (region.as_str(), format!("http://{public}"))).collect(),
        };
        Ok(format!("# Written by `cargo ops`; changes are overwritten.\n{}", toml::to_string(&file)?))
    }
}
