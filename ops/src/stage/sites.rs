//! Several regions and the arbiters between them, on addresses of their own: what a cluster test breaks.
//!
//! Every arbiter has a door ([`Relay`]) before it, so that a test can cut off a region or an arbiter without rights on
//! the machine's network. One task owns a [`Sites`]; what it hands out may be used by any number of tasks.

use super::arbiter::ArbiterPart;
use super::node::Node;
use super::relay::Relay;
use super::{free_address, start_postgres, start_redis, start_sandbox};
use crate::cluster::arbiter_config::ArbiterConfig;
use crate::cluster::arbiters::Arbiters;
use crate::cluster::certificates::{Authority, TlsFiles};
use crate::cluster::home::Home;
use crate::cluster::node_config::{ALL_ROLES, ArbiterAccess, NodeConfig};
use crate::cluster::secrets::SecretFiles;
use crate::cluster::{Arbiter, Cluster, PostgresAccess, RedisAccess, Region, Sandbox, client, read_secret};
use crate::local::{OwnFolder, Postgres, Purpose, Redis, own_address, testing};
use crate::verify::books::AdminAccess;
use crate::{load, verify};
use anyhow::{Context as _, Result, bail};
use arbiter_api::{Acted, ClusterView, QuotaView, Role};
use region_api::wire::NodeStatus;
use region_api::{KeyRing, RegionName};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What to start.
#[derive(Debug, Clone)]
pub struct SitesSpec {
    /// Names of the regions.
    pub regions: Vec<&'static str>,
    /// How many arbiters.
    pub arbiters: u64,
    /// How long a region sells without them; the node's default when absent.
    pub autonomy_ms: Option<u64>,
    /// How often regions report; the arbiters' default when absent.
    pub heartbeat_ms: Option<u64>,
    /// Threads of each node's runtime.
    pub worker_threads: Option<usize>,
    /// What arbiters' environments have beside ours: `BOXOFFICE_ARBITER_…` goes before their configuration.
    pub arbiter_env: &'static [(&'static str, &'static str)],
}

impl Default for SitesSpec {
    fn default() -> Self {
        let regions = crate::cluster::layout::REGIONS.to_vec();
        Self { regions, arbiters: 3, autonomy_ms: None, heartbeat_ms: None, worker_threads: Some(2), arbiter_env: &[] }
    }
}

/// One region.
pub struct Site {
    /// Its name.
    pub region: RegionName,
    /// Its node.
    pub node: Node,
    /// Its database's server.
    pub postgres: Postgres,
    /// Its queue's server.
    pub redis: Redis,
    pub(super) postgres_access: PostgresAccess,
    pub(super) redis_access: RedisAccess,
}

/// Regions and arbiters that run.
pub struct Sites {
    /// The regions, in the order asked for.
    pub regions: Vec<Site>,
    /// The arbiters; the one with raft id `n` is at `n - 1`.
    pub arbiters: Vec<ArbiterPart>,
    /// Who hears whom.
    pub relay: Relay,
    /// The payment provider, in this process.
    pub sandbox_url: String,
    pub(super) spec: SitesSpec,
    pub(super) authority: Authority,
    pub(super) peers: Vec<(RegionName, SocketAddr)>,
    operator: TlsFiles,
    pub(super) secrets: SecretFiles,
    pub(super) home: Home,
    http: reqwest::Client,
    sandbox_stop: CancellationToken,
    // Dropped last: everything above lies in it.
    _folder: OwnFolder,
}

/// What is known of a region before its node starts.
pub(super) struct Ground {
    pub(super) region: RegionName,
    pub(super) public: SocketAddr,
    admin: SocketAddr,
    postgres: (Postgres, PostgresAccess),
    redis: (Redis, RedisAccess),
}

