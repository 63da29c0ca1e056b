//! A Redis Cluster of three for tests: private, on loopback, synced before every answer, and slots that move on demand.
//! Ends with its value, folders included.

use super::{Lifetime, LocalError, OwnFolder, Redis, RedisSpec, free_port, new_password, own_address, testing};
use nix::sys::signal::Signal;
use redis::aio::MultiplexedConnection;
use std::time::{Duration, Instant};

/// Which slots each node holds at first.
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];
/// Greeting one another and agreeing on the slots takes a second or two; a crowded machine gets more.
const FORMED_WITHIN: Duration = Duration::from_secs(30);
/// A node that is silent for so long counts as dead.
const NODE_TIMEOUT_MS: u64 = 5_000;

/// The cluster.
pub struct RedisCluster {
    /// Its nodes, in the order of the slots that they held at first.
    pub nodes: Vec<Redis>,
    /// A connection to each.
    pub connections: Vec<MultiplexedConnection>,
    ids: Vec<String>,
    password: String,
    // Dropped last.
    folder: OwnFolder,
}

/// How a slot moved.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// Where it is now.
    pub to: usize,
    /// Keys that it had.
    pub keys: usize,
    /// How long it was neither here nor there.
    pub took: Duration,
}

/// One command; what Redis refuses is an error.
pub async fn ask<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &[&str],
) -> Result<T, LocalError> {
    let (name, arguments) = command.split_first().unwrap_or((&"PING", &[]));
    Ok(redis::cmd(name).arg(arguments).query_async(connection).await?)
}

impl RedisCluster {
    /// Starts three nodes and waits until they are one cluster.
    pub async fn start() -> Result<Self, LocalError> {
        Self::start_with(&new_password()).await
    }

    /// The same with a password that others know already.
    pub async fn start_with(password: &str) -> Result<Self, LocalError> {
        let mut cluster = Self {
            nodes: Vec::new(),
            connections: Vec::new(),
            ids: Vec::new(),
            password: password.to_owned(),
            folder: testing::own_folder("cluster")?,
        };
        for (number, (first, last)) in SLOTS.into_iter().enumerate() {
            let bus = cluster.add_node(number).await?;
            let mut connection = cluster.connections[number].clone();
            cluster.ids.push(ask(&mut connection, &["CLUSTER", "MYID"]).await?);
            let (first, last) = (first.to_string(), last.to_string());
            let _: () = ask(&mut connection, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
            let _: () = ask(&mut connection, &["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await?;
            let (host, port) = (cluster.nodes[number].host().to_string(), cluster.nodes[number].port().to_string());
            if number > 0 {
                let meet = ["CLUSTER", "MEET", &host, &port, &bus.to_string()];
                let _: () = ask(&mut cluster.connections[0], &meet).await?;
            }
        }
        cluster.formed().await?;
        Ok(cluster)
    }

    async fn formed(&mut self) -> Result<(), LocalError> {
        let begun = Instant::now();
        for (node, connection) in self.nodes.iter().zip(&mut self.connections) {
            loop {
                let info: String = ask(connection, &["CLUSTER", "INFO"]).await?;
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                if begun.elapsed() > FORMED_WITHIN {
                    let (server, log) = (format!("the Redis Cluster's {}", node.url()), node.log());
                    let (waited, log_tail) = (begun.elapsed(), super::tail(&log));
                    return Err(LocalError::NotReady { server, waited, why: info, log, log_tail });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Starts a node; answers its bus port.
    async fn add_node(&mut self, number: usize) -> Result<u16, LocalError> {
        let address = own_address();
        let bus = free_port(address)?;
        let spec = RedisSpec {
            folder: self.folder.path().join(number.to_string()),
            address,
            port: free_port(address)?,
            password: self.password.clone(),
            extra: vec![
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {bus}"),
                // Else a node would look for the one that greeted it at 127.0.0.1.
                format!("cluster-announce-ip {address}"),
                format!("cluster-node-timeout {NODE_TIMEOUT_MS}"),
            ],
            lifetime: Lifetime::WithOwner(Signal::SIGKILL),
        };
        let node = Redis::start(spec).await?;
        self.connections.push(node.connect().await?);
        self.nodes.push(node);
        Ok(bus)
    }

    /// Password of every node.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Slot of a key, as Redis says it.
    pub async fn slot_of(&mut self, key: &str) -> Result<u16, LocalError> {
        ask(&mut self.connections[0], &["CLUSTER", "KEYSLOT", key]).await
    }

    /// Which node held a slot at first.
    pub fn first_holder(slot: u16) -> usize {
        SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap_or(0)
    }

    /// Moves a slot key by key, with a pause after each: half moved for a while, which is what clients have to live with.
    pub async fn move_slot(&mut self, slot: u16, from: usize, to: usize, pause: Duration) -> Result<Moved, LocalError> {
        let slot = slot.to_string();
        let (source, target) = (self.ids[from].clone(), self.ids[to].clone());
        let begun = Instant::now();
        let _: () = ask(&mut self.connections[to], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await?;
        let _: () = ask(&mut self.connections[from], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await?;
        let (host, port) = (self.nodes[to].host().to_string(), self.nodes[to].port().to_string());
        let mut keys = 0;
        loop {
            let found: Vec<String> =
                ask(&mut self.connections[from], &["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await?;
            let Some(key) = found.first() else { break };
            let migrate = ["MIGRATE", &host, &port, "", "0", "5000", "AUTH", &self.password, "KEYS", key];
            let _: () = ask(&mut self.connections[from], &migrate).await?;
            keys += 1;
            tokio::time::sleep(pause).await;
        }
        for node in [to, from, 3 - to - from] {
            let _: () = ask(&mut self.connections[node], &["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await?;
        }
        Ok(Moved { to, keys, took: begun.elapsed() })
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        // Before the folder that they write to.
        self.nodes.clear();
    }
}
