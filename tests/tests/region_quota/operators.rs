//! What operators see of a region under arbiters, and what they may not do there.

use quota_protocol::command::Heard;
use quota_protocol::{Command, Counters, Epoch};
use region_api::{ConcertName, RegionName};
use region_node::db::book::NoFloor;
use region_node::db::{Db, DbError, concerts, holder};
use serde_json::json;

use super::arbiter::{east, pool, tickets};
use super::crash_points::Node;
use super::region::until;
use super::sql::{Sql, db_config, definition};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_how_the_region_stands_and_concerts_are_the_arbiters_to_define() {
    let node = Node::start().await;
    let status = node.stage.status().await.unwrap();
    let arbiter = status.arbiter.unwrap();
    assert!(arbiter.connected && arbiter.registered && arbiter.holding, "{arbiter:?}");
    assert_eq!((arbiter.epoch, arbiter.halted), (1, None));
    assert!(arbiter.leader_url.unwrap().starts_with("https://127.0.0.1:"));
    assert!(status.last_arbiter_contact.is_some() && arbiter.autonomy_left_ms > 50_000);
    let tier = json!({ "tier": "A", "price": { "amount": 1, "currency": "EUR" }, "total": 5 });
    let refused = node.stage.define("other", json!({ "tiers": [tier] })).await.unwrap_err().to_string();
    assert!(refused.contains("409") && refused.contains(&node.arbiter.urls[1]), "{refused}");
    // The arbiter knows of more than this database: it halts, and says so to whoever asks.
    let counters = Counters { granted: tickets(10), held_in: tickets(9), ..Counters::ZERO };
    let heard = vec![Heard { region: east(), epoch: Epoch::new(1), pool: pool("A"), counters }];
    node.arbiter.inside.lock().issuer.apply(&Command::RaiseFloors { heard });
    until("halted", || async {
        let status = node.stage.status().await.unwrap();
        let said = status.arbiter.unwrap().halted.is_some_and(|why| why.contains("write the region off"));
        said && !status.ready && status.missing.iter().any(|line| line.contains("gone back in time"))
    })
    .await;
    let ready = node.stage.http().get(format!("http://{}/readyz", node.stage.public())).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    let log = std::fs::read_to_string(node.stage.nodes[0].log()).unwrap();
    assert_eq!(log.matches("the region is halted: nothing is sold").count(), 1, "said once");
}

#[tokio::test]
async fn a_database_stays_what_it_began_as() {
    let under = Sql::new("east").await;
    under.put(&[0]).await;
    assert!(matches!(holder::settle_mode(&under.db, false).await, Err(DbError::OtherMode(_))));
    holder::settle_mode(&under.db, true).await.unwrap();
    let alone = ops::local::testing::database().await.unwrap();
    let db = Db::connect(&db_config(alone.address())).await.unwrap();
    db.migrate(&RegionName::new("east").unwrap()).await.unwrap();
    holder::settle_mode(&db, false).await.unwrap();
    let name = ConcertName::new("demo").unwrap();
    concerts::put(&db, &name, &definition(&[5]), 2, "operator", &NoFloor).await.unwrap();
    assert!(matches!(holder::settle_mode(&db, true).await, Err(DbError::OtherMode(_))));
    holder::settle_mode(&db, false).await.unwrap();
}
