//! Validated names and numbers that cross every boundary: regions, concerts, tiers, users, queue entries.
//!
//! A value of these types is valid: constructors and `Deserialize` apply the same check. Nothing here does I/O.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use uuid::Uuid;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must match {pattern}, got {got:?}")]
pub struct NameError {
    /// Which kind of name, as people call it.
    pub what: &'static str,
    /// The pattern that it must match.
    pub pattern: &'static str,
    /// What was given, cut at 40 characters.
    pub got: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $pattern:literal, $longest:literal, $ok_first:expr, $ok_rest:expr) => {
        $(#[$doc])*
        // Inline, because names are part of every id and every request: none of them may cost an allocation. The rest
        // of `bytes` is zero, so equality and order of the array are those of the text.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $type {
            bytes: [u8; $longest],
            len: u8,
        }

        impl $type {
            /// Longest name, in bytes (ASCII).
            pub const LEN_MAX: usize = $longest;

            /// Checks and takes a name.
            pub fn new(name: &str) -> Result<Self, NameError> {
                let mut rest = name.bytes();
                let first_ok = rest.next().is_some_and($ok_first);
                if first_ok && name.len() <= $longest && rest.all($ok_rest) {
                    let mut bytes = [0; $longest];
                    bytes[..name.len()].copy_from_slice(name.as_bytes());
                    return Ok(Self { bytes, len: name.len() as u8 });
                }
                Err(NameError { what: $what, pattern: $pattern, got: name.chars().take(40).collect() })
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("names are ASCII by construction")
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.as_str().to_owned()
            }
        }
        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        // With `Hash` of the text, maps by name can be asked with a `&str`.
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!($what, "'s name"))
                    }
                    fn visit_str<E: de::Error>(self, name: &str) -> Result<$type, E> {
                        $type::new(name).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
        impl utoipa::PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some(concat!("^", $pattern, "$")))
                    .max_length(Some($longest))
                    .into()
            }
        }
        impl utoipa::ToSchema for $type {}
    };
}

name!(
    /// A region's name: `[a-z0-9][a-z0-9-]{0,15}`.
    RegionName, "a region", "[a-z0-9][a-z0-9-]{0,15}", 16,
    |b| b.is_ascii_lowercase() || b.is_ascii_digit(),
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
);
name!(
    /// A concert's name: `[a-z0-9][a-z0-9-]{0,31}`.
    ConcertName, "a concert", "[a-z0-9][a-z0-9-]{0,31}", 32,
    |b| b.is_ascii_lowercase() || b.is_ascii_digit(),
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
);
name!(
    /// A tier's name: `[A-Za-z0-9][A-Za-z0-9_-]{0,15}`.
    TierName, "a tier", "[A-Za-z0-9][A-Za-z0-9_-]{0,15}", 16,
    |b| b.is_ascii_alphanumeric(),
    |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
);

/// 16 bytes that stand for a user inside ids, queues and databases: a keyed hash of the user's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserHash(pub [u8; 16]);

/// 16 bytes that stand for a person's identity document: the client's hash, hashed again with the server's secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityHash(pub [u8; 16]);

macro_rules! hash_as_uuid {
    ($type:ident) => {
        impl $type {
            /// As the 16-byte type of the database.
            pub fn to_uuid(self) -> Uuid {
                Uuid::from_bytes(self.0)
            }
            /// From the database's 16-byte type.
            pub fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid.into_bytes())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({:02x}{:02x}…)"), self.0[0], self.0[1])
            }
        }
    };
}
hash_as_uuid!(UserHash);
hash_as_uuid!(IdentityHash);

/// A tier's position in its concert's definition, 0..=63; never reused.
pub type TierNo = u8;

/// A place in a concert's queue: shard (11 bits), generation (12 bits), sequence (40 bits), packed as
/// `shard << 52 | generation << 40 | sequence`. Order by `(arrival, entry)`, not by this number alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry(u64);

impl Entry {
    /// Highest shard number.
    pub const SHARD_MAX: u16 = (1 << 11) - 1;
    /// Highest generation.
    pub const GENERATION_MAX: u16 = (1 << 12) - 1;
    /// Highest sequence number.
    pub const SEQUENCE_MAX: u64 = (1 << 40) - 1;

    /// Packs the three numbers; `None` when one is out of range.
    pub fn new(shard: u16, generation: u16, sequence: u64) -> Option<Self> {
        let fits = shard <= Self::SHARD_MAX && generation <= Self::GENERATION_MAX && sequence <= Self::SEQUENCE_MAX;
        fits.then(|| Self(u64::from(shard) << 52 | u64::from(generation) << 40 | sequence))
    }
    /// From the database's number; `None` when negative.
    pub fn from_i64(number: i64) -> Option<Self> {
        u64::try_from(number).ok().map(Self)
    }
    /// As the database's number.
    pub fn to_i64(self) -> i64 {
        // 63 bits by construction.
        self.0 as i64
    }
    /// Logical shard of the queue.
    pub fn shard(self) -> u16 {
        (self.0 >> 52) as u16
    }
    /// Generation of the shard's queue, from 1.
    pub fn generation(self) -> u16 {
        (self.0 >> 40) as u16 & Self::GENERATION_MAX
    }
    /// Sequence number within shard and generation, from 1.
    pub fn sequence(self) -> u64 {
        self.0 & Self::SEQUENCE_MAX
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard(), self.generation(), self.sequence())
    }
}
