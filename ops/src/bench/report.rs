//! What a bench prints: one measurement a line, each beside the baseline that was measured in the same run.

use super::Options;
use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::process::Stdio;
use tokio::process::Command;

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The bench.
    pub bench: &'static str,
    /// What was measured.
    pub name: String,
    /// The median over the rounds.
    pub value: f64,
    /// Its unit.
    pub unit: Cow<'static, str>,
    /// The baseline's median, measured in turn with it; none where the figure stands alone.
    pub baseline: Option<f64>,
    /// Median of the rounds' own ratios: a slow moment of the machine is in both halves of each.
    pub ratio: Option<f64>,
}

impl Line {
    /// A figure that stands alone.
    pub fn alone(bench: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { bench, name: name.into(), value, unit: unit.into(), baseline: None, ratio: None }
    }

    /// A figure beside its baseline, from rounds of `(value, baseline)`.
    pub fn beside(bench: &'static str, name: impl Into<String>, unit: &'static str, rounds: &[(f64, f64)]) -> Self {
        let value = median(rounds.iter().map(|(value, _)| *value));
        let baseline = median(rounds.iter().map(|(_, baseline)| *baseline));
        let ratio = median(rounds.iter().map(|(value, baseline)| value / baseline));
        Self { bench, name: name.into(), value, unit: unit.into(), baseline: Some(baseline), ratio: Some(ratio) }
    }
}

/// Runs a program of ours that measures what `ops` must not know the inside of: rounds of so many seconds, a line each.
pub async fn measured_by(bench: &'static str, mut command: Command, options: &Options) -> Result<Vec<Line>> {
    command.arg("--turn-s").arg(options.time.as_secs().clamp(1, 60).to_string());
    command.arg("--turns").arg(options.rounds.clamp(1, 20).to_string());
    let running = format!("running {}", command.as_std().get_program().display());
    // Not `output`: that keeps what is said on standard error to itself.
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let output = child.context(running.clone())?.wait_with_output().await.context(running)?;
    if !output.status.success() {
        bail!("measuring failed ({}); see above", output.status);
    }
    let text = String::from_utf8(output.stdout).context("reading what was measured")?;
    text.lines().map(|line| read(bench, line)).collect()
}

/// One of its lines.
fn read(bench: &'static str, line: &str) -> Result<Line> {
    #[derive(Deserialize)]
    struct Measured {
        name: String,
        value: f64,
        unit: String,
        baseline: f64,
        ratio: f64,
    }
    let Measured { name, value, unit, baseline, ratio } =
        serde_json::from_str(line).with_context(|| format!("what was measured is not as expected: {line}"))?;
    Ok(Line { bench, name, value, unit: unit.into(), baseline: Some(baseline), ratio: Some(ratio) })
}

/// The middle one; of an even number the lower middle, so that it is always one that was measured.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// For people.
pub fn table(lines: &[Line]) -> Table {
    let mut table = crate::output::table(&["bench", "what", "value", "unit", "baseline", "ratio"]);
    for line in lines {
        let number = |value: f64| if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        table.add_row([
            line.bench.to_owned(),
            line.name.clone(),
            number(line.value),
            line.unit.to_string(),
            line.baseline.map(number).unwrap_or_default(),
            line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_program_becomes_one_of_ours() {
        let line =
            r#"{"bench":"dns","name":"tcp_vs_knot","value":90.0,"unit":"queries/cpu_s","baseline":100.0,"ratio":0.9}"#;
        assert_eq!(serde_json::to_string(&read("dns", line).unwrap()).unwrap(), line);
        assert!(read("dns", "nothing").is_err());
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_own_ratios() {
        let line = Line::beside("intake", "joins", "1/s", &[(50.0, 100.0), (30.0, 40.0), (90.0, 100.0)]);
        assert_eq!((line.value, line.baseline, line.ratio), (50.0, Some(100.0), Some(0.75)));
    }

    #[test]
    fn a_median_is_one_that_was_measured() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), 2.0);
        assert!(median([].into_iter()).is_nan());
    }
}
