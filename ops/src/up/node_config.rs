//! The configuration file of a region node in a local cluster.

use crate::cluster::layout::{RegionLayout, SANDBOX};
use crate::cluster::secrets::SecretFiles;
use crate::cluster::{PostgresAccess, RedisAccess};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

#[derive(Serialize)]
struct NodeConfig<'a> {
    region: &'a str,
    state_dir: &'a Path,
    roles: [&'a str; 3],
    public: Public,
    admin: Admin<'a>,
    postgres: Postgres<'a>,
    redis: Redis<'a>,
    keys: Keys<'a>,
    payments: Payments<'a>,
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
    api_url: String,
    secret_key_file: &'a Path,
    webhook_secret_file: &'a Path,
}

/// The file's text. Secrets are named by their files, so the text itself is none. Whatever is left out here has the
/// node's own default.
pub(super) fn text(
    layout: &RegionLayout,
    all: &[RegionLayout],
    state_dir: &Path,
    secrets: &SecretFiles,
    postgres: &PostgresAccess,
    redis: &RedisAccess,
) -> Result<String> {
    let others = all.iter().filter(|other| other.region != layout.region);
    let config = NodeConfig {
        region: layout.region.as_str(),
        state_dir,
        roles: ["intake", "allocator", "recycler"],
        public: Public { listen: layout.public(), base_url: format!("http://{}", layout.public()) },
        admin: Admin {
            listen: layout.admin(),
            operator_token_file: &secrets.operator_token,
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
            api_url: format!("http://{SANDBOX}"),
            secret_key_file: &secrets.payment_key,
            webhook_secret_file: &secrets.webhook_secret,
        },
        peers: others.map(|other| (other.region.as_str(), format!("http://{}", other.public()))).collect(),
    };
    Ok(format!("# Written by `cargo ops up`; changes are overwritten.\n{}", toml::to_string(&config)?))
}
