//! A region whose queue is a Redis Cluster of three, one slot moving while it sells.

use nix::sys::signal::Signal;
use ops::load;
use ops::local::{Lifetime, Redis, RedisSpec, free_port, own_address, testing};
use ops::stage::Spec;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use std::time::{Duration, Instant};

use super::ground::*;
use super::repeats::{crowd, must_add_up};

struct Cluster {
    nodes: Vec<Redis>,
    connections: Vec<MultiplexedConnection>,
    ids: Vec<String>,
    password: String,
    // Dropped last.
    _folder: ops::local::OwnFolder,
}

/// Which slots each node holds at first.
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

async fn ask<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, command: &[&str]) -> T {
    let mut packed = redis::cmd(command[0]);
    packed.arg(&command[1..]);
    packed.query_async(connection).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

impl Cluster {
    async fn start(password: &str) -> Self {
        let folder = testing::own_folder("cluster").unwrap();
        let mut cluster = Self {
            nodes: Vec::new(),
            connections: Vec::new(),
            ids: Vec::new(),
            password: password.to_owned(),
            _folder: folder,
        };
        for (number, (first, last)) in SLOTS.into_iter().enumerate() {
            let bus = cluster.add_node(number).await;
            let mut connection = cluster.connections[number].clone();
            cluster.ids.push(ask(&mut connection, &["CLUSTER", "MYID"]).await);
            let (first, last) = (first.to_string(), last.to_string());
            let _: () = ask(&mut connection, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            let _: () = ask(&mut connection, &["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
            let (host, port) = (cluster.nodes[number].host().to_string(), cluster.nodes[number].port().to_string());
            if number > 0 {
                let meet = ["CLUSTER", "MEET", &host, &port, &bus.to_string()];
                let _: () = ask(&mut cluster.connections[0], &meet).await;
            }
        }
        let begun = Instant::now();
        for connection in &mut cluster.connections {
            loop {
                let info: String = ask(connection, &["CLUSTER", "INFO"]).await;
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(30), "{info}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        cluster
    }

    /// Starts a node; answers its bus port.
    async fn add_node(&mut self, number: usize) -> u16 {
        let address = own_address();
        let bus = free_port(address).unwrap();
        let spec = RedisSpec {
            folder: self._folder.path().join(number.to_string()),
            address,
            port: free_port(address).unwrap(),
            password: self.password.clone(),
            extra: vec![
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {bus}"),
                // Else a node would look for the one that greeted it at 127.0.0.1.
                format!("cluster-announce-ip {address}"),
                "cluster-node-timeout 5000".to_owned(),
            ],
            lifetime: Lifetime::WithOwner(Signal::SIGKILL),
        };
        let node = Redis::start(spec).await.unwrap();
        self.connections.push(node.connect().await.unwrap());
        self.nodes.push(node);
        bus
    }

    /// Moves the slot of that key to the next node, key by key; how many keys it had.
    async fn move_slot_of(&mut self, key: &str) -> usize {
        let slot: u16 = ask(&mut self.connections[0], &["CLUSTER", "KEYSLOT", key]).await;
        let from = SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap();
        let to = (from + 1) % 3;
        let slot = slot.to_string();
        let (source, target) = (self.ids[from].clone(), self.ids[to].clone());
        let _: () = ask(&mut self.connections[to], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        let _: () = ask(&mut self.connections[from], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
        let (host, port) = (self.nodes[to].host().to_string(), self.nodes[to].port().to_string());
        let mut moved = 0;
        loop {
            let keys: Vec<String> = ask(&mut self.connections[from], &["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await;
            let Some(key) = keys.first() else { break };
            let migrate = ["MIGRATE", &host, &port, "", "0", "5000", "AUTH", &self.password, "KEYS", key];
            let _: () = ask(&mut self.connections[from], &migrate).await;
            moved += 1;
            // Half moved for a while: that is what the node has to live with.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        for node in [to, from, 3 - to - from] {
            let _: () = ask(&mut self.connections[node], &["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        }
        moved
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Before the folder that they write to.
        self.nodes.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_on_a_redis_cluster_sells_while_a_slot_moves() {
    let mut stage = ops::stage::Stage::start(Spec::default()).await.unwrap();
    stage.nodes[0].stop();
    let mut cluster = Cluster::start(stage.redis.password()).await;
    let urls: Vec<String> = cluster.nodes.iter().map(|node| format!("\"{}\"", node.url())).collect();
    let urls = format!("[{}]", urls.join(","));
    let env = [("BOXOFFICE_REDIS__CLUSTER", "true"), ("BOXOFFICE_REDIS__URLS", urls.as_str())];
    stage.nodes[0].start_again(&env).unwrap();
    stage.ready().await.unwrap();
    stage.define("demo", definition(300, json!({ "hold_ms": 12_000 }))).await.unwrap();
    let (target, options) = (stage.load_target(), crowd(250, 0.2));
    let people = tokio::spawn(async move { load::run(&target, &options, false).await });
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let sql = stage.sql().await.unwrap();
    let concert: i32 = sql.query_one("SELECT concert_id FROM concert", &[]).await.unwrap().get(0);
    let moved = cluster.move_slot_of(&format!("bq{{{concert}.0}}q")).await;
    assert!(moved >= 2, "{moved} keys moved");
    let report = people.await.unwrap().unwrap().report(250, true);
    assert_eq!(report.errors, 0, "{report:?}");
    assert!(report.sold > 50, "{report:?}");
    let mut spread = 0;
    for connection in &mut cluster.connections {
        let keys: usize = ask(connection, &["DBSIZE"]).await;
        spread += usize::from(keys > 0);
    }
    assert!(spread >= 2, "the shards lie on several nodes");
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}
