//! The node dies at each fail point, under load, and starts again; the books are judged in the end.

use crate::support::{concert, crowd, start, verdict};
use ops::load::Options;
use ops::load::plan::Curve;
use ops::sandbox::faults::{Faults, PaidAfterCancel};
use ops::stage::Spec;
use region_node::failpoints;
use std::time::Duration;

/// Not reached by an ordinary sale; each has a test of its own where its situation is made.
const SPECIAL: &[&str] = &["generations.after_record", "reclaim.before_commit"];

/// Tests that share the list, so that they can wait side by side.
const PARTS: usize = 4;

async fn die_at_each(part: usize) {
    let mut stage = start(Spec { processing: Duration::from_secs(6), ..Spec::default() }).await;
    // Money that comes after its payment was cancelled leads to the rarer paths: revivals and refunds.
    let faults =
        Faults { paid_after_cancel: PaidAfterCancel::CancelOk, paid_after_cancel_ms: 300, ..Faults::default() };
    stage.provider_faults(&faults).await.unwrap();
    // A region under arbiters dies in the tests of its own.
    let ours = |name: &&&str| !SPECIAL.contains(name) && !name.starts_with("quota.");
    let points = failpoints::ALL.iter().filter(ours).skip(part).step_by(PARTS);
    let mut crowds = Vec::new();
    let mut never = Vec::new();
    for (number, name) in points.enumerate() {
        let concert_name = format!("c{number}");
        stage.define(&concert_name, concert(30)).await.unwrap();
        let options = Options {
            curve: Curve::Flat,
            lapse: 0.35,
            cancel: 0.15,
            ..crowd(&concert_name, 120, Duration::from_secs(3))
        };
        let target = stage.load_target();
        crowds.push(tokio::spawn(async move { ops::load::run(&target, &options, false).await }));
        // The crowd looks at the concert before it sets out.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage.nodes[0].stop();
        stage.nodes[0].start_again(&[("BOXOFFICE_CRASH_AT", name)]).unwrap();
        if !stage.nodes[0].ends_within(Duration::from_secs(40)).await {
            never.push(name);
            stage.nodes[0].kill();
        }
        stage.nodes[0].start_again(&[]).unwrap();
        stage.ready().await.unwrap();
    }
    for crowd in crowds {
        let done = crowd.await.unwrap().unwrap();
        let problems = done.scene.tally.problems();
        assert_eq!(done.scene.tally.count(ops::load::tally::Outcome::Error), 0, "{problems:?}");
    }
    stage.quiet(Duration::from_secs(60)).await.unwrap();
    verdict(&stage).await;
    assert!(never.is_empty(), "never reached: {never:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_dies_at_fail_points_1() {
    die_at_each(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_dies_at_fail_points_2() {
    die_at_each(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_dies_at_fail_points_3() {
    die_at_each(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_dies_at_fail_points_4() {
    die_at_each(3).await;
}

/// Redis forgets everything while a sale goes on, and the node that puts that right dies on the way.
async fn die_while_a_lost_queue_is_put_right(point: &str) {
    let mut stage = start(Spec::default()).await;
    stage.define("lost", concert(30)).await.unwrap();
    let options = Options { curve: Curve::Flat, ..crowd("lost", 400, Duration::from_secs(2)) };
    let target = stage.load_target();
    let users = options.users;
    let buyers = tokio::spawn(async move { ops::load::run(&target, &options, false).await });
    // Most of the crowd waits in Redis behind the first sixty tickets.
    let sql = stage.sql().await.unwrap();
    let held = "SELECT count(*) FROM reservation WHERE state IN ('held', 'expiring', 'sold')";
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while sql.query_one(held, &[]).await.unwrap().get::<_, i64>(0) < 20 {
        assert!(std::time::Instant::now() < deadline, "nothing is held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.nodes[0].kill();
    let mut redis = stage.redis.connect().await.unwrap();
    let () = redis::cmd("FLUSHALL").arg("SYNC").query_async(&mut redis).await.unwrap();
    stage.nodes[0].start_again(&[("BOXOFFICE_CRASH_AT", point)]).unwrap();
    let died = stage.nodes[0].ends_within(Duration::from_secs(40)).await;
    stage.nodes[0].kill();
    stage.nodes[0].start_again(&[]).unwrap();
    stage.ready().await.unwrap();
    assert!(died, "never came to {point}");
    let lost = "SELECT count(*) FROM queue_generation WHERE lost_at IS NOT NULL";
    assert!(sql.query_one(lost, &[]).await.unwrap().get::<_, i64>(0) > 0, "nothing was lost");
    let done = buyers.await.unwrap().unwrap();
    stage.quiet(Duration::from_secs(60)).await.unwrap();
    let (report, _) = crate::support::settled(&stage, &done, users).await;
    assert_eq!(report.waiting, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_dies_between_recording_a_generation_and_beginning_it() {
    die_while_a_lost_queue_is_put_right("generations.after_record").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_dies_before_a_lost_place_is_put_back() {
    die_while_a_lost_queue_is_put_right("reclaim.before_commit").await;
}
