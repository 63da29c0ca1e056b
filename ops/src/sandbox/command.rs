//! `ops sandbox`: the payment provider as a program of its own.

use super::SandboxConfig;
use crate::cluster::read_secret;
use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Arguments of `ops sandbox`. Secrets come in files: arguments can be read by everybody on the machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on
    #[arg(long, default_value = "127.0.41.1:8090")]
    listen: SocketAddr,
    /// Where buyers reach it [default: http:// and the address]
    #[arg(long)]
    base_url: Option<String>,
    /// File with the seller's API key
    #[arg(long)]
    secret_key_file: PathBuf,
    /// File with the bearer token of the control interface
    #[arg(long)]
    control_token_file: PathBuf,
    /// File with the secret that signs webhooks
    #[arg(long)]
    webhook_secret_file: PathBuf,
    /// Where webhooks go; may be given several times
    #[arg(long = "webhook-url")]
    webhook_urls: Vec<String>,
    /// File that keeps the payments across restarts
    #[arg(long)]
    record: Option<PathBuf>,
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(_: &crate::cli::Context, args: Args) -> Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let base_url = args.base_url.unwrap_or_else(|| format!("http://{}", args.listen));
    let mut config = SandboxConfig::new(
        &base_url,
        &read_secret(&args.secret_key_file)?,
        &read_secret(&args.control_token_file)?,
        &read_secret(&args.webhook_secret_file)?,
    );
    config.webhook_urls = args.webhook_urls;
    config.record = args.record;
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        stop.cancel();
    });
    crate::output::note(format_args!("sandbox payments at {base_url}"));
    super::run(listener, config, shutdown).await
}
