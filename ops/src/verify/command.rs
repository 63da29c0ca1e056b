//! The subcommand `verify`: reads the running cluster's books and judges them.

use super::{Sources, Verdict, audit, gather, records_in};
use crate::cli::{Context, Failure};
use crate::cluster::{Cluster, client, read_secret};
use crate::output;
use anyhow::{Context as _, Result};
use region_api::{ConcertName, KeyRing};
use std::path::PathBuf;

/// Read every book, every record of a crowd and the payment provider's record, and recompute everything
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this concert
    #[arg(long)]
    concert: Option<ConcertName>,
    /// Records of crowds to hold the books against [default: all that `load` wrote for this cluster]
    #[arg(long, value_name = "FILE")]
    record: Vec<PathBuf>,
}

/// Runs it; a broken book is exit code 1.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let cluster = Cluster::read(&context.home)?;
    let verdict = judge(&cluster, args.concert, args.record).await?;
    if context.json {
        output::json(&verdict)?;
    } else {
        print(&verdict);
    }
    if verdict.ok { Ok(()) } else { Err(Failure::Check("the books are broken".to_owned()).into()) }
}

/// The verdict over a running cluster.
pub async fn judge(cluster: &Cluster, concert: Option<ConcertName>, records: Vec<PathBuf>) -> Result<Verdict> {
    let mut regions = Vec::new();
    for region in &cluster.regions {
        regions.push(super::books::AdminAccess {
            region: region.region.clone(),
            url: region.admin.clone(),
            token: read_secret(&region.operator_token_file)?,
        });
    }
    let provider = match &cluster.sandbox {
        Some(sandbox) => Some((sandbox.url.clone(), read_secret(&sandbox.control_token_file)?)),
        None => None,
    };
    let records = if records.is_empty() { records_in(&cluster.records_folder)? } else { records };
    let ring = KeyRing::from_json(&std::fs::read(&cluster.key_ring_file).context("reading the key ring")?)?;
    let evidence = gather(&client::http()?, Sources { regions, provider, records, ring, concert }).await?;
    Ok(audit(&evidence))
}

fn print(verdict: &Verdict) {
    let mut table =
        output::table(&["concert", "tier", "region", "granted", "returned", "held", "sold", "refunded", "available"]);
    for tier in &verdict.concerts {
        for (region, row) in &tier.regions {
            let numbers = [row.granted, row.returned, row.held, row.sold, row.refunded, row.available];
            let names = [tier.concert.clone(), tier.tier.clone(), region.clone()];
            table.add_row(names.into_iter().chain(numbers.map(|number| number.to_string())));
        }
    }
    output::line(table);
    let looked = &verdict.looked_at;
    let provider = looked.provider_payments.map_or("not asked".to_owned(), |payments| format!("{payments} payments"));
    output::line(format_args!(
        "looked at {} ledger rows, {} reservations, {} tickets, {} payments (provider: {provider}), {} acknowledged requests",
        looked.ledger_rows, looked.reservations, looked.tickets, looked.payments, looked.accepted
    ));
    for problem in &verdict.problems {
        output::line(format_args!("✗ {} in {}: {}", problem.invariant, problem.place, problem.detail));
    }
    if verdict.ok {
        output::line("✓ the books are in order");
    }
}
