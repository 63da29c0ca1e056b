//! `POST /v1/session` and `GET /v1/challenge`.

use crate::body::{Checked, InvalidField, object_or_null};
use crate::limits;
use crate::names::RegionName;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Body of `POST /v1/session`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// A JWT of the configured issuer; without it, a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
    /// A solved challenge.
    #[serde(default, deserialize_with = "object_or_null", skip_serializing_if = "Option::is_none")]
    pub challenge: Option<ChallengeSolution>,
}

/// A solved challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChallengeSolution {
    /// As `GET /v1/challenge` gave it.
    pub nonce: String,
    /// Any text such that SHA-256(nonce + ":" + solution) begins with the zero bits asked for.
    pub solution: String,
}

/// Answer to `POST /v1/session`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionAnswer {
    /// Goes into `Authorization: Bearer …`.
    pub session: String,
    /// Who.
    pub user_id: String,
    /// When the session ends.
    pub expires_at: Timestamp,
    /// Where its places are.
    pub home_region: RegionName,
}

/// Answer to `GET /v1/challenge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChallengeAnswer {
    /// Works once.
    pub nonce: String,
    /// Zero bits asked for.
    pub difficulty_bits: u8,
    /// Always `sha256`.
    pub algorithm: ChallengeAlgorithm,
    /// When the nonce ends.
    pub expires_at: Timestamp,
}

/// How a challenge is solved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeAlgorithm {
    /// SHA-256(nonce + ":" + solution) begins with zero bits.
    #[default]
    Sha256,
}

impl Checked for SessionRequest {
    fn check(&self) -> Result<(), InvalidField> {
        if self.id_token.as_ref().is_some_and(|token| token.len() > limits::ID_TOKEN_MAX_BYTES) {
            return Err(InvalidField::new("id_token", format!("longer than {} bytes", limits::ID_TOKEN_MAX_BYTES)));
        }
        match &self.challenge {
            Some(challenge) if challenge.solution.len() > limits::SOLUTION_MAX_BYTES => {
                let message = format!("longer than {} bytes", limits::SOLUTION_MAX_BYTES);
                Err(InvalidField::new("challenge.solution", message))
            }
            _ => Ok(()),
        }
    }
}

// Tokens are credentials: never in a log.
impl fmt::Debug for SessionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id_token = self.id_token.as_ref().map(|_| "…");
        f.debug_struct("SessionRequest").field("id_token", &id_token).field("challenge", &self.challenge).finish()
    }
}
impl fmt::Debug for SessionAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SessionAnswer");
        shown.field("expires_at", &self.expires_at).field("home_region", &self.home_region).finish_non_exhaustive()
    }
}
