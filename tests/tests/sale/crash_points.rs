//! The node dies at each fail point, under load, and starts again; the books are judged in the end.

use crate::support::{concert, crowd, start, verdict};
use ops::load::Options;
use ops::load::plan::Curve;
use ops::stage::Spec;
use region_node::failpoints;
use std::time::Duration;

/// Not reached by an ordinary sale; each has a test of its own where its situation is made.
const SPECIAL: &[&str] = &["generations.after_record", "reclaim.before_commit"];

#[tokio::test(flavor = "multi_thread")]
async fn the_node_dies_at_every_fail_point_and_nothing_is_lost_or_doubled() {
    let mut stage = start(Spec::default()).await;
    let mut crowds = Vec::new();
    for (number, name) in failpoints::ALL.iter().filter(|name| !SPECIAL.contains(name)).enumerate() {
        let concert_name = format!("c{number}");
        stage.define(&concert_name, concert(40)).await.unwrap();
        stage.nodes[0].stop();
        stage.nodes[0].start_again(&[("BOXOFFICE_CRASH_AT", name)]).unwrap();
        let options = Options {
            curve: Curve::Flat,
            lapse: 0.3,
            cancel: 0.2,
            ..crowd(&concert_name, 150, Duration::from_secs(2))
        };
        let target = stage.load_target();
        crowds.push(tokio::spawn(async move { ops::load::run(&target, &options, false).await }));
        assert!(stage.nodes[0].ends_within(Duration::from_secs(30)).await, "{name} was never reached");
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
}
