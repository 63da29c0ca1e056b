//! What a region hears from the arbiters and what it tells them. Whatever arrives late, twice or for another database
//! changes nothing. A database that finds itself behind what its own region reported halts, loudly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Done, Halted, Holder, Refused, Registration, Row};
use crate::{
    command::RegisterRefused,
    counters::{Column, Counters, Tickets},
    ids::{Epoch, Identity, Incarnation, PoolId},
    message::{
        Answer, AnswerSlice, ArbitersBehind, DatabaseState, Demand, PoolReport, RegionView, Register, Registered,
        Report,
    },
};

/// Why a database sells nothing any more, in words that tell an operator what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltReason {
    /// The database is behind what was reported from it.
    #[error(
        "this database has gone back in time: {column} of {pool} is {own}, but {floor} was reported; bring back the \
         newer database, or fence it and write the region off"
    )]
    BelowFloor {
        /// The pool.
        pool: PoolId,
        /// The column.
        column: Column,
        /// The row's value.
        own: Tickets,
        /// The floor's.
        floor: Tickets,
    },
    /// The arbiters refused to register it.
    #[error(transparent)]
    Refused(RegisterRefused),
    /// Another database was registered for the region after this one.
    #[error(
        "another database ({by}, epoch {epoch}) speaks for this region since; this one must stay fenced. If it is the \
         one to keep, fence the other and write the region off"
    )]
    Superseded {
        /// The other database.
        by: Identity,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// What a region has to do once it has read how the arbiters know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Go on: this database is registered and has stored its epoch.
    Registered,
    /// This database is registered, but has not stored its epoch: ask for the registration again.
    AskAgain,
    /// Observe the incarnation, then register.
    Register,
    /// Another database took its place while this one was registered: halt.
    Superseded(HaltReason),
    /// These arbiters know less than this database: take nothing from them, sell on, and say so. It is not the database
    /// that is at fault, so it does not halt.
    ArbitersBehind(ArbitersBehind),
}

impl Holder {
    /// What follows from what was read of the region at the arbiters.
    pub fn contact(&self, view: &RegionView) -> Contact {
        let behind = ArbitersBehind::judge(self.incarnation, view.incarnation);
        if let Some(behind) = behind.filter(|_| !mutated!(FollowingArbitersThatKnowLess)) {
            return Contact::ArbitersBehind(behind);
        }
        let own = self.registration.filter(|stored| stored.registered_as == self.identity);
        let here = own.filter(|stored| stored.incarnation == view.incarnation);
        match view.identity {
            Some(identity) if identity == self.identity => {
                if here.is_some_and(|stored| stored.epoch == view.epoch) {
                    Contact::Registered
                } else {
                    Contact::AskAgain
                }
            }
            // Under the incarnation that registered it, only a newer registration can have displaced this database.
            Some(by) if here.is_some() => Contact::Superseded(HaltReason::Superseded { by, epoch: view.epoch }),
            _ => Contact::Register,
        }
    }

    /// The registration to ask for, given what was read of the region. It names the incarnation that this database has
    /// observed (stored), so that no late answer of an earlier one raises a row after it was shown here; arbiters of any
    /// other ignore it.
    pub fn register_request(&self, read: &RegionView) -> Register {
        let rows = self.rows.iter().map(|(pool, row)| (*pool, row.counters)).collect::<BTreeMap<_, _>>();
        let mut incarnation = self.incarnation;
        if mutated!(FollowingArbitersThatKnowLess) {
            incarnation = read.incarnation;
        }
        Register {
            region: self.region,
            identity: self.identity,
            incarnation,
            epoch_as_read: read.epoch,
            database: self.registration.map(|stored| DatabaseState { epoch: stored.epoch, rows }),
        }
    }

    /// What to report: nothing before this database is registered. It is made from what is durable.
    pub fn report(&self, demand: impl Fn(&PoolId) -> Demand) -> Option<Report> {
        let stored = self.registration.filter(|stored| stored.registered_as == self.identity)?;
        let pools = self.rows.iter().map(|(pool, row)| {
            #[cfg_attr(not(test), expect(unused_mut, reason = "a mutant changes it"))]
            let mut counters = row.counters;
            #[cfg(test)]
            if let Some(undebited) = self.undebited.get(pool) {
                counters.returned += *undebited;
            }
            PoolReport { pool: *pool, counters, demand: demand(pool) }
        });
        Some(Report {
            region: self.region,
            incarnation: stored.incarnation,
            epoch: stored.epoch,
            pools: pools.collect(),
        })
    }

