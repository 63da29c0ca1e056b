//! The operator's commands against a cluster that runs: what scripts may rely on.

use crate::support::{cluster, concert, json, on_terminal, ops, shown, stocked, until};
use ops::stage::{Sites, SitesSpec};
use serde_json::Value;
use std::time::Duration;

fn carries_meta(answer: &Value) {
    for field in ["node", "term", "index", "as_of"] {
        assert!(!answer[field].is_null(), "{field} lacks: {answer}");
    }
}

async fn granted(sites: &Sites, region: &str) -> u64 {
    let shown = json(sites, &["quota", "show", "shown"]).await;
    shown["tiers"][0]["regions"][region]["granted"].as_u64().unwrap()
}

/// On a terminal the screen is refreshed in place; in a pipe there is text alone.
async fn tickets_are_moved_by_hand_and_watched(sites: &Sites) {
    let before = granted(sites, "east").await;
    let moves = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let said = shown(sites, &["quota", "move", "shown", "A", "5", "--from", "west", "--to", "east"]).await;
        assert!(said.contains("✓ west is asked for 5") && said.contains(", index "), "{said}");
        until("the east was granted them", || async { granted(sites, "east").await >= before + 5 }).await;
    };
    let watch = ["quota", "watch", "shown", "--every", "200ms", "--for", "8s"];
    let (screen, piped, ()) = tokio::join!(on_terminal(sites, &watch, ""), shown(sites, &watch), moves);
    let (code, screen) = screen;
    assert_eq!(code, 0, "{screen}");
    for look in [&screen, &piped] {
        assert!(look.contains("west ──") && look.contains("──▶ east") && look.contains("█ sold"), "{look}");
        assert!(look.contains("5 tickets moved since this watch began"), "{look}");
    }
    assert!(screen.contains("\x1b[H") && screen.contains("\x1b[K"), "in place: {screen}");
    assert!(!piped.contains('\x1b') && piped.matches("arbiter ").count() > 5, "look by look: {piped}");
    let far = ops(sites, &["quota", "move", "shown", "A", "5", "--from", "west", "--to", "north"]).await;
    let said = String::from_utf8_lossy(&far.stderr);
    assert!(far.status.code() == Some(1) && said.contains("north"), "{said}");
    let many = ops(sites, &["quota", "move", "shown", "A", "5000", "--from", "pool", "--to", "east"]).await;
    assert!(String::from_utf8_lossy(&many.stderr).contains("the pool has only"), "{many:?}");
    assert!(shown(sites, &["quota", "rebalance", "shown"]).await.contains("without patience"));
}

