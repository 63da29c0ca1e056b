//! Redis is killed, emptied, restored, hung, robbed of its functions or of its replica while people join: what was
//! acknowledged is there exactly once, what was not is there at most once.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod queue_support;

use ops::local::{Redis, testing};
use queue_support::*;
use region_node::queue::*;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the crowd was told, by user.
#[derive(Default)]
struct Told {
    joined: HashMap<u64, Joined>,
    unknown: Vec<u64>,
    unavailable: usize,
    slowest: Duration,
}

/// Sixty-four people at a time join, each new one a new user, until told to stop.
async fn crowd(queue: &Queue, next: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) -> Told {
    let mut running = Vec::new();
    for _ in 0..64 {
        let (queue, next, stop) = (queue.clone(), next.clone(), stop.clone());
        running.push(tokio::spawn(async move {
            let mut told = Told::default();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let begun = Instant::now();
                match queue.join(CONCERT, item(number, 1)).await {
                    Ok(joined) => {
                        assert_eq!(joined.outcome, JoinOutcome::Fresh);
                        told.joined.insert(number, joined);
                    }
                    Err(JoinError::Unknown(_)) => told.unknown.push(number),
                    Err(JoinError::Unavailable(_)) => {
                        told.unavailable += 1;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
                told.slowest = told.slowest.max(begun.elapsed());
            }
            told
        }));
    }
    let mut all = Told::default();
    for task in running {
        let told = task.await.unwrap();
        all.joined.extend(told.joined);
        all.unknown.extend(told.unknown);
        all.unavailable += told.unavailable;
        all.slowest = all.slowest.max(told.slowest);
    }
    all
}

/// Every acknowledged join is there, once, as acknowledged.
async fn check_acknowledged(queue: &Queue, told: &Told) {
    let there = everything(queue, 1).await;
    for (number, joined) in &told.joined {
        let entry = there.get(&joined.entry).unwrap_or_else(|| panic!("{number} lost {:?}", joined.entry));
        assert_eq!((&entry.item, entry.arrival_ms), (&item(*number, 1), joined.arrival_ms));
    }
    let known = told.joined.len() + told.unknown.len();
    assert!(there.len() <= known, "{} places for {known} people", there.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_mid_batch_under_load_again_and_again() {
    let mut redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let next = Arc::new(AtomicU64::new(0));
    let mut all = Told::default();
    for round in 0..6u64 {
        let stop = Arc::new(AtomicBool::new(false));
        let (task_queue, task_next, task_stop) = (queue.clone(), next.clone(), stop.clone());
        let load = tokio::spawn(async move { crowd(&task_queue, &task_next, &task_stop).await });
        tokio::time::sleep(Duration::from_millis(100 + 37 * round)).await;
        redis.kill();
        tokio::time::sleep(Duration::from_millis(50)).await;
        redis.start_again().await.unwrap();
        until_ready(&queue).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.store(true, Ordering::Relaxed);
        let told = load.await.unwrap();
        assert!(told.slowest < Duration::from_millis(1_500), "{:?}", told.slowest);
        all.joined.extend(told.joined);
        all.unknown.extend(told.unknown);
        all.unavailable += told.unavailable;
    }
    check_acknowledged(&queue, &all).await;
    assert!(all.joined.len() > 1_000 && all.unavailable > 0, "{} joined", all.joined.len());
    assert!(!all.unknown.is_empty(), "no kill ever hit a batch in flight");
    // Who did not know asks again with the same request, and has one place from then on.
    for number in &all.unknown {
        let joined = join_again(&queue, &item(*number, 1)).await;
        all.joined.insert(*number, joined);
    }
    let there = everything(&queue, 1).await;
    assert_eq!(there.len(), all.joined.len());
    for number in &all.unknown {
        assert_eq!(there[&all.joined[number].entry].item, item(*number, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_server_costs_a_second_and_then_nothing() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    redis.pause();
    let begun = Instant::now();
    let unknown = queue.join(CONCERT, item(1, 1)).await;
    assert!(matches!(unknown, Err(JoinError::Unknown(_))), "{unknown:?}");
    assert!(begun.elapsed() < Duration::from_millis(1_300), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let refused = queue.join(CONCERT, item(2, 1)).await;
    assert!(matches!(refused, Err(JoinError::Unavailable(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    assert!(!queue.state().ready);
    redis.resume();
    until_ready(&queue).await;
    join_again(&queue, &item(1, 1)).await;
    assert_eq!(queue.join(CONCERT, item(2, 1)).await.unwrap().outcome, JoinOutcome::Fresh);
    assert_eq!(everything(&queue, 1).await.len(), 2);
}

#[tokio::test]
async fn an_emptied_redis_takes_nobody_before_a_new_generation() {
    let redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let before = queue.join(CONCERT, item(1, 1)).await.unwrap();
    let mut connection = redis.connect().await.unwrap();
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    let shard = before.entry.shard();
    assert_eq!(queue.join(CONCERT, item(1, 1)).await, Err(JoinError::NoGeneration { shard }));
    assert_eq!(queue.shards(CONCERT).await.unwrap(), []);
    // Generation 1 again would give numbers out twice: this node has seen one of them acknowledged.
    queue.begin_generation(CONCERT, shard, 1).await.unwrap();
    assert_eq!(queue.join(CONCERT, item(1, 1)).await, Err(JoinError::NoGeneration { shard }));
    queue.begin_generation(CONCERT, shard, 2).await.unwrap();
    let after = queue.join(CONCERT, item(1, 1)).await.unwrap();
    assert_eq!((after.outcome, after.entry.generation()), (JoinOutcome::Fresh, 2));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_redis_restored_behind_what_was_acknowledged_is_refused() {
    let mut redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let shard = shard_of(&user(1), CONCERT.shards);
    let mut same_shard = (1..).filter(|number| shard_of(&user(*number), CONCERT.shards) == shard);
    let mut join = async || queue.join(CONCERT, item(same_shard.next().unwrap(), 1)).await;
    join().await.unwrap();
    join().await.unwrap();
    redis.stop();
    let (log, backup) = (redis.folder().join("appendonlydir"), redis.folder().join("backup"));
    copy(&log, &backup);
    redis.start_again().await.unwrap();
    until_ready(&queue).await;
    let last = join().await.unwrap();
    assert_eq!(last.entry.sequence(), 3);
    redis.kill();
    copy(&backup, &log);
    redis.start_again().await.unwrap();
    until_ready(&queue).await;
    assert_eq!(queue.shards(CONCERT).await.unwrap()[usize::from(shard)].tail_seq, 2);
    assert_eq!(join().await, Err(JoinError::NoGeneration { shard }));
    // A node that has just started has seen nothing; the database's tail tells it.
    let other = Queue::connect(&config_of(&redis)).await.unwrap();
    other.note_given_out(CONCERT, shard, 1, 3);
    assert_eq!(other.join(CONCERT, item(1, 1)).await, Err(JoinError::NoGeneration { shard }));
    queue.begin_generation(CONCERT, shard, 2).await.unwrap();
    let fresh = join().await.unwrap();
    assert_eq!((fresh.entry.generation(), fresh.entry.sequence()), (2, 1));
    assert_eq!(queue.peek(CONCERT, shard, 1, 0, 10).await.unwrap().len(), 2, "the survivors stay readable");
}

#[tokio::test]
async fn missing_functions_are_loaded_again() {
    let mut redis = testing::redis().await.unwrap();
    let queue = queue_on(&redis).await;
    let flush = async |redis: &Redis| {
        let mut connection = redis.connect().await.unwrap();
        let _: () = redis::cmd("FUNCTION").arg("FLUSH").query_async(&mut connection).await.unwrap();
    };
    flush(&redis).await;
    assert_eq!(queue.join(CONCERT, item(1, 1)).await.unwrap().outcome, JoinOutcome::Fresh);
    flush(&redis).await;
    assert_eq!(queue.shards(CONCERT).await.unwrap().len(), 4);
    flush(&redis).await;
    redis.kill();
    redis.start_again().await.unwrap();
    let joined = join_again(&queue, &item(2, 1)).await;
    assert_eq!(everything(&queue, 1).await.len(), 2);
    assert_eq!(joined.item, item(2, 1));
}

/// Until the replica has everything.
async fn until_linked(master: &Redis) {
    let mut connection = master.connect().await.unwrap();
    let begun = Instant::now();
    loop {
        let confirmed: u32 = redis::cmd("WAIT").arg(1).arg(100).query_async(&mut connection).await.unwrap();
        if confirmed == 1 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no replica");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_replica_nothing_is_acknowledged() {
    let master = testing::redis().await.unwrap();
    let replica_of = format!("replicaof {} {}", master.host(), master.port());
    let auth = format!("masterauth {}", master.password());
    let replica = testing::redis_with(&[&replica_of, &auth]).await.unwrap();
    let mut config = config_of(&master);
    config.wait_replicas = 1;
    let queue = Queue::connect(&config).await.unwrap();
    begin_all(&queue, 1).await;
    until_linked(&master).await;
    let joined = queue.join(CONCERT, item(1, 1)).await.unwrap();
    let mut there = replica.connect().await.unwrap();
    let length: u64 = redis::cmd("XLEN")
        .arg(format!("bq{{{}.{}}}q", CONCERT.concert_id, joined.entry.shard()))
        .query_async(&mut there)
        .await
        .unwrap();
    assert_eq!(length, 1, "acknowledged means: on the replica");
    replica.pause();
    let begun = Instant::now();
    let unknown = queue.join(CONCERT, item(2, 1)).await;
    assert!(matches!(unknown, Err(JoinError::Unknown(_))), "{unknown:?}");
    assert!(begun.elapsed() < Duration::from_millis(1_100), "{:?}", begun.elapsed());
    // Nor is a repeat of what was never confirmed.
    assert!(matches!(queue.join(CONCERT, item(2, 1)).await, Err(JoinError::Unknown(_))));
    replica.resume();
    until_linked(&master).await;
    assert_eq!(join_again(&queue, &item(2, 1)).await.outcome, JoinOutcome::Repeat);
    assert_eq!(everything(&queue, 1).await.len(), 2);
}
