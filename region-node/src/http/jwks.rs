//! Checks identity tokens against the keys that an identity provider publishes.
//!
//! Keys are cached, fetched again when old or when a token names a key that is not among them (rotation), the latter at
//! most every few seconds whatever is sent. While the provider is away the keys that we have go on serving. Only
//! asymmetric algorithms are accepted: with a symmetric one a public key would be a secret that everybody has.

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::RwLock;
use region_api::session::Subject;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use url::Url;

use crate::config::Jwt;
use crate::limits;

/// Longest key set, bytes.
const JWKS_MAX_BYTES: usize = 256 * 1024;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Why an identity token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not well formed, wrong signature, expired, for somebody else.
    #[error("id_token: {0}")]
    Invalid(String),
    /// The provider's keys cannot be had and none that we have fits.
    #[error("the identity provider's keys cannot be fetched: {0}")]
    Unavailable(String),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

struct Fetched {
    keys: Arc<JwkSet>,
    at: Instant,
}

/// The identity provider's keys.
pub struct Jwks {
    client: reqwest::Client,
    url: Url,
    issuer: String,
    audience: String,
    fetched: RwLock<Option<Fetched>>,
    /// Held while fetching, so that a crowd fetches once; says when the last attempt was.
    attempt: tokio::sync::Mutex<Option<Instant>>,
    retry: Duration,
}

impl Jwks {
    /// Nothing is fetched before the first token.
    pub fn new(config: &Jwt, client: reqwest::Client) -> Self {
        Self {
            client,
            url: config.jwks_url.clone(),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            fetched: RwLock::new(None),
            attempt: tokio::sync::Mutex::new(None),
            retry: limits::JWKS_RETRY,
        }
    }

    /// Checks a token; returns its `sub`.
    pub async fn subject(&self, token: &str) -> Result<Subject, TokenError> {
        let invalid = |problem: &str| TokenError::Invalid(problem.into());
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid("is not a JWT"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(invalid("is signed with an algorithm that is not accepted"));
        }
        let jwk = self.key(header.kid.as_deref()).await?.ok_or_else(|| invalid("names a key that does not exist"))?;
        if jwk.common.key_algorithm.is_some_and(|named| named.to_string() != format!("{:?}", header.alg)) {
            return Err(invalid("is signed with another algorithm than its key is for"));
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| invalid("names a key of a kind that is not accepted"))?;
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = 30;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|error| TokenError::Invalid(error.to_string()))?
            .claims;
        Subject::new(&claims.sub).map_err(|error| invalid(&format!("sub: {error}")))
    }

    async fn key(&self, kid: Option<&str>) -> Result<Option<Jwk>, TokenError> {
        let (known, fresh) = self.cached(kid);
        if known.is_some() && fresh {
            return Ok(known);
        }
        match self.fetch(fresh).await {
            Ok(()) => Ok(self.cached(kid).0),
            Err(_) if known.is_some() => Ok(known),
            Err(error) => Err(TokenError::Unavailable(error)),
        }
    }

    fn cached(&self, kid: Option<&str>) -> (Option<Jwk>, bool) {
        let fetched = self.fetched.read();
        let Some(fetched) = fetched.as_ref() else { return (None, false) };
        let jwk = match kid {
            Some(kid) => fetched.keys.find(kid),
            // Without a name only the only key can be meant.
            None => fetched.keys.keys.first().filter(|_| fetched.keys.keys.len() == 1),
        };
        (jwk.cloned(), fetched.at.elapsed() < limits::JWKS_FRESH)
    }

    /// Fetches the keys unless that was tried a moment ago. `Ok` also when somebody else has just done it, or when it
    /// is too early to try again and keys are there.
    async fn fetch(&self, have_fresh: bool) -> Result<(), String> {
        let asked = Instant::now();
        let mut attempt = self.attempt.lock().await;
        if self.fetched.read().as_ref().is_some_and(|fetched| fetched.at >= asked) {
            return Ok(());
        }
        if attempt.is_some_and(|last| last.elapsed() < self.retry) {
            return if have_fresh { Ok(()) } else { Err("tried a moment ago".into()) };
        }
        *attempt = Some(Instant::now());
        let keys = tokio::time::timeout(FETCH_TIMEOUT, self.get()).await.map_err(|_| "no answer in time")??;
        *self.fetched.write() = Some(Fetched { keys: Arc::new(keys), at: Instant::now() });
        Ok(())
    }

    async fn get(&self) -> Result<JwkSet, String> {
        let response = self.client.get(self.url.clone()).send().await.map_err(|e| e.without_url().to_string())?;
        let mut response = response.error_for_status().map_err(|e| e.without_url().to_string())?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| e.without_url().to_string())? {
            if body.len() + chunk.len() > JWKS_MAX_BYTES {
                return Err("the key set is too large".into());
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|e| format!("not a key set: {e}"))
    }
}
