//! The program as a person or a script meets it.

#![allow(clippy::unwrap_used, reason = "a test's own helpers may panic")]

use std::process::{Command, Output};

fn simulate(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulate-quota")).args(words).output().unwrap()
}

#[test]
fn it_reports_in_json_and_the_same_again() {
    let words = ["--seeds", "4", "--regions", "2", "--tickets", "20", "--chaos-s", "5", "--threads", "2"];
    let (first, second) = (simulate(&words), simulate(&words));
    let text = String::from_utf8(first.stdout.clone()).unwrap();
    assert!(first.status.success(), "{text}");
    assert_eq!(first.stdout, second.stdout);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["seeds"], &report["failed"]), (&4.into(), &serde_json::json!([])));
    assert!(report["steps"].as_u64().unwrap() > 1_000 && report["sales"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn wrong_usage_is_refused_with_the_reason() {
    for (words, names) in
        [(["--seeds", "0"], "--seeds"), (["--regions", "201"], "--regions"), (["--swift", "1"], "--swift")]
    {
        let ended = simulate(&words);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!((ended.status.code(), ended.stdout.len()), (Some(2), 0), "{words:?}: {said}");
        assert!(said.contains(names), "{words:?}: {said}");
    }
}
