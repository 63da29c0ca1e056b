//! What ids and tokens have in common: a head (version and kind, key id), a body, 16 bytes of HMAC-SHA256, all as
//! base64url without padding.
//!
//! Nothing of a text is believed before its HMAC has been checked, in constant time; only the head is read before, to
//! find the key. The kind is part of what is signed, so that no token passes for another.

use crate::codec::Writer;
use crate::keys::{KeyRing, Purpose};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Version of the formats, in the upper half of the first byte.
const VERSION: u8 = 1;
/// Bytes of HMAC kept: 128 bits, as RFC 2104 allows and NIST asks.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes before the body.
pub(crate) const HEAD_BYTES: usize = 2;

/// What a text is, in the lower half of its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Reservation = 1,
    Session = 2,
    Recovery = 3,
    Challenge = 4,
}

/// First byte of a ticket code, which shares the numbering but is signed with Ed25519 and never comes here.
pub(crate) const TICKET_FIRST_BYTE: u8 = VERSION << 4 | 5;

impl Kind {
    fn first_byte(self) -> u8 {
        VERSION << 4 | self as u8
    }
    fn purpose(self) -> Purpose {
        match self {
            Kind::Reservation => Purpose::Reservation,
            Kind::Session | Kind::Recovery | Kind::Challenge => Purpose::Session,
        }
    }
}

/// Why a text was not believed. Callers answer all of them alike; the difference is for logs and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not base64url, too long, too short.
    #[error("malformed")]
    Malformed,
    /// Another kind of text, or of a version that this program does not know.
    #[error("of another kind or version")]
    UnknownVersion,
    /// Signed with a key that the ring does not have (any more).
    #[error("signed with an unknown key")]
    UnknownKey,
    /// The signature is wrong.
    #[error("forged")]
    Forged,
}

/// Begins a text; the caller appends the body.
pub(crate) fn begin<const N: usize>(kind: Kind, ring: &KeyRing) -> Writer<N> {
    let mut writer = Writer::new();
    writer.u8(kind.first_byte()).u8(ring.current(kind.purpose()));
    writer
}

/// Signs and encodes. One allocation: the text itself.
pub(crate) fn finish<const N: usize>(kind: Kind, ring: &KeyRing, mut writer: Writer<N>) -> String {
    let purpose = kind.purpose();
    let tag = ring.tag(purpose, ring.current(purpose), writer.bytes()).expect("the current key exists");
    writer.put(&tag[..TAG_BYTES]);
    let mut text = String::with_capacity(writer.bytes().len() * 4 / 3 + 1);
    URL_SAFE_NO_PAD.encode_string(writer.bytes(), &mut text);
    text
}

/// Decodes into `buffer`, checks the signature, and returns the body.
pub(crate) fn open<'a>(kind: Kind, text: &str, ring: &KeyRing, buffer: &'a mut [u8]) -> Result<&'a [u8], SealError> {
    // The decoder wants room for whole groups of four characters; `buffer` is what bounds the length.
    let len = URL_SAFE_NO_PAD.decode_slice(text, buffer).map_err(|_| SealError::Malformed)?;
    let (message, tag) = buffer[..len].split_last_chunk::<TAG_BYTES>().ok_or(SealError::Malformed)?;
    let (&[first, key], body) = message.split_first_chunk::<HEAD_BYTES>().ok_or(SealError::Malformed)?;
    if first != kind.first_byte() {
        return Err(SealError::UnknownVersion);
    }
    match ring.verify(kind.purpose(), key, message, tag) {
        None => Err(SealError::UnknownKey),
        Some(false) => Err(SealError::Forged),
        Some(true) => Ok(body),
    }
}
