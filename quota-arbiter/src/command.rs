//! What a log entry carries: commands in an envelope that names its version. A node that meets a version or a command
//! it does not know must stop: skipping it would make this node's state another one than its peers'.

use std::collections::BTreeMap;

use arbiter_api::Place;
use quota_protocol::{Command, ConcertId, PoolId, RegionId, Tickets};
use region_api::wire::ConcertDefinition;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use uuid::Uuid;

use crate::limits::{COMMANDS_PER_ENTRY_MAX, ENTRY_SIZE_MAX_BYTES};

/// The version that this node writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// One log entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// [`VERSION`]
    pub version: u32,
    /// When it was proposed, by the proposer's clock: milliseconds since 1970. The only time in the log.
    pub proposed_at_ms: u64,
    /// What to do.
    pub work: Work,
}

/// What a log entry asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Quota commands, in order. They need no memory of requests: each is a target.
    Quota(Vec<Command>),
    /// An operator's request, done once however often it is sent.
    Request(Request),
    /// What the first leader knows from its configuration; done once.
    Found(Founding),
    /// Members that are known to have a log.
    Seen(Vec<u64>),
}

/// A request with the id under which it is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The client's id of it.
    pub id: RequestId,
    /// Who asked: an operator's name, for the audit.
    pub who: String,
    /// What to do.
    pub order: Order,
}

/// What an operator may order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// One quota command.
    Quota(Command),
    /// Create or change a concert: as a whole or not at all, totals included.
    PutConcert {
        /// The concert.
        concert: ConcertId,
        /// What is to be known of it.
        definition: Box<ConcertDefinition>,
    },
    /// End a concert's sale.
    CloseConcert {
        /// The concert.
        concert: ConcertId,
    },
    /// Stop or allow grants of all pools of a concert.
    FreezeConcert {
        /// The concert.
        concert: ConcertId,
        /// Stop, or allow.
        frozen: bool,
    },
    /// Move tickets: out of the pool at once; out of a region, the leader asks for them.
    Move {
        /// The pool.
        pool: PoolId,
        /// From where.
        from: Place,
        /// To where.
        to: Place,
        /// How many.
        tickets: Tickets,
    },
    /// Plan a concert's pools without patience.
    Rebalance {
        /// The concert.
        concert: ConcertId,
    },
    /// Where an arbiter is found, before it becomes a member.
    PutMember {
        /// Its raft id.
        id: u64,
        /// Where.
        address: Address,
    },
    /// Another arbiter is to lead. Changes nothing here; it is in the log for the audit.
    Transfer {
        /// Which; the leader chooses where none is named.
        to: Option<u64>,
    },
    /// An arbiter that is no member any more need not be found.
    ForgetMember {
        /// Its raft id.
        id: u64,
    },
}

/// Where an arbiter listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Base URL for machines.
    pub address: String,
    /// Base URL for people.
    pub people: String,
}

/// How a cluster begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// Where the first members are found.
    pub members: BTreeMap<u64, Address>,
    /// Regions that are known from the start.
    pub regions: Vec<RegionId>,
}

/// The id that a client gave its request: written as a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Uuid::from_u128(self.0))
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Uuid::try_parse(&text).map(|id| Self(id.as_u128())).map_err(de::Error::custom)
    }
}

/// Why a log entry cannot be applied. The node stops.
#[derive(Debug, Error)]
pub enum UnknownEntry {
    /// From a later version.
    #[error(
        "the log has an entry of version {0}, and this program knows versions up to {VERSION}: it was written by a newer \
         arbiter. Start the newer program on this node; nothing was skipped"
    )]
    Version(u32),
    /// Not an entry, or with a command that this version does not know.
    #[error("the log has an entry that this program does not understand ({0}). Start the program that wrote it")]
    Format(#[from] serde_json::Error),
}

/// Why a log entry was not made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EntryTooLarge {
    /// Too many commands.
    #[error("{0} commands in one entry; the limit is {COMMANDS_PER_ENTRY_MAX}")]
    Commands(usize),
    /// Too many bytes.
    #[error("an entry of {0} bytes; the limit is {ENTRY_SIZE_MAX_BYTES}")]
    Bytes(usize),
}

impl LogEntry {
    /// An entry of this version.
    pub fn new(proposed_at_ms: u64, work: Work) -> Self {
        Self { version: VERSION, proposed_at_ms, work }
    }

    /// The bytes that go into the log.
    ///
    /// # Errors
    /// Over the limits.
    pub fn encode(&self) -> Result<Vec<u8>, EntryTooLarge> {
        if let Work::Quota(commands) = &self.work
            && commands.len() > COMMANDS_PER_ENTRY_MAX
        {
            return Err(EntryTooLarge::Commands(commands.len()));
        }
        // Serialising plain data into memory cannot fail.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if bytes.len() > ENTRY_SIZE_MAX_BYTES { Err(EntryTooLarge::Bytes(bytes.len())) } else { Ok(bytes) }
    }

    /// The entry in these bytes.
    ///
    /// # Errors
    /// When it is of a later version or not understood.
    pub fn decode(bytes: &[u8]) -> Result<Self, UnknownEntry> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version > VERSION {
            return Err(UnknownEntry::Version(version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let entry = LogEntry::new(7, Work::Quota(vec![Command::AddRegion { region: "east".parse().unwrap() }]));
        let bytes = entry.encode().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"version":1,"proposed_at_ms":7,"work":{"quota":[{"add_region":{"region":"east"}}]}}"#
        );
        assert_eq!(LogEntry::decode(&bytes).unwrap(), entry);
    }

    #[test]
    fn a_later_version_and_an_unknown_command_are_told_apart_and_refused() {
        let later = br#"{"version":2,"something":"else"}"#;
        assert!(matches!(LogEntry::decode(later), Err(UnknownEntry::Version(2))));
        let unknown = br#"{"version":1,"proposed_at_ms":7,"work":{"quota":[{"sell_everything":{}}]}}"#;
        assert!(matches!(LogEntry::decode(unknown), Err(UnknownEntry::Format(_))));
    }
}
