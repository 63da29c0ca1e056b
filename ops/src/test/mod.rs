//! `ops test`: everything that must hold for a change to be taken in, with one command and one closing line.
//!
//! Formatting, lints, what may be depended on, then all tests, every one in a process of its own: with nextest where
//! that is installed (building it takes minutes, so it is not asked for), else with the runner here.

mod nextest;
mod runner;

use crate::cargo::cargo;
use crate::cli::{Context, Failure};
use crate::local::testing::stop_shared;
use crate::output;
use crate::up::packages;
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::time::Instant;

/// Arguments of `ops test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name contains one of these; without formatting and lints
    filters: Vec<String>,
}

/// How many tests did what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

#[derive(Serialize)]
struct Report {
    passed: usize,
    failed: usize,
    failed_steps: Vec<&'static str>,
    elapsed_ms: u128,
}

/// Runs everything, also after a failure, and says in the end what failed.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let begun = Instant::now();
    packages::ensure(&[packages::POSTGRESQL, packages::REDIS, packages::PROTOC])?;
    packages::ensure(&packages::FOR_TESTS)?;
    let mut failed_steps = Vec::new();
    if args.filters.is_empty() {
        let mut step = |name: &'static str, arguments: &[&str]| -> Result<()> {
            output::note(format_args!("== cargo {}", arguments.join(" ")));
            if !cargo(arguments).status().context("running cargo")?.success() {
                failed_steps.push(name);
            }
            Ok(())
        };
        step("formatting", &["fmt", "--all", "--check"])?;
        step("lints", &["clippy", "--quiet", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"])?;
        if packages::on_path("cargo-deny") {
            step("dependencies", &["deny", "--log-level", "error", "check", "bans", "licenses", "sources"])?;
        }
    }
    let counts = tests(&args.filters);
    // Ours to end: nobody else began it, and a test that still ran was ended with the rest.
    stop_shared();
    let counts = match counts? {
        Some(counts) => counts,
        None => {
            failed_steps.push("building the tests");
            Counts::default()
        }
    };
    finish(context, counts, failed_steps, begun)
}

/// Runs all tests; `None` when they do not build.
fn tests(filters: &[String]) -> Result<Option<Counts>> {
    if nextest::installed() { nextest::run(filters) } else { runner::run(filters) }
}

fn finish(context: &Context, counts: Counts, failed_steps: Vec<&'static str>, begun: Instant) -> Result<()> {
    let Counts { passed, failed } = counts;
    let elapsed_ms = begun.elapsed().as_millis();
    output::note(format_args!("in {:.0} s", begun.elapsed().as_secs_f64()));
    let bad = failed > 0 || !failed_steps.is_empty();
    let why = format!("failed: {}", [&failed_steps[..], if failed > 0 { &["tests"] } else { &[] }].concat().join(", "));
    if context.json {
        output::json(&Report { passed, failed, failed_steps, elapsed_ms })?;
    }
    if bad {
        output::note(&why);
    }
    if !context.json {
        output::line(format_args!("{passed} passed, {failed} failed"));
    }
    if bad { Err(Failure::Check(why).into()) } else { Ok(()) }
}
