//! `ops bench`: every figure beside a baseline that was measured in the same run.
//!
//! Servers, generator and databases share the processors that the bench is pinned to (two, unless told otherwise), so
//! that a figure from a bigger machine says what two cores can do. Nothing here is a test: it prints, and fails only
//! when a measurement is not what it claims to be, such as a `202` that Redis does not hold.

pub mod allocate;
pub mod burst;
pub mod dns;
pub mod drive;
pub mod intake;
pub mod memory;
pub mod poll;
pub mod quota;
pub mod report;
pub mod sale;
pub mod stage;
pub mod work;

use crate::cli::Context;
use anyhow::{Context as _, Result};
use std::time::Duration;

/// Longest time to fill a queue.
const FILL_TIME_MAX: Duration = Duration::from_secs(900);

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Durable joins, beside a bare axum echo
    Intake,
    /// Status polls, beside a bare axum GET
    Poll,
    /// Decisions, beside a row lock per order and beside the same batch by hand
    Allocate,
    /// Redis memory per reservation, and the cost of a join as the queue grows
    Memory,
    /// Half a million requests accepted and decided, beside the echo's time for as many
    Burst,
    /// Name look-ups per second of the edge's CPU time, beside gdnsd and Knot
    Dns,
    /// Commands committed by three arbiters, beside raft alone; a leader's work with heartbeats; the log's size
    Quota,
    /// A skewed sale in three regions with three arbiters, beside the same people at one pool
    Sale,
    /// All of them
    All,
}

/// Measure, each figure beside its baseline from the same run
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What to measure
    #[arg(value_enum)]
    pub name: Name,
    /// Rounds; value and baseline alternate, medians are printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
    /// Length of a timed round
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// Connections of the load generator, each with one request under way
    #[arg(long, default_value_t = 1024, value_parser = connections)]
    pub connections: usize,
    /// Requests of `burst`, longest queue of `memory`
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(10_000..=20_000_000))]
    pub requests: u64,
    /// Tickets of `sale`
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(200..=100_000))]
    pub tickets: u64,
    /// Processors that everything shares; 0 leaves it to the system
    #[arg(long, default_value_t = 2)]
    pub processors: usize,
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(connections @ 1..=16_384) => Ok(connections),
        _ => Err("connections are 1 to 16384".into()),
    }
}

/// Runs the benches named and prints their lines.
pub async fn run(context: &Context, options: Options) -> Result<()> {
    pin(options.processors)?;
    let all = [Name::Intake, Name::Poll, Name::Allocate, Name::Memory, Name::Burst, Name::Dns, Name::Quota, Name::Sale];
    let names = if options.name == Name::All { all.to_vec() } else { vec![options.name] };
    let mut lines = Vec::new();
    for name in names {
        crate::output::note(format_args!("{name:?}: starting"));
        let measured = match name {
            Name::Intake => intake::run(&options).await,
            Name::Poll => poll::run(&options).await,
            Name::Allocate => allocate::run(&options).await,
            Name::Memory => memory::run(&options).await,
            Name::Dns => dns::run(&options).await,
            Name::Quota => quota::run(&options).await,
            Name::Sale => sale::run(&options).await,
            Name::Burst | Name::All => burst::run(&options).await,
        };
        let measured = measured.with_context(|| format!("bench {name:?}"))?;
        if context.json {
            for line in &measured {
                crate::output::line(serde_json::to_string(line)?);
            }
        }
        lines.extend(measured);
    }
    if !context.json {
        crate::output::line(report::table(&lines));
    }
    Ok(())
}

/// Keeps this process and all that it starts on the first processors.
fn pin(processors: usize) -> Result<()> {
    if processors == 0 {
        return Ok(());
    }
    let mut set = nix::sched::CpuSet::new();
    for processor in 0..processors {
        set.set(processor).with_context(|| format!("there is no processor {processor}"))?;
    }
    // The runtime's threads exist already; those started later, and all children, inherit from the one that starts them.
    for thread in std::fs::read_dir("/proc/self/task").context("listing our threads")? {
        let Ok(thread) = thread?.file_name().to_string_lossy().parse::<i32>() else { continue };
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(thread), &set)
            .with_context(|| format!("this machine does not have {processors} processors"))?;
    }
    Ok(())
}

/// Tells people how a round went, while it runs.
fn rounds_note(round: u32, value: f64, baseline: f64, third: f64) {
    let ratio = value / baseline;
    crate::output::note(format_args!(
        "  round {}: {value:.1} beside {baseline:.1} ({ratio:.2}); {third:.1}",
        round + 1
    ));
}
