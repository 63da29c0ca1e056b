//! Running the tests with cargo-nextest, and reading its closing line.

use super::Counts;
use crate::cargo::cargo;
use crate::output;
use crate::up::packages::on_path;
use anyhow::{Context as _, Result};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

/// Whether it can be called.
pub(super) fn installed() -> bool {
    on_path("cargo-nextest")
}

/// Runs all tests; `None` when nextest ended without having run any (they do not build).
pub(super) fn run(filters: &[String]) -> Result<Option<Counts>> {
    let mut arguments = vec!["nextest", "run", "--workspace", "--release", "--no-fail-fast", "--cargo-quiet"];
    arguments.extend(["--status-level", "fail", "--final-status-level", "fail", "--no-tests", "pass"]);
    arguments.extend(filters.iter().map(String::as_str));
    output::note(format_args!("== cargo {}", arguments.join(" ")));
    let mut child = cargo(&arguments).stderr(Stdio::piped()).spawn().context("running cargo nextest")?;
    let mut counts = None;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.context("reading nextest's output")?;
            counts = summary(&line).or(counts);
            output::note(line);
        }
    }
    let status = child.wait().context("waiting for nextest")?;
    // Never trust a summary over an exit code.
    Ok(counts.map(|counts| match counts {
        Counts { passed, failed: 0 } if !status.success() => Counts { passed, failed: 1 },
        counts => counts,
    }))
}

/// `Summary [ 6.1s] 11 tests run: 9 passed (1 slow), 1 failed, 1 timed out, 2 skipped`.
fn summary(line: &str) -> Option<Counts> {
    let (_, counts) = line.trim_start().strip_prefix("Summary [")?.split_once("run: ")?;
    let mut total = Counts::default();
    for part in counts.split(", ") {
        let (number, what) = part.trim().split_once(' ')?;
        let number: usize = number.parse().ok()?;
        match what {
            what if what.starts_with("passed") => total.passed += number,
            what if what.starts_with("skipped") => {}
            _ => total.failed += number,
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_is_read() {
        let read = |line| summary(line).map(|counts| (counts.passed, counts.failed));
        assert_eq!(read("     Summary [   6.079s] 11 tests run: 11 passed, 1 skipped"), Some((11, 0)));
        assert_eq!(read("     Summary [   6.079s] 1 test run: 1 passed, 0 skipped"), Some((1, 0)));
        let bad = "     Summary [ 25.1s] 11 tests run: 9 passed (1 slow), 1 failed, 1 timed out, 1 skipped";
        assert_eq!(read(bad), Some((9, 2)));
        assert_eq!(read("        PASS [   0.006s] (1/11) ops x"), None);
    }
}
