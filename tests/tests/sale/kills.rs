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
