//! Drives `Queue::join` alone against a Redis that is already running, and says what a join costs.
//!
//! `queue_bench URL [concurrent tasks] [joins] [rounds] [batch_items_max] [batch_wait_max_us]`; pin it and Redis with taskset for figures.
//! Every round prints joins/s, CPU microseconds per join of this process and of Redis, and Redis's bytes per entry.

use region_api::UserHash;
use region_node::queue::{ConcertQueue, JoinItem, JoinOutcome, Queue, QueueConfig};
use sale::allocate::Tiers;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// CPU seconds of this process, from /proc (100 ticks a second on Linux).
fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("stat").1.split_whitespace().collect();
    (fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime")) / 100.0
}

/// A number out of Redis's INFO.
async fn info(connection: &mut redis::aio::MultiplexedConnection, section: &str, names: &[&str]) -> f64 {
    let text: String = redis::cmd("INFO").arg(section).query_async(connection).await.expect("INFO");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse::<f64>().ok()).expect("a number")
    };
    names.iter().map(|name| value(name)).sum()
}

const CPU: [&str; 2] = ["used_cpu_sys", "used_cpu_user"];

#[tokio::main(worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: usize| args.get(at).map_or(otherwise, |text| text.parse().expect("a number"));
    let url = args.first().expect("URL of a Redis").clone();
    let (tasks, joins, rounds) = (number(1, 2_000), number(2, 1_000_000), number(3, 1));
    let mut config = QueueConfig::single(url.clone());
    config.batch_items_max = number(4, config.batch_items_max);
    config.batch_wait_max = Duration::from_micros(number(5, config.batch_wait_max.as_micros() as usize) as u64);
    let queue = Queue::connect(&config).await.expect("connect");
    let concert = ConcertQueue { concert_id: 1, shards: 8 };
    for shard in 0..concert.shards {
        queue.begin_generation(concert, shard, 1).await.expect("a generation");
    }
    let client = redis::Client::open(url).expect("URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("connect");
    for _ in 0..rounds {
        let before = queue.shards(concert).await.expect("state").iter().map(|shard| shard.tail_seq).sum::<u64>();
        let (cpu, redis_cpu) = (own_cpu(), info(&mut redis, "cpu", &CPU).await);
        let begun = Instant::now();
        let left = Arc::new(AtomicUsize::new(joins));
        let mut running = Vec::new();
        for _ in 0..tasks {
            let (queue, left) = (queue.clone(), left.clone());
            running.push(tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    let item = JoinItem {
                        user: UserHash(rand::random()),
                        request_id: Uuid::from_bytes(rand::random()),
                        quantity: 2,
                        tiers: Tiers::from_slice(&[0, 1]),
                        any_quantity: false,
                        identity: None,
                    };
                    let asked = Instant::now();
                    let joined = queue.join(concert, item).await.expect("a join");
                    slowest = slowest.max(asked.elapsed());
                    assert_eq!(joined.outcome, JoinOutcome::Fresh);
                }
                slowest
            }));
        }
        let mut slowest = Duration::ZERO;
        for task in running {
            slowest = slowest.max(task.await.expect("a task"));
        }
        let took = begun.elapsed().as_secs_f64();
        let (own, theirs) = (own_cpu() - cpu, info(&mut redis, "cpu", &CPU).await - redis_cpu);
        let after = queue.shards(concert).await.expect("state").iter().map(|shard| shard.tail_seq).sum::<u64>();
        assert_eq!(after - before, joins as u64, "every join is there once");
        let each = 1e6 / joins as f64;
        let used = info(&mut redis, "memory", &["used_memory"]).await;
        eprintln!(
            "queued {after} joins/s {:.0} node {:.2} µs redis {:.2} µs together {:.2} µs slowest {:.0} ms bytes/entry {:.0}",
            joins as f64 / took,
            own * each,
            theirs * each,
            (own + theirs) * each,
            slowest.as_secs_f64() * 1e3,
            used / after as f64
        );
    }
}
