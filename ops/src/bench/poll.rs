//! `bench poll`: status polls per second, beside a bare axum GET that answers as many bytes.
//!
//! Reservations are polled in turn, so few enough times each that nobody is voided for polling too often.

use super::drive::{Drive, drive};
use super::report::Line;
use super::stage::Stage;
use super::work::{Joins, Polls, Users};
use super::{Options, rounds_note};
use anyhow::Result;
use std::sync::Arc;

/// Reservations to poll: at 80,000 polls a second each is polled less than once a second, and 20 in 10 s are allowed.
const RESERVATIONS: u64 = 100_000;

/// Runs it.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    let stage = Stage::start(&["intake"], options).await?;
    let concert = stage.concert("bench", 1_000_000, "10m").await?;
    let host = stage.public().to_string();
    let users = Users::new(stage.ring()?, stage.region(), 0);
    let joins = Arc::new(Joins::new(users.clone(), &concert, host.clone()).keeping(1));
    let fill = Drive {
        address: stage.public(),
        connections: options.connections,
        requests_max: RESERVATIONS,
        time_max: super::FILL_TIME_MAX,
    };
    drive(fill, Arc::clone(&joins)).await?;
    stage.settle().await;
    let polls = Arc::new(Polls::new(users, host, joins.take_ids()));
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let bounds = |address| Drive { address, requests_max: u64::MAX, time_max: options.time, ..fill };
        let bare = drive(bounds(stage.echo()), Arc::clone(&polls)).await?;
        let driven = drive(bounds(stage.public()), Arc::clone(&polls)).await?;
        rounds_note(
            round,
            driven.per_second(),
            bare.per_second(),
            driven.latency_us.value_at_quantile(0.99) as f64 / 1e3,
        );
        rounds.push((driven.per_second(), bare.per_second()));
    }
    Ok(vec![Line::beside("poll", "status polls", "1/s", &rounds)])
}
