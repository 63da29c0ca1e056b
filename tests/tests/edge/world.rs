//! Three real regions that know each other, two edges in front of them, and the cluster file that `ops` reads.

pub(crate) use edge::compare::until;
use ops::cluster::edge_config::EdgeRegion;
use ops::cluster::home::Home;
use ops::cluster::{Cluster, Sandbox};
use ops::edge::Seen;
use ops::local::{OwnFolder, own_addresses, testing};
use ops::stage::{EdgeNode, EdgeSpec, Spec, Stage, program};
use region_api::RegionName;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

/// The zone, and the name that people ask for.
pub(crate) const ZONE: &str = "tickets.test";
/// Time between health checks.
pub(crate) const CHECK_EVERY: Duration = Duration::from_millis(200);
/// Tickets of each tier in each region.
pub(crate) const TICKETS: u64 = 150;
/// Names and places: Frankfurt, Virginia, São Paulo.
const REGIONS: [(&str, [f64; 2]); 3] = [("east", [50.1, 8.7]), ("west", [39.0, -77.5]), ("south", [-23.5, -46.6])];

pub(crate) struct World {
    pub(crate) regions: Vec<Stage>,
    pub(crate) edges: Vec<EdgeNode>,
    home: Home,
    // Dropped last.
    _folder: OwnFolder,
}

fn fronts() -> [SocketAddr; 3] {
    own_addresses().map(|address| (address, 8080).into())
}

/// What a world has more than regions that sell a concert.
#[derive(Default)]
pub(crate) struct More {
    /// Of every node's configuration: whole sections.
    pub(crate) nodes: &'static str,
    /// Of the edges' configuration: whole sections.
    pub(crate) edges: &'static str,
    /// Tickets of each tier beyond [`TICKETS`].
    pub(crate) tickets: u64,
}

fn spec(at: usize, more: &More) -> Spec {
    let peers = (0..REGIONS.len()).filter(|other| *other != at);
    let peers = peers.map(|other| (RegionName::new(REGIONS[other].0).unwrap(), fronts()[other])).collect();
    let (region, public, more) = (REGIONS[at].0, Some(fronts()[at]), more.nodes.to_owned());
    Spec { region, public, peers, worker_threads: Some(2), more, ..Spec::default() }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(More::default()).await
    }

    pub(crate) async fn with(more: More) -> Self {
        let east = Stage::start(spec(0, &more)).await.unwrap();
        let beside = |at| {
            let secrets_of = east.secrets().ring.parent().map(Into::into);
            Stage::start(Spec { secrets_of, sandbox_url: Some(east.sandbox_url.clone()), ..spec(at, &more) })
        };
        let (west, south) = tokio::join!(beside(1), beside(2));
        let regions = vec![east, west.unwrap(), south.unwrap()];
        for region in &regions {
            let total = TICKETS + more.tickets;
            let tier = |name: &str| json!({"tier": name, "price": {"amount": 4500, "currency": "EUR"}, "total": total});
            region.define("demo", json!({"hold_ms": 4_000, "tiers": [tier("A"), tier("B")]})).await.unwrap();
        }
        let told: Vec<EdgeRegion> =
            regions.iter().zip(REGIONS).map(|(stage, (_, place))| told_of(stage, place)).collect();
        let edge = |name| EdgeSpec {
            name,
            zone: ZONE,
            regions: &told,
            secrets: regions[0].secrets(),
            check_every_ms: CHECK_EVERY.as_millis() as u64,
            more: more.edges,
        };
        let edges =
            vec![EdgeNode::start(&edge("edge-1")).await.unwrap(), EdgeNode::start(&edge("edge-2")).await.unwrap()];
        let folder = testing::own_folder("world").unwrap();
        let home = Home::new(Some(folder.path().to_owned())).unwrap();
        let world = Self { regions, edges, home, _folder: folder };
        world.cluster().write(&world.home).unwrap();
        world
    }

    fn cluster(&self) -> Cluster {
        let secrets = self.regions[0].secrets();
        let regions =
            self.regions.iter().zip(REGIONS).map(|(stage, (_, place))| stage.described(Some(place))).collect();
        let sandbox = Sandbox {
            url: self.regions[0].sandbox_url.clone(),
            secret_key_file: secrets.payment_key.clone(),
            control_token_file: secrets.sandbox_control_token.clone(),
        };
        Cluster {
            arbiters: Vec::new(),
            operator_certificate: None,
            people_token_file: None,
            regions,
            edges: self.edges.iter().map(|node| node.edge.clone()).collect(),
            sandbox: Some(sandbox),
            key_ring_file: secrets.ring.clone(),
            records_folder: self.home.part("records"),
        }
    }

    /// Runs `ops` on this cluster: exit code, the JSON that it printed, what it said beside.
    pub(crate) async fn ops(&self, arguments: &[&str]) -> (i32, Value, String) {
        let mut command = Command::new(program("ops").unwrap());
        command.arg("--json").arg("--home").arg(self.home.path()).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
    }

    /// Joins a concert at an address as a browser would that was given it; the region where the place lies, and its id.
    pub(crate) async fn joins(&self, at: SocketAddr, concert: &str) -> Result<(String, String, String), String> {
        let (base, session) = (format!("http://{at}"), String::new());
        let session = self.post(&base, "/v1/session", &session, &json!({})).await?;
        let session = session["session"].as_str().unwrap_or_default().to_owned();
        let body = json!({"request_id": Uuid::new_v4(), "quantity": 1, "tiers": ["A"]});
        let path = format!("/v1/concerts/{concert}/reservations");
        let joined = self.post(&base, &path, &session, &body).await?;
        let text = |key: &str| joined[key].as_str().unwrap_or_default().to_owned();
        Ok((text("region"), text("reservation"), session))
    }

    async fn post(&self, base: &str, path: &str, token: &str, body: &Value) -> Result<Value, String> {
        let request = self.regions[0].http().post(format!("{base}{path}")).bearer_auth(token).json(body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let (status, text) = (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
        if !status.is_success() {
            return Err(format!("{status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// What an edge shows of the regions.
    pub(crate) async fn seen(&self, edge: usize) -> Vec<Seen> {
        let url = format!("{}/v1/regions", self.edges[edge].edge.admin);
        let answer: Value = self.regions[0].http().get(url).send().await.unwrap().json().await.unwrap();
        serde_json::from_value(answer["regions"].clone()).unwrap()
    }

    /// The region that an address leads to.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&'static str> {
        let found = fronts().iter().position(|front| front.ip() == address);
        found.map(|at| REGIONS[at].0)
    }
}

/// A region as an edge is told of it.
pub(crate) fn told_of(stage: &Stage, position: [f64; 2]) -> EdgeRegion {
    let node = &stage.nodes[0];
    EdgeRegion {
        name: stage.region().to_string(),
        addresses: vec![node.public.ip()],
        position,
        public: node.public,
        admin: node.admin,
    }
}
