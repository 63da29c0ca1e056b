//! Request bodies: JSON into a type, then its bounds, with errors that name the field.
//!
//! The good path is one plain parse; only a refused body is parsed a second time, to find out which field it was.

use crate::limits;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A value out of bounds, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidField {
    /// Path of the field, as `tiers[1].price.amount`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl InvalidField {
    /// Names a field and what is wrong with it.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not JSON at all.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// A field of the wrong type, unknown, missing or out of bounds.
    #[error(transparent)]
    Field(#[from] InvalidField),
}

/// A request body that knows its bounds.
pub trait Checked {
    /// Refuses what the types alone let pass.
    fn check(&self) -> Result<(), InvalidField>;
}

/// Parses and checks a body.
pub fn parse<T: DeserializeOwned + Checked>(json: &[u8]) -> Result<T, BodyError> {
    let Object(body) = serde_json::from_slice::<Object<T>>(json).map_err(|error| explain::<T>(json, error))?;
    body.check()?;
    Ok(body)
}

#[cold]
fn explain<T: DeserializeOwned>(json: &[u8], plain: serde_json::Error) -> BodyError {
    if plain.is_syntax() || plain.is_eof() {
        return BodyError::Syntax(cut(plain));
    }
    let located: Result<Object<T>, _> =
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json));
    match located {
        Err(error) if error.path().iter().next().is_some() => {
            BodyError::Field(InvalidField::new(cut(error.path()), cut(error.inner())))
        }
        // Missing and unknown fields of the body itself: the message names them.
        _ => BodyError::Field(InvalidField::new("body", cut(plain))),
    }
}

/// Parsers quote what they found, which may be as long as the body.
fn cut(text: impl fmt::Display) -> String {
    let text = text.to_string();
    match text.char_indices().nth(limits::QUOTE_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Deserializes from an object only. What serde derives for a struct would also take an array, field by field.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(OfMap(PhantomData))
    }
}

/// For `deserialize_with` of a field that is an object.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// For `deserialize_with` of a field that is an object or null.
pub(crate) fn object_or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

/// For `deserialize_with` of a field that is an array of objects.
pub(crate) fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Object<T>>::deserialize(deserializer)?.into_iter().map(|Object(value)| value).collect())
}
