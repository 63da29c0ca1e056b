//! SIGKILL in the middle of a sale, repeatedly: of the node, of Redis, of PostgreSQL, of one of two allocators.

use crate::support::{concert, crowd, settled, start};
use ops::load::Options;
use ops::stage::{Spec, Stage};
use std::time::Duration;
use tokio::time::sleep;

/// Sends a crowd and lets `trouble` happen while it buys.
async fn sale_with_trouble(mut stage: Stage, trouble: impl AsyncFnOnce(&mut Stage)) {
    stage.define("trouble", concert(400)).await.unwrap();
    let options = Options { curve: ops::load::plan::Curve::Flat, ..crowd("trouble", 2_500, Duration::from_secs(12)) };
    let target = stage.load_target();
    let users = options.users;
    let buyers = tokio::spawn(async move { ops::load::run(&target, &options, false).await });
    trouble(&mut stage).await;
    stage.ready().await.unwrap();
    let done = buyers.await.unwrap().unwrap();
    stage.quiet(Duration::from_secs(60)).await.unwrap();
    settled(&stage, &done, users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_killed_again_and_again() {
    sale_with_trouble(start(Spec::default()).await, async |stage: &mut Stage| {
        for _ in 0..4 {
            sleep(Duration::from_millis(1_700)).await;
            stage.nodes[0].kill();
            sleep(Duration::from_millis(300)).await;
            stage.nodes[0].start_again(&[]).unwrap();
            stage.ready().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_again_and_again() {
    sale_with_trouble(start(Spec::default()).await, async |stage: &mut Stage| {
        for _ in 0..3 {
            sleep(Duration::from_millis(2_000)).await;
            stage.redis.kill();
            sleep(Duration::from_millis(700)).await;
            stage.redis.start_again().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_killed_again_and_again() {
    sale_with_trouble(start(Spec::default()).await, async |stage: &mut Stage| {
        for _ in 0..3 {
            sleep(Duration::from_millis(2_000)).await;
            stage.postgres.kill();
            sleep(Duration::from_millis(700)).await;
            stage.postgres.start_again().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_allocators_is_killed_and_frozen() {
    let nodes = vec![ops::cluster::node_config::ALL_ROLES.to_vec(); 2];
    sale_with_trouble(start(Spec { nodes, ..Spec::default() }).await, async |stage: &mut Stage| {
        use nix::sys::signal::Signal;
        for victim in [0, 1] {
            sleep(Duration::from_millis(1_500)).await;
            // A frozen allocator wakes up with a batch that somebody else may have decided.
            stage.nodes[victim].signal(Signal::SIGSTOP);
            sleep(Duration::from_millis(1_500)).await;
            stage.nodes[victim].signal(Signal::SIGCONT);
            sleep(Duration::from_millis(800)).await;
            stage.nodes[victim].kill();
            sleep(Duration::from_millis(300)).await;
            stage.nodes[victim].start_again(&[]).unwrap();
            stage.ready().await.unwrap();
        }
    })
    .await;
}

/// Whether a node holds the allocator's lock.
async fn allocates(stage: &Stage, node: usize) -> bool {
    let access = stage.admin().unwrap();
    let url = format!("http://{}/v1/status", stage.nodes[node].admin);
    let Ok(answer) = stage.http().get(url).bearer_auth(access.token).send().await else { return false };
    answer.json::<region_api::wire::NodeStatus>().await.is_ok_and(|status| status.allocating)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standby_allocates_when_the_active_one_dies() {
    let nodes = vec![ops::cluster::node_config::ALL_ROLES.to_vec(); 2];
    let mut stage = start(Spec { nodes, ..Spec::default() }).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let active = loop {
        let both = (allocates(&stage, 0).await, allocates(&stage, 1).await);
        assert_ne!(both, (true, true), "one lock, one holder");
        match both {
            (true, _) => break 0,
            (_, true) => break 1,
            _ => assert!(std::time::Instant::now() < deadline, "nobody allocates"),
        }
        sleep(Duration::from_millis(100)).await;
    };
    stage.nodes[active].kill();
    let begun = std::time::Instant::now();
    while !allocates(&stage, 1 - active).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "the standby does not take over");
        sleep(Duration::from_millis(50)).await;
    }
    stage.nodes[active].start_again(&[]).unwrap();
    stage.ready().await.unwrap();
    stage.define("after", concert(20)).await.unwrap();
    let options = crowd("after", 60, Duration::from_secs(1));
    let done = stage.crowd(&options).await.unwrap();
    stage.quiet(Duration::from_secs(60)).await.unwrap();
    settled(&stage, &done, 60).await;
    assert!(!allocates(&stage, active).await, "who comes back waits for the lock");
}
