//! Arbiters die, lose their majority, or cannot be heard: regions go on selling, and the books are in order after each.

use crate::support::{books, cluster, concert, crowd, promised, send, settled, stocked};
use ops::stage::{Sites, SitesSpec};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A crowd buys, something happens while it does, and everything is judged when it is over.
async fn case(sites: &mut Sites, name: &str, trouble: impl AsyncFnOnce(&mut Sites)) {
    sites.define(name, concert(1_200)).await.unwrap();
    stocked(sites, name).await;
    let options = crowd(name, 700, Duration::from_secs(7));
    let buyers = send(sites, &options);
    sleep(Duration::from_millis(1_500)).await;
    trouble(sites).await;
    let done = buyers.await.unwrap();
    let (report, _) = settled(sites, &done, options.users).await;
    assert_eq!(report.waiting, 0, "{name}: {report:?}");
    assert!(report.sold > 400, "{name}: {report:?}");
}

/// Whoever sells goes on selling for a while.
async fn goes_on(sites: &Sites, concert: &str) {
    let before = promised(sites, concert).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while promised(sites, concert).await <= before {
        assert!(Instant::now() < deadline, "{concert}: nobody sold anything for 5 s");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Kills the leader. Returns who it was, and how long it took until another one served.
async fn new_leader(sites: &mut Sites) -> (u64, Duration) {
    let leader = sites.leader().await.unwrap();
    sites.arbiters[leader as usize - 1].kill();
    let begun = Instant::now();
    while !sites.leader().await.is_ok_and(|next| next != leader) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no new leader");
    }
    (leader, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_sell_while_arbiters_die_and_networks_are_cut() {
    let mut turn = cluster(SitesSpec::default()).await;
    let sites = &mut turn.sites;
    let mut took = Vec::new();
    case(sites, "leader", async |sites: &mut Sites| {
        let (leader, new) = new_leader(sites).await;
        took.push(new);
        goes_on(sites, "leader").await;
        sites.start_arbiter_again(leader).unwrap();
        sites.arbiters_ready().await.unwrap();
    })
    .await;
    // The machine may stand still for seconds under other people's work: one of three has to be in time.
    while took.iter().all(|took| *took >= Duration::from_secs(3)) {
        assert!(took.len() < 3, "new leaders served after {took:?}");
        let (leader, new) = new_leader(sites).await;
        took.push(new);
        sites.start_arbiter_again(leader).unwrap();
        sites.arbiters_ready().await.unwrap();
    }
    case(sites, "majority", async |sites: &mut Sites| {
        sites.arbiters[0].kill();
        sites.arbiters[1].kill();
        goes_on(sites, "majority").await;
        sleep(Duration::from_millis(1_500)).await;
        goes_on(sites, "majority").await;
        sites.start_arbiter_again(1).unwrap();
        sites.start_arbiter_again(2).unwrap();
        sites.arbiters_ready().await.unwrap();
    })
    .await;
    case(sites, "link", async |sites: &mut Sites| {
        sites.cut_region(0);
        goes_on(sites, "link").await;
        sleep(Duration::from_secs(2)).await;
        goes_on(sites, "link").await;
        sites.relay.heal();
    })
    .await;
    books(sites).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_killed_starts_again_and_sells_with_no_arbiter_in_reach() {
    let mut turn = cluster(SitesSpec::default()).await;
    let sites = &mut turn.sites;
    case(sites, "alone", async |sites: &mut Sites| {
        for arbiter in &mut sites.arbiters {
            arbiter.kill();
        }
        sites.regions[0].node.kill();
        sites.start_node_again(0).unwrap();
        sites.ready().await.unwrap();
        let before = sites.status(0).await.unwrap();
        let held = |status: &region_api::wire::NodeStatus| {
            let pools = status.concerts.iter().flat_map(|known| &known.pools);
            pools.map(|pool| pool.columns.held_in).sum::<i64>()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = sites.status(0).await.unwrap();
            if held(&now) > held(&before) {
                break;
            }
            assert!(Instant::now() < deadline, "the region does not sell: {now:#?}");
            sleep(Duration::from_millis(100)).await;
        }
        for id in 1..=3 {
            sites.start_arbiter_again(id).unwrap();
        }
        sites.arbiters_ready().await.unwrap();
    })
    .await;
}
