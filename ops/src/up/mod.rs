//! `ops up`: a local cluster, from nothing to a ticket that can be bought.
//!
//! Idempotent: whatever runs is found (by records that the processes wrote themselves) and kept, whatever is missing is
//! started. Returns when everything is ready and leaves it running. Must never print a secret, and never listen
//! outside 127.0.0.0/8.

mod arbiters;
mod edges;
pub mod hints;
pub mod packages;
mod parts;

use crate::cargo::cargo;
use crate::cli::{Context, Failure};
use crate::cluster::home::Home;
use crate::cluster::layout::{EdgeLayout, RegionLayout};
use crate::cluster::secrets::SecretFiles;
use crate::cluster::{Cluster, client};
use crate::concert;
use crate::output;
use anyhow::{Context as _, Result, bail};
use arbiters::Bench;
use parts::Site;
use std::path::{Path, PathBuf};

/// Arguments of `ops up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Regions to start: east, west, south [default: all three; one with --standalone]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    regions: Option<u8>,
    /// Start no arbiters: each region owns the whole quota of its own concerts, and no ticket moves between regions. For
    /// trying out one region; its data cannot be put under arbiters later
    #[arg(long)]
    standalone: bool,
    /// Create no concert
    #[arg(long)]
    no_demo: bool,
}

/// Starts what is not running, waits until it is ready, says where it is.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let home = &context.home;
    let before = Cluster::read(home).ok();
    let regions = RegionLayout::first(count(&args, before.as_ref()));
    check_mode(home, &regions, args.standalone)?;
    packages::ensure(&[packages::POSTGRESQL, packages::REDIS])?;
    if !args.standalone {
        packages::ensure(&[packages::PROTOC])?;
    }
    let programs = Programs::build(args.standalone)?;
    let _lock = home.lock()?;
    let secrets = SecretFiles::ensure(home)?;
    let bench = if args.standalone { None } else { Some(Bench::prepare(home)?) };
    let site = Site { home, secrets: &secrets, regions: &regions, arbiters: bench, http: client::http()?, programs };
    let cluster = start(&site).await?;
    cluster.write(home)?;
    if !args.no_demo {
        concert::ensure_demo(&cluster).await?;
    }
    report(context, &cluster, args.no_demo, before.is_some())
}

/// What runs stays, whatever is asked for.
fn count(args: &Args, before: Option<&Cluster>) -> usize {
    let running = before.map_or(0, |cluster| cluster.regions.len());
    let default = if running > 0 {
        running
    } else if args.standalone {
        1
    } else {
        3
    };
    args.regions.map_or(default, |asked| running.max(asked.into()))
}

/// A region's data belongs either to itself or to the arbiters, for ever: who owns the unsold tickets cannot be mixed.
fn check_mode(home: &Home, regions: &[RegionLayout], standalone: bool) -> Result<()> {
    let there: Vec<bool> = regions.iter().filter_map(|region| arbiters::under_arbiters(home, region)).collect();
    let folder = home.path().display();
    let why = match (standalone, there.contains(&false), there.contains(&true)) {
        (false, true, _) => format!(
            "{folder} holds a standalone region, which owns its whole quota: it cannot be put under arbiters. Either `cargo ops \
             up --standalone` goes on with it, or `cargo ops down --wipe` REMOVES ITS DATA and `cargo ops up` starts anew \
             with arbiters. Or keep both: `cargo ops --home OTHER-FOLDER up`, after `cargo ops down`"
        ),
        (true, _, true) => format!(
            "{folder} holds regions under arbiters, which cannot sell without them: run `cargo ops up` without --standalone, \
             or `cargo ops down --wipe` to remove all data first"
        ),
        _ => return Ok(()),
    };
    Err(Failure::Usage(why).into())
}

/// All parts, each when those that it needs are ready.
async fn start(site: &Site<'_>) -> Result<Cluster> {
    output::note(format_args!("starting a cluster in {}", site.home.path().display()));
    let sandbox = parts::sandbox(site).await?;
    if let Some(bench) = &site.arbiters {
        arbiters::start(site, bench).await?;
    }
    let mut regions = Vec::new();
    for layout in site.regions {
        regions.push(parts::region(site, layout).await?);
    }
    let mut edges = Vec::new();
    for layout in EdgeLayout::all() {
        edges.push(edges::edge(site, &layout).await?);
    }
    let records_folder = site.home.part("records");
    std::fs::create_dir_all(&records_folder).with_context(|| format!("making {}", records_folder.display()))?;
    let bench = site.arbiters.as_ref();
    Ok(Cluster {
        regions,
        edges,
        arbiters: bench.map(|bench| bench.members.clone()).unwrap_or_default(),
        operator_certificate: bench.map(|bench| bench.operator.clone()),
        people_token_file: bench.map(|_| site.secrets.operator_token.clone()),
        sandbox: Some(sandbox),
        key_ring_file: site.secrets.ring.clone(),
        records_folder,
    })
}

fn report(context: &Context, cluster: &Cluster, no_demo: bool, was_there: bool) -> Result<()> {
    if context.json {
        return output::json(cluster);
    }
    output::note(if was_there { "the cluster was already up; now it is as asked" } else { "the cluster is up" });
    hints::addresses(cluster);
    if let (false, Some(region), Some(sandbox)) = (no_demo, cluster.regions.first(), &cluster.sandbox) {
        output::line("To buy a ticket, copy these lines into a shell:\n");
        output::line(hints::buying(&region.public, &sandbox.url));
    }
    output::line(format_args!("Logs and data: {}. Stop with: cargo ops down", context.home.path().display()));
    Ok(())
}

/// Programs that a cluster runs, beside this one.
struct Programs {
    node: PathBuf,
    edge: PathBuf,
    arbiter: Option<PathBuf>,
}

impl Programs {
    fn build(standalone: bool) -> Result<Self> {
        let names = ["region-node", "edge", "quota-arbiter"];
        let mut built = build(if standalone { &names[..2] } else { &names })?.into_iter();
        match (built.next(), built.next(), built.next()) {
            (Some(node), Some(edge), arbiter) => Ok(Self { node, edge, arbiter }),
            _ => bail!("cargo built too few programs"),
        }
    }

    fn arbiter(&self) -> Result<&Path> {
        self.arbiter.as_deref().context("no arbiter was built")
    }
}

/// Builds programs of ours in the profile that everything is built in; they lie beside this program.
pub fn build(names: &[&str]) -> Result<Vec<PathBuf>> {
    let us = std::env::current_exe().context("finding this program")?;
    // No `--package`: see `.cargo/config.toml` on features.
    let mut command = cargo(["build", "--release"].into_iter().chain(names.iter().flat_map(|name| ["--bin", name])));
    let status = command.status().context("running cargo")?;
    if !status.success() {
        bail!("building {} failed ({status}); see above", names.join(", "));
    }
    let programs: Vec<PathBuf> = names.iter().map(|name| us.with_file_name(name)).collect();
    if let Some(missing) = programs.iter().find(|program| !program.exists()) {
        bail!("cargo built no {}: was CARGO_TARGET_DIR changed between building and running this?", missing.display());
    }
    Ok(programs)
}
