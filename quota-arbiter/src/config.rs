//! An arbiter's configuration: a TOML file, overridden by `BOXOFFICE_ARBITER_…` variables (`__` stands for a dot).
//!
//! Every error names the key. Secrets are never in the file, only the paths of the files that hold them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use quota_protocol::{RegionId, Tickets, policy::Policy};
use serde::{Deserialize, Deserializer, de::Error as _};
use thiserror::Error;
use url::Url;

use crate::{
    command::{Address, Founding},
    limits::HISTORY_SIZE_DEFAULT_BYTES,
    node::NodeConfig,
    raft::Settings,
    state::POOL,
};

/// Why the configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A key is missing, unknown, of the wrong type or out of bounds.
    #[error("configuration key `{key}` ({source_name}): {problem}")]
    Key {
        /// Dotted path of the key.
        key: String,
        /// The file or the environment variable that it came from.
        source_name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file cannot be used.
    #[error("configuration key `{key}`: file {path}: {problem}", path = path.display())]
    File {
        /// Dotted path of the key.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Everything an arbiter is told at start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its raft id: from 1, and never one that was used before.
    pub id: u64,
    /// Where its log lies.
    pub data_dir: PathBuf,
    /// Where it listens for regions, arbiters and programs: mutual TLS.
    pub machines: SocketAddr,
    /// Where it listens for people: TLS and a token.
    pub people: SocketAddr,
    /// Between two ticks; an election takes ten to twenty of them.
    #[serde(default = "tick_ms")]
    pub tick_ms: u64,
    /// Bytes of log after which a snapshot is made.
    #[serde(default = "log_size_max_bytes")]
    pub log_size_max_bytes: u64,
    /// Bytes of committed commands kept behind the last snapshot, for `verify` and the audit.
    #[serde(default = "history_size_max_bytes")]
    pub history_size_max_bytes: u64,
    /// Certificates.
    pub tls: TlsFiles,
    /// Who may come in at the people's port.
    pub operators: Operators,
    /// The cluster.
    pub cluster: Cluster,
    /// The leader's knobs.
    #[serde(default)]
    pub policy: PolicyConfig,
}

/// `[tls]`: PEM files, read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The cluster's authority.
    pub ca_file: PathBuf,
    /// This arbiter's certificate, and what leads from it to the authority.
    pub certificate_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// `[operators]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operators {
    /// File with a bearer token of the people's port; the audit calls whoever uses it `operator`.
    pub token_file: Option<PathBuf>,
    /// People with tokens of their own, under whose names the audit has what they order.
    #[serde(default)]
    pub people: Vec<Person>,
}

/// `[[operators.people]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// As the audit names them.
    pub name: String,
    /// SHA-256 of their token, in hexadecimal (`printf %s TOKEN | sha256sum`): who reads this file cannot act as them.
    pub token_sha256: String,
}

/// `[cluster]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// An empty node that waits to be added.
    #[serde(default)]
    pub join: bool,
    /// The first members; of a node that joins: whom it may meet.
    pub members: Vec<MemberConfig>,
    /// Regions that are known from the start.
    #[serde(default)]
    pub regions: Vec<RegionId>,
}

/// One member.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its raft id.
    pub id: u64,
    /// Base URL for machines.
    #[serde(deserialize_with = "address")]
    pub address: Url,
    /// Base URL for people.
    #[serde(deserialize_with = "address")]
    pub people: Url,
}

/// `[policy]`: what is left out is as in the protocol's own default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Between two reports of a region.
    pub heartbeat_ms: Option<u64>,
    /// How long a region should be able to sell without the arbiters.
    pub autonomy_target_ms: Option<u64>,
    /// Tickets that an allocator decides in one batch.
    pub batch: Option<u32>,
    /// Weight that a region has without any demand.
    pub weight_floor: Option<u32>,
    /// How far ahead demand counts.
    pub horizon_ms: Option<u64>,
    /// From a region to the arbiters and back.
    pub round_trip_ms: Option<u64>,
    /// How close to its target a region is left alone.
    pub tolerance_percent: Option<u64>,
    /// How long a region is left alone after it gave or got.
    pub cooldown_ms: Option<u64>,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    Url::parse(&text).map_err(|error| D::Error::custom(format!("{text:?} is not an address: {error}")))
}
fn tick_ms() -> u64 {
    100
}
fn log_size_max_bytes() -> u64 {
    crate::limits::LOG_SIZE_MAX_BYTES
}
fn history_size_max_bytes() -> u64 {
    HISTORY_SIZE_DEFAULT_BYTES
}

/// Variables with the prefix that are not configuration keys.
const OTHER_VARIABLES: [&str; 2] = ["config", "log"];

