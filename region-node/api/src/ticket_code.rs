//! Ticket codes: the signed text of a ticket's QR code, checkable at the door with nothing but a public key.
//!
//! A valid signature says that the ticket was issued; whether it is void or used, only its region knows. The private
//! key never shows in `Debug` and is wiped when dropped.

use crate::codec::{Reader, Writer};
use crate::names::{ConcertName, TierName};
use crate::seal::TICKET_FIRST_BYTE;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use std::fmt;
use uuid::Uuid;
use zeroize::Zeroizing;

/// What a ticket code says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketCode {
    /// The ticket.
    pub ticket: Uuid,
    /// Its concert.
    pub concert: ConcertName,
    /// Its tier.
    pub tier: TierName,
    /// Hash that stands for the holder: of the identity where the concert asks for one, else of the user.
    pub holder: [u8; 16],
}

/// Why a code was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Not base64url, too long, too short.
    #[error("ticket code: malformed")]
    Malformed,
    /// Something else, or of a version that this program does not know.
    #[error("ticket code: of another kind or version")]
    UnknownVersion,
    /// The signature is none of these keys'.
    #[error("ticket code: forged")]
    Forged,
    /// Signed by us, yet its contents make no sense.
    #[error("ticket code: signed, but out of bounds")]
    Contents,
}

/// Why a key file was refused. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 key in PEM: {expected}")]
pub struct PemError {
    /// What should have been there.
    pub expected: &'static str,
}

/// Signs ticket codes.
#[derive(Clone)]
pub struct TicketSigner(SigningKey);

/// Checks ticket codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketVerifier(VerifyingKey);

const SIGNATURE_BYTES: usize = 64;
/// First byte, ticket, holder, concert, tier, signature.
const MAX_BYTES: usize = 1 + 16 + 16 + 1 + ConcertName::LEN_MAX + 1 + TierName::LEN_MAX + SIGNATURE_BYTES;

impl TicketSigner {
    /// From 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
    /// From PKCS#8 PEM (`BEGIN PRIVATE KEY`).
    pub fn from_pem(pem: &str) -> Result<Self, PemError> {
        let refused = |_| PemError { expected: "PKCS#8, BEGIN PRIVATE KEY" };
        SigningKey::from_pkcs8_pem(pem.trim_start()).map(Self).map_err(refused)
    }
    /// As PKCS#8 PEM, wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 key always fits PKCS#8")
    }
    /// The public half.
    pub fn verifier(&self) -> TicketVerifier {
        TicketVerifier(self.0.verifying_key())
    }
}

impl fmt::Debug for TicketSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSigner(…)")
    }
}

impl TicketVerifier {
    /// From SubjectPublicKeyInfo PEM (`BEGIN PUBLIC KEY`).
    pub fn from_pem(pem: &str) -> Result<Self, PemError> {
        let refused = |_| PemError { expected: "SubjectPublicKeyInfo, BEGIN PUBLIC KEY" };
        VerifyingKey::from_public_key_pem(pem.trim_start()).map(Self).map_err(refused)
    }
    /// As SubjectPublicKeyInfo PEM.
    pub fn to_pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).expect("an Ed25519 key always fits SubjectPublicKeyInfo")
    }
}

impl TicketCode {
    /// Longest code, in characters.
    pub const TEXT_MAX: usize = MAX_BYTES.div_ceil(3) * 4;

    /// Signs. Ed25519 is deterministic: the same ticket always has the same code.
    pub fn sign(&self, signer: &TicketSigner) -> String {
        let mut writer = Writer::<MAX_BYTES>::new();
        writer.u8(TICKET_FIRST_BYTE).put(self.ticket.as_bytes()).put(&self.holder);
        writer.short(self.concert.as_str()).short(self.tier.as_str());
        let signature = signer.0.sign(writer.bytes());
        writer.put(&signature.to_bytes());
        URL_SAFE_NO_PAD.encode(writer.bytes())
    }

    /// Checks the signature against each of the keys (the current one and those of earlier sales), then reads.
    pub fn verify(text: &str, keys: &[TicketVerifier]) -> Result<TicketCode, CodeError> {
        let mut buffer = [0; MAX_BYTES];
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).map_err(|_| CodeError::Malformed)?;
        let (message, signature) = buffer[..len].split_last_chunk::<SIGNATURE_BYTES>().ok_or(CodeError::Malformed)?;
        let (&first, body) = message.split_first().ok_or(CodeError::Malformed)?;
        if first != TICKET_FIRST_BYTE {
            return Err(CodeError::UnknownVersion);
        }
        let signature = Signature::from_bytes(signature);
        if !keys.iter().any(|key| key.0.verify_strict(message, &signature).is_ok()) {
            return Err(CodeError::Forged);
        }
        Self::read(body).ok_or(CodeError::Contents)
    }

    fn read(body: &[u8]) -> Option<TicketCode> {
        let mut reader = Reader::new(body);
        let ticket = Uuid::from_bytes(reader.array()?);
        let holder = reader.array()?;
        let concert = ConcertName::new(reader.short()?).ok()?;
        let tier = TierName::new(reader.short()?).ok()?;
        reader.end()?;
        Some(TicketCode { ticket, concert, tier, holder })
    }
}
