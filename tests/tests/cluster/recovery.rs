//! Arbiters that dropped the beginning of their log, that come and go, and that were restored from a backup: whatever was
//! done to them, the books can be verified, and the verdict says what it rests on.

use crate::support::{Buyer, Turn, cluster, concert, crowd, json, on_terminal, ops, send, settled_sale};
use crate::support::{shown, stocked, until};
use ops::stage::{Sites, SitesSpec};
use serde_json::Value;
use std::time::Duration;

/// So small that a few hundred orders are more than is kept.
const SMALL_LOGS: &[(&str, &str)] =
    &[("BOXOFFICE_ARBITER_LOG_SIZE_MAX_BYTES", "20000"), ("BOXOFFICE_ARBITER_HISTORY_SIZE_MAX_BYTES", "10000")];

async fn sale(sites: &Sites, name: &str, users: u64) {
    let options = crowd(name, users, Duration::from_secs(3));
    let done = send(sites, &options).await.unwrap();
    settled_sale(sites, &done).await;
}

/// `verify` by the command line: everything is in order, and these words are among what is not proven.
async fn in_order(sites: &Sites, not_proven: &[&str]) -> Value {
    let verdict = json(sites, &["verify"]).await;
    assert_eq!(verdict["ok"], true, "{verdict:#}");
    let said: Vec<&str> = verdict["not_proven"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(said.len(), not_proven.len(), "{said:#?}");
    for (line, words) in said.iter().zip(not_proven) {
        assert!(line.contains(words), "{words}: {line}");
    }
    verdict
}

/// Enough orders that their entries push earlier ones out of the log and of the history.
async fn many_orders(sites: &Sites, concert: &str) {
    let operator = sites.operator().unwrap();
    for _ in 0..20 {
        let order = || async {
            let path = format!("/v1/quota/{concert}/rebalance");
            operator.post::<arbiter_api::Acted>(&path, &serde_json::json!({})).await.unwrap()
        };
        futures::future::join_all((0..20).map(|_| order())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_and_arbiters_that_were_restored_can_be_verified() {
    let spec = SitesSpec { regions: vec!["east", "west"], arbiter_env: SMALL_LOGS, ..SitesSpec::default() };
    let mut turn = cluster(spec).await;
    let Turn { sites, .. } = &mut turn;
    // So many that the pool keeps some beside what regions are given to go on with: an order below moves one from there.
    sites.define("kept", concert(2_000)).await.unwrap();
    stocked(sites, "kept").await;
    let file = sites.describe().unwrap().join("backup");
    let made = json(sites, &["arbiter", "backup", "--out", file.to_str().unwrap()]).await;
    assert!(made["bytes"].as_u64().unwrap() > 0);
    sale(sites, "kept", 150).await;

    many_orders(sites, "kept").await;
    let verdict = in_order(sites, &["were dropped"]).await;
    let table = shown(sites, &["verify"]).await;
    assert!(table.contains("? not proven: how the arbiters came to the state of entry"), "{table}");
    assert!(verdict["proven"].as_array().unwrap().len() >= 3, "{verdict}");

    another_arbiter_comes_leads_and_goes(sites).await;
    in_order(sites, &["were dropped"]).await;

    restored(sites, &file).await;
    sale(sites, "kept", 100).await;
    in_order(sites, &["before the restore"]).await;
    let known = forgetful_arbiters_are_named(sites).await;
    arbiters_that_know_less_are_named(sites, &file, known).await;
    sale(sites, "kept", 50).await;
    in_order(sites, &["before the restore"]).await;
    // Also the restored ones drop what is old.
    many_orders(sites, "kept").await;
    in_order(sites, &["were dropped"]).await;
    let buyer = Buyer::joins(sites, 1, "kept", "B", 1).await;
    buyer.holds().await;
}

async fn another_arbiter_comes_leads_and_goes(sites: &mut Sites) {
    let member = sites.another_arbiter().await.unwrap();
    let (address, people) = (member.address.as_str(), member.people.as_str());
    let used = ops(sites, &["arbiter", "add", "0", address, people]).await;
    assert!(!used.status.success(), "0 is no raft id");
    let added = json(sites, &["arbiter", "add", "4", address, people]).await;
    assert_eq!(added["changed"], true, "{added}");
    for field in ["node", "term", "index", "as_of"] {
        assert!(!added[field].is_null(), "{added}");
    }
    until("the new one votes", || async {
        let status = json(sites, &["arbiter", "status"]).await;
        status["arbiters"].as_array().unwrap().iter().any(|row| row["id"] == 4 && row["role"] == "follower")
    })
    .await;
    let table = shown(sites, &["arbiter", "status"]).await;
    assert!(table.contains("leader") && table.contains(people) && table.contains("incarnation 0"), "{table}");
    let said = shown(sites, &["arbiter", "transfer", "--to", "4"]).await;
    assert!(said.contains("arbiter 4 takes over") && said.contains(", term "), "{said}");
    until("the new one leads", || async { sites.leader().await.is_ok_and(|leader| leader == 4) }).await;
    let refused = ops(sites, &["arbiter", "transfer", "--to", "9"]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no such voter"), "{refused:?}");
    let unknown = ops(sites, &["arbiter", "remove", "9", "--yes"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    let leads = ops(sites, &["arbiter", "remove", "4", "--yes"]).await;
    assert!(String::from_utf8_lossy(&leads.stderr).contains("transfer leadership first"), "{leads:?}");
    json(sites, &["arbiter", "transfer", "--to", "1"]).await;
    until("the first leads", || async { sites.leader().await.is_ok_and(|leader| leader == 1) }).await;
    let (code, screen) = on_terminal(sites, &["arbiter", "remove", "4"], "3").await;
    assert!(code == 2 && screen.contains("leaves for ever") && screen.contains("nothing was done"), "{screen}");
    let removed = json(sites, &["arbiter", "remove", "4", "--yes"]).await;
    assert_eq!(removed["changed"], true, "{removed}");
    let again = ops(sites, &["arbiter", "add", "4", address, people]).await;
    assert!(String::from_utf8_lossy(&again.stderr).contains("not used again"), "{again:?}");
    sites.arbiters[3].kill();
    let audit = shown(sites, &["arbiter", "audit"]).await;
    assert!(audit.contains("transfer") && audit.contains("forget_member") && audit.contains("test"), "{audit}");
    sites.arbiters.pop();
}

/// From a backup that knows nothing of what was granted since.
async fn restored(sites: &mut Sites, file: &std::path::Path) {
    for arbiter in &mut sites.arbiters {
        arbiter.kill();
    }
    // The nodes are away as well, so that it can be seen whom the arbiters wait for.
    for site in &mut sites.regions {
        site.node.kill();
    }
    // The second incarnation, so that one of the first is known to come before it.
    sites.restore_arbiters(file, 1 << 32).unwrap();
    sites.arbiters_ready().await.unwrap();
    let status = shown(sites, &["arbiter", "status"]).await;
    assert!(status.contains("nothing is granted until these register: east, west"), "{status}");
    let listed = shown(sites, &["region", "list"]).await;
    assert!(listed.contains("awaited after a restore") && listed.contains("start its nodes"), "{listed}");
    let order = ["quota", "move", "kept", "A", "5", "--from", "pool", "--to", "east"];
    assert!(!ops(sites, &order).await.status.success(), "nothing is granted");
    for at in 0..sites.regions.len() {
        sites.start_node_again(at).unwrap();
    }
    sites.ready().await.unwrap();
    until("the recovery is over", || async {
        json(sites, &["arbiter", "status"]).await["cluster"]["awaited"].is_null()
    })
    .await;
}

async fn status(sites: &Sites) -> Value {
    json(sites, &["arbiter", "status"]).await["cluster"].clone()
}

/// Put back to an earlier moment by somebody who did not begin a recovery: said wherever an operator looks, with what to
/// do. Returns the incarnation.
async fn forgetful_arbiters_are_named(sites: &mut Sites) -> u64 {
    let data = sites.arbiters[0].member.data_dir.clone();
    let copy = data.with_file_name("copy");
    sites.arbiters[0].kill();
    let copied = std::process::Command::new("cp").arg("-a").arg(&data).arg(&copy).status().unwrap();
    assert!(copied.success());
    sites.start_arbiter_again(1).unwrap();
    sites.arbiters_ready().await.unwrap();
    let column =
        async |sites: &Sites| json(sites, &["quota", "show", "kept"]).await["tiers"][0]["regions"]["east"].clone();
    let before = column(sites).await["granted"].as_u64().unwrap();
    json(sites, &["quota", "move", "kept", "A", "1", "--from", "pool", "--to", "east"]).await;
    until("the east has it", || async {
        let status = sites.status(0).await.unwrap();
        status.concerts[0].pools[0].columns.granted.unsigned_abs() > before
    })
    .await;
    sites.arbiters[0].kill();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    sites.start_arbiter_again(1).unwrap();
    sites.arbiters_ready().await.unwrap();
    until("they are caught", || async { status(sites).await["forgotten"].is_string() }).await;
    for arguments in [&["arbiter", "status"][..], &["quota", "show", "kept"]] {
        let said = shown(sites, arguments).await;
        assert!(said.contains("they have forgotten what they did") && said.contains("restore --from"), "{said}");
    }
    assert!(shown(sites, &["quota", "show", "kept"]).await.contains("FORGOTTEN"));
    status(sites).await["incarnation"].as_u64().unwrap()
}

/// Restored from a backup of before the last restore by somebody who does not know of it: regions do not follow, and both
/// sides say why. Begun again above what the regions know, all is well.
async fn arbiters_that_know_less_are_named(sites: &mut Sites, file: &std::path::Path, known: u64) {
    sites.arbiters[0].kill();
    sites.restore_arbiters(file, 0).unwrap();
    sites.arbiters_ready().await.unwrap();
    assert!(status(sites).await["incarnation"].as_u64().unwrap() < known);
    until("both regions know later ones", || async {
        status(sites).await["behind"].as_object().is_some_and(|behind| behind.len() == sites.regions.len())
    })
    .await;
    let named = format!("above {known}");
    for arguments in [["region", "list"], ["arbiter", "status"]] {
        let said = shown(sites, &arguments).await;
        assert!(said.contains(&named) && said.contains("restore --from"), "{said}");
    }
    assert!(shown(sites, &["region", "list"]).await.contains("KNOWS LATER ARBITERS"));
    assert!(status(sites).await["awaited"].as_array().unwrap().len() == 2, "nobody registers with them");
    sites.arbiters[0].kill();
    sites.restore_arbiters(file, known).unwrap();
    sites.arbiters_ready().await.unwrap();
    until("the recovery is over", || async { status(sites).await["awaited"].is_null() }).await;
}
