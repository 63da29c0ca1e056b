//! Moves that an operator ordered, and the list of all that were made. A move out of a region is an errand: the region
//! is asked, returns what it can spare, and what comes back goes on to where it was meant for. An errand is this
//! leader's: after an election the tickets that came back are the policy's to give.

use std::collections::BTreeMap;

use quota_protocol::{Command, Issuer, PoolId, RegionId, Tickets};

use super::Leader;
use crate::{
    limits::{ERRAND_MAX_MS, ERRANDS_MAX, MOVES_REMEMBERED_MAX},
    state::{News, State},
};

/// Tickets on their way by an operator's order.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    pub(super) pool: PoolId,
    pub(super) from: RegionId,
    /// `None`: into the pool.
    to: Option<RegionId>,
    /// Returned by `from`, ever, when it has done as asked.
    pub(super) return_up_to: Tickets,
    left: Tickets,
    /// What `to` was ever granted, when it has what came back so far.
    grant_up_to: Option<Tickets>,
    until_ms: u64,
}

/// Tickets that moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// When, on the leader's clock.
    pub at_ms: u64,
    /// Of which pool.
    pub pool: PoolId,
    /// From a region, or from the pool.
    pub from: Option<RegionId>,
    /// To a region, or into the pool.
    pub to: Option<RegionId>,
    /// How many.
    pub tickets: Tickets,
    /// The operator whose order it was; `None` for the policy's.
    pub who: Option<String>,
}

impl Leader {
    /// Asks a region for tickets, to be given to another or left in the pool.
    pub fn begin_errand(
        &mut self,
        state: &State,
        now_ms: u64,
        pool: PoolId,
        (from, to): (RegionId, Option<RegionId>),
        tickets: Tickets,
    ) {
        if self.errands.len() >= ERRANDS_MAX {
            self.errands.remove(0);
        }
        let returned =
            self.row(&from, &pool).map_or(state.issuer().slice(&from, &pool).accepted, |row| row.counters.returned);
        let return_up_to = returned + tickets;
        let until_ms = now_ms + ERRAND_MAX_MS;
        self.errands.push(Errand { pool, from, to, return_up_to, left: tickets, grant_up_to: None, until_ms });
    }

    /// What came back of an errand is meant for its end.
    pub(super) fn errand_returned(&mut self, state: &State, region: &RegionId, pool: &PoolId, tickets: Tickets) {
        let mut came = tickets;
        for errand in self.errands.iter_mut().filter(|errand| errand.pool == *pool && errand.from == *region) {
            let part = came.min(errand.left);
            came -= part;
            errand.left -= part;
            if let Some(to) = errand.to {
                let granted = state.issuer().slice(&to, pool).granted;
                errand.grant_up_to = Some(errand.grant_up_to.unwrap_or(granted).max(granted) + part);
            }
        }
    }

    /// Grants that errands wait for. They are proposed until they are seen applied.
    pub(super) fn errand_grants(&mut self, issuer: &Issuer, now_ms: u64) -> Vec<Command> {
        self.errands.retain(|errand| {
            let granted = errand.to.map(|to| issuer.slice(&to, &errand.pool).granted).unwrap_or_default();
            let arrived = errand.grant_up_to.is_none_or(|target| granted >= target);
            now_ms < errand.until_ms && !(errand.left.is_zero() && arrived)
        });
        let command = |((region, pool), granted)| {
            let epoch = issuer.view(&region).epoch;
            Command::GrantUpTo { region, epoch, pool, granted }
        };
        self.owed(issuer).into_iter().map(command).collect()
    }

    /// What came back for somebody who does not have it yet: granted up to, ever.
    fn owed(&self, issuer: &Issuer) -> BTreeMap<(RegionId, PoolId), Tickets> {
        let mut owed = BTreeMap::new();
        for errand in &self.errands {
            if let (Some(region), Some(granted)) = (errand.to, errand.grant_up_to) {
                let target = owed.entry((region, errand.pool)).or_insert(granted);
                *target = granted.max(*target);
            }
        }
        owed.retain(|(region, pool), granted| issuer.slice(region, pool).granted < *granted);
        owed
    }

    /// Tickets in the pool that errands have promised: the policy does not give them away.
    pub(super) fn promised(&self, issuer: &Issuer, pool: &PoolId) -> Tickets {
        let owed = self.owed(issuer).into_iter().filter(|((_, of), _)| of == pool);
        owed.map(|((region, pool), granted)| granted - issuer.slice(&region, &pool).granted).sum()
    }

    pub(super) fn note_moves(&mut self, at_ms: u64, news: &News) {
        let granted = news.granted.iter().map(|(region, pool, tickets)| (None, Some(*region), *pool, *tickets));
        let returned = news.returned.iter().map(|(region, pool, tickets)| (Some(*region), None, *pool, *tickets));
        for (from, to, pool, tickets) in granted.chain(returned) {
            if self.made.len() >= MOVES_REMEMBERED_MAX {
                self.made.pop_front();
            }
            self.made.push_back(Made { at_ms, pool, from, to, tickets, who: news.who.clone() });
        }
    }

    /// The latest moves, oldest first.
    pub fn made(&self) -> impl Iterator<Item = &Made> {
        self.made.iter()
    }
}
