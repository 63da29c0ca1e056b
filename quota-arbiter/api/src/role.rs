//! Who a certificate says its holder is: exactly one URI among its subject's alternative names,
//! `boxoffice://region/east`, `boxoffice://arbiter/1` or `boxoffice://operator/ann`.

use std::{fmt, str::FromStr};

use quota_protocol::RegionId;
use thiserror::Error;

use crate::limits::TEXT_MAX_CHARS;

/// What the holder of a certificate may act as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The nodes of one region: may register and report for that region alone.
    Region(RegionId),
    /// An arbiter, by its raft id: may send raft messages from that id alone.
    Arbiter(u64),
    /// A person or a program of theirs: may read everything and give orders, and is named in the audit.
    Operator(String),
}

/// Why an URI names no role.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} names no role: it should be boxoffice://region/NAME, boxoffice://arbiter/NUMBER or boxoffice://operator/NAME"
)]
pub struct NotARole(String);

impl FromStr for Role {
    type Err = NotARole;

    fn from_str(uri: &str) -> Result<Self, NotARole> {
        let bad = || NotARole(uri.chars().take(TEXT_MAX_CHARS).collect());
        let (kind, name) = uri.strip_prefix("boxoffice://").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        match kind {
            "region" => Ok(Self::Region(name.parse().map_err(|_| bad())?)),
            "arbiter" => match name.parse() {
                Ok(id) if id > 0 && name == u64::to_string(&id) => Ok(Self::Arbiter(id)),
                _ => Err(bad()),
            },
            // Operators' names follow the rule of all names, so that an audit line is one line.
            "operator" => Ok(Self::Operator(name.parse::<RegionId>().map_err(|_| bad())?.to_string())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => write!(f, "boxoffice://region/{region}"),
            Self::Arbiter(id) => write!(f, "boxoffice://arbiter/{id}"),
            Self::Operator(name) => write!(f, "boxoffice://operator/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_as_it_was_written_and_nothing_else_is() {
        for uri in ["boxoffice://region/east", "boxoffice://arbiter/12", "boxoffice://operator/ann"] {
            assert_eq!(uri.parse::<Role>().unwrap().to_string(), uri);
        }
        let wrong = [
            "",
            "boxoffice://",
            "boxoffice://region",
            "boxoffice://region/",
            "boxoffice://region/ea st",
            "boxoffice://region/east/west",
            "boxoffice://arbiter/0",
            "boxoffice://arbiter/01",
            "boxoffice://arbiter/+1",
            "boxoffice://admin/ann",
            "https://region/east",
            "boxoffice://operator/",
            "boxoffice://operator/a\nb",
        ];
        for uri in wrong {
            assert!(uri.parse::<Role>().is_err(), "{uri:?}");
        }
    }
}
