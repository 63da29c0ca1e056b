//! One arbiter of a stage.

use super::part::Part;
use crate::cluster::Arbiter;
use crate::local;
use anyhow::{Result, bail};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long one may take: opening its log and electing a leader included.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// An arbiter: a program with addresses.
pub struct ArbiterPart {
    /// How others reach it.
    pub member: Arbiter,
    part: Part,
}

impl Deref for ArbiterPart {
    type Target = Part;

    fn deref(&self) -> &Part {
        &self.part
    }
}

impl DerefMut for ArbiterPart {
    fn deref_mut(&mut self) -> &mut Part {
        &mut self.part
    }
}

impl ArbiterPart {
    /// Starts one; `env` is added to ours.
    pub fn start(member: Arbiter, config: PathBuf, env: &[(&str, &str)]) -> Result<Self> {
        let mut arbiter = Self { member, part: Part::new("quota-arbiter", "arbiter", config) };
        arbiter.start_again(env)?;
        Ok(arbiter)
    }

    /// Waits until it knows a leader and answers. `http` trusts its authority.
    pub async fn ready(&mut self, http: &reqwest::Client) -> Result<()> {
        let url = format!("{}/readyz", self.member.people);
        let begun = Instant::now();
        loop {
            let why = match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => format!("it does not answer: {error}"),
            };
            if self.ended() || begun.elapsed() > READY_WITHIN {
                let log = local::tail(&self.log());
                bail!("arbiter {} is not ready: {why}\nthe end of its log:\n{log}", self.member.id);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
