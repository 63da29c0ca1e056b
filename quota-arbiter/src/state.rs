//! What the arbiters replicate: the issuer, the concerts, where the members are found, and the requests that were done
//! lately. Applying an entry depends on nothing but the entry and this state; no clock, no configuration, no map with
//! an order of its own.

mod news;
mod orders;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arbiter_api::ConcertOrder;
use quota_protocol::{Command, ConcertId, Incarnation, Issuer, Outcome, RegionId, command::CommandRefused};
use region_api::{Code, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

pub use news::News;
pub use orders::{Effect, OrderRefused};

use crate::{
    command::{Address, Founding, LogEntry, Request, RequestId, UnknownEntry, Work},
    limits::REQUESTS_REMEMBERED_MAX,
    raft::Machine,
};

/// The version of a snapshot's form.
const SNAPSHOT_VERSION: u32 = 1;

/// No region is called so: in orders it stands for what no region has.
pub const POOL: &str = "pool";

/// The replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    issuer: Issuer,
    founded: bool,
    concerts: BTreeMap<ConcertId, ConcertOrder>,
    concerts_version: u64,
    members: BTreeMap<u64, Address>,
    /// Members that had a log once: an empty folder under such an id was wiped.
    seen: BTreeSet<u64>,
    /// Ids that are not used again.
    retired: BTreeSet<u64>,
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
    /// A digest of what was asked.
    pub digest: u64,
    /// What came of it.
    pub told: Told,
}

/// What an operator is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Whether it changed anything.
    pub changed: bool,
    /// Why it was not done.
    pub refused: Option<Code>,
    /// For a person.
    pub said: String,
}

/// Why arbiters were not restored from a backup.
#[derive(Debug, Error)]
pub enum NotRestored {
    /// The backup cannot be read.
    #[error("the backup cannot be used: {0}; take an earlier one")]
    Backup(#[from] BadSnapshot),
    /// The recovery does not begin.
    #[error("the recovery does not begin: {0:?}")]
    Recovery(Box<Outcome>),
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What came of it.
    pub done: Done,
    /// Who should hear of it.
    pub news: News,
}

/// What came of an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// One outcome for each command.
    Quota(Vec<Outcome>),
    /// The request was carried out now.
    Request(Effect),
    /// A request of that id had been carried out before; this is what came of it then.
    Repeated(Answered),
    /// A request of that id, but with other content, had been carried out before. Nothing was done.
    OtherContent,
    /// The arbiters' own bookkeeping.
    Noted,
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

    /// Whether a leader has said how the cluster begins.
    pub fn founded(&self) -> bool {
        self.founded
    }

    /// The concerts.
    pub fn concerts(&self) -> &BTreeMap<ConcertId, ConcertOrder> {
        &self.concerts
    }

    /// Grows with every change of a concert.
    pub fn concerts_version(&self) -> u64 {
        self.concerts_version
    }

    /// Where members are found.
    pub fn members(&self) -> &BTreeMap<u64, Address> {
        &self.members
    }

    /// Members that had a log once.
    pub fn seen(&self) -> &BTreeSet<u64> {
        &self.seen
    }

    /// The members with which a restored cluster begins: other ones than the backup's.
    pub fn begin_again(&mut self, members: BTreeMap<u64, Address>) {
        let gone = self.members.keys().filter(|id| !members.contains_key(id)).copied();
        self.retired.extend(gone);
        self.seen = members.keys().copied().collect();
        self.members = members;
        self.founded = true;
    }

    /// The state in which arbiters begin that are restored from a backup: frozen, under an incarnation that follows the
    /// backup's and the last one that is known of (nobody need remember it). There is no other way to use a backup:
    /// arbiters that came up from one as if nothing had happened would grant again what they have forgotten. `chance` is
    /// drawn anew each time; `regions` are all that ever were.
    ///
    /// # Errors
    /// [`NotRestored`]; do not start them then.
    pub fn restored(
        backup: &[u8],
        last: Incarnation,
        chance: u32,
        regions: Vec<RegionId>,
    ) -> Result<Self, NotRestored> {
        let mut state = Self::default();
        state.restore(backup)?;
        let incarnation = last.max(state.issuer.incarnation()).following(chance);
        match state.command(&Command::BeginRecovery { incarnation, regions }, &mut News::default()) {
            Outcome::Done => Ok(state),
            refused => Err(NotRestored::Recovery(Box::new(refused))),
        }
    }

    /// What became of a request, if it is remembered.
    pub fn answered(&self, id: &RequestId) -> Option<&Answered> {
        self.requests.get(id)
    }

    /// The operator's weight of a region in a concert: 1 unless set.
    pub fn weight(&self, concert: &ConcertId, region: &RegionId) -> u32 {
        let weights = self.concerts.get(concert).and_then(|concert| concert.definition.weights.as_ref());
        weights.and_then(|weights| weights.get(region.as_str())).copied().unwrap_or(1)
    }

    fn command(&mut self, command: &Command, news: &mut News) -> Outcome {
        let named = match command {
            Command::AddRegion { region } => std::slice::from_ref(region),
            Command::Register(register) => std::slice::from_ref(&register.region),
            Command::BeginRecovery { regions, .. } => regions,
            _ => &[],
        };
        if let Some(reserved) = named.iter().find(|region| region.as_str() == POOL) {
            return Outcome::Refused(CommandRefused::NoSuchRegion(*reserved));
        }
        let outcome = self.issuer.apply(command);
        news.note(command, &outcome);
        outcome
    }

    fn request(&mut self, proposed_at_ms: u64, request: &Request, news: &mut News) -> Done {
        let digest = digest(request);
        if let Some(before) = self.requests.get(&request.id) {
            let same = before.digest == digest && before.who == request.who;
            return if same { Done::Repeated(before.clone()) } else { Done::OtherContent };
        }
        news.who = Some(request.who.clone());
        let effect = self.carry_out(Timestamp::from_ms(proposed_at_ms), &request.order, news);
        let answered = Answered { who: request.who.clone(), proposed_at_ms, digest, told: effect.told() };
        self.requests.insert(request.id, answered);
        self.order.push_back(request.id);
        if self.order.len() > REQUESTS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.requests.remove(&oldest);
        }
        Done::Request(effect)
    }

    fn found(&mut self, founding: &Founding, news: &mut News) {
        if std::mem::replace(&mut self.founded, true) {
            return;
        }
        self.members = founding.members.clone();
        for region in &founding.regions {
            self.command(&Command::AddRegion { region: *region }, news);
        }
    }
}

/// Tells two contents of a request apart.
fn digest(request: &Request) -> u64 {
    // Serialising plain data into memory cannot fail.
    let digest = Sha256::digest(serde_json::to_vec(&request.order).unwrap_or_default());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Machine for State {
    type Applied = Applied;
    type Unknown = UnknownEntry;
    type BadSnapshot = BadSnapshot;

    fn apply(&mut self, entry: &[u8]) -> Result<Applied, UnknownEntry> {
        let entry = LogEntry::decode(entry)?;
        let mut news = News::default();
        let done = match &entry.work {
            Work::Quota(commands) => {
                Done::Quota(commands.iter().map(|command| self.command(command, &mut news)).collect())
            }
            Work::Request(request) => self.request(entry.proposed_at_ms, request, &mut news),
            Work::Found(founding) => {
                self.found(founding, &mut news);
                Done::Noted
            }
            Work::Seen(members) => {
                self.seen.extend(members);
                Done::Noted
            }
        };
        Ok(Applied { done, news })
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
mod tests;
