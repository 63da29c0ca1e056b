//! Debian's HAProxy in front of two nodes of a region, kept in step by a running edge, while people buy.

use edge::haproxy::{Held, ServerState, server_states, servers, set_server_state, tell};
use nix::sys::signal::Signal;
use ops::load::plan::Curve;
use ops::load::{self, Options, Target};
use ops::local::process::{self, Launch, Started};
use ops::local::{Lifetime, OwnFolder, free_port, own_addresses, testing};
use ops::stage::{EdgeNode, EdgeSpec, Spec, Stage};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::world::{ZONE, told_of, until};

struct Front {
    stage: Stage,
    edge: EdgeNode,
    door: SocketAddr,
    haproxy: Started,
    folder: OwnFolder,
}

const WITHIN: Duration = Duration::from_secs(15);

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}

/// What the edge is told of HAProxy and of the nodes behind it; goes after its last table, the region's.
fn told(stage: &Stage, nodes: usize, door: SocketAddr, folder: &Path, more: &str) -> String {
    let nodes: Vec<String> = stage.nodes[..nodes].iter().map(|node| node.public.to_string()).collect();
    let (file, master) = (folder.join("haproxy.cfg"), folder.join("master"));
    format!(
        "nodes = {nodes:?}\n[haproxy]\nport = {}\nregion = \"east\"\nfile = {file:?}\nsocket = {:?}\nmaster_socket = {master:?}\n{more}",
        door.port(),
        socket(folder)
    )
}

impl Front {
    async fn start() -> Self {
        let roles = Spec::default().nodes.remove(0);
        let stage = Stage::start(Spec { nodes: vec![roles.clone(), roles], ..Spec::default() }).await.unwrap();
        let tier = |name: &str| json!({"tier": name, "price": {"amount": 4500, "currency": "EUR"}, "total": 200});
        stage.define("demo", json!({"hold_ms": 4_000, "tiers": [tier("A"), tier("B")]})).await.unwrap();
        let folder = testing::own_folder("haproxy").unwrap();
        let address = own_addresses()[1];
        let door = SocketAddr::from((address, free_port(address).unwrap()));
        let mut region = told_of(&stage, [50.1, 8.7]);
        // People reach the region through HAProxy, and so does the edge's own check.
        (region.addresses, region.public) = (vec![door.ip()], door);
        let spec = EdgeSpec {
            name: "edge-1",
            zone: ZONE,
            regions: &[region],
            secrets: stage.secrets(),
            check_every_ms: 100,
            more: &told(&stage, 2, door, folder.path(), ""),
        };
        let edge = EdgeNode::start(&spec).await.unwrap();
        let file = folder.path().join("haproxy.cfg");
        until("the edge writes HAProxy's file", WITHIN, || async { file.exists() }).await;
        let (haproxy, master) = (Path::new("/usr/sbin/haproxy"), folder.path().join("master"));
        assert!(haproxy.exists(), "haproxy is not installed: apt-get install haproxy");
        let haproxy = process::launch(&Launch {
            program: haproxy,
            args: vec!["-W".into(), "-db".into(), "-S".into(), master.into(), "-f".into(), file.into()],
            env: Vec::new(),
            cwd: folder.path(),
            log: &folder.path().join("log"),
            record: &process::record_file(folder.path(), "haproxy"),
            user: None,
            lifetime: Lifetime::WithOwner(Signal::SIGTERM),
        })
        .unwrap();
        let front = Self { stage, edge, door, haproxy, folder };
        until("both nodes are up", WITHIN, || async { front.are(1, "UP") && front.are(2, "UP") }).await;
        front
    }

    /// Whether a node has this state in every group of HAProxy's.
    fn are(&self, node: usize, state: &str) -> bool {
        let servers = server_states(&socket(self.folder.path())).unwrap_or_default();
        let mut states = servers.iter().filter(|(_, name, _)| *name == format!("node{node}")).peekable();
        states.peek().is_some() && states.all(|(_, _, shown)| shown.starts_with(state))
    }

    /// How many nodes HAProxy knows.
    fn nodes(&self) -> usize {
        let servers = server_states(&socket(self.folder.path())).unwrap_or_default();
        servers.iter().filter(|(group, name, _)| group == "nodes" && name.starts_with("node")).count()
    }

