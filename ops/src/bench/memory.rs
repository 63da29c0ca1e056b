//! `bench memory`: bytes of Redis memory per queued reservation, dedupe included, and the cost of a join as the queue
//! grows.
//!
//! The queue is filled in steps, tenfold each; at every step a short saturated round is driven through the node, beside
//! a round against the bare echo at the same moment.

use super::drive::{Drive, drive};
use super::report::Line;
use super::stage::Stage;
use super::work::{Joins, Users};
use super::{FILL_TIME_MAX, Options, rounds_note};
use anyhow::Result;
use std::sync::Arc;

/// Queue lengths at which a round is driven, as far as `--requests` allows.
const STEPS: [u64; 4] = [10_000, 100_000, 1_000_000, 10_000_000];

/// Runs it.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    let stage = Stage::start(&["intake"], options).await?;
    let concert = stage.concert("bench", 1_000_000, "10m").await?;
    let host = stage.public().to_string();
    let empty = stage.redis_memory().await?;
    let mut lines = Vec::new();
    let mut queued = 0;
    let mut first_ratio = None;
    for (step, length) in STEPS.into_iter().filter(|length| *length <= options.requests).enumerate() {
        let joins = |first: u64| -> Result<Arc<Joins>> {
            Ok(Arc::new(Joins::new(Users::new(stage.ring()?, stage.region(), first), &concert, host.clone())))
        };
        let bounds = |address, requests_max, time_max| Drive {
            address,
            connections: options.connections,
            requests_max,
            time_max,
        };
        drive(bounds(stage.public(), length.saturating_sub(queued), FILL_TIME_MAX), joins(queued)?).await?;
        queued = stage.queued().await?;
        let memory = (stage.redis_memory().await? - empty) as f64 / queued as f64;
        lines.push(Line::alone("memory", format!("Redis per reservation, {queued} queued"), memory, "bytes"));
        let echo = drive(bounds(stage.echo(), u64::MAX, options.time), joins(queued)?).await?;
        let driven = drive(bounds(stage.public(), u64::MAX, options.time), joins(queued)?).await?;
        rounds_note(step as u32, driven.per_second(), echo.per_second(), memory);
        let ratio = driven.per_second() / echo.per_second();
        let first = *first_ratio.get_or_insert(ratio);
        let name = format!("joins against echo at {queued} queued, beside the same at {}", STEPS[0]);
        lines.push(Line::beside("memory", name, "ratio", &[(ratio, first)]));
        queued = stage.queued().await?;
    }
    Ok(lines)
}
