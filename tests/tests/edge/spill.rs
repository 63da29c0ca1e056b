//! A region that gets more people than it takes, and one whose queue is full: real nodes say so, a real edge hands over the
//! share that the neighbours have room for, step by step, and takes it back.

use hickory_proto::rr::RecordType;
use ops::dns;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::world::*;

/// Joins per second that each region takes.
const CAPACITY: f64 = 40.0;
/// Reservations that may wait in each.
const QUEUE_MAX: u64 = 150;
/// Largest share that moves in a step, and the time between steps.
const STEP: (f64, Duration) = (0.1, Duration::from_secs(2));
/// Networks of one German provider: their people belong to `east`.
const NETWORKS: usize = 800;

fn network(at: usize) -> (IpAddr, u8) {
    (Ipv4Addr::new(84, 128 + (at / 256) as u8, (at % 256) as u8, 0).into(), 24)
}

/// People who come to wherever the edge sends their network, so many a second until told otherwise.
struct Crowd {
    per_s: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Crowd {
    fn start(world: &Arc<World>, per_s: u64) -> Self {
        let (per_s, failed) = (Arc::new(AtomicU64::new(per_s)), Arc::new(AtomicU64::new(0)));
        let (rate, lost, world) = (per_s.clone(), failed.clone(), world.clone());
        let task = tokio::spawn(async move {
            let (mut due, mut number) = (Instant::now(), 0);
            while let per_s @ 1.. = rate.load(Ordering::Relaxed) {
                // Whoever is late comes at once: so many a second also on a busy machine.
                due += Duration::from_secs(1) / per_s as u32;
                tokio::time::sleep_until(due.into()).await;
                number += 1;
                let (world, lost) = (world.clone(), lost.clone());
                tokio::spawn(async move {
                    // Neighbours in time are not neighbours in the network.
                    let at = world.sent(number * 37 % NETWORKS).await;
                    if world.joins((at, 8080).into(), "demo").await.is_err() {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { per_s, failed, task }
    }

    fn becomes(&self, per_s: u64) {
        self.per_s.store(per_s, Ordering::Relaxed);
    }
}

impl World {
    /// Where the first edge sends a network.
    async fn sent(&self, network_no: usize) -> IpAddr {
        let server = self.edges[0].edge.dns;
        let answer = dns::addresses(server, ZONE, RecordType::A, Some(network(network_no))).await.unwrap();
        answer.addresses[0]
    }

    /// Share of the networks that are sent elsewhere than to `east`.
    async fn elsewhere(&self) -> f64 {
        let mut away = 0;
        for number in 0..NETWORKS {
            away += usize::from(self.at(self.sent(number).await) != Some("east"));
        }
        away as f64 / NETWORKS as f64
    }

    /// Share of `east`'s people that the first edge says it hands over.
    async fn away(&self) -> f64 {
        self.seen(0).await[0].handover.iter().map(|(_, share)| share).sum()
    }

    /// Waits until the share that is handed over is as wanted; on the way it never jumps, and no neighbour is sent more
    /// than it has room for.
    async fn until_away(&self, what: &str, most: Duration, wanted: impl Fn(f64) -> bool) {
        // When it was asked before, and when it had answered now: what happened in between took no longer.
        let (begun, mut before) = (Instant::now(), (Instant::now(), self.away().await));
        loop {
            let asked = Instant::now();
            let seen = self.seen(0).await;
            let now = (Instant::now(), seen[0].handover.iter().map(|(_, share)| share).sum::<f64>());
            let steps = 1.0 + ((now.0 - before.0).as_secs_f64() / STEP.1.as_secs_f64()).floor();
            let moved = (now.1 - before.1).abs();
            assert!(moved <= STEP.0 * steps + 1e-6, "{what}: from {} to {} in {steps} steps", before.1, now.1);
            for other in &seen[1..] {
                let arrivals = other.report.as_ref().map_or(0.0, |load| load.arrivals_per_s);
                assert!(arrivals <= CAPACITY, "{what}: {} is knocked over: {arrivals}", other.region);
                assert!(other.handover.is_empty(), "{what}: {} has to give people away itself", other.region);
            }
            if wanted(now.1) {
                return;
            }
            assert!(begun.elapsed() < most, "not within {most:?}: {what}; {} is handed over: {:#?}", now.1, seen[0]);
            before = (asked, now.1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_full_hands_over_what_its_neighbours_can_take_and_takes_it_back() {
    let world = World::with(More {
        nodes: "[intake]\ncapacity_per_s = 40.0\nqueue_max = 150\n",
        edges: "[spill]\nstep_ms = 2000\n",
        tickets: 20_000,
    });
    let world = Arc::new(world.await);
    assert_eq!(world.elsewhere().await, 0.0, "these networks are east's");
    too_many_come(&world).await;
    the_queue_is_full(&world).await;
}

async fn too_many_come(world: &Arc<World>) {
    let crowd = Crowd::start(world, 52);
    // Of 52 a second `east` takes 36 before it gives any away: three tenths have to go.
    world.until_away("a quarter is handed over", Duration::from_secs(40), |away| away >= 0.25).await;
    let before = world.away().await;
    let found = world.elsewhere().await;
    let after = world.away().await;
    let (least, most) = (before.min(after), before.max(after));
    // A step may have come and gone while eight hundred networks were asked about.
    let slack = 0.06 + if before == after { 0.0 } else { STEP.0 };
    assert!(found >= least - slack && found <= most + slack, "{found} of the answers, {least} to {most} of the people");
    let settled = |away: f64| (0.1..0.7).contains(&away);
    for _ in 0..8 {
        tokio::time::sleep(STEP.1).await;
        world.until_away("it stays about there", Duration::from_secs(10), settled).await;
    }
    let seen = world.seen(0).await;
    let load = |at: usize| seen[at].report.as_ref().unwrap().arrivals_per_s;
    assert!(load(0) < 46.0, "fewer come to east: {seen:#?}");
    assert!(load(1) + load(2) > 5.0, "and the others have them: {seen:#?}");
    crowd.becomes(5);
    world.until_away("everybody comes home", Duration::from_secs(60), |away| away == 0.0).await;
    assert_eq!(world.elsewhere().await, 0.0);
    assert_eq!(crowd.failed.load(Ordering::Relaxed), 0, "nobody was turned away");
    crowd.becomes(0);
    crowd.task.await.unwrap();
}

async fn the_queue_is_full(world: &Arc<World>) {
    let crowd = Crowd::start(world, 10);
    let east: SocketAddr = world.regions[0].public();
    let tier = json!({"tier": "A", "price": {"amount": 4500, "currency": "EUR"}, "total": 1});
    world.regions[0].define("one", json!({"hold_ms": 600_000, "tiers": [tier]})).await.unwrap();
    // One ticket, which somebody holds: the others wait.
    for _ in 0..=QUEUE_MAX {
        if world.joins(east, "one").await.is_err() {
            break;
        }
    }
    let intake = || async { world.regions[0].status().await.unwrap().intake };
    let full = || async { intake().await.queue >= QUEUE_MAX - 1 };
    until("the queue is full", Duration::from_secs(10), full).await;
    world.joins(east, "one").await.ok();
    let refused = || async { world.joins(east, "demo").await.is_err_and(|why| why.contains("queue is full")) };
    until("newcomers are refused", Duration::from_secs(10), refused).await;
    let intake = intake().await;
    assert!(
        intake.refused > 0 && intake.queue_max == QUEUE_MAX && intake.capacity_per_s == Some(CAPACITY),
        "{intake:?}"
    );
    world.until_away("most are handed over", Duration::from_secs(40), |away| away >= 0.85).await;
    let found = world.elsewhere().await;
    assert!(found > 0.75, "{found}");
    let access = world.regions[0].admin().unwrap();
    let close = world.regions[0].http().post(format!("{}/v1/concerts/one/close", access.url)).bearer_auth(access.token);
    close.send().await.unwrap().error_for_status().unwrap();
    // Everybody who waited is answered, and there is room again.
    world.until_away("everybody comes home", Duration::from_secs(60), |away| away == 0.0).await;
    assert_eq!(world.elsewhere().await, 0.0);
    world.joins(east, "demo").await.unwrap();
    crowd.becomes(0);
    crowd.task.await.unwrap();
}