impl Config {
    /// Reads the file and the `BOXOFFICE_ARBITER_…` variables.
    ///
    /// # Errors
    /// Naming the key.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::File {
            key: "--config".into(),
            path: file.into(),
            problem: error.to_string(),
        })?;
        Self::from_toml(&text, &file.display().to_string())
    }

    /// The same from text; `source_name` is what errors call it.
    ///
    /// # Errors
    /// Naming the key.
    pub fn from_toml(text: &str, source_name: &str) -> Result<Self, ConfigError> {
        let environment = Env::prefixed("BOXOFFICE_ARBITER_").ignore(&OTHER_VARIABLES).split("__");
        let figment = Figment::from(Toml::string(text)).merge(environment);
        let config: Self = figment.extract().map_err(|error| explain(error, source_name))?;
        config.check(source_name)?;
        Ok(config)
    }

    fn check(&self, source_name: &str) -> Result<(), ConfigError> {
        let bad = |key: &str, problem: &str| {
            Err(ConfigError::Key { key: key.into(), source_name: source_name.into(), problem: problem.into() })
        };
        if self.id == 0 {
            return bad("id", "must be at least 1");
        }
        if !(10..=10_000).contains(&self.tick_ms) {
            return bad("tick_ms", "must be between 10 and 10000");
        }
        if self.log_size_max_bytes < 10_000 {
            return bad("log_size_max_bytes", "must be at least 10000");
        }
        let ids = self.cluster.members.iter().map(|member| member.id).collect::<BTreeSet<_>>();
        if ids.len() != self.cluster.members.len() || ids.contains(&0) {
            return bad("cluster.members", "ids must be at least 1, and each there once");
        }
        if !self.cluster.join && !ids.contains(&self.id) {
            return bad("cluster.members", "must name this arbiter itself; or set cluster.join = true");
        }
        for member in &self.cluster.members {
            for url in [&member.address, &member.people] {
                if url.scheme() != "https" || url.host_str().is_none() {
                    return bad("cluster.members", "addresses must be https ones");
                }
            }
        }
        if self.cluster.regions.iter().any(|region| region.as_str() == POOL) {
            return bad("cluster.regions", "no region can be called `pool`");
        }
        let heartbeat_ms = self.policy.heartbeat_ms.unwrap_or(1_000);
        if !(50..=arbiter_api::limits::WAIT_MS_MAX).contains(&heartbeat_ms) {
            return bad("policy.heartbeat_ms", "must be between 50 and 10000");
        }
        if self.policy.batch == Some(0) {
            return bad("policy.batch", "must be at least 1");
        }
        Ok(())
    }

    /// The ids of the first members.
    pub fn voters(&self) -> Vec<u64> {
        self.cluster.members.iter().map(|member| member.id).collect()
    }

    /// Where the log lies.
    pub fn log_file(&self) -> PathBuf {
        self.data_dir.join("raft.redb")
    }

    /// What the node's thread is told.
    pub fn node(&self) -> NodeConfig {
        let plain = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        let address = |member: &MemberConfig| {
            (member.id, Address { address: plain(&member.address), people: plain(&member.people) })
        };
        let members = self.cluster.members.iter().map(address).collect::<BTreeMap<_, _>>();
        NodeConfig {
            raft: Settings { log_size_max_bytes: self.log_size_max_bytes, ..Settings::new(self.id) },
            tick: Duration::from_millis(self.tick_ms),
            policy: self.policy.policy(),
            founding: Founding { members, regions: self.cluster.regions.clone() },
        }
    }
}

impl PolicyConfig {
    fn policy(&self) -> Policy {
        let usual = Policy::default();
        Policy {
            batch: self.batch.map_or(usual.batch, Tickets::from_u32),
            weight_floor: self.weight_floor.map_or(usual.weight_floor, Tickets::from_u32),
            horizon_ms: self.horizon_ms.unwrap_or(usual.horizon_ms),
            heartbeat_ms: self.heartbeat_ms.unwrap_or(usual.heartbeat_ms),
            round_trip_ms: self.round_trip_ms.unwrap_or(usual.round_trip_ms),
            autonomy_target_ms: self.autonomy_target_ms.unwrap_or(usual.autonomy_target_ms),
            tolerance_percent: self.tolerance_percent.unwrap_or(usual.tolerance_percent),
            cooldown_ms: self.cooldown_ms.unwrap_or(usual.cooldown_ms),
        }
    }
}

fn explain(error: figment::Error, file: &str) -> ConfigError {
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains("environment"));
    let mut path = error.path.clone();
    if let figment::error::Kind::MissingField(name) = &error.kind {
        path.push(name.to_string());
    }
    let key = if path.is_empty() { "(top level)".into() } else { path.join(".") };
    let source_name = if from_environment {
        format!("environment BOXOFFICE_ARBITER_{}", path.join("__").to_uppercase())
    } else {
        file.to_owned()
    };
    ConfigError::Key { key, source_name, problem: error.kind.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        id = 1
        data_dir = "arbiter-1"
        machines = "127.0.21.1:7400"
        people = "127.0.21.1:9080"
        [tls]
        ca_file = "ca.pem"
        certificate_file = "arbiter-1.pem"
        key_file = "arbiter-1-key.pem"
        [operators]
        token_file = "token"
        [cluster]
        members = [{ id = 1, address = "https://127.0.21.1:7400", people = "https://127.0.21.1:9080" }]
        regions = ["east", "west"]
    "#;

    #[test]
    fn what_is_left_out_is_as_usual() {
        let config = Config::from_toml(GOOD, "file").unwrap();
        assert_eq!((config.tick_ms, config.voters()), (100, vec![1]));
        assert_eq!(config.node().policy, Policy::default());
        assert_eq!(config.node().founding.members[&1].address, "https://127.0.21.1:7400");
    }

    #[test]
    fn errors_name_the_key() {
        let refused = |from: &str, to: &str| {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            Config::from_toml(&text, "file").unwrap_err().to_string()
        };
        assert!(refused("id = 1\n", "id = 0\n").contains("`id`"));
        assert!(refused("ca_file = \"ca.pem\"", "").contains("`tls.ca_file`"));
        assert!(refused("\"west\"", "\"pool\"").contains("`cluster.regions`"));
        assert!(refused("{ id = 1,", "{ id = 2,").contains("`cluster.members`"));
        assert!(refused("https://127.0.21.1:9080", "http://127.0.21.1:9080").contains("`cluster.members`"));
        assert!(refused("[cluster]", "[policy]\nheartbeat_ms = 1\n[cluster]").contains("`policy.heartbeat_ms`"));
        assert!(refused("[cluster]", "[policies]\n[cluster]").contains("policies"));
    }
}
