//! `ops region …`: the regions as the arbiters know them, and what an operator may do to one.
//!
//! A silent region's tickets are nobody else's, however long it is silent: only its database's end, sworn to by an
//! operator, frees them.

use crate::ask::Consent;
use crate::cli::{Context, Failure};
use crate::cluster::Cluster;
use crate::cluster::arbiters::Arbiters;
use crate::output;
use anyhow::{Result, anyhow};
use arbiter_api::{Acted, Meta, RegionStatus, RegionsView, WriteOffRequest};
use clap::Subcommand;
use quota_protocol::command::Sales;
use quota_protocol::issuer::RegionState;
use quota_protocol::{PoolId, RegionId, Tickets};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// How arbiters that have forgotten something are recovered.
pub(crate) const RECOVER: &str = "To recover: stop all arbiters, put their folders away, and begin again from the newest \
     backup with `quota-arbiter --config FILE restore --from BACKUP --regions ALL,THAT,EVER,WERE` (and `--above N` with \
     the incarnation that is named here, if one is)";

/// Arguments of `ops region`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All regions
    List,
    /// Make a new region known; it takes part from when its nodes first register
    Add(Which),
    /// Grant it nothing more and ask everything back that it can spare
    Drain(Dangerous),
    /// Grant to it again
    Resume(Which),
    /// What silent regions have that nobody else gets; changes nothing
    Quarantine {
        /// The region [default: all that are silent]
        region: Option<RegionId>,
    },
    /// Give up a region whose database can never commit again
    WriteOff(WriteOff),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The region
    region: RegionId,
}

#[derive(Debug, clap::Args)]
struct Dangerous {
    /// The region
    region: RegionId,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Debug, clap::Args)]
struct WriteOff {
    /// The region
    region: RegionId,
    /// How its database was made unable ever to commit again: destroyed, or storage or credentials revoked. Silence is
    /// not enough
    #[arg(long, value_name = "TEXT")]
    fenced: String,
    /// Tickets that it sold, counted after that over all its databases: CONCERT/TIER=TICKETS; once per pool that it
    /// was granted of
    #[arg(long, value_name = "POOL=N", value_parser = count)]
    sold: Vec<(PoolId, Tickets)>,
    /// Of those, refunded
    #[arg(long, value_name = "POOL=N", value_parser = count)]
    refunded: Vec<(PoolId, Tickets)>,
    #[command(flatten)]
    consent: Consent,
}

/// What `region quarantine --json` prints.
#[derive(Serialize)]
struct Quarantine {
    #[serde(flatten)]
    meta: Meta,
    regions: Vec<Quarantined>,
}

#[derive(Serialize)]
struct Quarantined {
    region: RegionId,
    silent: bool,
    last_report: Option<region_api::Timestamp>,
    unsold: BTreeMap<PoolId, Tickets>,
}

/// Runs one of them.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let arbiters = Arbiters::of(&Cluster::read(&context.home)?)?;
    match args.command {
        Command::List => list(context, &arbiters).await,
        Command::Add(Which { region }) => {
            let acted: Acted = arbiters.put(&format!("/v1/regions/{region}"), &json!({})).await?;
            output::acted(context, &acted)
        }
        Command::Drain(Dangerous { region, consent }) => {
            let known = one(&arbiters, &region).await?;
            let unsold = known.unsold.values().copied().sum::<Tickets>();
            let what = format!(
                "{region} will be granted nothing more and asked for all that it has free (of {unsold} unsold tickets, \
                 those on hold stay until they are sold or given up). Who waits there waits for nothing. `cargo ops region \
                 resume {region}` undoes it."
            );
            consent.ask(&what, region.as_str())?;
            act(context, &arbiters, &region, "drain").await
        }
        Command::Resume(Which { region }) => act(context, &arbiters, &region, "resume").await,
        Command::Quarantine { region } => quarantine(context, &arbiters, region).await,
        Command::WriteOff(order) => write_off(context, &arbiters, order).await,
    }
}

async fn act(context: &Context, arbiters: &Arbiters, region: &RegionId, what: &str) -> Result<()> {
    let acted: Acted = arbiters.post(&format!("/v1/regions/{region}/{what}"), &json!({})).await?;
    output::acted(context, &acted)
}

