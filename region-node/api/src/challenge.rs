//! Proof-of-work challenges: a signed nonce that says how hard it is and when it ends, and the check of a solution.
//!
//! Stateless but for "each nonce works once", which is the caller's: remember the nonce until it ends.

use crate::codec::Reader;
use crate::keys::KeyRing;
use crate::limits;
use crate::seal::{self, HEAD_BYTES, Kind, SealError, TAG_BYTES};
use sha2::{Digest as _, Sha256};

/// What a nonce says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// 16 random bytes.
    pub random: [u8; 16],
    /// Leading zero bits asked for, at most [`limits::DIFFICULTY_BITS_MAX`].
    pub difficulty_bits: u8,
    /// When it ends, milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// Why a challenge does not count as solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// The nonce's text or signature.
    #[error("nonce: {0}")]
    Seal(#[from] SealError),
    /// Signed by us, yet its contents make no sense.
    #[error("nonce: signed, but out of bounds")]
    Contents,
    /// Too late.
    #[error("nonce: expired")]
    Expired,
    /// Longer than any solution needs to be.
    #[error("solution: too long")]
    TooLong,
    /// Too few leading zero bits.
    #[error("solution: wrong")]
    Wrong,
}

const MAX_BYTES: usize = HEAD_BYTES + 16 + 1 + 6 + TAG_BYTES;

impl Challenge {
    /// The nonce to give out.
    pub fn sign(&self, ring: &KeyRing) -> String {
        let mut writer = seal::begin::<MAX_BYTES>(Kind::Challenge, ring);
        writer.put(&self.random).u8(self.difficulty_bits).u48(self.expires_at_ms);
        seal::finish(Kind::Challenge, ring, writer)
    }

    /// Checks nonce and solution. The caller then makes sure that this nonce has not been used before.
    pub fn check(nonce: &str, solution: &str, ring: &KeyRing, now_ms: u64) -> Result<Challenge, ChallengeError> {
        if solution.len() > limits::SOLUTION_MAX_BYTES {
            return Err(ChallengeError::TooLong);
        }
        let mut buffer = [0; MAX_BYTES];
        let body = seal::open(Kind::Challenge, nonce, ring, &mut buffer)?;
        let challenge = Self::read(body).ok_or(ChallengeError::Contents)?;
        if now_ms >= challenge.expires_at_ms {
            return Err(ChallengeError::Expired);
        }
        if solves(nonce, solution, challenge.difficulty_bits) { Ok(challenge) } else { Err(ChallengeError::Wrong) }
    }

    fn read(body: &[u8]) -> Option<Challenge> {
        let mut reader = Reader::new(body);
        let random = reader.array()?;
        let difficulty_bits = reader.u8()?;
        let expires_at_ms = reader.u48()?;
        reader.end()?;
        let sane = difficulty_bits <= limits::DIFFICULTY_BITS_MAX;
        sane.then_some(Challenge { random, difficulty_bits, expires_at_ms })
    }
}

/// Whether SHA-256(nonce + ":" + solution) begins with that many zero bits.
pub fn solves(nonce: &str, solution: &str, difficulty_bits: u8) -> bool {
    let hash: [u8; 32] = Sha256::new().chain_update(nonce).chain_update(":").chain_update(solution).finalize().into();
    let zero_bytes = hash.iter().take_while(|&&byte| byte == 0).count();
    let next = hash.get(zero_bytes).map_or(0, |byte| byte.leading_zeros() as usize);
    zero_bytes * 8 + next >= usize::from(difficulty_bits)
}
