//! `simulate-quota`: runs seeds and says which failed: one JSON object on standard output, progress and problems on
//! standard error.

use std::{
    io::Write,
    process::ExitCode,
    sync::Mutex,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use quota_simulator::{Settings, run, run_twice};

/// Simulates the quota arbiter under faults: issuer, holders, policy and raft as they are, on virtual time. Each seed is
/// run twice and must give the same run; at its end everything is healed and every ticket accounted for.
#[derive(Parser)]
#[command(
    name = "simulate-quota",
    after_help = "Exit codes: 0 every seed is clean, 1 a seed failed, 2 wrong usage.\n\
                  A failed seed is told about with: simulate-quota --first-seed SEED --tell (same --regions, --tickets, \
                  --chaos-s)."
)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Regions.
    #[arg(long, default_value_t = Settings::default().regions as u64, value_parser = clap::value_parser!(u64).range(1..=200))]
    regions: u64,
    /// Tickets in each of two pools.
    #[arg(long, default_value_t = Settings::default().tickets, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tickets: u32,
    /// Virtual seconds of accidents before everything is healed.
    #[arg(long, default_value_t = Settings::default().chaos_ms / 1_000, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    chaos_s: u64,
    /// Threads; a seed is run on one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: u64,
    /// Print one JSON object: seeds, failed, steps, sales, hash. It is the only form, so this need not be said
    #[arg(long)]
    json: bool,
    /// Run the first seed once and say on standard error what happens
    #[arg(long, conflicts_with = "json")]
    tell: bool,
}

/// What has come of the seeds so far.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    steps: AtomicU64,
    sales: AtomicU64,
    /// Exclusive or of all: the same in whatever order threads finish.
    hash: AtomicU64,
    failed: Mutex<Vec<u64>>,
    over: AtomicBool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let settings = Settings {
        regions: arguments.regions as usize,
        tickets: arguments.tickets,
        chaos_ms: arguments.chaos_s * 1_000,
    };
    if arguments.tell {
        let run = run(settings, arguments.first_seed, true);
        writeln!(std::io::stdout(), "{run:#?}")?;
        return Ok(if run.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let (tally, next, began) = (Tally::default(), AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&tally, arguments.seeds, began));
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= arguments.seeds {
                    return;
                }
                tally.run(settings, arguments.first_seed + number);
            }
        };
        let workers = (0..arguments.threads).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        for worker in workers {
            let _ = worker.join();
        }
        tally.over.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
    });
    let Tally { steps, sales, hash, failed, .. } = tally;
    let (steps, sales, hash) = (steps.into_inner(), sales.into_inner(), format!("{:016x}", hash.into_inner()));
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_unstable();
    let seeds = arguments.seeds;
    let report = serde_json::json!({"seeds": seeds, "failed": failed, "steps": steps, "sales": sales, "hash": hash});
    writeln!(std::io::stdout(), "{report}")?;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Tally {
    fn run(&self, settings: Settings, seed: u64) {
        let problems = match std::panic::catch_unwind(|| run_twice(settings, seed)) {
            Ok(run) => {
                self.steps.fetch_add(run.steps, Ordering::Relaxed);
                self.sales.fetch_add(run.sales, Ordering::Relaxed);
                self.hash.fetch_xor(run.hash, Ordering::Relaxed);
                run.problems
            }
            Err(_) => vec!["panicked".to_owned()],
        };
        if !problems.is_empty() {
            say(&format!("seed {seed}: {}", problems.join("; ")));
            if let Ok(mut failed) = self.failed.lock() {
                failed.push(seed);
            }
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// A line on standard error every few seconds, until all is done.
fn watch(tally: &Tally, seeds: u64, began: Instant) {
    const EVERY: Duration = Duration::from_secs(5);
    let mut said = began;
    while !tally.over.load(Ordering::Relaxed) {
        std::thread::park_timeout(EVERY);
        if said.elapsed() >= EVERY && !tally.over.load(Ordering::Relaxed) {
            said = Instant::now();
            let failed = tally.failed.lock().map_or(0, |failed| failed.len());
            let done = tally.done.load(Ordering::Relaxed);
            say(&format!("{done} of {seeds} seeds, {failed} failed, {} s", began.elapsed().as_secs()));
        }
    }
}

fn say(line: &str) {
    // Nobody may be listening any more; the result still counts.
    let _ = writeln!(std::io::stderr(), "{line}");
}
