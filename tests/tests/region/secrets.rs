//! After a sale, with the node at its most talkative: no secret is in any log.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

use super::buyers::Buyer;
use super::ground::*;
use super::wire;

/// Every word of a secret's file that would be of use to somebody: whole lines, and the texts inside JSON.
fn words(text: &str, into: &mut Vec<String>) {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => texts(&value, into),
        _ => into.extend(text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).map(str::to_owned)),
    }
}

fn texts(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(all) => all.iter().for_each(|value| texts(value, into)),
        Value::Object(all) => all.values().for_each(|value| texts(value, into)),
        _ => {}
    }
}

fn files_below(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_any_log_after_a_sale() {
    let mut stage = region(10).await;
    stage.nodes[0].stop();
    stage.nodes[0].start_again(&[("BOXOFFICE_LOG", "debug")]).unwrap();
    stage.ready().await.unwrap();
    let mut secrets = Vec::new();
    let mut files = Vec::new();
    files_below(&stage.folder().join("secrets"), &mut files);
    for file in files.iter().filter(|file| !file.to_string_lossy().contains("public")) {
        words(&std::fs::read_to_string(file).unwrap(), &mut secrets);
    }
    let known = secrets.len();
    assert!(known >= 10, "{known} secrets of a region");

    // A sale, and everything that goes wrong on the way.
    let buyer = Buyer::new(&stage).await;
    let sold = buyer.buy(&stage, 2).await;
    let held = buyer.hold(1).await;
    let payment = buyer.payment(&held).await;
    let ticket = format!("/v1/tickets/{}", sold["tickets"][0].as_str().unwrap());
    let shown = buyer.call("GET", &ticket, &Value::Null).await.json();
    let code = shown["code"].as_str().unwrap().to_owned();
    let door = ops::cluster::read_secret(&stage.secrets().door_token).unwrap();
    let checked = call(stage.public(), &door, "POST", "/v1/tickets/check", &json!({ "code": code })).await;
    assert_eq!(checked.status, 200);
    let identity = "c0ffee-identity-of-somebody";
    let body = json!({ "request_id": "x", "quantity": 1, "tiers": ["A"], "identity": identity });
    buyer.call("POST", "/v1/concerts/demo/reservations", &body).await;
    let operator = stage.admin().unwrap().token;
    for path in ["/v1/status", "/metrics", "/v1/ledger?concert=demo", "/v1/nowhere"] {
        call(stage.nodes[0].admin, &operator, "GET", path, &Value::Null).await;
    }
    let cookie = format!("boxoffice_session={}", buyer.token);
    wire::ask(stage.public(), "POST", "/v1/session", &[("cookie", &cookie), ("origin", "http://evil.test")], b"{}")
        .await;
    buyer.call("POST", "/v1/session", &json!({ "id_token": "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl" })).await;
    secrets.extend([buyer.token.clone(), code, identity.to_owned()]);
    secrets.push(payment["client_secret"].as_str().unwrap().to_owned());
    stage.nodes[0].stop();

    let mut logs = vec![stage.postgres.log(), stage.redis.log()];
    let mut all = Vec::new();
    files_below(stage.folder(), &mut all);
    logs.extend(
        all.into_iter().filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains("log"))),
    );
    let mut read = 0;
    for log in &logs {
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
        read += text.len();
        for secret in secrets.iter().filter(|secret| secret.len() >= 8) {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{} has a secret in it: {}", log.display(), line.unwrap_or_default());
        }
    }
    assert!(logs.len() >= 3 && read > 1_000, "{} logs of {read} bytes", logs.len());
}
