//! The subcommand `verify`: reads the running cluster's books and judges them.

use super::{Sources, Verdict, records_in};
use crate::cli::{Context, Failure};
use crate::cluster::arbiters::Arbiters;
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
    let arbiters = match cluster.arbiters.is_empty() {
        true => None,
        false => Some((Arbiters::of(cluster)?, cluster.arbiters.clone())),
    };
    super::verdict(&client::http()?, &Sources { regions, arbiters, provider, records, ring, concert }).await
}

fn print(verdict: &Verdict) {
    let looked = &verdict.looked_at;
    let mut table =
        output::table(&["concert", "tier", "region", "granted", "returned", "held", "sold", "refunded", "available"]);
    for tier in &verdict.concerts {
        if looked.arbiters.is_some() {
            let mut row = vec![tier.concert.clone(), tier.tier.clone(), "(pool)".to_owned()];
            row.extend([String::new(), String::new(), String::new(), String::new(), String::new()]);
            row.push(tier.pool.to_string());
            table.add_row(row);
        }
        for (region, row) in &tier.regions {
            let numbers = [row.granted, row.returned, row.held, row.sold, row.refunded, row.available];
            let names = [tier.concert.clone(), tier.tier.clone(), region.clone()];
            table.add_row(names.into_iter().chain(numbers.map(|number| number.to_string())));
        }
    }
    output::line(table);
    let provider = looked.provider_payments.map_or("not asked".to_owned(), |payments| format!("{payments} payments"));
    output::line(format_args!(
        "looked at {} ledger rows, {} reservations, {} tickets, {} payments (provider: {provider}), {} acknowledged requests",
        looked.ledger_rows, looked.reservations, looked.tickets, looked.payments, looked.accepted
    ));
    if let Some(arbiters) = looked.arbiters {
        let rest = if looked.at_rest { "everything was at rest" } else { "tickets were moving meanwhile" };
        output::line(format_args!("and at the logs of {arbiters} arbiters, {} entries; {rest}", looked.log_entries));
    }
    if verdict.ok {
        for sentence in &verdict.proven {
            output::line(format_args!("✓ {sentence}"));
        }
    }
    for sentence in &verdict.not_proven {
        output::line(format_args!("? not proven: {sentence}"));
    }
    for problem in &verdict.problems {
        output::line(format_args!("✗ {} in {}: {}", problem.invariant, problem.place, problem.detail));
    }
    if verdict.ok {
        output::line(match verdict.not_proven.len() {
            0 => "✓ the books are in order".to_owned(),
            open => format!("✓ the books are in order, as far as they can be read ({open} not proven, see above)"),
        });
    }
}
