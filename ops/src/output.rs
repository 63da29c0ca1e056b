//! What commands print: results on standard output (one JSON document with `--json`), everything else on standard error.

use crate::cli::Context;
use arbiter_api::{Acted, Meta};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use region_api::Timestamp;
use serde::Serialize;
use std::io::Write as _;
use std::time::Duration;

/// A line of the result.
pub fn line(text: impl std::fmt::Display) {
    // Standard output may be closed (`| head`): nothing to do about it.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A result as one line of JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?);
    Ok(())
}

/// A remark for the person who watches; never part of the result.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A table in the style of all listings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings.iter().copied());
    table
}

/// Which arbiter answered, from where in the log, and how old the answer is.
pub fn meta(meta: &Meta) -> String {
    format!("arbiter {}, term {}, index {}, {} old", meta.node, meta.term, meta.index, age(meta.as_of))
}

/// How long ago something was, by our clock.
pub fn age(at: Timestamp) -> String {
    let ms = (time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as u64;
    match ms.saturating_sub(at.ms()) {
        ms if ms < 1_000 => format!("{ms} ms"),
        ms if ms < 120_000 => format!("{:.1} s", ms as f64 / 1e3),
        ms => format!("{} min", ms / 60_000),
    }
}

/// What became of an order to the arbiters.
pub fn acted(context: &Context, acted: &Acted) -> anyhow::Result<()> {
    if context.json {
        return json(acted);
    }
    let mark = if acted.changed { "✓" } else { "·" };
    line(format_args!("{mark} {} ({})", acted.said, meta(&acted.meta)));
    Ok(())
}

/// A progress line with a spinner for one step; call `done` or `failed` in the end.
#[derive(Debug)]
pub struct Step {
    bar: ProgressBar,
    what: String,
}

impl Step {
    /// Begins a step.
    pub fn begin(what: impl Into<String>) -> Self {
        let (bar, what) = (ProgressBar::new_spinner(), what.into());
        bar.set_style(
            ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.set_message(what.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, what }
    }

    /// Ends it well, with a word on the result.
    pub fn done(self, result: impl std::fmt::Display) {
        self.bar.finish_and_clear();
        note(format_args!("  ✓ {} {result}", self.what));
    }

    /// Ends it badly.
    pub fn failed(self) {
        self.bar.finish_and_clear();
        note(format_args!("  ✗ {}", self.what));
    }
}
