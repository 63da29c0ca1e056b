//! The same queue on a Redis Cluster of three: every shard where its slot is, also while that slot moves under load.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod queue_support;

use ops::local::redis_cluster::{RedisCluster, ask};
use queue_support::*;
use region_node::queue::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A call follows a moving slot, and waits for an answer, for so long (`queue::limits`).
const PATIENCE: Duration = Duration::from_millis(1_000);

fn config(cluster: &RedisCluster) -> QueueConfig {
    let mut config = QueueConfig::single(cluster.nodes[1].url());
    config.password = Some(Secret::new(cluster.password().to_owned()));
    config.cluster = true;
    config
}

/// Slot of a shard's keys, as Redis says it.
async fn slot_of(cluster: &mut RedisCluster, shard: u16) -> u16 {
    cluster.slot_of(&format!("bq{{{}.{shard}}}q", CONCERT.concert_id)).await.unwrap()
}

/// The longest time that any node says it stood still for (its disk, mostly).
async fn longest_stall(cluster: &mut RedisCluster) -> Duration {
    let mut longest = 0;
    for connection in &mut cluster.connections {
        let events: Vec<(String, u64, u64, u64)> = ask(connection, &["LATENCY", "LATEST"]).await.unwrap();
        longest = longest.max(events.iter().map(|event| event.3).max().unwrap_or(0));
    }
    Duration::from_millis(longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_while_people_join() {
    let mut cluster = RedisCluster::start().await.unwrap();
    for connection in &mut cluster.connections {
        let _: () = ask(connection, &["CONFIG", "SET", "latency-monitor-threshold", "100"]).await.unwrap();
    }
    let queue = Queue::connect(&config(&cluster)).await.unwrap();
    begin_all(&queue, 1).await;
    let mut holders = Vec::new();
    for shard in 0..CONCERT.shards {
        holders.push(RedisCluster::first_holder(slot_of(&mut cluster, shard).await));
    }
    assert!(holders.iter().any(|node| *node != holders[0]), "the shards lie on several nodes");

    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut running = Vec::new();
    for _ in 0..64 {
        let (queue, next, stop) = (queue.clone(), next.clone(), stop.clone());
        running.push(tokio::spawn(async move {
            let (mut told, mut refused) = (HashMap::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                loop {
                    match queue.join(CONCERT, item(number, 1)).await {
                        Ok(joined) => break drop(told.insert(number, joined)),
                        Err(error @ (JoinError::Unavailable(_) | JoinError::Unknown(_))) => refused.push(error),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            (told, refused)
        }));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (slot, from) = (slot_of(&mut cluster, 0).await, holders[0]);
    let first = cluster.move_slot(slot, from, (from + 1) % 3, Duration::from_millis(60)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // And the next one to where nothing of it has ever been, with the map already stale once.
    let (slot, from) = (slot_of(&mut cluster, 1).await, holders[1]);
    let second = cluster.move_slot(slot, from, (from + 2) % 3, Duration::from_millis(60)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);

    let (mut told, mut refused) = (HashMap::new(), Vec::new());
    for task in running {
        let (theirs, theirs_refused) = task.await.unwrap();
        told.extend(theirs);
        refused.extend(theirs_refused);
    }
    // Longer than a call's patience no slot may be in between, and no server silent: then, and only then, some are told.
    let stall = longest_stall(&mut cluster).await;
    let excused = first.took.max(second.took) >= PATIENCE || stall >= PATIENCE;
    assert!(
        refused.is_empty() || excused,
        "{} refused, such as {:?}: a moving slot is followed, not reported ({first:?}, {second:?}, stall {stall:?})",
        refused.len(),
        refused.first()
    );
    assert!(told.len() > 1_000);
    let there = everything(&queue, 1).await;
    assert_eq!(there.len(), told.len());
    for (number, joined) in &told {
        assert_eq!(there[&joined.entry].item, item(*number, 1));
    }
    let queue_of_0 = format!("bq{{{}.0}}q", CONCERT.concert_id);
    let length: u64 = ask(&mut cluster.connections[first.to], &["XLEN", &queue_of_0]).await.unwrap();
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
    let mut cluster = RedisCluster::start().await.unwrap();
    // Without this the whole cluster stops answering, which is Redis's default.
    for connection in &mut cluster.connections {
        let _: () = ask(connection, &["CONFIG", "SET", "cluster-require-full-coverage", "no"]).await.unwrap();
    }
    let queue = Queue::connect(&config(&cluster)).await.unwrap();
    begin_all(&queue, 1).await;
    let dead = RedisCluster::first_holder(slot_of(&mut cluster, 0).await);
    let mut alive = Vec::new();
    for shard in 0..CONCERT.shards {
        if RedisCluster::first_holder(slot_of(&mut cluster, shard).await) != dead {
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
        assert_eq!(queue.join(CONCERT, item(on(*shard), 1)).await.unwrap().entry.shard(), *shard);
    }
    cluster.nodes[dead].start_again().await.unwrap();
    assert_eq!(join_again(&queue, &item(on(0), 1)).await.entry.shard(), 0);
    assert_eq!(everything(&queue, 1).await.len(), alive.len() + 1);
}
