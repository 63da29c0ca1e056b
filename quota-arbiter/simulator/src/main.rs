//! `simulate-quota`: runs seeds and says which failed. One JSON object on standard output; the way to a failure with
//! `--tell`, on standard error.

use std::{
    io::Write,
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering},
};

use clap::Parser;
use quota_simulator::{Settings, run, run_twice};

/// Simulates the quota arbiter under faults. Each seed is run twice and must give the same run.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Regions.
    #[arg(long, default_value_t = Settings::default().regions)]
    regions: usize,
    /// Tickets in each of two pools.
    #[arg(long, default_value_t = Settings::default().tickets)]
    tickets: u32,
    /// Virtual seconds of accidents.
    #[arg(long, default_value_t = Settings::default().chaos_ms / 1_000)]
    chaos_s: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Run the first seed once and say what happens.
    #[arg(long)]
    tell: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings {
        regions: arguments.regions.clamp(1, 200),
        tickets: arguments.tickets.max(1),
        chaos_ms: arguments.chaos_s * 1_000,
    };
    if arguments.tell {
        let run = run(settings, arguments.first_seed, true);
        writeln!(std::io::stdout(), "{run:#?}")?;
        return Ok(());
    }
    let (next, steps, hash, sales) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        return;
                    }
                    let seed = arguments.first_seed + number;
                    let run = std::panic::catch_unwind(|| run_twice(settings, seed));
                    let problems = match run {
                        Ok(run) => {
                            steps.fetch_add(run.steps, Ordering::Relaxed);
                            sales.fetch_add(run.sales, Ordering::Relaxed);
                            // Exclusive or: the same in whatever order the threads finish.
                            hash.fetch_xor(run.hash, Ordering::Relaxed);
                            run.problems
                        }
                        Err(_) => vec!["panicked".to_owned()],
                    };
                    if !problems.is_empty() {
                        let _ = writeln!(std::io::stderr(), "seed {seed}: {}", problems.join("; "));
                        if let Ok(mut failed) = failed.lock() {
                            failed.push(seed);
                        }
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_unstable();
    let report = serde_json::json!({
        "seeds": arguments.seeds,
        "failed": failed,
        "steps": steps.into_inner(),
        "sales": sales.into_inner(),
        "hash": format!("{:016x}", hash.into_inner()),
    });
    writeln!(std::io::stdout(), "{report}")?;
    if failed.is_empty() { Ok(()) } else { std::process::exit(1) }
}
