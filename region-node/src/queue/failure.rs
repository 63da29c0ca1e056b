//! What a refused or lost call to Redis means: surely nothing happened, or who knows. The one place that judges it.

use super::types::{JoinError, QueueError};
use redis::{RedisError, ServerError, Value};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// The slot lives elsewhere; nothing was done. The address is `host:port`.
    Moved(String),
    /// The slot is on its way there, and so are these keys already; nothing was done.
    Ask(String),
    /// Nothing was done; a little later it may work (a slot is moving, a server is loading, a replica takes over).
    Later(String),
    /// The function library is not there; nothing was done.
    NoFunction,
    /// Nothing was done.
    Refused(String),
    /// A function's own refusal, by its code; nothing was done.
    Declined(String),
    /// The connection was lost or too slow after the call went out, or the function failed in the middle.
    Unknown(String),
}

impl CallError {
    pub(super) fn of_server(error: &ServerError) -> Self {
        let text = || format!("{} {}", error.code(), error.details().unwrap_or_default());
        let target = || error.details().and_then(|detail| detail.split(' ').nth(1)).unwrap_or_default().to_owned();
        match error.code() {
            "MOVED" => Self::Moved(target()),
            "ASK" => Self::Ask(target()),
            "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "LOADING" | "READONLY" | "BUSY" => Self::Later(text()),
            "OOM" | "MISCONF" | "NOREPLICAS" | "NOPERM" | "NOAUTH" | "CROSSSLOT" | "WRONGPASS" => Self::Refused(text()),
            "CHANGED" => Self::Declined(text()),
            "ERR" if error.details().is_some_and(|detail| detail.starts_with("Function not found")) => Self::NoFunction,
            _ => Self::Unknown(text()),
        }
    }

    /// An error of the connection itself: by then the call may have been carried out.
    pub(super) fn of_connection(error: &RedisError) -> Self {
        Self::Unknown(error.to_string())
    }

    pub(super) fn of_value(value: Value) -> Result<Value, Self> {
        match value {
            Value::ServerError(error) => Err(Self::of_server(&error)),
            value => Ok(value),
        }
    }

    fn split(self) -> Result<String, String> {
        match self {
            Self::Unknown(text) => Err(text),
            Self::Moved(to) | Self::Ask(to) => Ok(format!("the slot has moved to {to}")),
            Self::Later(text) | Self::Refused(text) | Self::Declined(text) => Ok(text),
            Self::NoFunction => Ok("the function library is missing".to_owned()),
        }
    }
}

impl From<CallError> for JoinError {
    fn from(error: CallError) -> Self {
        error.split().map_or_else(JoinError::Unknown, JoinError::Unavailable)
    }
}

impl From<CallError> for QueueError {
    fn from(error: CallError) -> Self {
        error.split().map_or_else(QueueError::Unknown, QueueError::Unavailable)
    }
}
