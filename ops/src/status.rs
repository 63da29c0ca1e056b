//! `ops status`: who is there, and what each says of itself right now.

use crate::arbiter::{self, ArbiterStatus};
use crate::cli::{Context, Failure};
use crate::cluster::arbiters::Arbiters;
use crate::cluster::client::Admin;
use crate::cluster::{Cluster, Region};
use crate::edge::{self, EdgeStatus};
use crate::output;
use anyhow::Result;
use region_api::wire::NodeStatus;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Serialize)]
struct Status {
    regions: Vec<RegionStatus>,
    arbiters: Vec<ArbiterStatus>,
    edges: Vec<EdgeStatus>,
}

#[derive(Serialize)]
struct RegionStatus {
    region: String,
    public: String,
    admin: String,
    /// `ready`, `draining`, `not ready: …` or `unreachable: …`.
    state: String,
    /// What the node said, when it answered.
    node: Option<NodeStatus>,
}

/// Asks every region. Exit code 3 when none answers.
pub async fn run(context: &Context) -> Result<()> {
    let cluster = Cluster::read(&context.home)?;
    let asked = futures::future::join_all(cluster.regions.iter().map(ask));
    let (regions, arbiters, edges): (Vec<RegionStatus>, _, _) =
        tokio::join!(asked, ask_arbiters(&cluster), edge::statuses(&cluster));
    let none = regions.iter().all(|region| region.node.is_none());
    let status = Status { regions, arbiters: arbiters?, edges };
    if context.json {
        output::json(&status)?;
    } else {
        show(&status);
    }
    if none {
        let why = "no region answers; see the logs below `.boxoffice/`, or run `cargo ops up`";
        return Err(Failure::Unreachable(why.into()).into());
    }
    Ok(())
}

async fn ask_arbiters(cluster: &Cluster) -> Result<Vec<ArbiterStatus>> {
    if cluster.arbiters.is_empty() {
        return Ok(Vec::new());
    }
    Ok(arbiter::statuses(&Arbiters::of(cluster)?, &cluster.arbiters).await)
}

async fn ask(region: &Region) -> RegionStatus {
    let answer = async { Admin::of(region)?.get::<NodeStatus>("/v1/status").await }.await;
    let state = match &answer {
        Ok(node) if node.draining => "draining".to_owned(),
        Ok(node) if node.ready => "ready".to_owned(),
        Ok(node) => format!("not ready: {}", node.missing.join(", ")),
        Err(error) => format!("unreachable: {error:#}"),
    };
    let (name, public, admin) = (region.region.to_string(), region.public.clone(), region.admin.clone());
    RegionStatus { region: name, public, admin, state, node: answer.ok() }
}

fn show(status: &Status) {
    let mut table = output::table(&["region", "public", "admin", "state", "node", "answer's age"]);
    for region in &status.regions {
        let node = region.node.as_ref();
        table.add_row([
            region.region.clone(),
            region.public.clone(),
            region.admin.clone(),
            region.state.clone(),
            node.map_or("-".into(), |node| node.node.clone()),
            node.map_or("-".into(), |node| format!("{} ms", now_ms().saturating_sub(node.as_of.ms()))),
        ]);
    }
    output::line(table);
    if !status.arbiters.is_empty() {
        output::line(arbiter::table(&status.arbiters));
    }
    if !status.edges.is_empty() {
        output::line(edge::table(&status.edges));
    }
    let mut stock = output::table(&["concert", "region", "state", "tier", "available", "held", "sold", "queued"]);
    let nodes = status.regions.iter().filter_map(|region| region.node.as_ref());
    for (node, concert) in nodes.flat_map(|node| node.concerts.iter().map(move |concert| (node, concert))) {
        for pool in &concert.pools {
            stock.add_row([
                concert.concert.to_string(),
                node.region.to_string(),
                concert.halted.as_ref().map_or_else(|| state_text(concert.state), |why| format!("halted: {why}")),
                pool.tier.to_string(),
                pool.available.to_string(),
                pool.held.to_string(),
                (pool.columns.sold + pool.unfolded - pool.columns.refunded).to_string(),
                concert.queued.to_string(),
            ]);
        }
    }
    if stock.row_count() > 0 {
        output::line(stock);
    }
}

/// A state as the wire writes it.
pub(crate) fn state_text(state: impl Serialize) -> String {
    serde_json::to_value(state).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
