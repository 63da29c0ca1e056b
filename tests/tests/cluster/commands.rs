//! The operator's commands against a cluster that runs: what scripts may rely on.

use crate::support::{cluster, concert, stocked};
use ops::stage::{Sites, SitesSpec, program};
use serde_json::Value;
use std::process::{Output, Stdio};

async fn ops(sites: &Sites, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(program("ops").unwrap());
    command.arg("--home").arg(sites.describe().unwrap()).args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Its only line of standard output, as JSON.
async fn json(sites: &Sites, arguments: &[&str]) -> Value {
    let output = ops(sites, &[&["--json"], arguments].concat()).await;
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

fn carries_meta(answer: &Value) {
    for field in ["node", "term", "index", "as_of"] {
        assert!(!answer[field].is_null(), "{field} lacks: {answer}");
    }
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
    let shown = json(sites, &["quota", "show", "shown"]).await;
    carries_meta(&shown);
    assert_eq!(shown["tiers"][0]["total"], 300);
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
