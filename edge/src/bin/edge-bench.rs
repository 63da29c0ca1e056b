//! Measures the edge beside gdnsd and Knot and prints one JSON object a line: what `ops bench dns` runs.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use edge::compare::{BenchPlan, run_bench};

/// Queries per CPU second of the edge, gdnsd and Knot in one run (Debian packages gdnsd, knot, dnsperf).
#[derive(Parser)]
struct Args {
    /// The program `edge`; by default the one beside this program.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Geo database with country codes.
    #[arg(long, default_value = "edge/data/country.mmdb")]
    database: PathBuf,
    /// Folder to work in; must be empty or absent.
    #[arg(long)]
    folder: PathBuf,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 2)]
    turn_s: u64,
    /// Turns of each server.
    #[arg(long, default_value_t = 3)]
    turns: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.parent().context("no folder")?.join("edge"));
    let plan = BenchPlan {
        program: args.program.map_or_else(beside, Ok)?,
        database: std::fs::canonicalize(&args.database).with_context(|| args.database.display().to_string())?,
        folder: std::path::absolute(args.folder)?,
        turn: Duration::from_secs(args.turn_s.clamp(1, 60)),
        turns: args.turns.clamp(1, 20),
    };
    let mut out = std::io::stdout().lock();
    for line in run_bench(&plan)? {
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}
