//! What an applied entry means to others: which regions have something to hear, and what moved.

use std::collections::BTreeSet;

use quota_protocol::{Command, Outcome, PoolId, RegionId, Tickets};

/// Who should hear of an applied entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Grants that grew, and by how much.
    pub granted: Vec<(RegionId, PoolId, Tickets)>,
    /// Returns that were accepted.
    pub returned: Vec<(RegionId, PoolId, Tickets)>,
    /// Regions that are known in another way now: registered, drained, written off.
    pub regions: BTreeSet<RegionId>,
    /// Something that concerns every region: another concert, another incarnation.
    pub everybody: bool,
    /// The operator who ordered it.
    pub who: Option<String>,
}

impl News {
    pub(super) fn note(&mut self, command: &Command, outcome: &Outcome) {
        match (command, outcome) {
            (_, Outcome::Unchanged | Outcome::Ignored(_) | Outcome::Refused(_) | Outcome::FloorsRaised(_)) => {}
            (Command::GrantUpTo { region, pool, .. }, Outcome::Granted(tickets)) => {
                self.granted.push((*region, *pool, *tickets));
            }
            (Command::AcceptReturn { region, pool, .. }, Outcome::Returned(tickets)) => {
                self.returned.push((*region, *pool, *tickets));
            }
            (Command::Register(register), _) => drop(self.regions.insert(register.region)),
            (
                Command::WriteOff { region, .. }
                | Command::Drain { region }
                | Command::Resume { region }
                | Command::AddRegion { region },
                _,
            ) => drop(self.regions.insert(*region)),
            _ => self.everybody = true,
        }
    }

    /// Regions that have something to hear.
    pub fn told(&self) -> BTreeSet<RegionId> {
        self.granted.iter().map(|(region, ..)| *region).chain(self.regions.iter().copied()).collect()
    }
}
