//! A region of one's own: real PostgreSQL, Redis, sandbox provider and region nodes on free ports, for benches, drills
//! and tests. Everything that it starts dies with the process that started it.
//!
//! One task owns a [`Stage`]; what it hands out (addresses, clients, the key ring) may be used by any number of tasks.
//! Killing and starting again are methods, so that a test reads as the story that it tells.

mod arbiter;
mod edge;
mod loss;
mod node;
mod part;
mod relay;
mod sites;

pub use arbiter::ArbiterPart;
pub use edge::{EdgeNode, EdgeSpec};
pub use loss::Lost;
pub use node::Node;
pub use part::{Part, program};
pub use relay::Relay;
pub use sites::{Site, Sites, SitesSpec};

use crate::cluster::home::Home;
use crate::cluster::node_config::{ALL_ROLES, NodeConfig};
use crate::cluster::secrets::{SecretFiles, server_password, write_once};
use crate::cluster::{self, PostgresAccess, RedisAccess, client, read_secret};
use crate::local::{OwnFolder, Postgres, Purpose, Redis, free_port, own_address, testing};
use crate::sandbox::SandboxConfig;
use crate::verify::books::AdminAccess;
use crate::{load, verify};
use anyhow::{Context as _, Result, bail};
use region_api::wire::{Concert, ConcertStatus, NodeStatus};
use region_api::{ConcertName, KeyRing, RegionName};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Role and database of the region.
const ROLE: &str = "boxoffice";

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Roles of each node, one entry a node.
    pub nodes: Vec<Vec<&'static str>>,
    /// Threads of each node's runtime.
    pub worker_threads: Option<usize>,
    /// What PostgreSQL is tuned for.
    pub purpose: Purpose,
    /// The sandbox provider, as its faults begin.
    pub processing: Duration,
    /// The region's name.
    pub region: &'static str,
    /// Where the first node's buyers reach it; a free port of our own when absent.
    pub public: Option<SocketAddr>,
    /// Names and public addresses of other regions, which calls of theirs are passed on to.
    pub peers: Vec<(RegionName, SocketAddr)>,
    /// Folder with secrets of another stage, so that each accepts the other's sessions.
    pub secrets_of: Option<PathBuf>,
    /// Payment provider of another stage, in place of one of our own.
    pub sandbox_url: Option<String>,
    /// Further lines of every node's configuration: whole sections.
    pub more: String,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            nodes: vec![ALL_ROLES.to_vec()],
            worker_threads: None,
            purpose: Purpose::Tests,
            processing: Duration::from_secs(1),
            region: "east",
            public: None,
            peers: Vec::new(),
            secrets_of: None,
            sandbox_url: None,
            more: String::new(),
        }
    }
}

/// A running region and its surroundings.
pub struct Stage {
    /// Its queue's server.
    pub redis: Redis,
    /// Its database's server.
    pub postgres: Postgres,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// The payment provider, in this process.
    pub sandbox_url: String,
    region: RegionName,
    home: Home,
    secrets: SecretFiles,
    postgres_access: PostgresAccess,
    redis_access: RedisAccess,
    http: reqwest::Client,
    sandbox_stop: CancellationToken,
    // Dropped last: everything above lies in it.
    _folder: OwnFolder,
}

