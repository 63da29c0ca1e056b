//! The edge's program: reads its arguments and configuration, serves until told to stop.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use edge::choice::{Client, explain};
use edge::server::{Edge, check};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::signal::unix::{SignalKind, signal};

/// Authoritative DNS that names, to every client network, the nearest healthy region with stock.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Signals: SIGHUP reads the configuration and databases again (a bad one changes nothing); SIGTERM and SIGINT stop.\nLog level: environment variable EDGE_LOG, such as info or edge=debug."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve DNS (UDP and TCP) and the admin port.
    Serve {
        /// Configuration file (TOML; every key is described in edge/edge.example.toml).
        #[arg(long, env = "EDGE_CONFIG")]
        config: PathBuf,
    },
    /// Read and check a configuration and its databases, then say what was found.
    Check {
        /// Configuration file.
        #[arg(long, env = "EDGE_CONFIG")]
        config: PathBuf,
    },
    /// Say which regions a network would get if all were healthy, and why.
    Explain {
        /// Configuration file.
        #[arg(long, env = "EDGE_CONFIG")]
        config: PathBuf,
        /// Address or network, such as 192.0.2.1 or 2001:db8::/48.
        network: String,
    },
    /// Write HAProxy's configuration for a region to standard output.
    Haproxy {
        /// Configuration file.
        #[arg(long, env = "EDGE_CONFIG")]
        config: PathBuf,
        /// The region.
        region: String,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.command {
        Command::Serve { config } => serve(config),
        Command::Check { config } => {
            let (config, snapshot) = check(&config)?;
            let zone = snapshot.zone.apex();
            print(&format!(
                "zone {zone}, {} regions, geo: {}\n",
                config.regions.len(),
                snapshot.geo.describe().join("; ")
            ))
        }
        Command::Explain { config, network } => {
            let (_, snapshot) = check(&config)?;
            let client = client(&network)?;
            let rules = &snapshot.rules;
            let told =
                explain(&snapshot.policy, &snapshot.geo, &snapshot.live, snapshot.step_ms, client, |p| rules.ttl_s(p));
            print(&format!("{}\n", serde_json::to_string_pretty(&told)?))
        }
        Command::Haproxy { config, region } => {
            let (config, _) = check(&config)?;
            let found =
                config.regions.iter().find(|r| r.name == region).with_context(|| format!("no region {region:?}"))?;
            print(&config.haproxy.write(found)?)
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn client(text: &str) -> anyhow::Result<Client> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(Client { address, prefix: if address.is_ipv4() { 32 } else { 128 } });
    }
    let network: ipnet::IpNet = text.parse().with_context(|| format!("{text:?} is no address or network"))?;
    Ok(Client { address: network.network(), prefix: network.prefix_len() })
}

fn serve(config: PathBuf) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("EDGE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let metrics = PrometheusBuilder::new().install_recorder()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async move {
        // Signals first: one that comes during the start must not be lost.
        let (mut hangup, mut term) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
        let edge = Edge::start(&config, Some(metrics)).await?;
        tracing::info!(dns = ?edge.dns, admin = %edge.admin, "serving");
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    // Its result is logged and kept for the admin port.
                    let _ = edge.reloader.reload(&edge.board).await;
                }
                _ = term.recv() => break,
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        tracing::info!("stopping");
        edge.stop().await;
        Ok(())
    })
}
