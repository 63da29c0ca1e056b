//! `bench burst`: half a million requests for ten thousand tickets, accepted and all decided, beside the time that the
//! bare echo takes to answer as many.
//!
//! Decided means: held, or waiting in order behind those who hold, durably, and visible so in a poll. The clock stops
//! when every ticket is on hold, nothing more can be decided until somebody pays or lapses, and a sample of the crowd
//! has seen its own state.

use super::drive::{Drive, drive};
use super::report::Line;
use super::stage::Stage;
use super::work::{Joins, Polls, Users};
use super::{Options, rounds_note};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Users polled after the burst, spread over all of them.
const SAMPLE: u64 = 2_000;
/// Tickets per tier; there are two.
const TICKETS: u64 = 5_000;
/// After this the burst counts as never decided.
const DECIDED_WITHIN: Duration = Duration::from_secs(120);

/// Runs it.
pub async fn run(options: &Options) -> Result<Vec<Line>> {
    let mut rounds = Vec::new();
    let mut accept = Vec::new();
    for round in 0..options.rounds {
        let stage = Stage::start(&["intake", "allocator", "recycler"], options).await?;
        let concert = stage.concert("bench", TICKETS, "30m").await?;
        let users = Users::new(stage.ring()?, stage.region(), 0);
        let host = stage.public().to_string();
        let bounds = |address| Drive {
            address,
            connections: options.connections,
            requests_max: options.requests,
            time_max: super::FILL_TIME_MAX,
        };
        let echo = Arc::new(Joins::new(users.clone(), &concert, host.clone()));
        let echoed = drive(bounds(stage.echo()), echo).await?;
        let joins =
            Arc::new(Joins::new(users.clone(), &concert, host.clone()).keeping((options.requests / SAMPLE).max(1)));
        let accepted = drive(bounds(stage.public()), Arc::clone(&joins)).await?;
        wait_until_decided(&stage, &concert, options.requests).await?;
        let sample = joins.take_ids();
        let polls = Drive { address: stage.public(), requests_max: sample.len() as u64, ..bounds(stage.public()) };
        drive(polls, Arc::new(Polls::new(users, host, sample))).await?;
        let took = accepted.started.elapsed();
        rounds_note(round, took.as_secs_f64(), echoed.elapsed.as_secs_f64(), accepted.elapsed.as_secs_f64() * 1e3);
        rounds.push((took.as_secs_f64(), echoed.elapsed.as_secs_f64()));
        accept.push((accepted.elapsed.as_secs_f64(), echoed.elapsed.as_secs_f64()));
    }
    Ok(vec![
        Line::beside("burst", format!("{} accepted", options.requests), "s", &accept),
        Line::beside("burst", format!("{} accepted and decided", options.requests), "s", &rounds),
    ])
}

async fn wait_until_decided(stage: &Stage, concert: &str, requests: u64) -> Result<()> {
    let deadline = Instant::now() + DECIDED_WITHIN;
    loop {
        let status = stage.concert_status(concert).await?;
        let held: i64 = status.pools.iter().map(|pool| pool.columns.held()).sum();
        let available: i64 = status.pools.iter().map(|pool| pool.columns.available()).sum();
        let queued = status.queued;
        if available == 0 && held as u64 + queued == requests {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "after {DECIDED_WITHIN:?}: {available} tickets free, {held} held, {queued} waiting, {requests} accepted"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
