//! The link to the arbiters: HTTPS with this region's certificate, whichever of them leads.
//!
//! Owned by the sync task, one exchange at a time. An arbiter that does not lead answers `307`; one that cannot help is
//! left for the next. Changed certificate files are taken up without a restart; the last good ones stay while new ones
//! are bad. Must never speak to somebody whom the configured authority did not sign, or read an answer without end.

use crate::config::Arbiter;
use arbiter_api::limits::REGION_BODY_MAX_BYTES;
use arbiter_api::{RegisterReply, SyncBody, SyncReply};
use http::StatusCode;
use http::header::{CONTENT_TYPE, LOCATION};
use quota_protocol::wire::RegisterRequest;
use region_api::RegionName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::{Duration, Instant};
use url::Url;

use super::limits;

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// A certificate file cannot be used.
    #[error("configuration key `arbiter.{key}`: file {path}: {problem}")]
    File {
        /// The key.
        key: &'static str,
        /// The file that it names.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No arbiter could help; the last one's reason.
    #[error("no arbiter can be asked: {0}")]
    Nobody(String),
    /// An arbiter refused: asking another one would not help.
    #[error("the arbiter at {url} answered {status}: {detail}")]
    Refused {
        /// Which.
        url: Url,
        /// Its status.
        status: StatusCode,
        /// What it said.
        detail: String,
    },
}

/// Certificate files as they were read.
#[derive(PartialEq, Eq)]
struct Files {
    ca: Vec<u8>,
    /// Certificate and key, one after the other.
    own: Vec<u8>,
}

/// See the head of this file.
pub(super) struct Link {
    config: Arbiter,
    region: RegionName,
    files: Files,
    client: reqwest::Client,
    looked_at: Instant,
    /// Who answered last.
    leader: Option<Url>,
}

impl Link {
    pub(super) fn open(config: Arbiter, region: RegionName) -> Result<Self, LinkError> {
        let files = Files::read(&config)?;
        let client = client(&config, &files)?;
        Ok(Self { config, region, files, client, looked_at: Instant::now(), leader: None })
    }

    /// Who answered last.
    pub(super) fn leader(&self) -> Option<&Url> {
        self.leader.as_ref()
    }

    /// Takes up changed certificate files, looking at most every few seconds.
    pub(super) fn refresh(&mut self) {
        if self.looked_at.elapsed() < limits::CERTIFICATES_EVERY {
            return;
        }
        self.looked_at = Instant::now();
        let made = Files::read(&self.config).and_then(|files| {
            let changed = files != self.files;
            let client = changed.then(|| client(&self.config, &files)).transpose()?;
            Ok(client.map(|client| (files, client)))
        });
        match made {
            Ok(None) => {}
            Ok(Some((files, client))) => {
                (self.files, self.client) = (files, client);
                tracing::info!("took up changed certificates for the arbiters");
            }
            Err(error) => tracing::warn!(%error, "the certificates for the arbiters stay as they were"),
        }
    }

    /// One sync.
    pub(super) async fn sync(&mut self, body: &SyncBody) -> Result<SyncReply, LinkError> {
        self.post("sync", body, Duration::from_millis(body.wait_ms) + limits::ANSWER_WITHIN).await
    }

    /// One registration.
    pub(super) async fn register(&mut self, body: &RegisterRequest) -> Result<RegisterReply, LinkError> {
        self.post("register", body, limits::ANSWER_WITHIN).await
    }

