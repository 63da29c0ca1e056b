//! Sales on a quiet night: everybody is answered, everything is sold.

use crate::support::{concert, crowd, settled, start};
use ops::stage::Spec;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_buys_everything_and_everybody_is_answered() {
    let stage = start(Spec::default()).await;
    stage.define("night", concert(300)).await.unwrap();
    let options = crowd("night", 1_500, Duration::from_secs(3));
    let done = stage.crowd(&options).await.unwrap();
    let (report, verdict) = settled(&stage, &done, options.users).await;
    assert_eq!(report.waiting, 0, "{report:?}");
    assert!(report.rejected + report.refused > 0, "more people than tickets");
    for tier in &verdict.concerts {
        let row = tier.regions["east"];
        assert_eq!((row.sold - row.refunded, row.held, row.available), (300, 0, 0), "{tier:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tickets_enough_whoever_pays_has_some() {
    let stage = start(Spec::default()).await;
    stage.define("matinee", concert(2_000)).await.unwrap();
    let options = crowd("matinee", 400, Duration::from_secs(2));
    let done = stage.crowd(&options).await.unwrap();
    let (report, _) = settled(&stage, &done, options.users).await;
    assert_eq!(report.sold + report.expired + report.cancelled + report.refunded, 400, "{report:?}");
    assert_eq!((report.rejected, report.refused, report.waiting), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_with_all_roles_sell_as_one() {
    let nodes = vec![ops::cluster::node_config::ALL_ROLES.to_vec(); 2];
    let stage = start(Spec { nodes, ..Spec::default() }).await;
    stage.define("both", concert(200)).await.unwrap();
    let options = crowd("both", 1_000, Duration::from_secs(2));
    let done = stage.crowd(&options).await.unwrap();
    let (report, verdict) = settled(&stage, &done, options.users).await;
    assert_eq!(report.waiting, 0, "{report:?}");
    let sold: i64 = verdict.concerts.iter().map(|tier| tier.regions["east"].sold - tier.regions["east"].refunded).sum();
    assert_eq!(sold, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_late_doubled_reordered_and_lost_sell_all_the_same() {
    let stage = start(Spec::default()).await;
    stage.define("storm", concert(200)).await.unwrap();
    let faults = ops::sandbox::faults::Faults {
        webhook_delay_ms: 200,
        webhook_jitter_ms: 3_000,
        webhook_copies: 3,
        webhook_drop: 0.2,
        fail_after: 0.02,
        fail_before: 0.02,
        ..Default::default()
    };
    stage.provider_faults(&faults).await.unwrap();
    let options = crowd("storm", 900, Duration::from_secs(3));
    let done = stage.crowd(&options).await.unwrap();
    stage.provider_faults(&Default::default()).await.unwrap();
    stage.quiet(Duration::from_secs(60)).await.unwrap();
    settled(&stage, &done, options.users).await;
}
