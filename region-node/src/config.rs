//! The node's configuration: a TOML file, overridden by `BOXOFFICE_…` variables, overridden by the command line.
//!
//! Every error names the key and where its value came from. Secrets are never in the file itself, only the paths of the
//! files that hold them; what was read from those prints as `[secret]`.

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use region_api::RegionName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use url::Url;
use zeroize::Zeroizing;

use crate::limits;

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
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
    /// A file that a key names cannot be used.
    #[error("configuration key `{key}`: file {path}: {problem}", path = path.display())]
    File {
        /// Dotted path of the key.
        key: String,
        /// The file that it names.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Text that must not be shown: wiped when dropped, `[secret]` in every format.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text as secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What a node does besides serving HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes reservations into the queue.
    Intake,
    /// Decides them (one node at a time is active).
    Allocator,
    /// Returns what was not paid for; folds sales, tells Redis about final states, retries refunds.
    Recycler,
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "intake" => Ok(Self::Intake),
            "allocator" => Ok(Self::Allocator),
            "recycler" => Ok(Self::Recycler),
            _ => Err(format!("unknown role {text:?}: one of intake, allocator, recycler")),
        }
    }
}

/// Everything a node is told at start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This region's name.
    pub region: RegionName,
    /// Where the node keeps its witness of the book numbers.
    pub state_dir: PathBuf,
    /// What this node does.
    pub roles: Vec<Role>,
    /// Worker threads of the runtime; all cores when absent.
    pub worker_threads: Option<usize>,
    /// The public interface.
    pub public: Public,
    /// The operators' interface.
    pub admin: Admin,
    /// The region's database.
    pub postgres: Postgres,
    /// The region's queue.
    pub redis: Redis,
    /// Group commit.
    pub intake: Intake,
    /// Signing keys.
    pub keys: Keys,
    /// The payment provider.
    pub payments: Payments,
    /// Tokens of an identity provider, if any are accepted.
    pub jwt: Option<Jwt>,
    /// The arbiters; absent in a standalone region.
    pub arbiter: Option<Arbiter>,
    /// Public addresses of the other regions' nodes.
    #[serde(default, deserialize_with = "addresses")]
    pub peers: BTreeMap<RegionName, Url>,
}

/// `[public]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Public {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// What users see before every path; `https` makes the cookies `Secure`.
    #[serde(deserialize_with = "address")]
    pub base_url: Url,
}

/// `[admin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// File with the operators' bearer token.
    pub operator_token_file: PathBuf,
    /// File with the bearer token of those who may look at the region's state and change nothing (an edge, a monitor).
    pub reader_token_file: Option<PathBuf>,
    /// File with the door's bearer token.
    pub door_token_file: PathBuf,
}

/// `[postgres]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// Host name, address or folder of the socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Database.
    pub database: String,
    /// File with the password, if one is needed.
    pub password_file: Option<PathBuf>,
    /// Connections that this node keeps at most.
    pub pool_size: usize,
}

/// `[redis]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:port`, several for a cluster.
    pub urls: Vec<String>,
    /// User, where ACLs are in use.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Whether it is a Redis Cluster.
    pub cluster: bool,
    /// Replicas that must confirm before a `202`.
    pub wait_replicas: u32,
}

/// `[intake]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intake {
    /// A batch goes out at this many items …
    pub batch_items_max: usize,
    /// … or after this long, whichever is first.
    pub batch_wait_max_ms: u64,
    /// Reservations of this node that may await Redis at once; more are refused.
    pub inflight_max: usize,
    /// Queue shards of a new concert.
    pub shards: u16,
    /// Reservations of the region that may wait to be decided; who comes on top is refused.
    pub queue_max: u64,
    /// Joins per second that the region can take, all of its nodes together: told to the edge, which sends its share of
    /// what is more to other regions. Refuses nobody by itself.
    pub capacity_per_s: Option<f64>,
}

