//! `bench dns`: look-ups per second of the edge's CPU time, beside gdnsd and Knot in the same run; p99 latency at half
//! load and memory beside them.
//!
//! The measuring is a program of the edge's own, since it needs the edge's networks; this runs it and reads its lines.

use super::Options;
use super::report::{Line, read};
use crate::cluster::home::source_root;
use crate::local::testing;
use crate::up::{build, packages};
use anyhow::{Context as _, Result, bail};
use std::process::Stdio;

/// Measures.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    packages::ensure(&packages::FOR_BENCH_DNS)?;
    let programs = build(&["edge", "edge-bench"])?;
    let [edge, bench] = &programs[..] else { bail!("cargo built too few programs") };
    let folder = testing::own_folder("bench-dns")?;
    let mut command = tokio::process::Command::new(bench);
    command.arg("--program").arg(edge).arg("--folder").arg(folder.path().join("work"));
    command.arg("--database").arg(source_root().join("edge/data/country.mmdb"));
    command.arg("--turn-s").arg(options.time.as_secs().clamp(1, 60).to_string());
    command.arg("--turns").arg(options.rounds.clamp(1, 20).to_string());
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("running {}", bench.display()))?;
    if !output.status.success() {
        bail!("measuring failed ({}); see above", output.status);
    }
    let text = String::from_utf8(output.stdout).context("reading what was measured")?;
    text.lines().map(|line| read("dns", line)).collect()
}