    pub(super) fn deliver(&mut self, answer: &Answer) -> Result<Done, Refused> {
        if self.halted().is_some() {
            return Err(Refused::Halted);
        }
        let Some(stored) = self.registration.filter(|stored| stored.registered_as == self.identity) else {
            return Err(Refused::NotRegistered);
        };
        let Registration { incarnation, epoch, .. } = stored;
        if answer.incarnation != self.incarnation || (answer.incarnation, answer.epoch) != (incarnation, epoch) {
            return Ok(Done::Unchanged);
        }
        for AnswerSlice { pool, floor, .. } in &answer.slices {
            if let Some((column, own, floor)) = self.counters(pool).below(floor) {
                return Ok(self.halt(HaltReason::BelowFloor { pool: *pool, column, own, floor }));
            }
        }
        let mut done = Done::Unchanged;
        for AnswerSlice { pool, granted, .. } in &answer.slices {
            if granted.is_zero() && !self.rows.contains_key(pool) {
                continue;
            }
            let registered_as = self.identity;
            let new = Row { counters: Counters::ZERO, epoch, registered_as, seeded: Tickets::ZERO };
            let row = self.rows.entry(*pool).or_insert(new);
            let mut higher = row.counters.granted.max(*granted);
            if mutated!(GrantsAsDifferences) {
                higher = row.counters.granted + *granted;
            }
            if higher != row.counters.granted {
                row.counters.granted = higher;
                done = Done::Changed;
            }
        }
        Ok(done)
    }

    pub(super) fn observe(&mut self, incarnation: Incarnation) -> Done {
        if incarnation <= self.incarnation {
            return Done::Unchanged;
        }
        self.incarnation = incarnation;
        Done::Changed
    }

    pub(super) fn adopt(&mut self, registered: &Registered) -> Result<Done, Refused> {
        if self.halted().is_some() {
            return Err(Refused::Halted);
        }
        if registered.identity != self.identity && !mutated!(SeedWithoutAName) {
            return Ok(Done::Unchanged);
        }
        let older = self.registration.is_some_and(|stored| registered.epoch <= stored.epoch);
        if registered.incarnation < self.incarnation || older {
            return Ok(Done::Unchanged);
        }
        let (epoch, registered_as) = (registered.epoch, self.identity);
        // An older copy keeps its own rows and is judged by them: a seed is for a database that has none.
        if self.registration.is_none() {
            for (pool, seed) in &registered.seeds {
                self.rows.entry(*pool).or_insert(Row { counters: *seed, epoch, registered_as, seeded: seed.sold });
            }
        }
        self.registration = Some(Registration { incarnation: registered.incarnation, epoch, registered_as });
        self.incarnation = registered.incarnation;
        for row in self.rows.values_mut() {
            (row.epoch, row.registered_as) = (epoch, registered_as);
        }
        Ok(Done::Changed)
    }

    pub(super) fn halt(&mut self, reason: HaltReason) -> Done {
        if self.halted().is_none() {
            self.halted = Some(Halted { identity: self.identity, reason: reason.clone() });
        }
        Done::Halted(reason)
    }

    /// A mutant's deeds: the debit that should have come before the report.
    #[cfg(test)]
    pub(crate) fn debit_late(&mut self, node: Epoch) {
        for (pool, tickets) in std::mem::take(&mut self.undebited) {
            if let Ok(row) = self.spendable(node, &pool) {
                row.counters.returned += row.counters.available().min(tickets);
            }
        }
    }

    /// What a mutant has reported and not debited.
    #[cfg(test)]
    pub(crate) fn undebited_total(&self) -> u64 {
        self.undebited.values().map(|tickets| tickets.get()).sum()
    }

    /// A crash, for the mutant that keeps something in memory alone.
    #[cfg(test)]
    pub(crate) fn crash(&mut self) {
        self.undebited.clear();
    }
}