/// `[keys]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// JSON file with the key rings of all purposes.
    pub ring_file: PathBuf,
    /// Ed25519 key (PKCS#8 PEM) that signs tickets.
    pub ticket_key_file: PathBuf,
}

/// Which provider takes the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// The sandbox of `ops`.
    Sandbox,
    /// Stripe.
    Stripe,
}

/// `[payments]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payments {
    /// Which provider.
    pub provider: ProviderKind,
    /// Its address.
    #[serde(deserialize_with = "address")]
    pub api_url: Url,
    /// File with the key for its API.
    pub secret_key_file: PathBuf,
    /// File with the secret that signs its webhooks.
    pub webhook_secret_file: PathBuf,
}

/// `[jwt]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// Where the identity provider publishes its keys.
    #[serde(deserialize_with = "address")]
    pub jwks_url: Url,
    /// Required `iss`.
    pub issuer: String,
    /// Required `aud`.
    pub audience: String,
}

/// `[arbiter]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arbiter {
    /// Where they listen for machines, in any order.
    #[serde(deserialize_with = "list")]
    pub urls: Vec<Url>,
    /// File with the certificate of the authority that signs theirs.
    pub ca_file: PathBuf,
    /// File with this region's certificate.
    pub certificate_file: PathBuf,
    /// File with its key.
    pub key_file: PathBuf,
    /// How long the region goes on making holds without word from them.
    #[serde(default = "autonomy_ms_default")]
    pub autonomy_ms: u64,
}

fn autonomy_ms_default() -> u64 {
    quota_protocol::autonomy::AUTONOMY_DEFAULT_MS
}

fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Url>, D::Error> {
    let parse =
        |text: &String| Url::parse(text).map_err(|e| D::Error::custom(format!("{text:?} is not an address: {e}")));
    Vec::<String>::deserialize(deserializer)?.iter().map(parse).collect()
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    Url::parse(&text).map_err(|error| D::Error::custom(format!("{text:?} is not an address: {error}")))
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<RegionName, Url>, D::Error> {
    let texts = BTreeMap::<RegionName, String>::deserialize(deserializer)?;
    let parse = |(region, text): (RegionName, String)| match Url::parse(&text) {
        Ok(url) => Ok((region, url)),
        Err(error) => Err(D::Error::custom(format!("{region}: {text:?} is not an address: {error}"))),
    };
    texts.into_iter().map(parse).collect()
}

/// What applies where the file says nothing.
#[derive(Serialize)]
struct Defaults {
    roles: [Role; 3],
    postgres: PostgresDefaults,
    redis: RedisDefaults,
    intake: IntakeDefaults,
}
#[derive(Serialize)]
struct PostgresDefaults {
    port: u16,
    pool_size: usize,
}
#[derive(Serialize)]
struct RedisDefaults {
    cluster: bool,
    wait_replicas: u32,
}
#[derive(Serialize)]
struct IntakeDefaults {
    batch_items_max: usize,
    batch_wait_max_ms: u64,
    inflight_max: usize,
    shards: u16,
    queue_max: u64,
}

const DEFAULTS: Defaults = Defaults {
    roles: [Role::Intake, Role::Allocator, Role::Recycler],
    postgres: PostgresDefaults { port: 5432, pool_size: 16 },
    redis: RedisDefaults { cluster: false, wait_replicas: 0 },
    intake: IntakeDefaults {
        batch_items_max: 512,
        batch_wait_max_ms: 2,
        inflight_max: 20_000,
        shards: 8,
        queue_max: limits::QUEUE_MAX,
    },
};

/// Variables with the prefix that are not configuration keys.
const OTHER_VARIABLES: [&str; 3] = ["crash_at", "log", "config"];

impl Config {
    /// Reads the file and the `BOXOFFICE_…` variables (`__` stands for a dot: `BOXOFFICE_PUBLIC__LISTEN`).
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|e| ConfigError::File {
            key: "--config".into(),
            path: file.into(),
            problem: e.to_string(),
        })?;
        Self::from_toml(&text, &file.display().to_string())
    }

    /// The same from text; `source_name` is what errors call it.
    pub fn from_toml(text: &str, source_name: &str) -> Result<Self, ConfigError> {
        let environment = Env::prefixed("BOXOFFICE_").ignore(&OTHER_VARIABLES).split("__");
        let figment = Figment::from(Serialized::defaults(DEFAULTS)).merge(Toml::string(text)).merge(environment);
        let config: Self = figment.extract().map_err(|e| explain(e, source_name))?;
        config.check(source_name)?;
        Ok(config)
    }

    /// What types alone do not say.
    fn check(&self, source_name: &str) -> Result<(), ConfigError> {
        let bad = |key: &str, problem: &str| {
            Err(ConfigError::Key { key: key.into(), source_name: source_name.into(), problem: problem.into() })
        };
        if self.worker_threads == Some(0) {
            return bad("worker_threads", "must be at least 1");
        }
        if self.roles.is_empty() {
            return bad("roles", "must name at least one of intake, allocator, recycler");
        }
        if self.redis.urls.is_empty() {
            return bad("redis.urls", "must name at least one server");
        }
        if self.postgres.pool_size < 2 {
            return bad("postgres.pool_size", "must be at least 2");
        }
        if !(1..=1024).contains(&self.intake.shards) {
            return bad("intake.shards", "must be between 1 and 1024");
        }
        if !(1..=10_000).contains(&self.intake.batch_items_max) {
            return bad("intake.batch_items_max", "must be between 1 and 10000");
        }
        if self.intake.batch_wait_max_ms > 1000 {
            return bad("intake.batch_wait_max_ms", "must be at most 1000");
        }
        if self.intake.inflight_max == 0 {
            return bad("intake.inflight_max", "must be at least 1");
        }
        if self.intake.queue_max == 0 {
            return bad("intake.queue_max", "must be at least 1");
        }
        if self.intake.capacity_per_s.is_some_and(|per_s| !(per_s > 0.0 && per_s <= 1e9)) {
            return bad("intake.capacity_per_s", "must be above 0 and at most a thousand million");
        }
        if self.peers.contains_key(&self.region) {
            return bad("peers", "names this region itself");
        }
        if let Some(arbiter) = &self.arbiter {
            if arbiter.urls.is_empty() {
                return bad("arbiter.urls", "must name at least one arbiter");
            }
            if arbiter.urls.iter().any(|url| url.scheme() != "https" || url.host_str().is_none()) {
                return bad("arbiter.urls", "must be https addresses");
            }
            if arbiter.autonomy_ms == 0 {
                return bad("arbiter.autonomy_ms", "must be at least 1");
            }
        }
        let urls = [("public.base_url", &self.public.base_url), ("payments.api_url", &self.payments.api_url)];
        let peers = self.peers.values().map(|url| ("peers", url));
        let jwks = self.jwt.iter().map(|jwt| ("jwt.jwks_url", &jwt.jwks_url));
        for (key, url) in urls.into_iter().chain(peers).chain(jwks) {
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
                return bad(key, "must be an http or https address");
            }
        }
        Ok(())
    }

    /// Whether this node has a role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether cookies must be `Secure`.
    pub fn secure(&self) -> bool {
        self.public.base_url.scheme() == "https"
    }
}

/// Reads a secret's file: its text without the newline at its end. Files that everybody may read are refused.
pub fn read_secret(key: &str, path: &Path) -> Result<Secret, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let bad = |problem: String| ConfigError::File { key: key.into(), path: path.into(), problem };
    let mode = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(bad(format!("mode {:o} lets everybody read a secret; make it 0600", mode & 0o777)));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?);
    let trimmed = text.trim_end_matches(['\r', '\n']);
    if trimmed.is_empty() {
        return Err(bad("is empty".into()));
    }
    Ok(Secret::new(trimmed.to_owned()))
}

