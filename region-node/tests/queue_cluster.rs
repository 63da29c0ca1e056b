//! The same queue on a Redis Cluster of three: every shard where its slot is, also while that slot moves under load.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod queue_support;

use ops::local::{Lifetime, Redis, RedisSpec, free_port, new_password, own_address, remove_place};
use queue_support::*;
use redis::aio::MultiplexedConnection;
use region_node::queue::*;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

struct Cluster {
    nodes: Vec<Redis>,
    connections: Vec<MultiplexedConnection>,
    ids: Vec<String>,
    password: String,
    folders: Vec<PathBuf>,
    _above: tempfile::TempDir,
}

/// Which slots each node holds at first.
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

async fn ask<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, command: &[&str]) -> T {
    let mut packed = redis::cmd(command[0]);
    packed.arg(&command[1..]);
    packed.query_async(connection).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

impl Cluster {
    async fn start() -> Self {
        let above = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            nodes: Vec::new(),
            connections: Vec::new(),
            ids: Vec::new(),
            password: new_password(),
            folders: Vec::new(),
            _above: above,
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
                assert!(begun.elapsed() < Duration::from_secs(15), "{info}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        cluster
    }

    /// Starts a node; answers its bus port.
    async fn add_node(&mut self, number: usize) -> u16 {
        let address = own_address();
        let bus = free_port(address).unwrap();
        let folder = self._above.path().join(number.to_string());
        let spec = RedisSpec {
            folder: folder.clone(),
            address,
            port: free_port(address).unwrap(),
            password: self.password.clone(),
            extra: vec![
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {bus}"),
                // Else a node would look for the one that greeted it at 127.0.0.1.
                format!("cluster-announce-ip {address}"),
                "cluster-node-timeout 2000".to_owned(),
            ],
            lifetime: Lifetime::WithOwner(nix::sys::signal::Signal::SIGKILL),
        };
        let node = Redis::start(spec).await.unwrap();
        self.connections.push(node.connect().await.unwrap());
        self.nodes.push(node);
        self.folders.push(folder);
        bus
    }

    fn config(&self) -> QueueConfig {
        let mut config = QueueConfig::single(self.nodes[1].url());
        config.password = Some(Secret::new(self.password.clone()));
        config.cluster = true;
        config
    }

    /// Moves a slot key by key, leaving it half moved for a while.
    async fn move_slot(&mut self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (source, target) = (self.ids[from].clone(), self.ids[to].clone());
        let _: () = ask(&mut self.connections[to], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        let _: () = ask(&mut self.connections[from], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
        let (host, port) = (self.nodes[to].host().to_string(), self.nodes[to].port().to_string());
        loop {
            let keys: Vec<String> = ask(&mut self.connections[from], &["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await;
            let Some(key) = keys.first() else { break };
            let migrate = ["MIGRATE", &host, &port, "", "0", "5000", "AUTH", &self.password, "KEYS", key];
            let _: () = ask(&mut self.connections[from], &migrate).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        for node in [to, from, 3 - to - from] {
            let _: () = ask(&mut self.connections[node], &["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        for folder in &self.folders {
            let _ = remove_place(folder);
        }
    }
}

/// Slot of a shard's keys, as Redis says it.
async fn slot_of(cluster: &mut Cluster, shard: u16) -> u16 {
    let key = format!("bq{{{}.{shard}}}q", CONCERT.concert_id);
    ask(&mut cluster.connections[0], &["CLUSTER", "KEYSLOT", &key]).await
}

fn holder(slot: u16) -> usize {
    SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_while_people_join() {
    let mut cluster = Cluster::start().await;
    let queue = Queue::connect(&cluster.config()).await.unwrap();
    begin_all(&queue, 1).await;
    let mut holders = Vec::new();
    for shard in 0..CONCERT.shards {
        holders.push(holder(slot_of(&mut cluster, shard).await));
    }
    assert!(holders.iter().any(|node| *node != holders[0]), "the shards lie on several nodes");

    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut running = Vec::new();
    for _ in 0..64 {
        let (queue, next, stop) = (queue.clone(), next.clone(), stop.clone());
        running.push(tokio::spawn(async move {
            let (mut told, mut refused, mut too_slow) = (HashMap::new(), 0, 0);
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                loop {
                    match queue.join(CONCERT, item(number, 1)).await {
                        Ok(joined) => break drop(told.insert(number, joined)),
                        Err(JoinError::Unavailable(_)) => refused += 1,
                        Err(JoinError::Unknown(_)) => too_slow += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            (told, refused, too_slow)
        }));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (slot, from) = (slot_of(&mut cluster, 0).await, holders[0]);
    let to = (from + 1) % 3;
    cluster.move_slot(slot, from, to).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    // And the next one to where nothing of it has ever been, with the map already stale once.
    let (slot, from) = (slot_of(&mut cluster, 1).await, holders[1]);
    cluster.move_slot(slot, from, (from + 2) % 3).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);

    let (mut told, mut refused, mut too_slow) = (HashMap::new(), 0, 0);
    for task in running {
        let (theirs, theirs_refused, theirs_too_slow) = task.await.unwrap();
        told.extend(theirs);
        refused += theirs_refused;
        too_slow += theirs_too_slow;
    }
    // On a crowded machine an fsync may take longer than a join waits; that, and what it refuses, is another matter.
    assert!(refused == 0 || too_slow > 0, "{refused} refused: a moving slot is followed, not reported");
    assert!(told.len() > 1_000);
    let there = everything(&queue, 1).await;
    assert_eq!(there.len(), told.len());
    for (number, joined) in &told {
        assert_eq!(there[&joined.entry].item, item(*number, 1));
    }
    let length: u64 = ask(&mut cluster.connections[to], &["XLEN", &format!("bq{{{}.0}}q", CONCERT.concert_id)]).await;
    assert!(length > 0, "shard 0 is where its slot went");
    // The other operations find it too.
    let state = queue.shards(CONCERT).await.unwrap()[0];
    queue.trim(CONCERT, 0, 1, state.tail_seq, false).await.unwrap();
    queue.note_book(CONCERT, 5).await.unwrap();
    assert_eq!(queue.book(CONCERT).await.unwrap(), Some(5));
    assert!(queue.once("n", Duration::from_secs(1)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_node_stops_only_its_shards() {
    let mut cluster = Cluster::start().await;
    // Without this the whole cluster stops answering, which is Redis's default.
    for connection in &mut cluster.connections {
        let _: () = ask(connection, &["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await;
    }
    let queue = Queue::connect(&cluster.config()).await.unwrap();
    begin_all(&queue, 1).await;
    let dead = holder(slot_of(&mut cluster, 0).await);
    let mut alive = Vec::new();
    for shard in 0..CONCERT.shards {
        if holder(slot_of(&mut cluster, shard).await) != dead {
            alive.push(shard);
        }
    }
    cluster.nodes[dead].kill();
    let on = |shard: u16| (0..).find(move |number| shard_of(&user(*number), CONCERT.shards) == shard).unwrap();
    let begun = Instant::now();
    let refused = queue.join(CONCERT, item(on(0), 1)).await;
    assert!(matches!(refused, Err(JoinError::Unavailable(_) | JoinError::Unknown(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    assert!(!queue.state().ready);
    for shard in &alive {
        assert_eq!(join_again(&queue, &item(on(*shard), 1)).await.entry.shard(), *shard);
    }
    cluster.nodes[dead].start_again().await.unwrap();
    assert_eq!(join_again(&queue, &item(on(0), 1)).await.entry.shard(), 0);
    assert_eq!(everything(&queue, 1).await.len(), alive.len() + 1);
}
