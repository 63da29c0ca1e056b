//! Tickets go where the people are: a skewed sale, and one buyer in a region that has none.

use crate::support::{cluster, concert, crowd, send, settled};
use ops::load::Options;
use ops::load::plan::Curve;
use ops::stage::{Sites, SitesSpec, program};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_skewed_sale_sells_out_and_nothing_is_stranded() {
    let turn = cluster(SitesSpec::default()).await;
    let sites = &turn.sites;
    sites.define("skew", concert(1_500)).await.unwrap();
    let options = Options {
        spread: Some("east=90,west=5,south=5".to_owned()),
        curve: Curve::Spike,
        ..crowd("skew", 2_600, Duration::from_secs(10))
    };
    let done = send(sites, &options).await.unwrap();
    let (report, verdict) = settled(sites, &done, options.users).await;
    assert_eq!(report.waiting, 0, "{report:?}");
    assert!(report.rejected + report.refused > 0, "more people than tickets: {report:?}");
    for tier in &verdict.concerts {
        let sold: i64 = tier.regions.values().map(|row| row.sold - row.refunded).sum();
        assert_eq!((sold, tier.pool, tier.stranded), (1_500, 0, 0), "{tier:?}");
        let east = tier.regions["east"].sold;
        assert!(east > 1_000, "the tickets went where the people are: {tier:?}");
    }
}

/// Starts `ops` on the cluster and returns what it prints when it ends.
fn ops(sites: &Sites, arguments: &[&str]) -> tokio::task::JoinHandle<std::process::Output> {
    let mut command = std::process::Command::new(program("ops").unwrap());
    command.arg("--home").arg(sites.describe().unwrap()).args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_in_the_dry_region_gets_a_ticket_that_another_region_held_a_second_before() {
    let turn = cluster(SitesSpec::default()).await;
    let sites = &turn.sites;
    let tiers = json!([{"tier": "A", "price": {"amount": 1000, "currency": "EUR"}, "total": 40}]);
    // So uneven that all forty are the west's.
    let weights = json!({"east": 1, "west": 1000, "south": 1});
    sites.define("dry", json!({"hold_ms": 30_000, "tiers": tiers, "weights": weights})).await.unwrap();
    all_in_the_west(sites).await;
    let watch = ops(sites, &["--json", "quota", "watch", "dry", "--every", "100ms", "--for", "10s"]);
    // The watch has to have seen it before it moves.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let http = sites.http();
    let base = format!("http://{}", sites.regions[0].node.public);
    let session: Value =
        http.post(format!("{base}/v1/session")).json(&json!({})).send().await.unwrap().json().await.unwrap();
    let session = session["session"].as_str().unwrap().to_owned();
    let join = json!({"request_id": "018f0000-0000-7000-8000-000000000001", "quantity": 2, "tiers": ["A"]});
    let before = sites.quota("dry").await.unwrap();
    let row =
        |view: &arbiter_api::QuotaView, region: &str| view.tiers[0].regions.get(&region.parse().unwrap()).cloned();
    assert_eq!(before.tiers[0].pool.get(), 0);
    assert!(row(&before, "east").is_none_or(|row| row.available.is_zero()), "{before:?}");
    let begun = Instant::now();
    let joined = http.post(format!("{base}/v1/concerts/dry/reservations")).bearer_auth(&session).json(&join);
    let joined: Value = joined.send().await.unwrap().json().await.unwrap();
    let url = format!("{base}/v1/reservations/{}", joined["reservation"].as_str().unwrap());
    loop {
        let seen: Value = http.get(&url).bearer_auth(&session).send().await.unwrap().json().await.unwrap();
        if seen["status"] == "held" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{seen}");
        // Slow enough not to be voided for polling.
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let took = begun.elapsed();
    // Two heartbeats and a round trip, and the polls' own pace.
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let after = sites.quota("dry").await.unwrap();
    let west = row(&after, "west").unwrap();
    assert!(west.returned.get() >= 2 && row(&after, "east").unwrap().granted.get() >= 2, "{after:?}");
    assert_eq!(joined["region"], "east");

    let watched = String::from_utf8(watch.await.unwrap().stdout).unwrap();
    let looks: Vec<Value> = watched.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let flows: Vec<&Value> = looks.iter().flat_map(|look| look["flows"].as_array().unwrap()).collect();
    assert!(flows.iter().any(|flow| flow["from"] == "west"), "west gave: {flows:?}");
    assert!(flows.iter().any(|flow| flow["to"] == "east"), "east got: {flows:?}");
}

/// A region that was heard of before the others may have got some first, and patience leaves them there: an operator
/// has none.
async fn all_in_the_west(sites: &Sites) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = ops(sites, &["quota", "rebalance", "dry"]).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let view = sites.quota("dry").await.unwrap();
        let west = view.tiers[0].regions.get(&"west".parse().unwrap());
        if west.is_some_and(|row| row.available.get() == 40) {
            return;
        }
        assert!(Instant::now() < deadline, "{view:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