    async fn operator(&self, base: &str, path: &str) {
        let of_edge = base == self.edge.edge.admin;
        let secrets = self.stage.secrets();
        let token = if of_edge { &secrets.edge_token } else { &secrets.operator_token };
        let token = ops::cluster::read_secret(token).unwrap();
        let request = self.stage.http().post(format!("{base}{path}")).bearer_auth(token);
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// Has the edge read another configuration: so many nodes, and more settings of HAProxy's.
    async fn reload(&self, nodes: usize, more: &str) {
        let config = self.edge.edge.folder.join("edge.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let at = text.find("nodes = [").unwrap();
        let told = told(&self.stage, nodes, self.door, self.folder.path(), more);
        std::fs::write(&config, format!("{}{told}", &text[..at])).unwrap();
        self.operator(&self.edge.edge.admin, "/v1/reload").await;
    }

    /// What HAProxy was told of each server, by group and node's number.
    fn held(&self) -> Vec<(String, Held)> {
        let servers = servers(&socket(self.folder.path())).unwrap_or_default();
        let shown = |server: edge::haproxy::Server| (format!("{}/{}", server.group, server.name), server.held);
        servers.into_iter().map(shown).filter(|(_, held)| *held != Held::Not).collect()
    }

    /// Why HAProxy is not in step, as the edge says it.
    async fn trouble(&self) -> Option<String> {
        let request = self.stage.http().get(format!("{}/v1/status", self.edge.edge.admin));
        let status: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        status["haproxy_trouble"].as_str().map(str::to_owned)
    }

    fn target(&self) -> Target {
        Target { regions: vec![("east".to_owned(), format!("http://{}", self.door))], ..self.stage.load_target() }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.haproxy.stop(Signal::SIGTERM, Duration::from_secs(5));
    }
}

fn crowd(users: u64, seed: u64) -> Options {
    Options {
        concert: "demo".to_owned(),
        users,
        seed,
        spread: None,
        via: None,
        over: Duration::from_secs(3),
        curve: Curve::Flat,
        lapse: 0.1,
        cancel: 0.05,
        double: 0.1,
        poll_every: Some(Duration::from_millis(700)),
        until: Duration::from_secs(60),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_dies_under_load_and_another_drains_and_nobody_is_turned_away() {
    let mut front = Front::start().await;
    let (target, options) = (front.target(), crowd(150, 3));
    let people = tokio::spawn(async move { load::run(&target, &options, false).await });
    let accepted = || async { front.stage.concert_status("demo").await.is_ok_and(|status| status.book > 5) };
    until("people are buying", WITHIN, accepted).await;
    front.stage.nodes[1].kill();
    until("HAProxy notices", WITHIN, || async { front.are(2, "DOWN") }).await;
    let done = people.await.unwrap().unwrap();
    let verdict = front.stage.verify().await.unwrap();
    assert!(verdict.ok, "{:#?}", verdict.problems);
    let report = done.report(150, verdict.ok);
    assert!(report.errors == 0 && report.accepted == 150, "{report:?} {:?}", done.scene.tally.problems());
    assert!(report.sold > 30, "{report:?}");

    front.stage.nodes[1].start_again(&[]).unwrap();
    front.stage.ready().await.unwrap();
    until("the node is taken back", WITHIN, || async { front.are(2, "UP") }).await;

    // A node that drains says so at its own door; the edge tells HAProxy, and people go to the other one.
    let drained = format!("http://{}", front.stage.nodes[0].admin);
    front.operator(&drained, "/v1/drain").await;
    until("the draining node gets nobody", WITHIN, || async { front.are(1, "DRAIN") || front.are(1, "DOWN") }).await;
    let done = load::run(&front.target(), &crowd(20, 4), false).await.unwrap();
    assert_eq!(done.report(20, true).errors, 0, "{:?}", done.scene.tally.problems());
    front.operator(&drained, "/v1/resume").await;
    until("it gets people again", WITHIN, || async { front.are(1, "UP") }).await;

    // A node taken out of the configuration is taken out of HAProxy.
    front.reload(1, "").await;
    until("HAProxy knows one node", WITHIN, || async { front.nodes() == 1 && front.are(1, "UP") }).await;
    assert_eq!(front.trouble().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_told_haproxy_by_hand_stays() {
    let front = Front::start().await;
    let haproxy = socket(front.folder.path());
    set_server_state(&haproxy, 2, ServerState::Maintenance).unwrap();
    tell(&haproxy, "nodes", "node1", ServerState::Drain).unwrap();
    let by_hand = front.held();
    let expected = [("nodes/node1", Held::Drain)].into_iter();
    let expected =
        expected.chain(["nodes/node2", "reservations/node2", "living/node2"].map(|name| (name, Held::Maintenance)));
    let mut sorted = by_hand.clone();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected: Vec<_> = expected.map(|(name, held)| (name.to_owned(), held)).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(sorted, expected);
    // The edge looks ten times a second; none of that is its business.
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(front.held(), by_hand);
    }
    // Nor does it get lost when the edge has HAProxy read another file.
    front.reload(2, "queue_ms = 2345\n").await;
    let file = front.folder.path().join("haproxy.cfg");
    let written = || async { std::fs::read_to_string(&file).is_ok_and(|text| text.contains("timeout queue 2345ms")) };
    until("the edge writes another file", WITHIN, written).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    until("HAProxy has been told again", WITHIN, || async { front.held() == by_hand }).await;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(front.held(), by_hand);
    }
    // A HAProxy that could not be told to read it is told later, and what it had been told is not lost either.
    let (master, away) = (front.folder.path().join("master"), front.folder.path().join("away"));
    std::fs::rename(&master, &away).unwrap();
    std::fs::write(&master, "").unwrap();
    front.reload(2, "queue_ms = 3456\n").await;
    let unread = file.with_extension("unread");
    until("the edge writes it all the same", WITHIN, || async { unread.exists() && front.trouble().await.is_some() })
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(unread.exists() && front.trouble().await.is_some(), "what was not read is not forgotten");
    std::fs::rename(&away, &master).unwrap();
    until("HAProxy has read it", WITHIN, || async { !unread.exists() && front.trouble().await.is_none() }).await;
    assert_eq!(front.held(), by_hand);
    // A drain that the node itself asks for comes and goes beside it.
    let node = format!("http://{}", front.stage.nodes[0].admin);
    front.operator(&node, "/v1/drain").await;
    until("drained in its other groups", WITHIN, || async { front.held().len() == 6 }).await;
    front.operator(&node, "/v1/resume").await;
    until("and taken back there", WITHIN, || async { front.held().len() == 4 }).await;
    assert_eq!(front.held(), by_hand);
    tell(&haproxy, "nodes", "node1", ServerState::Ready).unwrap();
    set_server_state(&haproxy, 2, ServerState::Ready).unwrap();
    until("both serve again", WITHIN, || async { front.are(1, "UP") && front.are(2, "UP") }).await;
    assert_eq!(front.held(), []);
}
