//! Everything an answer is made from, as one value that never changes: it is replaced as a whole.
//!
//! Building one checks the whole configuration; whoever reloads keeps the old snapshot until a new one has been built.

use std::sync::Arc;

use crate::choice::{Policy, PolicyError, RegionLive};
use crate::config::Config;
use crate::dns::{AnswerRules, CookieError, CookieSecrets, https_content};
use crate::geo::{GeoError, GeoSet};
use crate::limits::UDP_ANSWER_PLAIN_BYTES;
use crate::zone::{Zone, ZoneError};

/// Why a configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The zone.
    #[error("zone: {0}")]
    Zone(#[from] ZoneError),
    /// Regions and preferences.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// Geo databases.
    #[error("geo database {0}")]
    Geo(#[from] GeoError),
    /// Cookie secrets.
    #[error("cookie secrets {0}")]
    Cookies(#[from] CookieError),
    /// HAProxy's part.
    #[error("haproxy: {0}")]
    Haproxy(#[from] crate::haproxy::HaproxyError),
    /// A value out of bounds.
    #[error("{0}")]
    Value(String),
}

/// Everything an answer is made from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The zone.
    pub zone: Arc<Zone>,
    /// The fixed half of the choice.
    pub policy: Arc<Policy>,
    /// Where networks are.
    pub geo: Arc<GeoSet>,
    /// The changing half of the choice, one entry for each region.
    pub live: Vec<RegionLive>,
    /// Time between steps of hand-overs, in milliseconds.
    pub step_ms: u64,
    /// How answers are given.
    pub rules: Arc<AnswerRules>,
    /// Server-cookie secrets.
    pub cookies: Arc<CookieSecrets>,
    /// HTTPS contents, one for each region, where configured.
    pub https: Option<Arc<Vec<Box<[u8]>>>>,
}

impl Snapshot {
    /// Builds the fixed parts from a configuration; `live` comes from the board. Without a secret file,
    /// `cookie_secret` serves.
    ///
    /// # Errors
    /// [`BuildError`]: nothing of a bad configuration is used.
    pub fn build(
        config: &Config,
        live: Vec<RegionLive>,
        step_ms: u64,
        cookie_secret: [u8; 16],
    ) -> Result<Self, BuildError> {
        let policy = Policy::build(&config.choice, &config.regions)?;
        let zone = Zone::build(&config.zone, &config.regions)?;
        let rules = rules(config)?;
        config.haproxy.check(&config.regions)?;
        let cookies = match &config.answers.cookie_secret_file {
            Some(path) => CookieSecrets::open(path)?,
            None => CookieSecrets::new(cookie_secret),
        };
        let https = config.zone.https.as_ref();
        if let Some(id) = https.and_then(|h| h.alpn.iter().find(|id| id.is_empty() || id.len() > 255)) {
            return Err(BuildError::Value(format!("zone.https.alpn: {id:?} has no or too many characters")));
        }
        Ok(Self {
            https: https.map(|h| Arc::new(policy.regions.iter().map(|r| https_content(h, r)).collect())),
            geo: Arc::new(GeoSet::open(&config.geo.databases)?),
            zone: Arc::new(zone),
            policy: Arc::new(policy),
            live,
            step_ms,
            rules: Arc::new(rules),
            cookies: Arc::new(cookies),
        })
    }

    /// The same with another state of the regions.
    pub fn with_live(&self, live: Vec<RegionLive>, step_ms: u64) -> Self {
        Self { live, step_ms, ..self.clone() }
    }
}

fn rules(config: &Config) -> Result<AnswerRules, BuildError> {
    let answers = &config.answers;
    let wrong = |what: &str| Err(BuildError::Value(what.to_owned()));
    if answers.ttl_min_s > answers.ttl_max_s || answers.ttl_max_s > 86_400 {
        return wrong("answers.ttl_min_s is at most answers.ttl_max_s, and that at most a day");
    }
    if !(UDP_ANSWER_PLAIN_BYTES..=4096).contains(&answers.udp_max_bytes) {
        return wrong("answers.udp_max_bytes is from 512 to 4096");
    }
    // Below 2.5 a query with a cookie and NSID could not be answered within the limit even without records.
    if !(2.5..=100.0).contains(&answers.amplification_max) {
        return wrong("answers.amplification_max is from 2.5 to 100");
    }
    if answers.nsid.as_ref().is_some_and(|id| id.is_empty() || id.len() > 32) {
        return wrong("answers.nsid has 1 to 32 characters");
    }
    if answers.chaos_version.as_ref().is_some_and(|v| v.len() > 64) {
        return wrong("answers.chaos_version has up to 64 characters");
    }
    let text = |s: &String| std::iter::once(s.len() as u8).chain(s.bytes()).collect();
    Ok(AnswerRules {
        ttl_min_s: answers.ttl_min_s,
        ttl_max_s: answers.ttl_max_s,
        client_subnet: answers.client_subnet,
        udp_max_bytes: answers.udp_max_bytes,
        amplification_max: answers.amplification_max,
        nsid: answers.nsid.as_ref().map(|id| id.bytes().collect()),
        chaos_version: answers.chaos_version.as_ref().map(text),
        tcp_idle_100ms: u16::try_from(config.tcp.idle_ms / 100).unwrap_or(u16::MAX),
    })
}
