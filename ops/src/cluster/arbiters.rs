//! An operator's calls to the arbiters: any of them, with the operator's certificate, led to the leader where it matters.
//!
//! Every command carries an id of its own from its first try to its last, so that a call whose answer was lost is sent
//! again without being done again. Must never read a private key into anything that is printed.

use super::certificates::TlsFiles;
use super::{Arbiter, Cluster, client};
use crate::cli::Failure;
use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::{Method, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long one arbiter may take for one answer; a linearizable read waits for a round of the majority.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one may take to be reached at all. A frozen machine accepts no connection and refuses none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a command is tried while there is no leader: an election takes a second or two.
const PATIENCE: Duration = Duration::from_secs(12);
/// Between two rounds over all arbiters.
const PAUSE: Duration = Duration::from_millis(200);
/// Redirects followed in one try: to the leader, and to its successor.
const HOPS_MAX: usize = 3;

/// The arbiters of a cluster, as an operator reaches them.
#[derive(Debug, Clone)]
pub struct Arbiters {
    http: reqwest::Client,
    members: Vec<(u64, String)>,
    patience: Duration,
}

/// What one try brought.
enum Tried<T> {
    Answered(T),
    /// Not this one, or not now.
    NotNow(String),
}

impl Arbiters {
    /// Those of a running cluster.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let Some(files) = cluster.operator_certificate.as_ref().filter(|_| !cluster.arbiters.is_empty()) else {
            let why = "this cluster has no arbiters: its region is standalone and holds its whole quota. `cargo ops down \
                       --wipe`, then `cargo ops up`, starts one with arbiters";
            return Err(Failure::Usage(why.to_owned()).into());
        };
        Self::new(files, &cluster.arbiters)
    }

    /// Those named, with this certificate.
    pub fn new(files: &TlsFiles, members: &[Arbiter]) -> Result<Self> {
        let http = files.client()?.timeout(ANSWER_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build()?;
        let members = members.iter().map(|member| (member.id, member.address.clone())).collect();
        Ok(Self { http, members, patience: PATIENCE })
    }

    /// The same, giving up after `patience`.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// `GET`, as the leader knows it.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(&Method::GET, path, None::<&()>).await
    }

    /// `PUT` with a JSON body.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(&Method::PUT, path, Some(body)).await
    }

    /// `POST` with a JSON body.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(&Method::POST, path, Some(body)).await
    }

    /// `DELETE`.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(&Method::DELETE, path, None::<&()>).await
    }

    /// `GET` from one arbiter itself, whatever its part; `path` asks for a stale read where only that makes sense.
    pub async fn get_from<T: DeserializeOwned>(&self, address: &str, path: &str) -> Result<T> {
        client::answer(self.http.get(format!("{address}{path}"))).await
    }

    /// `GET` of a file, such as a backup, as it comes.
    pub async fn download(&self, path: &str) -> Result<Vec<u8>> {
        let response = self.reach(&Method::GET, path, None).await?;
        Ok(response.bytes().await.context("the answer broke off")?.to_vec())
    }

    async fn call<T: DeserializeOwned>(&self, method: &Method, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        let body = body.map(serde_json::to_value).transpose()?;
        let response = self.reach(method, path, body.as_ref()).await?;
        let place = format!("{method} {}", response.url());
        let bytes = response.bytes().await.with_context(|| format!("{place}: the answer broke off"))?;
        serde_json::from_slice(&bytes).map_err(|error| anyhow!("{place}: the answer is not what was expected: {error}"))
    }

    /// The good answer of whichever arbiter can give it.
    async fn reach(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<reqwest::Response> {
        let (begun, command) = (Instant::now(), Uuid::new_v4());
        loop {
            let mut heard = Vec::new();
            for (id, address) in &self.members {
                match self.try_one(method, format!("{address}{path}"), body, command).await? {
                    Tried::Answered(answer) => return Ok(answer),
                    Tried::NotNow(why) => heard.push(format!("arbiter {id}: {why}")),
                }
            }
            if begun.elapsed() > self.patience {
                let why = format!(
                    "no arbiter can do this now ({}). Regions go on selling what they have; `cargo ops arbiter status` \
                     says who is there, `cargo ops up` starts who is not",
                    heard.join("; ")
                );
                return Err(Failure::Unreachable(why).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks one, and follows where it points. An error is the answer to give up on.
    async fn try_one(
        &self,
        method: &Method,
        mut url: String,
        body: Option<&Value>,
        command: Uuid,
    ) -> Result<Tried<reqwest::Response>> {
        for _ in 0..HOPS_MAX {
            let mut request = self.http.request(method.clone(), &url);
            if *method != Method::GET {
                request = request.header("idempotency-key", command.to_string());
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => return Ok(Tried::NotNow(client::why(&error))),
            };
            match response.status() {
                status if status.is_success() => return Ok(Tried::Answered(response)),
                StatusCode::TEMPORARY_REDIRECT => match response.headers().get(header::LOCATION) {
                    Some(there) => url = response.url().join(there.to_str()?)?.to_string(),
                    None => bail!("{method} {url} points nowhere"),
                },
                StatusCode::SERVICE_UNAVAILABLE => {
                    return Ok(Tried::NotNow(client::said(&response.bytes().await.unwrap_or_default())));
                }
                status => {
                    let said = client::said(&response.bytes().await.unwrap_or_default());
                    return Err(anyhow!("{method} {url}: {status}: {said}"));
                }
            }
        }
        Ok(Tried::NotNow("it is led in circles: an election is under way".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::certificates::Authority;

    #[tokio::test]
    async fn with_no_arbiter_to_be_reached_the_exit_code_is_3_and_the_error_names_each() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::ensure(folder.path()).unwrap();
        let role = "boxoffice://operator/test".parse().unwrap();
        let files = authority.ensure_issued("operator", &role, &[]).unwrap();
        let address = crate::local::own_address();
        let member = |id| {
            let url = format!("https://{address}:{}", crate::local::free_port(address).unwrap());
            Arbiter { id, address: url.clone(), people: url, data_dir: folder.path().to_owned() }
        };
        let arbiters = Arbiters::new(&files, &[member(1), member(2)]).unwrap().with_patience(Duration::ZERO);
        let error = arbiters.get::<Value>("/v1/regions").await.unwrap_err();
        assert_eq!(Failure::exit_code(&error), 3);
        let text = error.to_string();
        assert!(text.contains("arbiter 1: ") && text.contains("arbiter 2: ") && text.contains("refused"), "{text}");
    }
}
