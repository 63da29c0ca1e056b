//! What the arbiters replicate: the issuer and the requests that were done lately. Applying an entry depends on nothing
//! but the entry and this state; no clock, no configuration, no map with an order of its own.

use std::collections::{BTreeMap, VecDeque};

use quota_protocol::{Issuer, Outcome};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    command::{LogEntry, Request, RequestId, UnknownEntry, Work},
    limits::REQUESTS_REMEMBERED_MAX,
    raft::Machine,
};

/// The version of a snapshot's form.
const SNAPSHOT_VERSION: u32 = 1;

/// The replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    issuer: Issuer,
    requests: BTreeMap<RequestId, Answered>,
    /// The ids in `requests`, oldest first.
    order: VecDeque<RequestId>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// Who asked.
    pub who: String,
    /// When it was proposed, in milliseconds since 1970.
    pub proposed_at_ms: u64,
    /// Whether it was done.
    pub done: bool,
    /// What the outcome said.
    pub said: String,
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// One outcome for each command.
    Quota(Vec<Outcome>),
    /// The request was carried out now.
    Request(Outcome),
    /// The request had been carried out before; this is what came of it then.
    Repeated(Answered),
}

/// Why a snapshot was not taken in. The node stops.
#[derive(Debug, Error)]
pub enum BadSnapshot {
    /// From a later version.
    #[error("a snapshot of version {0}; this program knows version {SNAPSHOT_VERSION}: start the newer program here")]
    Version(u32),
    /// Damaged.
    #[error("a snapshot that cannot be read: {0}")]
    Format(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Snapshot<S> {
    version: u32,
    state: S,
}

impl State {
    /// The issuer.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// What became of a request, if it is remembered.
    pub fn answered(&self, id: &RequestId) -> Option<&Answered> {
        self.requests.get(id)
    }

    fn request(&mut self, proposed_at_ms: u64, request: &Request) -> Applied {
        if let Some(before) = self.requests.get(&request.id) {
            return Applied::Repeated(before.clone());
        }
        let outcome = self.issuer.apply(&request.command);
        let (done, said) = match &outcome {
            Outcome::Refused(reason) => (false, reason.to_string()),
            Outcome::Ignored(reason) => (false, reason.to_string()),
            other => (true, format!("{other:?}")),
        };
        let answered = Answered { who: request.who.clone(), proposed_at_ms, done, said };
        self.requests.insert(request.id, answered);
        self.order.push_back(request.id);
        if self.order.len() > REQUESTS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.requests.remove(&oldest);
        }
        Applied::Request(outcome)
    }
}

impl Machine for State {
    type Applied = Applied;
    type Unknown = UnknownEntry;
    type BadSnapshot = BadSnapshot;

    fn apply(&mut self, entry: &[u8]) -> Result<Applied, UnknownEntry> {
        let entry = LogEntry::decode(entry)?;
        Ok(match &entry.work {
            Work::Quota(commands) => {
                Applied::Quota(commands.iter().map(|command| self.issuer.apply(command)).collect())
            }
            Work::Request(request) => self.request(entry.proposed_at_ms, request),
        })
    }

    fn snapshot(&self) -> Vec<u8> {
        // Serialising plain data with text keys into memory cannot fail.
        serde_json::to_vec(&Snapshot { version: SNAPSHOT_VERSION, state: self }).unwrap_or_default()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), BadSnapshot> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(snapshot)?;
        if version > SNAPSHOT_VERSION {
            return Err(BadSnapshot::Version(version));
        }
        let Snapshot { state, .. } = serde_json::from_slice(snapshot)?;
        *self = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quota_protocol::{Command, Tickets};

    use super::*;

    fn request(id: u128, total: u32) -> Vec<u8> {
        let command = Command::CreatePool { pool: "demo/A".parse().unwrap(), total: Tickets::from_u32(total) };
        let request = Request { id: RequestId(id), who: "ann".to_owned(), command };
        LogEntry::new(5, Work::Request(request)).encode().unwrap()
    }

    #[test]
    fn a_request_is_done_once_and_answered_again() {
        let mut state = State::default();
        assert_eq!(state.apply(&request(1, 10)).unwrap(), Applied::Request(Outcome::Done));
        let Applied::Repeated(before) = state.apply(&request(1, 99)).unwrap() else { panic!("done twice") };
        assert!(before.done && before.who == "ann");
        assert!(matches!(state.apply(&request(2, 99)).unwrap(), Applied::Request(Outcome::Refused(_))));
    }

    #[test]
    fn requests_are_forgotten_in_their_order_and_survive_a_snapshot() {
        let mut state = State::default();
        for id in 0..REQUESTS_REMEMBERED_MAX as u128 + 1 {
            state.apply(&request(id, 10)).unwrap();
        }
        assert!(state.answered(&RequestId(0)).is_none());
        assert!(state.answered(&RequestId(1)).is_some());
        let mut other = State::default();
        other.restore(&state.snapshot()).unwrap();
        assert_eq!(other, state);
        assert!(matches!(other.restore(br#"{"version":9}"#), Err(BadSnapshot::Version(9))));
        assert_eq!(other, state);
    }
}
