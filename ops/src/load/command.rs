//! The subcommand `load`: sends a crowd to the running cluster, then has the books verified.

use super::compass::{Found, Place, ViaDns};
use super::tally::Report;
use super::{Options, Target, run as send};
use crate::cli::{Context, Failure};
use crate::cluster::{Cluster, Region};
use crate::{output, verify};
use anyhow::Result;
use region_api::ConcertName;

/// Runs it; broken books or answers that break the contract are exit code 1.
pub async fn run(context: &Context, options: Options) -> Result<()> {
    let cluster = Cluster::read(&context.home)?;
    let target = Target {
        regions: cluster.regions.iter().map(|region| (region.region.to_string(), region.public.clone())).collect(),
        sandbox: cluster.sandbox.as_ref().map(|sandbox| sandbox.url.clone()),
        records: cluster.records_folder.clone(),
        dns: via_dns(&cluster),
    };
    let done = send(&target, &options, true).await?;
    output::note("verifying the books");
    let concert = ConcertName::new(&options.concert)?;
    let verdict = verify::command::judge(&cluster, Some(concert), Vec::new()).await?;
    let report = done.report(options.users, verdict.ok);
    if context.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    for (code, count, first) in done.scene.tally.problems() {
        output::note(format_args!("{count} × {code}, such as: {first}"));
    }
    for problem in &verdict.problems {
        output::note(format_args!("✗ {} in {}: {}", problem.invariant, problem.place, problem.detail));
    }
    output::note(format_args!("the crowd's record: {}", done.record.display()));
    if let Some(found) = report.via_dns.as_ref().filter(|found| found.misplaced > 0) {
        let why = format!("{} buyers were sent to a region that is not theirs, without a reason", found.misplaced);
        return Err(Failure::Check(why).into());
    }
    if report.errors > 0 {
        return Err(Failure::Check(format!("{} buyers got no proper answer", report.errors)).into());
    }
    if verdict.ok { Ok(()) } else { Err(Failure::Check("the books are broken".to_owned()).into()) }
}

/// The name servers, where there are any and every region has a place and an address.
pub fn via_dns(cluster: &Cluster) -> Option<ViaDns> {
    let place = |region: &Region| {
        let url = url::Url::parse(&region.public).ok()?;
        let address = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
        Some(Place { region: region.region.to_string(), address, position: region.position? })
    };
    let regions: Vec<Place> = cluster.regions.iter().map(place).collect::<Option<_>>()?;
    (!cluster.edges.is_empty()).then(|| ViaDns { edges: cluster.edges.clone(), regions })
}

fn print_found(found: &Found) {
    let mut table = output::table(&["country", "sent to"]);
    for (country, regions) in &found.countries {
        let regions: Vec<String> = regions.iter().map(|(region, buyers)| format!("{region} {buyers}")).collect();
        table.add_row([(*country).to_owned(), regions.join(", ")]);
    }
    output::line(table);
    output::line(format_args!(
        "{} buyers were sent to the nearest region, {} elsewhere with a reason, {} without; {} went on at another one",
        found.nearest, found.elsewhere, found.misplaced, found.wandered
    ));
}

fn print(report: &Report) {
    if let Some(found) = &report.via_dns {
        print_found(found);
    }
    let mut table = output::table(&["buyers", "count"]);
    let rows = [
        ("came", report.users),
        ("accepted (202)", report.accepted),
        ("with tickets", report.sold),
        ("told no after waiting", report.rejected),
        ("let the hold lapse", report.expired),
        ("cancelled", report.cancelled),
        ("voided for polling too often", report.voided),
        ("money given back", report.refunded),
        ("still waiting", report.waiting),
        ("told no at once", report.refused),
        ("without a proper answer", report.errors),
    ];
    for (what, count) in rows {
        table.add_row([what.to_owned(), count.to_string()]);
    }
    output::line(table);
    let latency = &report.latency_ms;
    output::line(format_args!(
        "joins took {:.1} ms (median), {:.1} ms (p99), {:.1} ms at most; {} polls, {} calls repeated; {:.1} s in all",
        latency.p50,
        latency.p99,
        latency.max,
        report.polls,
        report.repeats,
        report.elapsed_ms as f64 / 1e3
    ));
    output::line(format_args!("books: {}", report.books));
}