impl Sites {
    /// Starts everything and waits until it is ready.
    pub async fn start(spec: SitesSpec) -> Result<Sites> {
        let folder = testing::own_folder("sites")?;
        let home = Home::new(Some(folder.path().to_owned()))?;
        home.make()?;
        let secrets = SecretFiles::ensure(&home)?;
        let authority = Authority::ensure(&home.secrets().join("tls"))?;
        let operator = authority.ensure_issued("operator", &Role::Operator("test".to_owned()), &[])?;
        let names = spec.regions.iter().map(|name| RegionName::new(name)).collect::<Result<Vec<_>, _>>()?;
        let relay = Relay::default();
        let arbiters = start_arbiters(&spec, &home, &secrets, &authority, &relay, &names).await?;
        let grounds = futures::future::try_join_all(names.iter().map(|region| ground(&home, region))).await?;
        let sandbox_stop = CancellationToken::new();
        let webhooks = grounds.iter().map(|ground| ground.public).collect();
        let processing = Duration::from_secs(1);
        let sandbox_url = start_sandbox(&secrets, webhooks, processing, sandbox_stop.clone()).await?;
        let http = client::http()?;
        let mut sites = Sites {
            regions: Vec::new(),
            arbiters,
            relay,
            sandbox_url,
            peers: grounds.iter().map(|ground| (ground.region.clone(), ground.public)).collect(),
            spec,
            authority,
            operator,
            secrets,
            home,
            http,
            sandbox_stop,
            _folder: folder,
        };
        sites.arbiters_ready().await?;
        for ground in grounds {
            let site = sites.start_region(ground)?;
            sites.regions.push(site);
        }
        sites.ready().await?;
        Ok(sites)
    }

    pub(super) fn start_region(&self, ground: Ground) -> Result<Site> {
        let Ground { region, public, admin, postgres: (postgres, postgres_access), redis: (redis, redis_access) } =
            ground;
        let file = self.home.part(&format!("{region}/node")).join("node.toml");
        let text = self.node_config(&region, "state", (public, admin), (&postgres_access, &redis_access))?;
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let node = Node::start(self.regions.len(), file, public, admin, &[])?;
        let site = Site { region, node, postgres, redis, postgres_access, redis_access };
        self.name_caller(site.node.pid(), site.region.as_str());
        Ok(site)
    }

    /// What a region's node is told; its state lies in this folder of its own.
    pub(super) fn node_config(
        &self,
        region: &RegionName,
        state: &str,
        (public, admin): (SocketAddr, SocketAddr),
        (postgres, redis): (&PostgresAccess, &RedisAccess),
    ) -> Result<String> {
        let state_dir = self.home.part(&format!("{region}/node")).join(state);
        std::fs::create_dir_all(&state_dir).with_context(|| format!("making {}", state_dir.display()))?;
        let role = Role::Region(region.as_str().parse()?);
        let access = ArbiterAccess {
            urls: self.arbiters.iter().map(|arbiter| arbiter.member.address.clone()).collect(),
            tls: self.authority.ensure_issued(region.as_str(), &role, &[])?,
            autonomy_ms: self.spec.autonomy_ms,
        };
        let peers: Vec<_> = self.peers.iter().filter(|(other, _)| other != region).cloned().collect();
        let config = NodeConfig {
            region,
            state_dir: &state_dir,
            roles: &ALL_ROLES,
            worker_threads: self.spec.worker_threads,
            public,
            admin,
            postgres,
            redis,
            secrets: &self.secrets,
            sandbox_url: &self.sandbox_url,
            peers: &peers,
            arbiter: Some(&access),
            room: None,
        };
        config.text()
    }

    pub(super) fn name_caller(&self, pid: Option<i32>, name: &str) {
        if let Some(pid) = pid {
            self.relay.caller(pid, name);
        }
    }

    /// Starts a region's node again after it ended.
    pub fn start_node_again(&mut self, at: usize) -> Result<()> {
        self.regions[at].node.start_again(&[])?;
        self.name_caller(self.regions[at].node.pid(), self.regions[at].region.as_str());
        Ok(())
    }

    /// Starts an arbiter again after it ended.
    pub fn start_arbiter_again(&mut self, id: u64) -> Result<()> {
        let arbiter = &mut self.arbiters[id as usize - 1];
        arbiter.start_again(self.spec.arbiter_env)?;
        let pid = arbiter.pid();
        self.name_caller(pid, &arbiter_name(id));
        Ok(())
    }

    /// Waits until every node that runs is ready.
    pub async fn ready(&mut self) -> Result<()> {
        for site in self.regions.iter_mut().filter(|site| site.node.pid().is_some()) {
            site.node.ready(&self.http).await.with_context(|| format!("region {}", site.region))?;
        }
        Ok(())
    }

    /// Waits until every arbiter that runs is ready.
    pub async fn arbiters_ready(&mut self) -> Result<()> {
        let http = self.operator.client()?.timeout(Duration::from_secs(5)).build()?;
        for arbiter in self.arbiters.iter_mut().filter(|arbiter| arbiter.pid().is_some()) {
            arbiter.ready(&http).await?;
        }
        Ok(())
    }

    /// No arbiter hears this region, and it hears none.
    pub fn cut_region(&self, at: usize) {
        for arbiter in &self.arbiters {
            self.relay.cut(self.regions[at].region.as_str(), arbiter.member.id);
        }
    }

