//! `bench quota`: what the quota protocol costs three arbiters on top of raft, what heartbeats cost the leader, and what
//! the log weighs.
//!
//! The measuring is a program beside the simulator, since it needs the arbiter's inside; this runs it and reads its lines.

use super::Options;
use super::report::{Line, measured_by};
use crate::local::testing;
use crate::up::{build, packages};
use anyhow::{Result, bail};

/// Measures.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    packages::ensure(&[packages::PROTOC])?;
    let Some(bench) = build(&["quota-bench"])?.into_iter().next() else { bail!("cargo built no program") };
    let folder = testing::own_folder("bench-quota")?;
    let mut command = tokio::process::Command::new(&bench);
    command.arg("--folder").arg(folder.path().join("logs"));
    measured_by("quota", command, options).await
}
