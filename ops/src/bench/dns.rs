//! `bench dns`: look-ups per second of the edge's CPU time, beside gdnsd and Knot in the same run; p99 latency at half
//! load and memory beside them.
//!
//! The measuring is a program of the edge's own, since it needs the edge's networks; this runs it and reads its lines.

use super::Options;
use super::report::{Line, measured_by};
use crate::cluster::home::source_root;
use crate::local::testing;
use crate::up::{build, packages};
use anyhow::{Result, bail};

/// Measures.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    packages::ensure(&packages::FOR_BENCH_DNS)?;
    let programs = build(&["edge", "edge-bench"])?;
    let [edge, bench] = &programs[..] else { bail!("cargo built too few programs") };
    let folder = testing::own_folder("bench-dns")?;
    let mut command = tokio::process::Command::new(bench);
    command.arg("--program").arg(edge).arg("--folder").arg(folder.path().join("work"));
    command.arg("--database").arg(source_root().join("edge/data/country.mmdb"));
    measured_by("dns", command, options).await
}
