//! `ops simulate`: the quota arbiter under faults in virtual time, by the program `simulate-quota`.
//!
//! A program of its own because it has raft inside, and this one must build without.

use crate::cli::{Context, Failure};
use crate::output;
use crate::up::packages;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Arguments of `ops simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many seeds; each runs twice and must come out the same
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Regions [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=200))]
    regions: Option<u64>,
    /// Tickets in each pool [default: 120]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
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
    sales: u64,
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
    let began = Instant::now();
    let ended = tokio::task::spawn_blocking(move || command.output()).await?.context("running simulate-quota")?;
    let text = String::from_utf8_lossy(&ended.stdout);
    let Some(simulated) = text.lines().last().and_then(|line| serde_json::from_str::<Simulated>(line).ok()) else {
        // Asked for something else than a report, such as `--tell`.
        output::line(text.trim_end());
        return judge(ended.status, &[]);
    };
    if context.json {
        output::json(&simulated)?;
    } else {
        output::line(simulated.table(began.elapsed()));
    }
    judge(ended.status, &simulated.failed)
}

impl Simulated {
    /// For people.
    fn table(&self, took: Duration) -> comfy_table::Table {
        let mut table = output::table(&["seeds", "failed", "steps", "sales", "hash", "took"]);
        let Self { seeds, failed, steps, sales, hash, .. } = self;
        let took = humantime::format_duration(Duration::from_millis(took.as_millis() as u64));
        table.add_row([
            seeds.to_string(),
            failed.len().to_string(),
            steps.to_string(),
            sales.to_string(),
            hash.clone(),
            took.to_string(),
        ]);
        table
    }
}

/// What the simulator's end means for the command's.
fn judge(status: ExitStatus, failed: &[u64]) -> Result<()> {
    if failed.is_empty() && status.success() {
        return Ok(());
    }
    if status.code() == Some(2) {
        return Err(Failure::Usage("the simulator does not take that; see above".to_owned()).into());
    }
    if failed.is_empty() {
        return Err(Failure::Check(format!("the simulator ended with {status}")).into());
    }
    let seeds: Vec<String> = failed.iter().map(ToString::to_string).collect();
    Err(Failure::Check(format!("failed seeds: {}; each again with --first-seed N --seeds 1", seeds.join(", "))).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::os::unix::process::ExitStatusExt as _;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn wrong_numbers_are_refused_before_anything_is_built() {
        let refused = |words: &[&str]| match Line::try_parse_from([&["simulate"], words].concat()) {
            Ok(line) => panic!("took {words:?}: {:?}", line.args),
            Err(error) => error.to_string(),
        };
        assert!(refused(&["--seeds", "0"]).contains("--seeds"));
        assert!(refused(&["--regions", "0"]).contains("1..=200"));
        assert!(refused(&["--tickets", "many"]).contains("--tickets"));
        assert!(refused(&["--speed", "9"]).contains("--speed"));
        assert!(Line::try_parse_from(["simulate", "--seeds", "5", "--", "--tell"]).is_ok());
    }

    #[test]
    fn what_the_simulator_prints_becomes_a_table_and_the_same_json() {
        let text = r#"{"seeds":3,"failed":[7],"steps":21000,"sales":260,"hash":"00ff"}"#;
        let simulated: Simulated = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&simulated).unwrap(), text);
        let table = simulated.table(Duration::from_millis(61_500)).to_string();
        assert!(["21000", "260", "00ff", "1m 1s 500ms"].iter().all(|cell| table.contains(cell)), "{table}");
        let ended = |code: i32| ExitStatus::from_raw(code << 8);
        assert!(judge(ended(0), &[]).is_ok());
        assert_eq!(Failure::exit_code(&judge(ended(1), &[7]).unwrap_err()), 1);
        assert_eq!(Failure::exit_code(&judge(ended(2), &[]).unwrap_err()), 2);
        // Killed: no report, and so no clean one.
        assert!(judge(ExitStatus::from_raw(9), &[]).is_err());
    }
}