async fn one(arbiters: &Arbiters, region: &RegionId) -> Result<RegionStatus> {
    let view: RegionsView = arbiters.get("/v1/regions").await?;
    let names: Vec<String> = view.regions.iter().map(|known| known.region.to_string()).collect();
    let found = view.regions.into_iter().find(|known| known.region == *region);
    found.ok_or_else(|| anyhow!(Failure::Usage(format!("no region {region}; there are: {}", names.join(", ")))))
}

async fn list(context: &Context, arbiters: &Arbiters) -> Result<()> {
    let view: RegionsView = arbiters.get("/v1/regions").await?;
    if context.json {
        return output::json(&view);
    }
    output::line(output::meta(&view.meta));
    let mut table = output::table(&["region", "state", "heard", "unsold tickets", "epoch", "database"]);
    for known in &view.regions {
        table.add_row([
            known.region.to_string(),
            state(known),
            heard(known),
            known.unsold.values().copied().sum::<Tickets>().to_string(),
            known.epoch.to_string(),
            known.identity.map_or("none yet".to_owned(), |identity| identity.to_string()),
        ]);
    }
    output::line(table);
    for known in view.regions.iter().filter(|known| known.fenced.is_some()) {
        output::line(format_args!("{}: fenced: {}", known.region, known.fenced.as_deref().unwrap_or_default()));
    }
    for known in &view.regions {
        remarks(known);
    }
    Ok(())
}

fn state(known: &RegionStatus) -> String {
    let state = match known.state {
        RegionState::Active => "active",
        RegionState::Draining => "draining",
        RegionState::WrittenOff => "written off",
    };
    let more = [
        (known.silent, ", SILENT"),
        (known.awaited, ", awaited after a restore"),
        (known.behind.is_some(), ", KNOWS LATER ARBITERS"),
    ];
    more.iter().filter(|(holds, _)| *holds).fold(state.to_owned(), |text, (_, more)| text + more)
}

/// What somebody has to do about a region, if anything.
fn remarks(known: &RegionStatus) {
    let region = known.region;
    if let Some(behind) = &known.behind {
        output::line(format_args!("{region}: {behind}. {RECOVER}"));
    }
    if known.awaited {
        output::line(format_args!(
            "{region}: the arbiters were restored from a backup and grant nothing to anybody until this region has \
             registered again: start its nodes. If its database can never commit again: `cargo ops region write-off \
             {region} --fenced HOW --sold POOL=N …`"
        ));
    } else if known.silent && known.state != RegionState::WrittenOff && known.identity.is_some() {
        output::line(format_args!(
            "{region}: silent; what it has stays its own. `cargo ops region quarantine {region}` says what can be done"
        ));
    }
}

fn heard(known: &RegionStatus) -> String {
    known.last_report.map_or("not since this leader leads".to_owned(), |at| format!("{} ago", output::age(at)))
}

async fn quarantine(context: &Context, arbiters: &Arbiters, region: Option<RegionId>) -> Result<()> {
    if let Some(region) = &region {
        one(arbiters, region).await?;
    }
    let view: RegionsView = arbiters.get("/v1/regions").await?;
    let wanted = |known: &&RegionStatus| match &region {
        Some(region) => known.region == *region,
        None => known.silent && known.state != RegionState::WrittenOff,
    };
    let found: Vec<&RegionStatus> = view.regions.iter().filter(wanted).collect();
    if context.json {
        let row = |known: &&RegionStatus| Quarantined {
            region: known.region,
            silent: known.silent,
            last_report: known.last_report,
            unsold: known.unsold.clone(),
        };
        return output::json(&Quarantine { meta: view.meta, regions: found.iter().map(row).collect() });
    }
    output::line(output::meta(&view.meta));
    if found.is_empty() {
        output::line("no region is silent: nothing is quarantined");
    }
    for known in found {
        tell(known);
    }
    Ok(())
}

