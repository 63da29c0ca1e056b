//! A region whose queue is a Redis Cluster of three, one slot moving while it sells.

use ops::load;
use ops::local::redis_cluster::{RedisCluster, ask};
use ops::stage::Spec;
use serde_json::json;
use std::time::Duration;

use super::ground::*;
use super::repeats::{crowd, must_add_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_on_a_redis_cluster_sells_while_a_slot_moves() {
    let mut stage = ops::stage::Stage::start(Spec::default()).await.unwrap();
    stage.nodes[0].stop();
    let mut cluster = RedisCluster::start_with(stage.redis.password()).await.unwrap();
    let urls: Vec<String> = cluster.nodes.iter().map(|node| format!("\"{}\"", node.url())).collect();
    let urls = format!("[{}]", urls.join(","));
    let env = [("BOXOFFICE_REDIS__CLUSTER", "true"), ("BOXOFFICE_REDIS__URLS", urls.as_str())];
    stage.nodes[0].start_again(&env).unwrap();
    stage.ready().await.unwrap();
    stage.define("demo", definition(300, json!({ "hold_ms": 12_000 }))).await.unwrap();
    let (target, options) = (stage.load_target(), crowd(250, 0.2));
    let people = tokio::spawn(async move { load::run(&target, &options, false).await });
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let sql = stage.sql().await.unwrap();
    let concert: i32 = sql.query_one("SELECT concert_id FROM concert", &[]).await.unwrap().get(0);
    let slot = cluster.slot_of(&format!("bq{{{concert}.0}}q")).await.unwrap();
    let from = RedisCluster::first_holder(slot);
    let moved = cluster.move_slot(slot, from, (from + 1) % 3, Duration::from_millis(150)).await.unwrap();
    assert!(moved.keys >= 2, "{moved:?}");
    let report = people.await.unwrap().unwrap().report(250, true);
    assert_eq!(report.errors, 0, "{report:?}");
    assert!(report.sold > 50, "{report:?}");
    let mut spread = 0;
    for connection in &mut cluster.connections {
        let keys: usize = ask(connection, &["DBSIZE"]).await.unwrap();
        spread += usize::from(keys > 0);
    }
    assert!(spread >= 2, "the shards lie on several nodes");
    must_add_up(&stage).await;
    is_well(&mut stage).await;
}