impl Stage {
    /// Starts everything and waits until the nodes accept reservations.
    pub async fn start(spec: Spec) -> Result<Stage> {
        let folder = testing::own_folder("stage")?;
        let home = Home::new(Some(folder.path().to_owned()))?;
        home.make()?;
        if let Some(folder) = &spec.secrets_of {
            copy_secrets(folder, &home)?;
        }
        let secrets = SecretFiles::ensure(&home)?;
        let (postgres, postgres_access) = start_postgres(&home, "postgres", spec.purpose).await?;
        let (redis, redis_access) = start_redis(&home, "redis").await?;
        let region = RegionName::new(spec.region)?;
        let mut addresses = Vec::new();
        for number in 0..spec.nodes.len() {
            let named = spec.public.filter(|_| number == 0);
            addresses.push((named.map_or_else(free_address, Ok)?, free_address()?));
        }
        let sandbox_stop = CancellationToken::new();
        let webhooks = addresses.iter().map(|(public, _)| *public).take(1).collect();
        let sandbox_url = match &spec.sandbox_url {
            Some(url) => url.clone(),
            None => start_sandbox(&secrets, webhooks, spec.processing, sandbox_stop.clone()).await?,
        };
        let mut stage = Stage {
            redis,
            postgres,
            nodes: Vec::new(),
            sandbox_url,
            region,
            home,
            secrets,
            postgres_access,
            redis_access,
            http: client::http()?,
            sandbox_stop,
            _folder: folder,
        };
        for (number, (roles, (public, admin))) in spec.nodes.iter().zip(addresses).enumerate() {
            let config = stage.write_config(&spec, number, roles, (public, admin))?;
            stage.nodes.push(Node::start(number, config, public, admin, &[])?);
        }
        stage.ready().await?;
        Ok(stage)
    }

    fn write_config(
        &self,
        spec: &Spec,
        number: usize,
        roles: &[&str],
        (public, admin): (SocketAddr, SocketAddr),
    ) -> Result<PathBuf> {
        let folder = self.home.part(&format!("node-{number}"));
        let state_dir = folder.join("state");
        std::fs::create_dir_all(&state_dir).with_context(|| format!("making {}", state_dir.display()))?;
        let config = NodeConfig {
            region: &self.region,
            state_dir: &state_dir,
            roles,
            worker_threads: spec.worker_threads,
            public,
            admin,
            postgres: &self.postgres_access,
            redis: &self.redis_access,
            secrets: &self.secrets,
            sandbox_url: &self.sandbox_url,
            peers: &spec.peers,
            arbiter: None,
            room: None,
        };
        let file = folder.join("node.toml");
        std::fs::write(&file, config.text()? + &spec.more).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// Waits until every node that runs is ready.
    pub async fn ready(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.ready(&self.http).await?;
        }
        Ok(())
    }

    /// Where buyers reach the first node.
    pub fn public(&self) -> SocketAddr {
        self.nodes[0].public
    }

    /// Its name.
    pub fn region(&self) -> RegionName {
        self.region.clone()
    }

    /// The region as `cluster.json` describes one, by its first node.
    pub fn described(&self, position: Option<[f64; 2]>) -> cluster::Region {
        let (node, secrets) = (&self.nodes[0], &self.secrets);
        cluster::Region {
            region: self.region.clone(),
            public: format!("http://{}", node.public),
            admin: format!("http://{}", node.admin),
            position,
            operator_token_file: secrets.operator_token.clone(),
            door_token_file: secrets.door_token.clone(),
            ticket_public_key_file: secrets.ticket_public_key.clone(),
            postgres: self.postgres_access.clone(),
            redis: self.redis_access.clone(),
            node_folder: node.folder().to_owned(),
        }
    }

    /// A client without limits on what it may be used for.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Keys that sign its ids and sessions.
    pub fn ring(&self) -> Result<KeyRing> {
        Ok(KeyRing::from_json(&std::fs::read(&self.secrets.ring)?)?)
    }

    /// Paths of its secrets.
    pub fn secrets(&self) -> &SecretFiles {
        &self.secrets
    }

    /// Admin interface of the first node.
    pub fn admin(&self) -> Result<AdminAccess> {
        Ok(AdminAccess {
            region: self.region.clone(),
            url: format!("http://{}", self.nodes[0].admin),
            token: read_secret(&self.secrets.operator_token)?,
        })
    }

    /// A connection to its database, as the region's role.
    pub async fn sql(&self) -> Result<tokio_postgres::Client> {
        let mut address = self.postgres.superuser(&self.postgres_access.database);
        address.user.clone_from(&self.postgres_access.user);
        address.password = read_secret(&self.postgres_access.password_file)?;
        Ok(address.connect().await?)
    }

