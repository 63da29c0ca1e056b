//! Names, epochs and identities of the protocol. Each is checked in its constructor and when it is read from a message,
//! so a value that exists is a valid one. Nothing here may allocate: these are the keys of every map.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::limits::NAME_SIZE_MAX_BYTES;

/// Why a text is no name or identity.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidId {
    /// Empty, or over the limit.
    #[error("a name has 1 to {NAME_SIZE_MAX_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// A character that a name may not have.
    #[error("a name has letters, digits, '-', '_' and '.', and starts with a letter or digit: {0:?} does not fit")]
    Character(char),
    /// Not `concert/tier`.
    #[error("a pool is written concert/tier")]
    NotAPool,
    /// Not `system:timeline:copy`.
    #[error("an identity is written system:timeline:copy, with a copy of 32 hexadecimal digits")]
    NotAnIdentity,
}

/// A short text held inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    length: u8,
    bytes: [u8; NAME_SIZE_MAX_BYTES],
}

impl Name {
    fn new(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() || text.len() > NAME_SIZE_MAX_BYTES {
            return Err(InvalidId::Length(text.len()));
        }
        for (at, character) in text.chars().enumerate() {
            let inner = matches!(character, '-' | '_' | '.') && at > 0;
            if !character.is_ascii_alphanumeric() && !inner {
                return Err(InvalidId::Character(character));
            }
        }
        let mut bytes = [0; NAME_SIZE_MAX_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { length: text.len() as u8, bytes })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn as_str(&self) -> &str {
        // Only ASCII gets past `new`.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(Name);

        impl $name {
            /// The name, if the text is one: see [`InvalidId`].
            ///
            /// # Errors
            /// When it is empty, too long, or has a character that a name may not have.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                Name::new(text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.0.as_bytes().cmp(other.0.as_bytes())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        text_form!($name);
    };
}

/// Debug and serde by way of `Display` and `FromStr`.
macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// A region's name, as its certificate states it.
    RegionId
);
name!(
    /// A concert's name.
    ConcertId
);
name!(
    /// A tier's name within its concert.
    TierId
);

/// One tier of one concert: the unit in which quota is counted. Written `concert/tier`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    /// The concert.
    pub concert: ConcertId,
    /// The tier.
    pub tier: TierId,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.concert, self.tier)
    }
}

impl FromStr for PoolId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (concert, tier) = text.split_once('/').ok_or(InvalidId::NotAPool)?;
        Ok(Self { concert: concert.parse()?, tier: tier.parse()? })
    }
}

text_form!(PoolId);

/// Which database a region runs on: PostgreSQL's system identifier and timeline, and a random id that is renewed on
/// every restore or promotion that is performed on purpose. Written `system:timeline:copy`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// PostgreSQL's system identifier.
    pub system: u64,
    /// PostgreSQL's timeline, which a promotion raises.
    pub timeline: u32,
    /// Random, renewed by every restore and promotion.
    pub copy: u128,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:032x}", self.system, self.timeline, self.copy)
    }
}

impl FromStr for Identity {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut parts = text.split(':');
        let (Some(system), Some(timeline), Some(copy), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidId::NotAnIdentity);
        };
        let bad = |_| InvalidId::NotAnIdentity;
        if copy.len() != 32 {
            return Err(InvalidId::NotAnIdentity);
        }
        Ok(Self {
            system: system.parse().map_err(bad)?,
            timeline: timeline.parse().map_err(bad)?,
            copy: u128::from_str_radix(copy, 16).map_err(bad)?,
        })
    }
}

text_form!(Identity);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The value with this number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A region's registration: one database, one epoch. Only ever grows.
    Epoch
);
impl Epoch {
    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

number!(
    /// A life of the arbiters' cluster: restoring them from a backup begins a new one. Made with
    /// [`Incarnation::following`] and not by hand: the upper bits count, and the lower 32 are drawn by chance. An
    /// operator who counts from a backup, from an arbiter that knows little, or restores the same backup twice, would
    /// count to the same number again; what was sent in the other life would then be taken for this one's. Incarnations
    /// that differ are in order, whoever counted wrong: regions follow the higher one and no other.
    Incarnation
);

impl Incarnation {
    const CHANCE_BITS: u32 = 32;

    /// How many came before it, as far as whoever began it knew.
    pub const fn count(self) -> u64 {
        self.0 >> Self::CHANCE_BITS
    }

    /// An incarnation above this one, and unlike any other: `chance` is drawn anew for each.
    #[must_use]
    pub fn following(self, chance: u32) -> Self {
        let chance = if mutated!(IncarnationWithoutChance) { 0 } else { chance };
        Self((self.count() + 1) << Self::CHANCE_BITS | u64::from(chance))
    }
}

/// One order of one person in a region: what is held, sold, released and refunded as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(u128);

impl OrderId {
    /// The order with this number (a UUID's, say).
    pub const fn new(number: u128) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Expect) {
        let shown = match text.parse::<PoolId>() {
            Ok(pool) => format!("{} of {}", pool.tier, pool.concert),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn pools_are_written_concert_slash_tier() {
        check("demo/A", expect!["A of demo"]);
        check("demo", expect!["a pool is written concert/tier"]);
        check("/A", expect!["a name has 1 to 40 bytes, this one has 0"]);
        check(
            "demo/A/B",
            expect![
                "a name has letters, digits, '-', '_' and '.', and starts with a letter or digit: '/' does not fit"
            ],
        );
        check(
            "-x/A",
            expect![
                "a name has letters, digits, '-', '_' and '.', and starts with a letter or digit: '-' does not fit"
            ],
        );
    }

    #[test]
    fn a_bad_name_is_refused_when_it_is_read() {
        assert!(serde_json::from_str::<RegionId>("\"east\"").is_ok());
        assert!(serde_json::from_str::<RegionId>("\"ea st\"").is_err());
        assert!(serde_json::from_str::<RegionId>("\"\"").is_err());
        assert!(serde_json::from_str::<Identity>("\"1:2:3\"").is_err());
    }

    proptest! {
        #[test]
        fn identities_survive_being_written(system: u64, timeline: u32, copy: u128) {
            let identity = Identity { system, timeline, copy };
            prop_assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
        }

        #[test]
        fn names_sort_as_their_text(a in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,8}", b in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,8}") {
            let (left, right) = (RegionId::new(&a).unwrap(), RegionId::new(&b).unwrap());
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
        }
    }
}
