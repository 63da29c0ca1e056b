//! An edge of one's own in front of stages: the real program on free ports, for tests and drills.

use crate::cluster::Edge;
use crate::cluster::edge_config::{DATABASE, EdgeConfig, EdgeRegion};
use crate::cluster::home::source_root;
use crate::cluster::secrets::SecretFiles;
use crate::local::process::{self, Launch, Started};
use crate::local::{self, Lifetime, OwnFolder, free_port, own_address, testing};
use anyhow::{Context as _, Result, bail};
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long an edge may take to serve.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What an edge is to know.
#[derive(Debug, Clone, Copy)]
pub struct EdgeSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// The zone.
    pub zone: &'a str,
    /// The regions.
    pub regions: &'a [EdgeRegion],
    /// Secrets that it shares with the regions.
    pub secrets: &'a SecretFiles,
    /// Time between health checks, milliseconds.
    pub check_every_ms: u64,
    /// Further lines of its configuration, after the last table.
    pub more: &'a str,
}

/// A running edge; ends with this value.
pub struct EdgeNode {
    /// How to reach it, as `cluster.json` would say.
    pub edge: Edge,
    started: Started,
    // Dropped last.
    _folder: OwnFolder,
}

impl EdgeNode {
    /// Starts one and waits until it answers.
    pub async fn start(spec: &EdgeSpec<'_>) -> Result<Self> {
        let folder = testing::own_folder("edge")?;
        let at = |port| SocketAddr::from((own_address(), port));
        let (dns, admin) = (at(free_port(own_address())?), at(free_port(own_address())?));
        let text = EdgeConfig {
            dns,
            admin,
            operator_token_file: &spec.secrets.edge_token,
            reader_token_file: &spec.secrets.reader_token,
            cookies_file: &spec.secrets.edge_cookies,
            zone: spec.zone,
            nameservers: &[dns.ip()],
            regions: spec.regions,
            check_every_ms: Some(spec.check_every_ms),
        }
        .text()?;
        let config = folder.path().join("edge.toml");
        std::fs::write(&config, format!("{text}{}", spec.more))?;
        std::fs::copy(source_root().join("edge/data").join(DATABASE), folder.path().join(DATABASE))
            .context("copying the country database")?;
        let started = process::launch(&Launch {
            program: &super::program("edge")?,
            args: vec!["serve".into(), "--config".into(), config.into()],
            env: Vec::new(),
            cwd: folder.path(),
            log: &folder.path().join("log"),
            record: &process::record_file(folder.path(), "edge"),
            user: None,
            lifetime: Lifetime::WithOwner(Signal::SIGKILL),
        })?;
        let edge = Edge {
            edge: spec.name.to_owned(),
            dns,
            admin: format!("http://{admin}"),
            zone: spec.zone.to_owned(),
            operator_token_file: spec.secrets.edge_token.clone(),
            folder: folder.path().to_owned(),
        };
        let mut node = Self { edge, started, _folder: folder };
        node.ready().await?;
        Ok(node)
    }

    async fn ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = crate::dns::addresses(self.edge.dns, &self.edge.zone, RecordType::A, None).await {
            if self.started.ended().is_some() || begun.elapsed() > READY_WITHIN {
                let log = local::tail(&self.edge.folder.join("log"));
                bail!("{} does not serve: {error}\nthe end of its log:\n{log}", self.edge.edge);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for EdgeNode {
    fn drop(&mut self) {
        self.started.stop(Signal::SIGTERM, Duration::from_secs(5));
    }
}
