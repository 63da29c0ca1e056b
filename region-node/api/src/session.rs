//! Session tokens and the long-lived recovery token of a guest's browser.
//!
//! Stateless: whoever has the key can check a token without a database, in every region. A token says who somebody is
//! and nothing about what they may buy. Expiry reads the caller's clock; nothing that guards stock hangs on it.

use crate::codec::{Reader, Writer};
use crate::keys::KeyRing;
use crate::limits;
use crate::names::RegionName;
use crate::seal::{self, HEAD_BYTES, Kind, SealError, TAG_BYTES};
use std::fmt;
use uuid::Uuid;

/// Who somebody is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum UserId {
    /// A guest: 16 random bytes.
    Guest([u8; 16]),
    /// The `sub` of a JWT.
    Subject(Subject),
}

/// The `sub` of a JWT: 1..=255 bytes, no control characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject(Box<str>);

/// Why a subject was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a subject is 1 to 255 bytes without control characters")]
pub struct SubjectError;

impl Subject {
    /// Checks and takes a subject.
    pub fn new(subject: &str) -> Result<Self, SubjectError> {
        let fits = (1..=limits::SUBJECT_MAX_BYTES).contains(&subject.len());
        if fits && !subject.chars().any(char::is_control) { Ok(Self(subject.into())) } else { Err(SubjectError) }
    }
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserId {
    /// Whether this is a guest.
    pub fn is_guest(&self) -> bool {
        matches!(self, UserId::Guest(_))
    }
}

/// As `user_id` of the API: `guest:<uuid>`, or the subject itself.
impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserId::Guest(id) => write!(f, "guest:{}", Uuid::from_bytes(*id)),
            UserId::Subject(subject) => f.write_str(&subject.0),
        }
    }
}

/// Never the id itself: logs must not tell who bought.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_guest() { "UserId(guest)" } else { "UserId(subject)" })
    }
}

/// What a session token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who.
    pub user: UserId,
    /// Has solved a challenge.
    pub challenge_solved: bool,
    /// Where this session's places are.
    pub home: RegionName,
    /// When this token was made, milliseconds since 1970.
    pub issued_at_ms: u64,
    /// When it ends, milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// A token whose signature is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// Good for everything.
    Fresh(Session),
    /// Over, by at most a day: good for nothing but being renewed.
    Renewable(Session),
}

/// What a guest's recovery token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The guest.
    pub guest: [u8; 16],
    /// Where its places are.
    pub home: RegionName,
    /// When this token was made, milliseconds since 1970.
    pub issued_at_ms: u64,
    /// When it ends, milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// Why a token was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text or its signature.
    #[error("token: {0}")]
    Seal(#[from] SealError),
    /// Signed by us, yet its contents make no sense: another program has our key.
    #[error("token: signed, but out of bounds")]
    Contents,
    /// Over, and too long ago to be renewed.
    #[error("token: expired")]
    Expired,
}

const GUEST: u8 = 1;
const CHALLENGE_SOLVED: u8 = 1 << 1;
/// Head, flags, two times, home, user, tag.
const SESSION_MAX_BYTES: usize =
    HEAD_BYTES + 1 + 6 + 6 + 1 + RegionName::LEN_MAX + 1 + limits::SUBJECT_MAX_BYTES + TAG_BYTES;
/// Head, two times, home, guest, tag.
const RECOVERY_MAX_BYTES: usize = HEAD_BYTES + 6 + 6 + 1 + RegionName::LEN_MAX + 16 + TAG_BYTES;

impl Session {
    /// A session that begins now and lives half an hour.
    pub fn begin(user: UserId, challenge_solved: bool, home: RegionName, now_ms: u64) -> Session {
        let expires_at_ms = now_ms.saturating_add(limits::SESSION_MS);
        Session { user, challenge_solved, home, issued_at_ms: now_ms, expires_at_ms }
    }

    /// The same user's next session.
    pub fn renewed(&self, now_ms: u64) -> Session {
        Session::begin(self.user.clone(), self.challenge_solved, self.home.clone(), now_ms)
    }

