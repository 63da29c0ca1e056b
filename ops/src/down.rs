//! `ops down`: stops a local cluster tidily, wherever its processes came from; with `--wipe` removes its data.

use crate::cli::Context;
use crate::cluster::home::Home;
use crate::cluster::layout::{ArbiterLayout, EdgeLayout, REGIONS};
use crate::local::process::{Record, record_file};
use crate::local::remove_place;
use crate::output::{self, Step};
use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `ops down`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all data, logs and secrets too
    #[arg(long)]
    wipe: bool,
}

#[derive(Serialize)]
struct Stopped {
    stopped: Vec<String>,
    wiped: bool,
}

/// A process of the cluster, how it is asked to stop, and how long it may take.
struct Part {
    name: String,
    record_file: PathBuf,
    ask: Signal,
    patience: Duration,
}

/// Stops everything that runs: nodes first, so that nothing is cut off in the middle of a call to its servers.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let home = &context.home;
    if !home.path().exists() {
        output::note(format_args!("nothing is there: {} does not exist", home.path().display()));
        return report(context, Stopped { stopped: Vec::new(), wiped: false });
    }
    let _lock = home.lock()?;
    let mut stopped = Vec::new();
    for part in parts(home) {
        let Some(record) = Record::read(&part.record_file) else { continue };
        if record.alive() {
            let step = Step::begin(format!("stopping {}", part.name));
            record.stop(part.ask, part.patience);
            step.done("");
            stopped.push(part.name);
        }
        remove_file(&part.record_file)?;
    }
    remove_file(&home.cluster_file())?;
    if args.wipe {
        wipe(home)?;
    }
    report(context, Stopped { stopped, wiped: args.wipe })
}

fn report(context: &Context, result: Stopped) -> Result<()> {
    if context.json {
        return output::json(&result);
    }
    match (result.stopped.len(), result.wiped) {
        (0, false) => output::note("nothing was running"),
        (count, false) => output::note(format_args!("stopped {count} processes; the data is kept")),
        (count, true) => output::note(format_args!("stopped {count} processes; the data is removed")),
    }
    Ok(())
}

fn parts(home: &Home) -> Vec<Part> {
    let part = |folder: String, name: &str, ask, patience_s| Part {
        record_file: record_file(&home.part(&folder), name),
        name: folder,
        ask,
        patience: Duration::from_secs(patience_s),
    };
    let of_regions = |server: &'static str, ask, patience_s| {
        REGIONS.iter().map(move |region| part(format!("{region}/{server}"), server, ask, patience_s))
    };
    let of_edges = EdgeLayout::all().into_iter().map(|layout| part(layout.edge, "edge", Signal::SIGTERM, 15));
    let of_arbiters =
        ArbiterLayout::all().into_iter().map(|layout| part(layout.name(), "arbiter", Signal::SIGTERM, 15));
    // Nobody is sent to a region that is about to end. A node drains first, and reports to the arbiters once more.
    // PostgreSQL's fast stop is SIGINT: roll back, checkpoint, end.
    of_edges
        .chain(of_regions("node", Signal::SIGTERM, 40))
        .chain(of_arbiters)
        .chain([part("sandbox".to_owned(), "sandbox", Signal::SIGTERM, 15)])
        .chain(of_regions("redis", Signal::SIGTERM, 30))
        .chain(of_regions("postgres", Signal::SIGINT, 60))
        .collect()
}

/// Removes what `up` made, by name: a wrong `--home` must not cost anybody else's files.
fn wipe(home: &Home) -> Result<()> {
    for region in REGIONS {
        let folder = home.part(region);
        remove_place(&folder.join("postgres"))?;
        remove_place(&folder.join("redis"))?;
        remove_folder(&folder)?;
    }
    let edges = EdgeLayout::all().into_iter().map(|layout| layout.edge);
    let arbiters = ArbiterLayout::all().into_iter().map(|layout| layout.name());
    for folder in edges.chain(arbiters).chain(["sandbox", "records", "secrets"].map(str::to_owned)) {
        remove_folder(&home.part(&folder))?;
    }
    remove_file(&home.part("lock"))?;
    if let Err(error) = std::fs::remove_dir(home.path()) {
        output::note(format_args!("{} stays: {error}", home.path().display()));
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
