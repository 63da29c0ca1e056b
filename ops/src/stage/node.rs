//! One region node of a stage.

use super::part::Part;
use crate::local;
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a node may take: migrations and a first look at its queues included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A node: a program with addresses.
pub struct Node {
    /// 0-based.
    pub number: usize,
    /// Where buyers reach it.
    pub public: SocketAddr,
    /// Where operators reach it.
    pub admin: SocketAddr,
    part: Part,
}

impl Deref for Node {
    type Target = Part;

    fn deref(&self) -> &Part {
        &self.part
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Part {
        &mut self.part
    }
}

impl Node {
    /// Starts one; `env` is added to ours.
    pub fn start(
        number: usize,
        config: PathBuf,
        public: SocketAddr,
        admin: SocketAddr,
        env: &[(&str, &str)],
    ) -> Result<Node> {
        let mut node = Node { number, public, admin, part: Part::new("region-node", "node", config) };
        node.start_again(env)?;
        Ok(node)
    }

    /// Whether buyers may be sent to it.
    pub fn roles_public(&self) -> bool {
        self.pid().is_some()
    }

    /// Waits until it accepts reservations.
    pub async fn ready(&mut self, http: &reqwest::Client) -> Result<()> {
        let url = format!("http://{}/readyz", self.public);
        let begun = Instant::now();
        loop {
            let why = match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(_) => "it does not answer".to_owned(),
            };
            if self.ended() || begun.elapsed() > READY_WITHIN {
                let log = local::tail(&self.log());
                bail!("node {} is not ready: {why}\nthe end of its log:\n{log}", self.number);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