async fn totals_change_and_a_sale_is_closed(sites: &Sites) {
    let total = async || json(sites, &["quota", "show", "shown"]).await["tiers"][1]["total"].clone();
    let more = ["quota", "total", "shown", "B", "350"];
    let (code, screen) = on_terminal(sites, &more, "300").await;
    assert!(code == 2 && screen.contains("has 300 tickets and will have 350"), "{screen}");
    assert_eq!(total().await, 300);
    let changed = json(sites, &["quota", "total", "shown", "B", "350", "--yes"]).await;
    carries_meta(&changed);
    assert_eq!((total().await, &changed["changed"]), (350.into(), &true.into()));
    let fewer = ops(sites, &["quota", "total", "shown", "B", "1", "--yes"]).await;
    assert_eq!(fewer.status.code(), Some(1), "regions have more than that: {fewer:?}");
    let listed = json(sites, &["concert", "list"]).await;
    let regions = listed["concerts"].as_array().unwrap().iter().map(|concert| concert["region"].as_str().unwrap());
    assert_eq!(regions.collect::<Vec<_>>(), ["east", "west"], "{listed}");
    assert!(shown(sites, &["concert", "list"]).await.contains("shown (shown) in east: open"));
    sites.define("over", concert(10)).await.unwrap();
    let closed = json(sites, &["concert", "close", "over"]).await;
    assert_eq!((&closed["concert"], &closed["state"]), (&"over".into(), &"closed".into()), "{closed}");
    let nobody = ops(sites, &["concert", "close", "never"]).await;
    assert!(!nobody.status.success() && String::from_utf8_lossy(&nobody.stderr).contains("never"), "{nobody:?}");
    assert_eq!(json(sites, &["verify"]).await["ok"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_answer_as_documented_and_dangerous_ones_ask() {
    let mut turn = cluster(SitesSpec { regions: vec!["east", "west"], ..SitesSpec::default() }).await;
    let sites = &turn.sites;
    sites.define("shown", concert(300)).await.unwrap();
    stocked(sites, "shown").await;

    let status = json(sites, &["status"]).await;
    assert_eq!(status["arbiters"].as_array().unwrap().len(), 3);
    let leaders = status["arbiters"].as_array().unwrap().iter().filter(|arbiter| arbiter["role"] == "leader").count();
    assert_eq!(leaders, 1, "{status}");
    let quota = json(sites, &["quota", "show", "shown"]).await;
    carries_meta(&quota);
    assert_eq!(quota["tiers"][0]["total"], 300);
    let listed = json(sites, &["region", "list"]).await;
    carries_meta(&listed);
    assert_eq!(listed["regions"].as_array().unwrap().len(), 2);
    carries_meta(&json(sites, &["quota", "rebalance", "shown"]).await);
    let quarantined = json(sites, &["region", "quarantine"]).await;
    assert_eq!(quarantined["regions"].as_array().unwrap().len(), 0);
    let table = String::from_utf8(ops(sites, &["quota", "show"]).await.stdout).unwrap();
    assert!(table.contains("arbiter") && table.contains("east") && table.contains("pool of 300"), "{table}");

    for dangerous in [&["region", "drain", "west"][..], &["quota", "freeze", "shown"], &["arbiter", "remove", "3"]] {
        let refused = ops(sites, dangerous).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{dangerous:?}: {said}");
        assert!(said.contains("--yes"), "{said}");
    }
    assert_eq!(json(sites, &["quota", "freeze", "shown", "--yes"]).await["changed"], true);
    assert_eq!(json(sites, &["quota", "show", "shown"]).await["tiers"][1]["frozen"], true);
    assert_eq!(json(sites, &["quota", "thaw", "shown"]).await["changed"], true);
    assert_eq!(json(sites, &["region", "drain", "west", "--yes"]).await["changed"], true);
    assert_eq!(json(sites, &["region", "resume", "west"]).await["changed"], true);
    let unknown = ops(sites, &["region", "drain", "north", "--yes"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    let verdict = json(sites, &["verify"]).await;
    assert_eq!(verdict["ok"], true, "{verdict}");

    tickets_are_moved_by_hand_and_watched(sites).await;
    totals_change_and_a_sale_is_closed(sites).await;
    let leader = sites.leader().await.unwrap();
    let to = if leader == 1 { "2" } else { "1" };
    json(sites, &["arbiter", "transfer", "--to", to]).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while sites.leader().await.unwrap().to_string() != to {
        assert!(std::time::Instant::now() < deadline, "leadership was not transferred");
    }
    let file = sites.describe().unwrap().join("backup");
    let file = file.to_str().unwrap();
    assert!(json(sites, &["arbiter", "backup", "--out", file]).await["bytes"].as_u64().unwrap() > 0);
    assert_eq!(ops(sites, &["arbiter", "backup", "--out", file]).await.status.code(), Some(1), "never written over");

    for arbiter in &mut turn.sites.arbiters {
        arbiter.kill();
    }
    let unreachable = ops(&turn.sites, &["quota", "show", "shown"]).await;
    assert_eq!(unreachable.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&unreachable.stderr).contains("arbiter 3"), "says who was asked");
}
