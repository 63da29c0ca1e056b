//! `bench intake`: joins per second that are on disk when they are answered, beside a bare axum echo of the same join.
//!
//! Rounds alternate between the two servers, each saturated by the same generator. Every `202` is counted in Redis
//! after.

use super::drive::{Drive, drive};
use super::report::Line;
use super::stage::Stage;
use super::work::{Joins, Users};
use super::{Options, rounds_note};
use anyhow::{Result, ensure};
use std::sync::Arc;
use std::time::Duration;

/// A p99 above this is not "accepted at once" any more, milliseconds.
const P99_MAX_MS: f64 = 250.0;

/// Runs it.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    let stage = Stage::start(&["intake"], options).await?;
    let concert = stage.concert("bench", 1_000_000, "10m").await?;
    let mut rounds = Vec::new();
    let mut p99_ms = Vec::new();
    let mut accepted = 0;
    for round in 0..options.rounds {
        let users = Users::new(stage.ring()?, stage.region(), u64::from(round) << 32);
        let host = stage.public().to_string();
        let bounds = |address| Drive {
            address,
            connections: options.connections,
            requests_max: u64::MAX,
            time_max: options.time,
        };
        let echo = drive(bounds(stage.echo()), Arc::new(Joins::new(users.clone(), &concert, host.clone()))).await?;
        let joins = Arc::new(Joins::new(users, &concert, host));
        let driven = drive(bounds(stage.public()), Arc::clone(&joins)).await?;
        accepted += joins.accepted();
        let p99 = Duration::from_micros(driven.latency_us.value_at_quantile(0.99)).as_secs_f64() * 1e3;
        rounds_note(round, driven.per_second(), echo.per_second(), p99);
        rounds.push((driven.per_second(), echo.per_second()));
        p99_ms.push(p99);
    }
    let queued = stage.queued().await?;
    ensure!(queued == accepted, "{accepted} joins were answered 202, but Redis holds {queued}");
    let p99 = super::report::median(p99_ms.into_iter());
    ensure!(p99 < P99_MAX_MS, "p99 is {p99:.0} ms, the bound is {P99_MAX_MS} ms");
    Ok(vec![
        Line::beside("intake", "durable joins", "1/s", &rounds),
        Line::alone("intake", "p99", p99, "ms"),
        Line::alone("intake", "counted in Redis", queued as f64, "reservations"),
    ])
}
