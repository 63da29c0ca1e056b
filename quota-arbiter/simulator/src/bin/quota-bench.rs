//! `quota-bench --folder FOLDER`: what the quota protocol costs, each figure beside a baseline from the same run, one
//! JSON object a line on standard output. `cargo ops bench quota` runs it.

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use quota_arbiter::state::State;
use quota_simulator::{Nothing, commits_per_s, heartbeat_cost, log_sizes};

/// Measure what the quota protocol costs
#[derive(Parser)]
struct Args {
    /// Folder for the logs, on the disk that is to be measured; made, and left behind
    #[arg(long)]
    folder: PathBuf,
    /// Seconds of a timed turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    turn_s: u64,
    /// Turns of each; medians are printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    turns: u32,
    /// Quota commands after which the log is weighed
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    commands: u64,
    /// Regions that send heartbeats
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    regions: u64,
    /// Pools of each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pools: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let time = Duration::from_secs(args.turn_s);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for turn in 0..args.turns {
        with.push(commits_per_s::<State>(&fresh(&args, &format!("with-{turn}"))?, time)?);
        without.push(commits_per_s::<Nothing>(&fresh(&args, &format!("without-{turn}"))?, time)?);
    }
    line("commands committed by three arbiters, beside raft alone", median(&mut with), "1/s", median(&mut without))?;
    let (regions, pools) = (args.regions as usize, args.pools as usize);
    for (name, busy) in
        [("heartbeats in which nothing changed", false), ("heartbeats in which every row changed", true)]
    {
        let name = format!("{name}: {regions} regions x {pools} pools, beside one processor");
        line(&name, heartbeat_cost(regions, pools, busy, args.turn_s)?, "processor s/s", 1.0)?;
    }
    let sizes = log_sizes(&fresh(&args, "sizes")?, args.commands)?;
    let millions = sizes.commands as f64 / 1_000_000.0;
    let commands = sizes.log_bytes as f64 / millions;
    line(
        "log per million commands, beside the snapshot that replaces it",
        commands,
        "bytes",
        sizes.snapshot_bytes as f64,
    )
}

fn fresh(args: &Args, name: &str) -> anyhow::Result<PathBuf> {
    let folder = args.folder.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn line(name: &str, value: f64, unit: &str, baseline: f64) -> anyhow::Result<()> {
    let ratio = value / baseline;
    let line = serde_json::json!({
        "bench": "quota", "name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
