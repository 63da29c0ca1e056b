//! The issuer: the arbiter's half of the protocol, replicated by raft. It owns what nobody holds. Every command is
//! checked when it is applied, against the state at that moment: what was true when it was proposed counts for nothing.
//! It must never take a ticket from a region that has not given it back or been written off, whatever the silence.

mod recover;
mod register;
mod report;
mod write_off;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    command::{Command, CommandRefused, Heard, Ignored, Outcome},
    counters::{Counters, Tickets},
    ids::{Epoch, Identity, Incarnation, PoolId, RegionId},
    message::{Answer, AnswerSlice, ArbitersBehind, RegionView},
};

/// What the arbiters agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    incarnation: Incarnation,
    /// While recovering from a backup: the regions that have not registered yet.
    recovery: Option<BTreeSet<RegionId>>,
    regions: BTreeMap<RegionId, Region>,
    pools: BTreeMap<PoolId, Pool>,
}

/// What shows that these arbiters have forgotten something: their disks were put back to an earlier moment (a snapshot
/// of a machine, a copy of a file) by somebody who did not begin a recovery.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[error(
    "{region} was granted {database} of {pool}, and the arbiters know of {granted}: they have forgotten what they did. \
     Nothing is granted of it any more; begin a recovery, in which every region registers again"
)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    /// The region that reported it.
    pub region: RegionId,
    /// Of which pool.
    pub pool: PoolId,
    /// g, or a return of as many.
    pub database: Tickets,
    /// G
    pub granted: Tickets,
}

/// One region, as the issuer knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Whether it takes grants.
    pub state: RegionState,
    /// Its epoch: one more with every registration and write-off.
    pub epoch: Epoch,
    /// The oldest epoch of a database that may register: the last one that was heard from, or the one after the last
    /// write-off.
    pub oldest: Epoch,
    /// Something was heard under this epoch.
    pub heard: bool,
    /// The database registered last.
    pub identity: Option<Identity>,
    /// The database registered last started empty after a write-off, and needs seeds.
    pub seeded: bool,
    /// How its database was fenced when it was written off, in an operator's words.
    pub fenced: Option<String>,
}

/// Whether a region takes grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionState {
    /// It does.
    Active,
    /// It does not, and is asked to give everything back.
    Draining,
    /// Its database can never commit again.
    WrittenOff,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// T: tickets there are.
    pub total: Tickets,
    /// P: tickets that nobody holds.
    pub pool: Tickets,
    /// An operator stopped grants of this pool.
    pub frozen: bool,
    /// What shows that something was granted of it which this does not know of. Nothing is granted any more then, until a
    /// recovery begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<Forgotten>,
    /// What each region has of it.
    pub slices: BTreeMap<RegionId, Slice>,
}

/// One region's part of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// G: granted, ever.
    pub granted: Tickets,
    /// R: returns accepted, ever.
    pub accepted: Tickets,
    /// The furthest that was reported.
    pub floor: Counters,
}

impl Region {
    fn new() -> Self {
        Self {
            state: RegionState::Active,
            epoch: Epoch::default(),
            oldest: Epoch::default(),
            heard: false,
            identity: None,
            seeded: false,
            fenced: None,
        }
    }

    /// The database of this epoch spoke: no older one speaks for the region any more.
    fn hear(&mut self) {
        self.heard = true;
        self.oldest = self.epoch;
    }

    /// A new epoch, under which nothing was heard yet.
    fn begin(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.heard = false;
    }
}

impl Issuer {
    /// The arbiters' incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether a region has heard of a later life of the arbiters than this one. Asked with what each heartbeat says,
    /// and shown to operators: such a region registers with nobody, so the recovery waits for it for ever.
    pub fn behind(&self, known: Incarnation) -> Option<ArbitersBehind> {
        ArbitersBehind::judge(known, self.incarnation)
    }

    /// The regions still waited for, while recovering from a backup.
    pub fn recovering(&self) -> Option<&BTreeSet<RegionId>> {
        self.recovery.as_ref()
    }

    /// What shows that these arbiters have forgotten something, if anything does.
    pub fn forgotten(&self) -> Option<&Forgotten> {
        self.pools.values().find_map(|pool| pool.forgotten.as_ref())
    }

    /// Every region.
    pub fn regions(&self) -> &BTreeMap<RegionId, Region> {
        &self.regions
    }

    /// Every pool.
    pub fn pools(&self) -> &BTreeMap<PoolId, Pool> {
        &self.pools
    }

    /// What one region has of a pool.
    pub fn slice(&self, region: &RegionId, pool: &PoolId) -> Slice {
        self.pools.get(pool).and_then(|pool| pool.slices.get(region)).copied().unwrap_or_default()
    }