    /// This arbiter hears no other and none hears it; regions and operators still reach it.
    pub fn cut_arbiter(&self, id: u64) {
        for other in self.arbiters.iter().map(|arbiter| arbiter.member.id).filter(|other| *other != id) {
            self.relay.cut(&arbiter_name(id), other);
            self.relay.cut(&arbiter_name(other), id);
        }
    }

    /// An operator's client.
    pub fn operator(&self) -> Result<Arbiters> {
        Arbiters::new(&self.operator, &self.members())
    }

    /// A client for buyers' calls.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Files of the operator's certificate.
    pub fn operator_files(&self) -> &TlsFiles {
        &self.operator
    }

    /// The arbiters, as clients know them.
    pub fn members(&self) -> Vec<Arbiter> {
        self.arbiters.iter().map(|arbiter| arbiter.member.clone()).collect()
    }

    /// The raft id of the leader, once one is known to whoever answers.
    pub async fn leader(&self) -> Result<u64> {
        let view: ClusterView = self.operator()?.get("/v1/cluster").await?;
        view.leader.context("an arbiter answered as of a leader and names none")
    }

    /// Creates or changes a concert, and waits until every region that runs and is not cut off shows it.
    pub async fn define(&self, concert: &str, mut body: Value) -> Result<()> {
        let fields = body.as_object_mut().context("a definition is an object")?;
        fields.entry("title").or_insert_with(|| json!(concert));
        fields.entry("sale_opens_at").or_insert_with(|| json!("2020-01-01T00:00:00Z"));
        let _: Acted = self.operator()?.put(&format!("/v1/concerts/{concert}"), &body).await?;
        let deadline = Instant::now() + Duration::from_secs(20);
        for site in &self.regions {
            let url = format!("http://{}/v1/concerts/{concert}", site.node.public);
            while !self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                if Instant::now() > deadline {
                    bail!("{url} does not show the concert that was just defined");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Where the tickets of a concert are, as the leader knows.
    pub async fn quota(&self, concert: &str) -> Result<QuotaView> {
        self.operator()?.get(&format!("/v1/quota/{concert}")).await
    }

    /// What one region's node says of itself.
    pub async fn status(&self, at: usize) -> Result<NodeStatus> {
        let access = self.access(&self.regions[at])?;
        client::answer(self.http.get(format!("{}/v1/status", access.url)).bearer_auth(&access.token)).await
    }

    /// A connection to a region's database, as the region's role.
    pub async fn sql(&self, at: usize) -> Result<tokio_postgres::Client> {
        let site = &self.regions[at];
        let mut address = site.postgres.superuser(&site.postgres_access.database);
        address.user.clone_from(&site.postgres_access.user);
        address.password = read_secret(&site.postgres_access.password_file)?;
        Ok(address.connect().await?)
    }

    /// A connection to a region's database, as superuser.
    pub async fn sql_superuser(&self, at: usize) -> Result<tokio_postgres::Client> {
        let site = &self.regions[at];
        Ok(site.postgres.superuser(&site.postgres_access.database).connect().await?)
    }

    /// Where a crowd goes.
    pub fn load_target(&self) -> load::Target {
        let regions = self.regions.iter();
        load::Target {
            regions: regions.map(|site| (site.region.to_string(), format!("http://{}", site.node.public))).collect(),
            sandbox: Some(self.sandbox_url.clone()),
            dns: None,
            records: self.home.part("records"),
        }
    }

    /// Describes all of it as `up` would, so that commands can be tried on it; returns their `--home`.
    pub fn describe(&self) -> Result<&Path> {
        let region = |site: &Site| Region {
            region: site.region.clone(),
            public: format!("http://{}", site.node.public),
            admin: format!("http://{}", site.node.admin),
            position: None,
            operator_token_file: self.secrets.operator_token.clone(),
            door_token_file: self.secrets.door_token.clone(),
            ticket_public_key_file: self.secrets.ticket_public_key.clone(),
            postgres: site.postgres_access.clone(),
            redis: site.redis_access.clone(),
            node_folder: site.node.folder().to_owned(),
        };
        let cluster = Cluster {
            regions: self.regions.iter().map(region).collect(),
            edges: Vec::new(),
            arbiters: self.members(),
            operator_certificate: Some(self.operator.clone()),
            people_token_file: Some(self.secrets.operator_token.clone()),
            sandbox: Some(Sandbox {
                url: self.sandbox_url.clone(),
                secret_key_file: self.secrets.payment_key.clone(),
                control_token_file: self.secrets.sandbox_control_token.clone(),
            }),
            key_ring_file: self.secrets.ring.clone(),
            records_folder: self.home.part("records"),
        };
        cluster.write(&self.home)?;
        Ok(self.home.path())
    }

    /// Waits until nothing is on its way in any region; see [`super::Stage::quiet`].
    pub async fn quiet(&self, most: Duration) -> Result<()> {
        let deadline = Instant::now() + most;
        for (at, site) in self.regions.iter().enumerate() {
            let sql = self.sql(at).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            super::quiet(&sql, left).await.with_context(|| format!("region {}", site.region))?;
        }
        Ok(())
    }

    /// The verdict over all that was sold here, arbiters' logs included.
    pub async fn verify(&self) -> Result<verify::Verdict> {
        verify::verdict(&self.http, &self.sources()?).await
    }

    /// What `verify` judges.
    pub async fn evidence(&self) -> Result<verify::Evidence> {
        verify::gather(&self.http, &self.sources()?).await
    }

    fn sources(&self) -> Result<verify::Sources> {
        Ok(verify::Sources {
            regions: self.regions.iter().map(|site| self.access(site)).collect::<Result<_>>()?,
            arbiters: Some((self.operator()?, self.members())),
            provider: Some((self.sandbox_url.clone(), read_secret(&self.secrets.sandbox_control_token)?)),
            records: verify::records_in(&self.home.part("records"))?,
            ring: KeyRing::from_json(&std::fs::read(&self.secrets.ring)?)?,
            concert: None,
        })
    }

    fn access(&self, site: &Site) -> Result<AdminAccess> {
        Ok(AdminAccess {
            region: site.region.clone(),
            url: format!("http://{}", site.node.admin),
            token: read_secret(&self.secrets.operator_token)?,
        })
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        self.sandbox_stop.cancel();
        self.relay.close();
    }
}

/// How an arbiter is called before other arbiters' doors.
pub(super) fn arbiter_name(id: u64) -> String {
    format!("arbiter-{id}")
}

async fn start_arbiters(
    spec: &SitesSpec,
    home: &Home,
    secrets: &SecretFiles,
    authority: &Authority,
    relay: &Relay,
    regions: &[RegionName],
) -> Result<Vec<ArbiterPart>> {
    let (mut members, mut listens) = (Vec::new(), Vec::new());
    for id in 1..=spec.arbiters {
        let (machines, people) = (free_address()?, free_address()?);
        let door = tokio::net::TcpListener::bind((own_address(), 0)).await.context("binding an arbiter's door")?;
        let data_dir = home.part(&arbiter_name(id)).join("data");
        std::fs::create_dir_all(&data_dir).with_context(|| format!("making {}", data_dir.display()))?;
        let (address, people_url) = (format!("https://{}", door.local_addr()?), format!("https://{people}"));
        members.push(Arbiter { id, address, people: people_url, data_dir });
        relay.open(id, door, machines);
        listens.push((machines, people));
    }
    let mut arbiters = Vec::new();
    for (member, (machines, people)) in members.iter().zip(listens) {
        let name = arbiter_name(member.id);
        let tls = authority.ensure_issued(&name, &Role::Arbiter(member.id), &[IpAddr::from(own_address())])?;
        let config = ArbiterConfig {
            id: member.id,
            data_dir: &member.data_dir,
            machines,
            people,
            tls: &tls,
            operator_token_file: &secrets.operator_token,
            join: false,
            members: &members,
            regions,
            heartbeat_ms: spec.heartbeat_ms,
        };
        let file = home.part(&name).join("arbiter.toml");
        std::fs::write(&file, config.text()?).with_context(|| format!("writing {}", file.display()))?;
        let arbiter = ArbiterPart::start(member.clone(), file, spec.arbiter_env)?;
        if let Some(pid) = arbiter.pid() {
            relay.caller(pid, &name);
        }
        arbiters.push(arbiter);
    }
    Ok(arbiters)
}

pub(super) async fn ground(home: &Home, region: &RegionName) -> Result<Ground> {
    let names = [format!("{region}-postgres"), format!("{region}-redis")];
    let starting = (start_postgres(home, &names[0], Purpose::Tests), start_redis(home, &names[1]));
    let (postgres, redis) = tokio::try_join!(starting.0, starting.1)?;
    Ok(Ground { region: region.clone(), public: free_address()?, admin: free_address()?, postgres, redis })
}