    /// A connection to its database, as superuser.
    pub async fn sql_superuser(&self) -> Result<tokio_postgres::Client> {
        Ok(self.postgres.superuser(&self.postgres_access.database).connect().await?)
    }

    /// Creates a concert with the body given, `title` and `sale_opens_at` filled in where they lack.
    pub async fn define(&self, concert: &str, mut body: serde_json::Value) -> Result<()> {
        let access = self.admin()?;
        let fields = body.as_object_mut().context("a definition is an object")?;
        fields.entry("title").or_insert_with(|| json!(concert));
        fields.entry("sale_opens_at").or_insert_with(|| json!("2020-01-01T00:00:00Z"));
        let answer = self
            .http
            .put(format!("{}/v1/concerts/{concert}", access.url))
            .bearer_auth(&access.token)
            .json(&body)
            .send()
            .await?;
        if !answer.status().is_success() {
            bail!("defining {concert}: {} {}", answer.status(), answer.text().await?);
        }
        self.until_shown(concert).await
    }

    /// Waits until every node shows the concert to buyers.
    async fn until_shown(&self, concert: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        for node in &self.nodes {
            loop {
                let url = format!("http://{}/v1/concerts/{concert}", node.public);
                let shown = self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success());
                if shown {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("{url} does not show the concert that was just defined");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// What buyers see of a concert.
    pub async fn shown(&self, concert: &str) -> Result<Concert> {
        let url = format!("http://{}/v1/concerts/{concert}", self.public());
        Ok(self.http.get(url).send().await?.error_for_status()?.json().await?)
    }

    /// What the first node says of itself.
    pub async fn status(&self) -> Result<NodeStatus> {
        let access = self.admin()?;
        let answer = self.http.get(format!("{}/v1/status", access.url)).bearer_auth(&access.token).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// What it says of one concert.
    pub async fn concert_status(&self, concert: &str) -> Result<ConcertStatus> {
        let status = self.status().await?;
        let found = status.concerts.into_iter().find(|found| found.concert.as_str() == concert);
        found.with_context(|| format!("the status does not list {concert}"))
    }

    /// Sends a crowd.
    pub async fn crowd(&self, options: &load::Options) -> Result<load::Done> {
        load::run(&self.load_target(), options, false).await
    }

    /// Where a crowd goes: its buyers are spread over the nodes.
    pub fn load_target(&self) -> load::Target {
        let nodes = self.nodes.iter().filter(|node| node.roles_public());
        load::Target {
            regions: nodes.map(|node| (format!("node-{}", node.number), format!("http://{}", node.public))).collect(),
            sandbox: Some(self.sandbox_url.clone()),
            records: self.records(),
            dns: None,
        }
    }

    fn records(&self) -> PathBuf {
        self.home.part("records")
    }

    /// The verdict over all that was sold here, every crowd's record and the provider's included.
    pub async fn verify(&self) -> Result<verify::Verdict> {
        verify::verdict(&self.http, &self.sources()?).await
    }

    /// What `verify` judges.
    pub async fn evidence(&self) -> Result<verify::Evidence> {
        verify::gather(&self.http, &self.sources()?).await
    }

    fn sources(&self) -> Result<verify::Sources> {
        Ok(verify::Sources {
            regions: vec![self.admin()?],
            arbiters: None,
            provider: Some((self.sandbox_url.clone(), read_secret(&self.secrets.sandbox_control_token)?)),
            records: verify::records_in(&self.records())?,
            ring: self.ring()?,
            concert: None::<ConcertName>,
        })
    }

    /// Sets the faults of the payment provider.
    pub async fn provider_faults(&self, faults: &crate::sandbox::faults::Faults) -> Result<()> {
        let token = read_secret(&self.secrets.sandbox_control_token)?;
        let request = self.http.put(format!("{}/control/faults", self.sandbox_url)).bearer_auth(token).json(faults);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Waits until nothing is on its way any more: no hold, no refund to be asked for, no sale to be folded, no
    /// webhook to be worked on.
    pub async fn quiet(&self, most: Duration) -> Result<()> {
        quiet(&self.sql().await?, most).await
    }

    /// Folder of everything.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.sandbox_stop.cancel();
    }
}

/// Takes over the secrets that regions share.
fn copy_secrets(from: &Path, home: &Home) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let file = entry?.path();
        // Passwords are of one region's servers.
        if let Some(name) = file.file_name().filter(|name| !name.to_string_lossy().ends_with("-password")) {
            write_once(&home.secrets().join(name), &std::fs::read_to_string(&file)?)?;
        }
    }
    Ok(())
}

/// See [`Stage::quiet`]; of one database.
async fn quiet(sql: &tokio_postgres::Client, most: Duration) -> Result<()> {
    const LEFT: &str = "SELECT (SELECT count(*) FROM reservation WHERE state IN ('held', 'expiring')), \
         (SELECT count(*) FROM refund WHERE done_at IS NULL), (SELECT count(*) FROM unfolded), \
         (SELECT count(*) FROM webhook_event WHERE processed_at IS NULL), (SELECT count(*) FROM outbox)";
    let deadline = Instant::now() + most;
    loop {
        let row = sql.query_one(LEFT, &[]).await?;
        let left: Vec<i64> = (0..row.len()).map(|column| row.get(column)).collect();
        if left.iter().all(|count| *count == 0) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let holds = "SELECT coalesce(string_agg(concat_ws(' ', r.entry, r.state, r.extended, r.hold_expires_at, p.intent, \
                 p.status, p.check_after), '; '), '') FROM reservation r LEFT JOIN payment p ON p.intent = r.intent \
                 WHERE r.state IN ('held', 'expiring')";
            let holds: String = sql.query_one(holds, &[]).await?.get(0);
            bail!("after {most:?}: {left:?} holds, refunds, sales to fold, webhooks and outbox rows are left: {holds}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn free_address() -> Result<SocketAddr> {
    let address = own_address();
    Ok((address, free_port(address)?).into())
}

async fn start_postgres(home: &Home, name: &str, purpose: Purpose) -> Result<(Postgres, PostgresAccess)> {
    let server = testing::own_postgres_for(purpose).await?;
    let (password_file, password) = server_password(home, name)?;
    let address = server.ensure_database(ROLE, &password, ROLE).await?;
    let (host, port, user, database) = (address.host, address.port, address.user, address.database);
    Ok((server, PostgresAccess { host, port, user, database, password_file }))
}

async fn start_redis(home: &Home, name: &str) -> Result<(Redis, RedisAccess)> {
    let server = testing::redis().await?;
    let password_file = home.secrets().join(format!("{name}-password"));
    write_once(&password_file, server.password())?;
    let url = server.url();
    Ok((server, RedisAccess { url, password_file }))
}

async fn start_sandbox(
    secrets: &SecretFiles,
    nodes: Vec<SocketAddr>,
    processing: Duration,
    stop: CancellationToken,
) -> Result<String> {
    let listener = tokio::net::TcpListener::bind((own_address(), 0)).await.context("binding the sandbox")?;
    let url = format!("http://{}", listener.local_addr()?);
    let read = |file: &Path| read_secret(file);
    let mut config = SandboxConfig::new(
        &url,
        &read(&secrets.payment_key)?,
        &read(&secrets.sandbox_control_token)?,
        &read(&secrets.webhook_secret)?,
    );
    config.processing = processing;
    config.webhook_urls = nodes.iter().map(|node| format!("http://{node}/v1/webhooks/stripe")).collect();
    tokio::spawn(async move {
        if let Err(error) = crate::sandbox::run(listener, config, stop).await {
            tracing::error!(%error, "the sandbox ended");
        }
    });
    Ok(url)
}
