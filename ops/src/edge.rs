//! `ops edge`: what the name servers know, why a network goes where it goes, and taking a region out of the answers.
//!
//! A drain holds only when every edge has it, so drain and resume go to all of them and fail when one cannot be told.

use crate::cli::{Context, Failure};
use crate::cluster::client::{self, http};
use crate::cluster::{Cluster, Edge, read_secret};
use crate::output;
use anyhow::{Context as _, Result, anyhow};
use region_api::RegionName;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Arguments of `ops edge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Which regions a network gets, in order, and why
    Explain {
        /// An address or a network, such as 193.99.144.1 or 2001:db8::/48
        #[arg(value_name = "IP", value_parser = network)]
        network: String,
        /// Ask this edge [default: the first that answers]
        #[arg(long)]
        edge: Option<String>,
    },
    /// What every edge knows of every region
    Status,
    /// Send nobody to a region any more; users who are there stay. Kept over restarts
    Drain {
        /// The region
        region: RegionName,
    },
    /// Send users to a drained region again
    Resume {
        /// The region
        region: RegionName,
    },
}

fn network(text: &str) -> Result<String, String> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let most = address.parse::<IpAddr>().map_err(|_| format!("{text:?} is no address or network"))?;
    let most = if most.is_ipv4() { 32 } else { 128 };
    match prefix.map(str::parse::<u8>) {
        None => Ok(text.to_owned()),
        Some(Ok(bits)) if bits <= most => Ok(text.to_owned()),
        Some(_) => Err(format!("{text:?}: a prefix has 0 to {most} bits")),
    }
}

/// Why a network goes where it goes, as an edge says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    /// The network asked about.
    pub network: String,
    /// Its country, where the databases know it.
    pub country: Option<String>,
    /// Its continent.
    pub continent: Option<String>,
    /// Its operator's number.
    pub asn: Option<u32>,
    /// The region answered.
    pub region: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long the answer may be kept, seconds.
    pub ttl_s: u32,
    /// The answer holds for all that share so many bits.
    pub scope: u8,
    /// All regions, in order.
    pub steps: Vec<Step>,
    /// Which edge says so.
    pub node: String,
    /// When.
    pub as_of: String,
}

/// One region in an explanation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub region: String,
    /// Why it stands here.
    pub why: String,
    /// Distance times bias, kilometres.
    pub effective_km: Option<u32>,
    /// Its health and drain.
    pub state: String,
    /// What became of it.
    pub verdict: String,
}

/// One region as an edge sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// Its name.
    pub region: String,
    /// `up`, `down` or `drained`.
    pub state: String,
    /// Health in words, half-way states included.
    pub health: String,
    /// Why the last check was bad.
    pub last_error: Option<String>,
    /// What it reports of its load and stock.
    pub report: Option<Load>,
    /// How old that is, milliseconds.
    pub report_age_ms: Option<u64>,
    /// Shares of its users that go elsewhere, by region.
    pub handover: Vec<(String, f64)>,
}

/// Load and stock of a region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// Joins per second.
    pub arrivals_per_s: f64,
    /// People waiting.
    pub queue: u64,
    /// Tickets that can be had there, where something is on sale.
    pub stock: Option<u64>,
}

#[derive(Deserialize)]
struct Regions {
    regions: Vec<Seen>,
    as_of: String,
}

/// One edge in `status`.
#[derive(Debug, Clone, Serialize)]
pub struct EdgeStatus {
    /// Its name.
    pub edge: String,
    /// Where it answers DNS.
    pub dns: String,
    /// For operators.
    pub admin: String,
    /// `serving`, or `unreachable: …`.
    pub state: String,
    /// When it said what follows.
    pub as_of: Option<String>,
    /// What it knows of the regions.
    pub regions: Vec<Seen>,
}

/// Runs it.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let cluster = Cluster::read(&context.home)?;
    if cluster.edges.is_empty() {
        return Err(Failure::Unreachable("this cluster has no edge: run `cargo ops up` again".into()).into());
    }
    match args.command {
        Command::Explain { network, edge } => explain(context, &cluster, &network, edge.as_deref()).await,
        Command::Status => status(context, &cluster).await,
        Command::Drain { region } => set_drained(context, &cluster, &region, true).await,
        Command::Resume { region } => set_drained(context, &cluster, &region, false).await,
    }
}

async fn explain(context: &Context, cluster: &Cluster, network: &str, named: Option<&str>) -> Result<()> {
    let asked: Vec<&Edge> = cluster.edges.iter().filter(|edge| named.is_none_or(|named| edge.edge == named)).collect();
    if asked.is_empty() {
        let names: Vec<&str> = cluster.edges.iter().map(|edge| edge.edge.as_str()).collect();
        return Err(Failure::Usage(format!("no such edge; there are {}", names.join(", "))).into());
    }
    let mut last = None;
    for edge in asked {
        match where_is(edge, network).await {
            Ok(said) if context.json => return output::json(&said),
            Ok(said) => {
                show(edge, &said);
                return Ok(());
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow!("no edge was asked")))
}

/// Where an edge sends a network now, and why.
pub async fn where_is(edge: &Edge, network: &str) -> Result<Explanation> {
    let request = http()?.get(format!("{}/v1/where", edge.admin)).query(&[("ip", network)]);
    client::answer(request).await
}

fn show(edge: &Edge, said: &Explanation) {
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".to_owned());
    let asn = said.asn.map_or_else(|| "?".to_owned(), |asn| asn.to_string());
    output::line(format_args!(
        "{}: country {}, continent {}, operator AS{asn}",
        said.network,
        known(&said.country),
        known(&said.continent)
    ));
    let addresses: Vec<String> = said.addresses.iter().map(ToString::to_string).collect();
    output::line(format_args!(
        "is sent to {} ({}) for {} s, as everybody who shares its first {} bits",
        said.region,
        addresses.join(", "),
        said.ttl_s,
        said.scope
    ));
    let mut table = output::table(&["", "region", "why here", "km", "state", "what became of it"]);
    for (number, step) in said.steps.iter().enumerate() {
        table.add_row([
            (number + 1).to_string(),
            step.region.clone(),
            step.why.clone(),
            step.effective_km.map_or_else(|| "?".to_owned(), |km| km.to_string()),
            step.state.clone(),
            step.verdict.clone(),
        ]);
    }
    output::line(table);
    output::line(format_args!("said by {} at {}", edge.edge, said.as_of));
}

/// What every edge says, in the order of the cluster.
pub async fn statuses(cluster: &Cluster) -> Vec<EdgeStatus> {
    futures::future::join_all(cluster.edges.iter().map(ask)).await
}

async fn ask(edge: &Edge) -> EdgeStatus {
    let said = async { client::answer::<Regions>(http()?.get(format!("{}/v1/regions", edge.admin))).await }.await;
    let (name, dns, admin) = (edge.edge.clone(), edge.dns.to_string(), edge.admin.clone());
    match said {
        Ok(said) => EdgeStatus {
            edge: name,
            dns,
            admin,
            state: "serving".to_owned(),
            as_of: Some(said.as_of),
            regions: said.regions,
        },
        Err(error) => {
            let state = format!("unreachable: {error:#}");
            EdgeStatus { edge: name, dns, admin, state, as_of: None, regions: Vec::new() }
        }
    }
}

async fn status(context: &Context, cluster: &Cluster) -> Result<()> {
    let edges = statuses(cluster).await;
    if context.json {
        output::json(&serde_json::json!({ "edges": edges }))?;
    } else {
        output::line(table(&edges));
    }
    if edges.iter().all(|edge| edge.as_of.is_none()) {
        return Err(Failure::Unreachable("no edge answers; see their logs, or run `cargo ops up`".into()).into());
    }
    Ok(())
}

/// A line for every region that an edge knows.
pub fn table(edges: &[EdgeStatus]) -> comfy_table::Table {
    let mut table = output::table(&[
        "edge",
        "DNS",
        "region",
        "state",
        "health",
        "joins/s",
        "queue",
        "stock",
        "handed over",
        "as of",
    ]);
    for edge in edges {
        if edge.regions.is_empty() {
            table.add_row([edge.edge.as_str(), edge.dns.as_str(), "-", edge.state.as_str()]);
        }
        for seen in &edge.regions {
            let load = seen.report.as_ref();
            let shares: Vec<String> =
                seen.handover.iter().map(|(to, share)| format!("{:.0} % to {to}", share * 100.0)).collect();
            table.add_row([
                edge.edge.clone(),
                edge.dns.clone(),
                seen.region.clone(),
                seen.state.clone(),
                seen.last_error.as_ref().map_or_else(|| seen.health.clone(), |why| format!("{}: {why}", seen.health)),
                load.map_or("?".to_owned(), |load| format!("{:.1}", load.arrivals_per_s)),
                load.map_or("?".to_owned(), |load| load.queue.to_string()),
                load.and_then(|load| load.stock).map_or("?".to_owned(), |stock| stock.to_string()),
                if shares.is_empty() { "-".to_owned() } else { shares.join(", ") },
                edge.as_of.clone().unwrap_or_default(),
            ]);
        }
    }
    table
}

#[derive(Serialize)]
struct Drained {
    region: String,
    drained: bool,
    edges: Vec<String>,
}

async fn set_drained(context: &Context, cluster: &Cluster, region: &RegionName, drained: bool) -> Result<()> {
    if cluster.regions.iter().all(|known| known.region != *region) {
        let names: Vec<&str> = cluster.regions.iter().map(|known| known.region.as_str()).collect();
        return Err(Failure::Usage(format!("no region {region}; there are {}", names.join(", "))).into());
    }
    let (mut told, mut failed) = (Vec::new(), None);
    for edge in &cluster.edges {
        match tell(edge, region, drained).await {
            Ok(()) => told.push(edge.edge.clone()),
            Err(error) => failed = failed.or(Some((edge.edge.clone(), error))),
        }
    }
    if let Some((edge, error)) = failed {
        let have = if told.is_empty() { "no edge has it".to_owned() } else { format!("{} has it", told.join(", ")) };
        return Err(error.context(format!("telling {edge}; {have}, so run this again when it answers")));
    }
    let done = Drained { region: region.to_string(), drained, edges: told };
    if context.json {
        return output::json(&done);
    }
    let what = if drained { "is named to nobody any more" } else { "is named again" };
    output::line(format_args!("{region} {what} by {}", done.edges.join(", ")));
    Ok(())
}

async fn tell(edge: &Edge, region: &RegionName, drained: bool) -> Result<()> {
    let act = if drained { "drain" } else { "resume" };
    let token = read_secret(&edge.operator_token_file).with_context(|| edge.edge.clone())?;
    let request = http()?.post(format!("{}/v1/regions/{region}/{act}", edge.admin)).bearer_auth(token);
    client::answer::<serde_json::Value>(request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_with_or_without_a_prefix() {
        for good in ["193.99.144.1", "193.99.144.0/24", "0.0.0.0/0", "2001:db8::/48", "::1/128"] {
            assert_eq!(network(good).as_deref(), Ok(good));
        }
        for bad in ["", "germany", "1.2.3.4/33", "::/129", "1.2.3.4/", "1.2.3.4/-1"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