    /// What a region reads before it registers.
    pub fn view(&self, region: &RegionId) -> RegionView {
        let known = self.regions.get(region);
        RegionView {
            incarnation: self.incarnation,
            epoch: known.map(|region| region.epoch).unwrap_or_default(),
            identity: known.and_then(|region| region.identity),
        }
    }

    /// What to tell a region, now and as often as it asks; nothing to one that is unknown or written off.
    /// `return_up_to` says what the policy would like it to have returned.
    pub fn answer(&self, region: &RegionId, return_up_to: impl Fn(&PoolId) -> Tickets) -> Option<Answer> {
        let known = self.regions.get(region).filter(|known| known.state != RegionState::WrittenOff)?;
        let slices = self.pools.iter().map(|(id, pool)| {
            let slice = pool.slices.get(region).copied().unwrap_or_default();
            AnswerSlice { pool: *id, granted: slice.granted, floor: slice.floor, return_up_to: return_up_to(id) }
        });
        Some(Answer { incarnation: self.incarnation, epoch: known.epoch, slices: slices.collect() })
    }

    /// Applies one committed command. Everything it depends on is checked here.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        match command {
            Command::CreatePool { pool, total } => self.create_pool(*pool, *total),
            Command::AddRegion { region } => self.add_region(*region),
            Command::GrantUpTo { region, epoch, pool, granted } => self.grant_up_to(region, *epoch, pool, *granted),
            Command::AcceptReturn { region, epoch, pool, returned } => {
                self.accept_return(region, *epoch, pool, *returned)
            }
            Command::RaiseFloors { heard } => self.raise_floors(heard),
            Command::Register(register) => self.register(register),
            Command::WriteOff { region, fenced, sales } => self.write_off(region, fenced, sales),
            Command::SetTotal { pool, from, to } => self.set_total(pool, *from, *to),
            Command::Drain { region } => self.set_state(region, RegionState::Draining),
            Command::Resume { region } => self.set_state(region, RegionState::Active),
            Command::Freeze { pool } => self.set_frozen(pool, true),
            Command::Thaw { pool } => self.set_frozen(pool, false),
            Command::BeginRecovery { incarnation, regions } => self.begin_recovery(*incarnation, regions),
            Command::FinishRecovery => self.finish_recovery(),
        }
    }

    fn create_pool(&mut self, id: PoolId, total: Tickets) -> Outcome {
        if let Some(pool) = self.pools.get(&id) {
            return if pool.total == total {
                Outcome::Unchanged
            } else {
                Outcome::Refused(CommandRefused::OtherTotal(pool.total))
            };
        }
        self.pools.insert(id, Pool { total, pool: total, frozen: false, forgotten: None, slices: BTreeMap::new() });
        Outcome::Done
    }

    fn add_region(&mut self, region: RegionId) -> Outcome {
        if self.regions.contains_key(&region) {
            return Outcome::Unchanged;
        }
        self.regions.insert(region, Region::new());
        Outcome::Done
    }

    /// The region under its own epoch, or why this command is not for it.
    fn under_epoch(&mut self, region: &RegionId, epoch: Epoch) -> Result<&mut Region, Outcome> {
        let known = self.regions.get_mut(region).ok_or(Outcome::Refused(CommandRefused::NoSuchRegion(*region)))?;
        if known.epoch == epoch { Ok(known) } else { Err(Ignored::OtherEpoch.into()) }
    }

    fn grant_up_to(&mut self, region: &RegionId, epoch: Epoch, pool: &PoolId, granted: Tickets) -> Outcome {
        if self.recovery.is_some() {
            return Ignored::Frozen.into();
        }
        let known = match self.under_epoch(region, epoch) {
            Ok(known) => known,
            Err(outcome) => return outcome,
        };
        // A region that never registered would be refused for want of a row if it had been granted something.
        let takes = known.state == RegionState::Active
            || (known.state == RegionState::WrittenOff && mutated!(GrantToAWrittenOffRegion));
        if !takes || known.identity.is_none() {
            return Ignored::RegionTakesNoGrants.into();
        }
        let Some(pool) = self.pools.get_mut(pool) else {
            return Outcome::Refused(CommandRefused::NoSuchPool(*pool));
        };
        if pool.frozen || pool.forgotten.is_some() {
            return Ignored::Frozen.into();
        }
        let before = pool.slices.get(region).map(|slice| slice.granted).unwrap_or_default();
        let Some(more) = granted.minus(before).filter(|more| !more.is_zero()) else {
            return Ignored::Reached.into();
        };
        #[cfg(test)]
        if mutated!(SeizingASilentSlice) {
            pool.seize_from_others(region);
        }
        let Some(rest) = pool.pool.minus(more) else {
            return Ignored::PoolTooSmall.into();
        };
        pool.pool = rest;
        pool.slices.entry(*region).or_default().granted = granted;
        Outcome::Granted(more)
    }

    fn accept_return(&mut self, region: &RegionId, epoch: Epoch, pool: &PoolId, returned: Tickets) -> Outcome {
        // While recovering, nobody knows P: what was returned comes in with the registration and later reports.
        if self.recovery.is_some() {
            return Ignored::Frozen.into();
        }
        match self.under_epoch(region, epoch) {
            Ok(known) => known.hear(),
            // A return that an older backup has forgotten: its tickets are in that backup again.
            Err(Outcome::Ignored(_)) if mutated!(AcceptReturnWithoutEpoch) => {}
            Err(outcome) => return outcome,
        }
        let id = pool;
        let Some(pool) = self.pools.get_mut(id) else {
            return Outcome::Refused(CommandRefused::NoSuchPool(*id));
        };
        let granted = pool.slices.get(region).map(|slice| slice.granted).unwrap_or_default();
        if returned > granted && pool.forgotten.is_none() {
            pool.forgotten = Some(Forgotten { region: *region, pool: *id, database: returned, granted });
        }
        if pool.forgotten.is_some() {
            return Ignored::Frozen.into();
        }
        let Some(slice) = pool.slices.get_mut(region) else {
            return Ignored::Reached.into();
        };
        let mut more = returned.minus_or_zero(slice.accepted);
        if mutated!(ReturnsAsDifferences) {
            more = returned;
        }
        if more.is_zero() {
            return Ignored::Reached.into();
        }
        slice.accepted += more;
        pool.pool += more;
        Outcome::Returned(more)
    }

    fn raise_floors(&mut self, heard: &[Heard]) -> Outcome {
        let mut raised = 0;
        for Heard { region, epoch, pool: id, counters } in heard {
            let Ok(known) = self.under_epoch(region, *epoch) else { continue };
            if known.state == RegionState::WrittenOff {
                continue;
            }
            known.hear();
            let Some(pool) = self.pools.get_mut(id) else { continue };
            let Slice { granted, floor, .. } = pool.slices.entry(*region).or_default();
            if counters.granted > *granted {
                let (database, granted) = (counters.granted, *granted);
                let shown = Forgotten { region: *region, pool: *id, database, granted };
                pool.forgotten.get_or_insert(shown);
                continue;
            }
            let mut higher = floor.max(counters);
            if mutated!(ReportsOverwriteTheFloor) {
                higher = *counters;
            }
            if higher != *floor {
                *floor = higher;
                raised += 1;
            }
        }
        Outcome::FloorsRaised(raised)
    }

    fn set_total(&mut self, pool: &PoolId, from: Tickets, to: Tickets) -> Outcome {
        let recovering = self.recovery.is_some();
        let Some(known) = self.pools.get_mut(pool) else {
            return Outcome::Refused(CommandRefused::NoSuchPool(*pool));
        };
        if known.total != from {
            return Outcome::Refused(CommandRefused::TotalMoved(known.total));
        }
        // P is not known: it can only be made to fit by raising the total.
        if to < from && (recovering || known.forgotten.is_some()) {
            return Outcome::Refused(CommandRefused::Recovering);
        }
        if recovering {
            known.total = to;
            return Outcome::Done;
        }
        let Some(pool) = (known.pool + to).minus(from) else {
            return Outcome::Refused(CommandRefused::TotalInUse(known.pool));
        };
        known.pool = pool;
        known.total = to;
        Outcome::Done
    }

    fn set_state(&mut self, region: &RegionId, state: RegionState) -> Outcome {
        let Some(known) = self.regions.get_mut(region) else {
            return Outcome::Refused(CommandRefused::NoSuchRegion(*region));
        };
        if known.state == RegionState::WrittenOff {
            return Outcome::Refused(CommandRefused::WrittenOff);
        }
        if known.state == state {
            return Outcome::Unchanged;
        }
        known.state = state;
        Outcome::Done
    }

    fn set_frozen(&mut self, pool: &PoolId, frozen: bool) -> Outcome {
        let Some(known) = self.pools.get_mut(pool) else {
            return Outcome::Refused(CommandRefused::NoSuchPool(*pool));
        };
        if known.frozen == frozen {
            return Outcome::Unchanged;
        }
        known.frozen = frozen;
        Outcome::Done
    }
}
