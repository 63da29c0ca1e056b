//! The arbiter's program: runs an arbiter, makes a backup, or begins a cluster again from one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use quota_arbiter::{
    backup::Backup,
    config::Config,
    failpoints, server,
    store::{DiskStore, LogStore as _},
    tls::Certificates,
};
use quota_protocol::{Incarnation, RegionId};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// One of the arbiters that move unsold tickets between regions.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// TOML file; `BOXOFFICE_ARBITER_…` variables override it (`BOXOFFICE_ARBITER_TLS__CA_FILE`).
    #[arg(long, env = "BOXOFFICE_ARBITER_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    task: Option<Task>,
}

/// Linux's number of it.
const SIGXFSZ: i32 = 25;

#[derive(Subcommand)]
enum Task {
    /// Write the whole state into a file: the leader's if one can be reached, else what this arbiter has committed (it
    /// must not be running then, and may be behind the others: take the copy with the highest index).
    Backup {
        /// The file; it must not exist.
        #[arg(long)]
        out: PathBuf,
    },
    /// Begin the cluster again from a backup, when a majority of the arbiters is lost for good. Every old arbiter must
    /// be stopped first and its folder put away: this one starts with an empty folder as a cluster of one, frozen, and
    /// grants nothing until every region has registered again; the others are then added as new members under ids that
    /// were never used, with empty folders and cluster.join = true.
    Restore {
        /// The backup file.
        #[arg(long)]
        from: PathBuf,
        /// The new incarnation: higher than every earlier one.
        #[arg(long)]
        incarnation: u64,
        /// Every region that ever was, also those added after the backup; only one that was written off before it and
        /// never started again may be left out.
        #[arg(long, value_delimiter = ',', required = true)]
        regions: Vec<RegionId>,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("BOXOFFICE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Some(file) = arguments.config else { bail!("name the configuration: --config FILE") };
    let config = Config::load(&file)?;
    if let Ok(point) = std::env::var("BOXOFFICE_CRASH_AT") {
        failpoints::arm(&point)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime")?;
    runtime.block_on(async move {
        match arguments.task {
            None => run(config).await,
            Some(Task::Backup { out }) => backup(&config, &out).await,
            Some(Task::Restore { from, incarnation, regions }) => restore(&config, &from, incarnation, &regions),
        }
    })
}

async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // A limit on a file's size is to be an error like a full disk, which says what to do, and not the process's death.
    let _file_size_limit = signal(SignalKind::from_raw(SIGXFSZ))?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end; handing over and answering what is under way");
        stop.cancel();
    });
    let result = server::run(config, shutdown).await;
    if let Err(error) = &result {
        // The log is where an operator looks first; the text says what to do.
        tracing::error!(error = format!("{error:#}"), "the arbiter ends");
    }
    result
}

async fn backup(config: &Config, out: &Path) -> anyhow::Result<()> {
    let bytes = match from_leader(config).await {
        Ok(bytes) => bytes,
        Err(problem) => {
            tracing::warn!(%problem, "no leader gives a backup; copying this arbiter's own folder");
            let mut store = DiskStore::open(&config.log_file())?;
            let stored = store.load()?.context("this arbiter's folder is empty")?;
            Backup::of_stored(&stored)?.to_bytes()
        }
    };
    Backup::read(&bytes)?;
    let mut file = std::fs::File::create_new(out).with_context(|| out.display().to_string())?;
    std::io::Write::write_all(&mut file, &bytes).and_then(|()| file.sync_all()).context("the backup file")
}

async fn from_leader(config: &Config) -> anyhow::Result<Vec<u8>> {
    let certificates = Certificates::load(config.tls.clone(), config.id)?;
    let client = certificates.now().client.clone();
    let mut problem = anyhow::anyhow!("no members are configured");
    for member in &config.cluster.members {
        let mut url = member.address.join("/v1/backup")?;
        // One hop to the leader.
        for _ in 0..2 {
            match client.get(url.clone()).timeout(quota_arbiter::limits::PEER_SNAPSHOT_TIMEOUT).send().await {
                Ok(response) if response.status().is_success() => return Ok(response.bytes().await?.to_vec()),
                Ok(response) => {
                    problem = anyhow::anyhow!("{url} answered {}", response.status());
                    let location = response.headers().get(http::header::LOCATION);
                    let Some(location) = location.and_then(|value| value.to_str().ok()) else { break };
                    url = location.parse()?;
                }
                Err(error) => {
                    problem = error.into();
                    break;
                }
            }
        }
    }
    Err(problem)
}

fn restore(config: &Config, from: &Path, incarnation: u64, regions: &[RegionId]) -> anyhow::Result<()> {
    let bytes = std::fs::read(from).with_context(|| from.display().to_string())?;
    let backup = Backup::read(&bytes).with_context(|| from.display().to_string())?;
    let address = config.node().founding.members.remove(&config.id);
    let address = address.context("configuration key `cluster.members`: must name this arbiter itself")?;
    let stored = backup.restore((config.id, address), Incarnation::new(incarnation), regions)?;
    std::fs::create_dir_all(&config.data_dir)?;
    let mut store = DiskStore::open(&config.log_file())?;
    if store.load()?.is_some() {
        bail!("{} has a log already; put it away first", config.data_dir.display());
    }
    store.persist(&stored.as_batch())?;
    tracing::info!(incarnation, "restored: start this arbiter; it waits for every region to register");
    Ok(())
}
