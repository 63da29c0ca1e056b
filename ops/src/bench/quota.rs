//! `bench quota`: what the quota protocol costs three arbiters on top of raft, what heartbeats cost the leader, and what
//! the log weighs.
//!
//! The measuring is a program beside the simulator, since it needs the arbiter's inside; this runs it and reads its lines.

use super::Options;
use super::report::{Line, read};
use crate::local::testing;
use crate::up::{build, packages};
use anyhow::{Context as _, Result, bail};
use std::process::Stdio;

/// Measures.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    packages::ensure(&[packages::PROTOC])?;
    let Some(bench) = build(&["quota-bench"])?.into_iter().next() else { bail!("cargo built no program") };
    let folder = testing::own_folder("bench-quota")?;
    let mut command = tokio::process::Command::new(&bench);
    command.arg("--folder").arg(folder.path().join("logs"));
    command.arg("--turn-s").arg(options.time.as_secs().clamp(1, 60).to_string());
    command.arg("--turns").arg(options.rounds.clamp(1, 20).to_string());
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("running {}", bench.display()))?;
    if !output.status.success() {
        bail!("measuring failed ({}); see above", output.status);
    }
    let text = String::from_utf8(output.stdout).context("reading what was measured")?;
    text.lines().map(|line| read("quota", line)).collect()
}
