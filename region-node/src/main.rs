//! The region node's program: reads its configuration, builds a runtime, runs a node until it is told to end.

use anyhow::Context;
use clap::Parser;
use region_node::config::{Config, Role};
use region_node::{failpoints, node};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One node of one region: takes reservations, decides them, takes payments.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// TOML file; `BOXOFFICE_…` variables override it (`BOXOFFICE_PUBLIC__LISTEN`).
    #[arg(long, env = "BOXOFFICE_CONFIG")]
    config: PathBuf,
    /// What this node does besides serving HTTP: intake, allocator, recycler. Overrides the file.
    #[arg(long, value_delimiter = ',')]
    roles: Option<Vec<Role>>,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("BOXOFFICE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // It would write statements down with their parameters: payments' client secrets among them.
    let filter = filter.add_directive("tokio_postgres=info".parse()?);
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut config = Config::load(&arguments.config)?;
    if let Some(roles) = arguments.roles {
        config.roles = roles;
    }
    if arguments.check {
        return Ok(());
    }
    if let Ok(point) = std::env::var("BOXOFFICE_CRASH_AT") {
        failpoints::arm(&point)?;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.worker_threads {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build().context("the runtime")?;
    runtime.block_on(async move {
        let shutdown = CancellationToken::new();
        let listeners = node::listen(&config).await?;
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("told to end; answering what is under way");
            stop.cancel();
        });
        node::run(listeners, config, shutdown).await
    })
}
