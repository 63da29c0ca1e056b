//! `ops simulate`: the quota arbiter under faults in virtual time, by the program `simulate-quota`.
//!
//! A program of its own because it has raft inside, and this one must build without.

use crate::cli::{Context, Failure};
use crate::output;
use crate::up::packages;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};

/// Arguments of `ops simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many seeds; each runs twice and must come out the same
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Regions
    #[arg(long)]
    regions: Option<u64>,
    /// Tickets in each pool
    #[arg(long)]
    tickets: Option<u64>,
    /// More for the simulator itself (`-- --help` lists it)
    #[arg(last = true)]
    more: Vec<String>,
}

/// What the simulator prints.
#[derive(Debug, Serialize, Deserialize)]
struct Simulated {
    seeds: u64,
    failed: Vec<u64>,
    steps: u64,
    hash: String,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// Builds it where needed and runs it; a failed seed is exit code 1.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    packages::ensure(&[packages::PROTOC])?;
    let programs = crate::up::build(&["simulate-quota"])?;
    let program = programs.first().context("cargo built nothing")?;
    let mut command = Command::new(program);
    let numbers = [("--seeds", Some(args.seeds)), ("--first-seed", Some(args.first_seed))];
    let sizes = [("--regions", args.regions), ("--tickets", args.tickets)];
    for (flag, number) in numbers.into_iter().chain(sizes) {
        if let Some(number) = number {
            command.args([flag, &number.to_string()]);
        }
    }
    command.args(&args.more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let ended = tokio::task::spawn_blocking(move || command.output()).await?.context("running simulate-quota")?;
    let text = String::from_utf8_lossy(&ended.stdout);
    let Some(simulated) = text.lines().last().and_then(|line| serde_json::from_str::<Simulated>(line).ok()) else {
        // Asked for something else than a report, such as `--tell`.
        output::line(text.trim_end());
        return if ended.status.success() { Ok(()) } else { Err(Failure::Check(format!("{}", ended.status)).into()) };
    };
    if context.json {
        output::json(&simulated)?;
    } else {
        let Simulated { seeds, failed, steps, hash, .. } = &simulated;
        output::line(format_args!("{seeds} seeds, {steps} steps, hash {hash}, {} failed", failed.len()));
    }
    if simulated.failed.is_empty() && ended.status.success() {
        return Ok(());
    }
    let seeds: Vec<String> = simulated.failed.iter().map(ToString::to_string).collect();
    Err(Failure::Check(format!("failed seeds: {}; each again with --first-seed N --seeds 1", seeds.join(", "))).into())
}
