//! Money and instants as the interfaces write them: minor units with an ISO 4217 code, RFC 3339 UTC with milliseconds.
//!
//! Never a float for money, never a local time, never the clock: an instant always comes from somebody who has one.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

/// An ISO 4217 code: three capital letters. Whether a payment provider takes it is the provider's matter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// Why a currency was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a currency must be three capital letters (ISO 4217), got {got:?}")]
pub struct CurrencyError {
    /// What was given, cut at 10 characters.
    pub got: String,
}

impl Currency {
    /// Checks and takes a code.
    pub fn new(code: &str) -> Result<Self, CurrencyError> {
        match code.as_bytes().try_into() {
            Ok(bytes) if code.bytes().all(|b| b.is_ascii_uppercase()) => Ok(Self(bytes)),
            _ => Err(CurrencyError { got: code.chars().take(10).collect() }),
        }
    }
    /// The code as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("three ASCII letters by construction")
    }
}

/// An amount in minor units (cents).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Minor units; never negative in this project.
    #[schema(minimum = 0)]
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: Currency,
}

impl Money {
    /// So many times this amount; `None` past what 63 bits hold.
    pub fn times(self, quantity: u16) -> Option<Money> {
        let amount = self.amount.checked_mul(i64::from(quantity))?;
        Some(Money { amount, currency: self.currency })
    }
}

/// An instant: milliseconds since 1970, from 1970-01-01T00:00:00.000Z to 9999-12-31T23:59:59.999Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Why an instant was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an instant must be RFC 3339 between the years 1970 and 9999, got {got:?}")]
pub struct TimestampError {
    /// What was given, cut at 40 characters.
    pub got: String,
}

impl Timestamp {
    /// The last millisecond of the year 9999.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// From milliseconds since 1970; later than the year 9999 becomes [`Timestamp::MAX`].
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.min(Self::MAX.0))
    }
    /// Milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.0
    }
    /// From `time`'s type, cut to the millisecond; before 1970 or after 9999 becomes the nearest instant there is.
    pub fn from_datetime(at: OffsetDateTime) -> Self {
        Self::from_ms(u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
    }
    /// As `time`'s type, in UTC.
    pub fn to_datetime(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
    /// So much later, at most [`Timestamp::MAX`].
    pub fn plus_ms(self, ms: u64) -> Self {
        Self::from_ms(self.0.saturating_add(ms))
    }

    fn text(self) -> [u8; 24] {
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let mut text = [0; 24];
        let written = self.to_datetime().format_into(&mut text.as_mut_slice(), &format);
        assert!(matches!(written, Ok(24)), "an instant of four-digit years is 24 bytes");
        text
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let refused = || TimestampError { got: text.chars().take(40).collect() };
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| refused())?;
        let at = at.checked_to_offset(UtcOffset::UTC).ok_or_else(refused)?;
        let ms = u64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).map_err(|_| refused())?;
        if ms > Self::MAX.0 { Err(refused()) } else { Ok(Self(ms)) }
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(at: OffsetDateTime) -> Self {
        Self::from_datetime(at)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}
impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text();
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}
impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl FromStr for Currency {
    type Err = CurrencyError;
    fn from_str(code: &str) -> Result<Self, CurrencyError> {
        Self::new(code)
    }
}
impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

macro_rules! from_text {
    ($type:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}
from_text!(Timestamp, "an RFC 3339 instant");
from_text!(Currency, "an ISO 4217 code");

impl utoipa::PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}
impl utoipa::ToSchema for Timestamp {}
impl utoipa::PartialSchema for Currency {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Z]{3}$")).into()
    }
}
impl utoipa::ToSchema for Currency {}