    async fn post<T: DeserializeOwned>(
        &mut self,
        what: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, LinkError> {
        let path = format!("/v1/regions/{}/{what}", self.region);
        let bytes = bytes::Bytes::from(serde_json::to_vec(body).map_err(|error| LinkError::Nobody(error.to_string()))?);
        let others = self.config.urls.iter().filter(|url| Some(*url) != self.leader.as_ref());
        let mut last = "none is configured".to_owned();
        for base in self.leader.iter().chain(others).cloned().collect::<Vec<_>>() {
            match self.ask(base, &path, &bytes, within).await {
                Ok((leader, answer)) => {
                    self.leader = Some(leader);
                    return Ok(answer);
                }
                Err(Asked::Refused(error)) => return Err(error),
                Err(Asked::TryNext(why)) => last = why,
            }
        }
        self.leader = None;
        Err(LinkError::Nobody(last))
    }

    /// Asks one arbiter, and whom it names as the leader.
    async fn ask<T: DeserializeOwned>(
        &self,
        base: Url,
        path: &str,
        body: &bytes::Bytes,
        within: Duration,
    ) -> Result<(Url, T), Asked> {
        let mut base = base;
        for _ in 0..limits::HOPS_MAX {
            let next = |problem: String| Asked::TryNext(format!("{base}: {problem}"));
            let url = base.join(path).map_err(|error| next(error.to_string()))?;
            let request = self.client.post(url.clone()).header(CONTENT_TYPE, "application/json").timeout(within);
            let response = request.body(body.clone()).send().await.map_err(|error| next(explain(&error)))?;
            let status = response.status();
            if status == StatusCode::TEMPORARY_REDIRECT || status == StatusCode::PERMANENT_REDIRECT {
                let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                let to = to.and_then(|to| url.join(to).ok()).filter(|to| to.scheme() == "https");
                base = to.ok_or_else(|| next(format!("{status} to nowhere")))?;
                base.set_path("/");
                base.set_query(None);
                continue;
            }
            let answer = read(response).await.map_err(next)?;
            if status.is_success() {
                let answer =
                    serde_json::from_slice(&answer).map_err(|error| next(format!("not understood: {error}")))?;
                return Ok((base, answer));
            }
            let detail = String::from_utf8_lossy(&answer).chars().take(500).collect();
            if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
                return Err(Asked::Refused(LinkError::Refused { url: base, status, detail }));
            }
            return Err(Asked::TryNext(format!("{base}: {status}: {detail}")));
        }
        Err(Asked::TryNext(format!("{base}: the arbiters send each other in a circle")))
    }
}

enum Asked {
    TryNext(String),
    Refused(LinkError),
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| explain(&error))? {
        if body.len() + chunk.len() > REGION_BODY_MAX_BYTES {
            return Err(format!("an answer of more than {REGION_BODY_MAX_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// With its causes: the reason lies at the bottom (a refused certificate, say).
fn explain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Files {
    fn read(config: &Arbiter) -> Result<Self, LinkError> {
        let read = |key, path: &Path| {
            let bad = |error: std::io::Error| file(key, path, error);
            std::fs::read(path).map_err(bad)
        };
        let mut own = read("certificate_file", &config.certificate_file)?;
        own.push(b'\n');
        own.extend(read("key_file", &config.key_file)?);
        Ok(Self { ca: read("ca_file", &config.ca_file)?, own })
    }
}

fn file(key: &'static str, path: &Path, problem: impl std::fmt::Display) -> LinkError {
    LinkError::File { key, path: path.display().to_string(), problem: problem.to_string() }
}

fn client(config: &Arbiter, files: &Files) -> Result<reqwest::Client, LinkError> {
    let bad_ca = |error: reqwest::Error| file("ca_file", &config.ca_file, explain(&error));
    let bad_own = |error: reqwest::Error| file("certificate_file", &config.certificate_file, explain(&error));
    let ca = reqwest::Certificate::from_pem_bundle(&files.ca).map_err(bad_ca)?;
    if ca.is_empty() {
        return Err(file("ca_file", &config.ca_file, "holds no certificate"));
    }
    reqwest::Client::builder()
        .tls_certs_only(ca)
        .identity(reqwest::Identity::from_pem(&files.own).map_err(bad_own)?)
        .https_only(true)
        .connect_timeout(limits::CONNECT_WITHIN)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(bad_own)
}