fn tell(known: &RegionStatus) {
    let region = known.region;
    if !known.silent {
        output::line(format_args!("{region} is not silent (heard {}): nothing of it is quarantined", heard(known)));
        return;
    }
    output::line(format_args!("{region} is silent (heard {}). Not known to be sold, and nobody else's:", heard(known)));
    let mut table = output::table(&["concert", "tier", "tickets"]);
    for (pool, tickets) in known.unsold.iter().filter(|(_, tickets)| !tickets.is_zero()) {
        table.add_row([pool.concert.to_string(), pool.tier.to_string(), tickets.to_string()]);
    }
    output::line(table);
    output::line(format_args!(
        "It may be selling them; no time that passes frees them. They are back as soon as it is heard again. If its database \
         can never commit again: `cargo ops region write-off {region} --fenced HOW --sold POOL=N …`"
    ));
}

async fn write_off(context: &Context, arbiters: &Arbiters, order: WriteOff) -> Result<()> {
    let WriteOff { region, fenced, sold, refunded, consent } = order;
    let known = one(arbiters, &region).await?;
    let sales = sales(&sold, &refunded)?;
    let back: Vec<String> = known.unsold.iter().map(|(pool, unsold)| format!("{pool} at most {unsold}")).collect();
    let silent = match known.silent {
        true => format!("It was heard {}.", heard(&known)),
        false => {
            format!("IT IS ALIVE: it was heard {}. If it goes on, it sells what others will sell too.", heard(&known))
        }
    };
    let what = format!(
        "{region} is given up for ever under its present database. {silent}\nYou say that this database can never commit \
         again because: {fenced}\nIf that is not so, tickets will be sold twice. Back into the pools come, less what you \
         say it sold: {}.\nIts name can be used again with an empty database; any older database of it will halt.",
        if back.is_empty() { "none".to_owned() } else { back.join(", ") }
    );
    consent.ask(&what, region.as_str())?;
    let body = WriteOffRequest { fenced, sales, request_id: uuid::Uuid::new_v4().to_string() };
    let acted: Acted = arbiters.post(&format!("/v1/regions/{region}/write-off"), &body).await?;
    output::acted(context, &acted)
}

fn sales(sold: &[(PoolId, Tickets)], refunded: &[(PoolId, Tickets)]) -> Result<Vec<Sales>> {
    let mut sales: BTreeMap<PoolId, Sales> = BTreeMap::new();
    for (pool, tickets) in sold {
        let row = Sales { pool: *pool, sold: *tickets, refunded: Tickets::ZERO };
        if sales.insert(*pool, row).is_some() {
            return Err(Failure::Usage(format!("--sold names {pool} twice")).into());
        }
    }
    for (pool, tickets) in refunded {
        match sales.get_mut(pool) {
            Some(row) if row.refunded.is_zero() => row.refunded = *tickets,
            Some(_) => return Err(Failure::Usage(format!("--refunded names {pool} twice")).into()),
            None => return Err(Failure::Usage(format!("--refunded names {pool}, --sold does not")).into()),
        }
    }
    Ok(sales.into_values().collect())
}

/// `demo/A=312`.
fn count(text: &str) -> Result<(PoolId, Tickets)> {
    let shape = || anyhow!("write CONCERT/TIER=TICKETS, such as demo/A=312");
    let (pool, tickets) = text.split_once('=').ok_or_else(shape)?;
    let tickets = tickets.parse().map_err(|_| shape())?;
    Ok((pool.parse().map_err(|_| shape())?, Tickets::new(tickets)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sales_are_read_as_documented() {
        let sold = [count("demo/A=312").unwrap(), count("demo/B=0").unwrap()];
        let read = sales(&sold, &[count("demo/A=4").unwrap()]).unwrap();
        let read: Vec<_> = read.iter().map(|s| (s.pool.to_string(), s.sold.get(), s.refunded.get())).collect();
        assert_eq!(read, [("demo/A".to_owned(), 312, 4), ("demo/B".to_owned(), 0, 0)]);
        for wrong in ["demo=1", "demo/A", "demo/A=x", "demo/A=-1", "=1"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert!(sales(&[sold[0], sold[0]], &[]).is_err());
        assert!(sales(&sold, &[count("demo/C=1").unwrap()]).is_err());
    }
}
