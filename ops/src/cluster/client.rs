//! HTTP towards a cluster's servers, with errors that say which server, and whether it could be reached at all.

use super::Region;
use crate::cli::Failure;
use anyhow::{Result, anyhow};
use region_api::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a server may take to answer an operator.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client for operators' calls.
pub fn http() -> Result<reqwest::Client> {
    // Somebody else in this process may have chosen already; that choice is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(TIMEOUT).connect_timeout(Duration::from_secs(2)).build()?)
}

/// One region's admin interface.
#[derive(Debug, Clone)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Admin {
    /// With the operator's token of that region.
    pub fn of(region: &Region) -> Result<Self> {
        let token = super::read_secret(&region.operator_token_file)?;
        Ok(Self { http: http()?, base: region.admin.clone(), token })
    }

    /// `GET`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        answer(self.request(reqwest::Method::GET, path)).await
    }

    /// `PUT` with a JSON body.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        answer(self.request(reqwest::Method::PUT, path).json(body)).await
    }

    /// `POST` with a JSON body.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        answer(self.request(reqwest::Method::POST, path).json(body)).await
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
}

/// Sends a request and reads its JSON answer. Not answered: [`Failure::Unreachable`]; refused: what the server said.
pub async fn answer<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T> {
    let (client, request) = request.build_split();
    let request = request?;
    let place = format!("{} {}", request.method(), request.url());
    let unreachable = |error: reqwest::Error| {
        anyhow!(Failure::Unreachable(format!("{place}: {}; is the cluster up? (`cargo ops status`)", why(&error))))
    };
    let response = client.execute(request).await.map_err(unreachable)?;
    let status = response.status();
    let body = response.bytes().await.map_err(unreachable)?;
    if !status.is_success() {
        return Err(anyhow!("{place}: {status}: {}", said(&body)));
    }
    serde_json::from_slice(&body).map_err(|error| anyhow!("{place}: the answer is not what was expected: {error}"))
}

/// What a server says in an answer that is not a good one.
pub(super) fn said(body: &[u8]) -> String {
    serde_json::from_slice::<Problem>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).chars().take(300).collect::<String>(), |problem| problem.detail)
}

/// An error's innermost cause, which is what a person needs ("connection refused").
pub(crate) fn why(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
