//! A cluster grows while it sells: another region, another node of a region; and the node that did the work dies.

use crate::support::{
    Buyer, Turn, books, cluster, concert, crowd, json, ops, send, settled_sale, shown, stocked, until,
};
use ops::stage::SitesSpec;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_region_and_a_node_are_added_while_the_others_sell() {
    let spec = SitesSpec { regions: vec!["east", "west"], ..SitesSpec::default() };
    let mut turn = cluster(spec).await;
    let Turn { sites, .. } = &mut turn;
    sites.define("grown", concert(600)).await.unwrap();
    stocked(sites, "grown").await;
    let buyers = send(sites, &crowd("grown", 300, Duration::from_secs(12)));

    let reserved = ops(sites, &["region", "add", "pool"]).await;
    assert!(!reserved.status.success(), "no region can be called so");
    assert_eq!(json(sites, &["region", "add", "south"]).await["changed"], true);
    assert_eq!(json(sites, &["region", "add", "south"]).await["changed"], false);
    let listed = shown(sites, &["region", "list"]).await;
    assert!(listed.contains("south") && listed.contains("none yet"), "{listed}");
    sites.another_region("south").await.unwrap();
    sites.ready().await.unwrap();
    stocked(sites, "grown").await;
    Buyer::joins(sites, 2, "grown", "A", 2).await.holds().await;

    // Two nodes of the east; the one that allocates and speaks with the arbiters dies.
    let mut second = sites.another_node(0).unwrap();
    second.ready(sites.http()).await.unwrap();
    let done = buyers.await.unwrap();
    sites.regions[0].node.kill();
    std::mem::swap(&mut sites.regions[0].node, &mut second);
    let granted = |view: &arbiter_api::QuotaView| view.tiers[0].regions[&"east".parse().unwrap()].last_report;
    let before = granted(&sites.quota("grown").await.unwrap());
    Buyer::joins(sites, 0, "grown", "A", 1).await.holds().await;
    until("the arbiters hear the other node", || async { granted(&sites.quota("grown").await.unwrap()) > before })
        .await;
    let east = json(sites, &["region", "list"]).await["regions"][0].clone();
    assert_eq!((&east["region"], &east["silent"]), (&"east".into(), &false.into()), "{east}");
    settled_sale(sites, &done).await;
    books(sites).await;
}
