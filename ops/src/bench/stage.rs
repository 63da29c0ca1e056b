//! The stage of a bench: a region with databases tuned as `up` tunes them, and the bare echo beside it.

use super::Options;
use crate::local::process::{self, Launch, Started};
use crate::local::{Lifetime, Purpose, free_port, own_address};
use crate::stage::{self, Spec};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use region_api::wire::ConcertStatus;
use region_api::{KeyRing, RegionName};
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// See the head of this file.
pub struct Stage {
    region: stage::Stage,
    echo: SocketAddr,
    _echo: Started,
}

impl Stage {
    /// One node with these roles; node and echo get as many threads as the bench has processors.
    pub async fn start(roles: &[&'static str], options: &Options) -> Result<Stage> {
        let worker_threads = (options.processors > 0).then_some(options.processors);
        let region = stage::Stage::start(Spec {
            nodes: vec![roles.to_vec()],
            worker_threads,
            purpose: Purpose::Region,
            // Longer queues than a region should let grow are measured too.
            more: format!("[intake]\nqueue_max = {}\n", u64::MAX >> 1),
            ..Spec::default()
        })
        .await?;
        let threads = worker_threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, Into::into));
        let echo = SocketAddr::from((own_address(), free_port(own_address())?));
        let (folder, record) = (region.folder(), process::record_file(region.folder(), "echo"));
        let started = process::launch(&Launch {
            program: &stage::program("echo")?,
            args: vec![echo.to_string().into(), threads.to_string().into()],
            env: Vec::new(),
            cwd: folder,
            log: &folder.join("echo.log"),
            record: &record,
            user: None,
            lifetime: Lifetime::WithOwner(Signal::SIGKILL),
        })?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(echo).await.is_err() {
            if Instant::now() > deadline {
                bail!("the echo does not answer: {}", crate::local::tail(&folder.join("echo.log")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Stage { region, echo, _echo: started })
    }

    /// Where the node listens.
    pub fn public(&self) -> SocketAddr {
        self.region.public()
    }

    /// Where the echo listens.
    pub fn echo(&self) -> SocketAddr {
        self.echo
    }

    /// Keys that sign sessions.
    pub fn ring(&self) -> Result<KeyRing> {
        self.region.ring()
    }

    /// The region's name.
    pub fn region(&self) -> RegionName {
        self.region.region()
    }

    /// A connection to the region's database.
    pub async fn sql(&self) -> Result<tokio_postgres::Client> {
        self.region.sql().await
    }

    /// Brings the server to where one is that has been used: the files of its log exist and are used again (a new one
    /// is 16 MiB of zeros, written and synced while a commit waits). For whoever measures writing.
    pub async fn run_in(&self) -> Result<()> {
        const LOG_MIB: usize = 512;
        let sql = self.region.sql_superuser().await?;
        let write = "SELECT pg_logical_emit_message(false, 'run in', repeat('x', 1048576))";
        for _ in 0..LOG_MIB {
            sql.batch_execute(write).await?;
        }
        Ok(sql.batch_execute("CHECKPOINT").await?)
    }

    /// Creates a concert with two tiers of `tickets` each; returns its name.
    pub async fn concert(&self, name: &str, tickets: u64, hold: &str) -> Result<String> {
        let hold_ms = humantime::parse_duration(hold)?.as_millis() as u64;
        let tier = |name: &str| json!({"tier": name, "price": {"amount": 1000, "currency": "EUR"}, "total": tickets});
        self.region.define(name, json!({"hold_ms": hold_ms, "tiers": [tier("A"), tier("B")]})).await?;
        Ok(name.to_owned())
    }

    /// What the node says of the concert.
    pub async fn concert_status(&self, concert: &str) -> Result<ConcertStatus> {
        self.region.concert_status(concert).await
    }

    /// Places in the region's queues, counted in Redis itself: every user of a bench joins once, so there are as many
    /// dedupe entries as reservations.
    pub async fn queued(&self) -> Result<u64> {
        let mut redis = self.region.redis.connect().await?;
        let mut queued = 0;
        for key in redis::cmd("KEYS").arg("bq{*}u").query_async::<Vec<String>>(&mut redis).await? {
            queued += redis::cmd("HLEN").arg(&key).query_async::<u64>(&mut redis).await?;
        }
        Ok(queued)
    }

    /// Redis's `used_memory`, bytes.
    pub async fn redis_memory(&self) -> Result<u64> {
        let mut redis = self.region.redis.connect().await?;
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.context("INFO without used_memory")?.trim().parse().context("reading used_memory")
    }

    /// Waits until the node has looked at its queues again (about once a second).
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }

    /// Stops the node and starts it with other roles.
    pub async fn restart_node(&mut self, roles: &[&'static str]) -> Result<()> {
        let node = &mut self.region.nodes[0];
        node.stop();
        let text = std::fs::read_to_string(node.config())?;
        let mut config: toml::Table = text.parse()?;
        config.insert("roles".into(), toml::Value::Array(roles.iter().map(|role| (*role).into()).collect()));
        std::fs::write(node.config(), toml::to_string(&config)?)?;
        // Not waited for: a node without intake need not be ready to accept.
        node.start_again(&[])
    }
}