    /// Signs with the ring's current key. Times past 48 bits are cut to it.
    pub fn sign(&self, ring: &KeyRing) -> String {
        let mut writer = seal::begin::<SESSION_MAX_BYTES>(Kind::Session, ring);
        let guest = if self.user.is_guest() { GUEST } else { 0 };
        let challenge_solved = if self.challenge_solved { CHALLENGE_SOLVED } else { 0 };
        writer.u8(guest | challenge_solved);
        put_lifetime(&mut writer, self.issued_at_ms, self.expires_at_ms);
        writer.short(self.home.as_str());
        match &self.user {
            UserId::Guest(id) => writer.put(id),
            UserId::Subject(subject) => writer.short(&subject.0),
        };
        seal::finish(Kind::Session, ring, writer)
    }

    /// Checks the signature, in constant time, then reads, then compares with the time.
    pub fn verify(text: &str, ring: &KeyRing, now_ms: u64) -> Result<Verified, TokenError> {
        let mut buffer = [0; SESSION_MAX_BYTES];
        let body = seal::open(Kind::Session, text, ring, &mut buffer)?;
        let session = Self::read(body).ok_or(TokenError::Contents)?;
        if now_ms < session.expires_at_ms {
            return Ok(Verified::Fresh(session));
        }
        if now_ms - session.expires_at_ms <= limits::SESSION_RENEW_MS {
            return Ok(Verified::Renewable(session));
        }
        Err(TokenError::Expired)
    }

    fn read(body: &[u8]) -> Option<Session> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        if flags & !(GUEST | CHALLENGE_SOLVED) != 0 {
            return None;
        }
        let issued_at_ms = reader.u48()?;
        let expires_at_ms = reader.u48()?;
        let home = RegionName::new(reader.short()?).ok()?;
        let user = if flags & GUEST != 0 {
            UserId::Guest(reader.array()?)
        } else {
            UserId::Subject(Subject::new(reader.short()?).ok()?)
        };
        reader.end()?;
        let challenge_solved = flags & CHALLENGE_SOLVED != 0;
        Some(Session { user, challenge_solved, home, issued_at_ms, expires_at_ms })
    }
}

impl Recovery {
    /// A recovery token that begins now.
    pub fn begin(guest: [u8; 16], home: RegionName, now_ms: u64) -> Recovery {
        let expires_at_ms = now_ms.saturating_add(limits::RECOVERY_MS);
        Recovery { guest, home, issued_at_ms: now_ms, expires_at_ms }
    }

    /// Signs with the ring's current key. Times past 48 bits are cut to it.
    pub fn sign(&self, ring: &KeyRing) -> String {
        let mut writer = seal::begin::<RECOVERY_MAX_BYTES>(Kind::Recovery, ring);
        put_lifetime(&mut writer, self.issued_at_ms, self.expires_at_ms);
        writer.short(self.home.as_str()).put(&self.guest);
        seal::finish(Kind::Recovery, ring, writer)
    }

    /// Checks the signature, in constant time, then reads, then compares with the time.
    pub fn verify(text: &str, ring: &KeyRing, now_ms: u64) -> Result<Recovery, TokenError> {
        let mut buffer = [0; RECOVERY_MAX_BYTES];
        let body = seal::open(Kind::Recovery, text, ring, &mut buffer)?;
        let recovery = Self::read(body).ok_or(TokenError::Contents)?;
        if now_ms < recovery.expires_at_ms { Ok(recovery) } else { Err(TokenError::Expired) }
    }

    fn read(body: &[u8]) -> Option<Recovery> {
        let mut reader = Reader::new(body);
        let issued_at_ms = reader.u48()?;
        let expires_at_ms = reader.u48()?;
        let home = RegionName::new(reader.short()?).ok()?;
        let guest = reader.array()?;
        reader.end()?;
        Some(Recovery { guest, home, issued_at_ms, expires_at_ms })
    }
}

fn put_lifetime<const N: usize>(writer: &mut Writer<N>, issued_at_ms: u64, expires_at_ms: u64) {
    const U48_MAX: u64 = (1 << 48) - 1;
    writer.u48(issued_at_ms.min(U48_MAX)).u48(expires_at_ms.min(U48_MAX));
}
