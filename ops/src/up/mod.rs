//! `ops up`: a local cluster, from nothing to a ticket that can be bought.
//!
//! Idempotent: whatever runs is found (by records that the processes wrote themselves) and kept, whatever is missing is
//! started. Returns when everything is ready and leaves it running. Must never print a secret, and never listen
//! outside 127.0.0.0/8.

mod edges;
pub mod hints;
pub mod packages;
mod parts;

use crate::cli::Context;
use crate::cluster::layout::{EdgeLayout, RegionLayout};
use crate::cluster::secrets::SecretFiles;
use crate::cluster::{Cluster, client};
use crate::concert;
use crate::output;
use anyhow::{Context as _, Result, bail};
use parts::Site;
use std::path::PathBuf;
use std::process::Command;

/// Arguments of `ops up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Regions to start, each standalone: east, west, south
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    regions: u8,
    /// Create no concert
    #[arg(long)]
    no_demo: bool,
}

/// Starts what is not running, waits until it is ready, says where it is.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let home = &context.home;
    packages::ensure(&[packages::POSTGRESQL, packages::REDIS])?;
    let programs = Programs::build()?;
    let _lock = home.lock()?;
    let before = Cluster::read(home).ok();
    let secrets = SecretFiles::ensure(home)?;
    let count = before.as_ref().map_or(0, |cluster| cluster.regions.len()).max(args.regions.into());
    let regions = RegionLayout::first(count);
    let site = Site { home, secrets: &secrets, regions: &regions, http: client::http()?, programs };
    output::note(format_args!("starting a cluster in {}", home.path().display()));
    let sandbox = parts::sandbox(&site).await?;
    let mut started = Vec::new();
    for layout in &regions {
        started.push(parts::region(&site, layout).await?);
    }
    let mut edges = Vec::new();
    for layout in EdgeLayout::all() {
        edges.push(edges::edge(&site, &layout).await?);
    }
    let records_folder = home.part("records");
    std::fs::create_dir_all(&records_folder).with_context(|| format!("making {}", records_folder.display()))?;
    let cluster = Cluster {
        regions: started,
        edges,
        arbiters: Vec::new(),
        operator_certificate: None,
        people_token_file: None,
        sandbox: Some(sandbox),
        key_ring_file: secrets.ring.clone(),
        records_folder,
    };
    cluster.write(home)?;
    if !args.no_demo {
        concert::ensure_demo(&cluster).await?;
    }
    report(context, &cluster, args.no_demo, before.is_some())
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
}

impl Programs {
    fn build() -> Result<Self> {
        let mut built = build(&["region-node", "edge"])?.into_iter();
        match (built.next(), built.next()) {
            (Some(node), Some(edge)) => Ok(Self { node, edge }),
            _ => bail!("cargo built too few programs"),
        }
    }
}

/// Builds programs of ours in the profile that everything is built in; they lie beside this program.
pub fn build(names: &[&str]) -> Result<Vec<PathBuf>> {
    let us = std::env::current_exe().context("finding this program")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // No `--package`: see `.cargo/config.toml` on features.
    command.args(["build", "--release"]).args(names.iter().flat_map(|name| ["--bin", name]));
    command.current_dir(crate::cluster::home::source_root()).stdout(std::io::stderr());
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