fn explain(error: figment::Error, file: &str) -> ConfigError {
    let from_environment = error.metadata.as_ref().is_some_and(|m| m.name.contains("environment"));
    let mut path = error.path.clone();
    if let figment::error::Kind::MissingField(name) = &error.kind {
        path.push(name.to_string());
    }
    let key = if path.is_empty() { "(top level)".into() } else { path.join(".") };
    let source_name = if from_environment {
        format!("environment BOXOFFICE_{}", path.join("__").to_uppercase())
    } else {
        file.to_owned()
    };
    ConfigError::Key { key, source_name, problem: error.kind.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const GOOD: &str = r#"
region = "east"
state_dir = "state"
[public]
listen = "127.0.11.1:8080"
base_url = "http://127.0.11.1:8080"
[admin]
listen = "127.0.11.1:9080"
operator_token_file = "op"
door_token_file = "door"
[postgres]
host = "127.0.11.1"
user = "boxoffice"
database = "boxoffice"
[redis]
urls = ["redis://127.0.11.1:6379"]
[keys]
ring_file = "ring.json"
ticket_key_file = "ticket.pem"
[payments]
provider = "sandbox"
api_url = "http://127.0.41.1:8090"
secret_key_file = "sk"
webhook_secret_file = "whsec"
[peers]
west = "http://127.0.12.1:8080"
"#;

    #[test]
    fn what_the_file_leaves_out_has_its_default() {
        let config = Config::from_toml(GOOD, "node.toml").unwrap();
        assert_eq!(config.roles, [Role::Intake, Role::Allocator, Role::Recycler]);
        assert_eq!((config.postgres.port, config.intake.batch_items_max, config.intake.shards), (5432, 512, 8));
        assert_eq!((config.intake.queue_max, config.intake.capacity_per_s), (10_000_000, None));
        assert!(!config.secure());
    }

    fn check(change: impl Fn(&str) -> String, expected: Expect) {
        expected.assert_eq(&Config::from_toml(&change(GOOD), "node.toml").unwrap_err().to_string());
    }

    #[test]
    fn every_error_names_the_key_and_the_file() {
        check(
            |t| t.replace("region = \"east\"", ""),
            expect!["configuration key `region` (node.toml): missing field `region`"],
        );
        check(
            |t| t.replace("127.0.11.1:9080", "nowhere"),
            expect!["configuration key `admin.listen` (node.toml): invalid socket address syntax"],
        );
        check(
            |t| t.replace("[postgres]", "[postgres]\npool_size = \"many\""),
            expect![[
                r#"configuration key `postgres.pool_size` (node.toml): invalid type: found string "many", expected usize"#
            ]],
        );
        check(
            |t| t.replace("[intake]", "").replace("[keys]", "[intake]\nshards = 5000\n[keys]"),
            expect!["configuration key `intake.shards` (node.toml): must be between 1 and 1024"],
        );
        check(
            |t| t.replace("west =", "east ="),
            expect!["configuration key `peers` (node.toml): names this region itself"],
        );
        check(
            |t| {
                format!(
                    "{t}\n[arbiter]\nurls = [\"http://a\"]\nca_file = \"c\"\ncertificate_file = \"c\"\nkey_file = \"k\""
                )
            },
            expect!["configuration key `arbiter.urls` (node.toml): must be https addresses"],
        );
        check(
            |t| t.replace("[keys]", "[keys]\nrings = 1"),
            expect![
                "configuration key `keys.rings` (node.toml): unknown field: found `rings`, expected ``ring_file` or `ticket_key_file``"
            ],
        );
    }

    #[test]
    fn a_secret_is_never_shown_and_its_file_must_be_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hush\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read_secret("admin.operator_token_file", &path).unwrap_err().to_string();
        assert!(refused.contains("admin.operator_token_file") && refused.contains("token"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let secret = read_secret("admin.operator_token_file", &path).unwrap();
        assert_eq!(secret.reveal(), "hush");
        assert_eq!(format!("{secret:?}"), "[secret]");
    }
}
