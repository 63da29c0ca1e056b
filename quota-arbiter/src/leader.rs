//! The leader's work beside raft: it remembers what regions reported, turns that into commands (returns to accept,
//! floors to raise, grants to make), and says what to tell a region and who has to be told at once. Used by the server
//! and by the simulation alike.
//!
//! Pure: times come in as arguments, and nothing here is safe or unsafe for the tickets, since the issuer checks each
//! command again when it is applied. All of it is lost with the leadership, which costs a round or two of patience.

mod earmark;
mod moves;
mod round;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quota_protocol::{
    ArbitersBehind, Incarnation, Issuer, PoolId, RegionId, Report, Tickets,
    command::Heard as Floor,
    message::PoolReport,
    policy::{Memory, Policy},
    wire::SyncAnswer,
};
use thiserror::Error;

pub use moves::Made;
pub use round::Round;

use crate::{
    limits::{DEMAND_MAX_TICKETS, SILENT_AFTER_HEARTBEATS},
    state::{News, State},
};

/// What a leader knows beside the replicated state.
#[derive(Debug)]
pub struct Leader {
    policy: Policy,
    reports: BTreeMap<RegionId, Heard>,
    /// Regions whose latest report asks for commands that were not seen applied yet.
    unread: BTreeSet<RegionId>,
    /// The latest incarnation that each region says it has heard of.
    incarnations: BTreeMap<RegionId, Incarnation>,
    /// Rows that say more than the arbiters know of.
    doubts: BTreeMap<(RegionId, PoolId), Floor>,
    memory: BTreeMap<PoolId, Memory>,
    /// What each region is asked to have returned.
    asks: BTreeMap<PoolId, BTreeMap<RegionId, Tickets>>,
    plan_at_ms: u64,
    /// Pools to plan before that: somebody is dry, or tickets came back.
    soon: BTreeSet<PoolId>,
    /// Pools of which an operator asked for a plan without patience.
    at_once: BTreeSet<PoolId>,
    errands: Vec<moves::Errand>,
    made: VecDeque<Made>,
}

/// A region's latest report.
#[derive(Debug)]
struct Heard {
    at_ms: u64,
    report: Report,
}

/// Why a report was not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReportRefused {
    /// A row says that more was granted than this leader knows of: it was elected a moment ago and has not applied
    /// everything yet, or this is no database of this region, or the arbiters have forgotten what they did. The log
    /// judges, which knows everything that was granted: if it does not know of it either, nothing more of that pool is.
    #[error(
        "{pool}: the row says that {reported} were granted, and this leader knows of {granted}; report again in a moment"
    )]
    GrantedTooMuch {
        /// The pool.
        pool: PoolId,
        /// g
        reported: Tickets,
        /// G
        granted: Tickets,
    },
}

impl Leader {
    /// A leader that has heard nothing yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            reports: BTreeMap::new(),
            unread: BTreeSet::new(),
            incarnations: BTreeMap::new(),
            doubts: BTreeMap::new(),
            memory: BTreeMap::new(),
            asks: BTreeMap::new(),
            plan_at_ms: 0,
            soon: BTreeSet::new(),
            at_once: BTreeSet::new(),
            errands: Vec::new(),
            made: VecDeque::new(),
        }
    }

    /// The tuning knobs.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Another node leads: what was heard here will not be heard of again.
    pub fn resign(&mut self) {
        *self = Self::new(self.policy.clone());
    }

    /// A region's report, checked for what the wire's own check cannot know.
    ///
    /// # Errors
    /// When no database of this region can say so; nothing of it is used then.
    pub fn hear(&mut self, issuer: &Issuer, now_ms: u64, mut report: Report) -> Result<(), ReportRefused> {
        if current(issuer, &report) && issuer.recovering().is_none() {
            for row in &report.pools {
                let (reported, granted) = (row.counters.granted, issuer.slice(&report.region, &row.pool).granted);
                if reported > granted {
                    let (region, epoch) = (report.region, report.epoch);
                    let doubt = Floor { region, epoch, pool: row.pool, counters: row.counters };
                    self.doubts.insert((region, row.pool), doubt);
                    return Err(ReportRefused::GrantedTooMuch { pool: row.pool, reported, granted });
                }
            }
        }
        report.pools.sort_by_key(|row| row.pool);
        for row in &mut report.pools {
            let most = Tickets::from_u32(DEMAND_MAX_TICKETS);
            row.demand.queued = row.demand.queued.min(most);
            row.demand.rate_per_min = row.demand.rate_per_min.min(most);
            for quantity in &mut row.demand.head_quantities {
                *quantity = (*quantity).min(most);
            }
            if short(row) {
                self.soon.insert(row.pool);
            }
        }
        self.unread.insert(report.region);
        self.reports.insert(report.region, Heard { at_ms: now_ms, report });
        Ok(())
    }

    /// What a region says that it has heard of, whatever else it says.
    pub fn note_incarnation(&mut self, region: RegionId, known: Incarnation) {
        self.incarnations.insert(region, known);
    }

    /// Whether a region has heard of a later life of the arbiters than this one.
    pub fn behind(&self, issuer: &Issuer, region: &RegionId) -> Option<ArbitersBehind> {
        self.incarnations.get(region).and_then(|known| issuer.behind(*known))
    }

    /// What to tell a region now.
    pub fn answer(&self, issuer: &Issuer, region: &RegionId) -> SyncAnswer {
        let asked = |pool: &PoolId| self.asked(region, pool);
        SyncAnswer::new(&issuer.view(region), issuer.answer(region, asked))
    }

    /// What a region is asked to have returned of a pool, ever.
    pub fn asked(&self, region: &RegionId, pool: &PoolId) -> Tickets {
        let by_policy = self.asks.get(pool).and_then(|asks| asks.get(region)).copied().unwrap_or_default();
        let by_errand = self.errands.iter().filter(|errand| errand.pool == *pool && errand.from == *region);
        by_errand.map(|errand| errand.return_up_to).fold(by_policy, Tickets::max)
    }

    /// Something was applied. What came back was asked for: whoever waits gets it now and not a round later.
    pub fn applied(&mut self, state: &State, now_ms: u64, news: &News) {
        for (region, pool, tickets) in &news.returned {
            self.soon.insert(*pool);
            self.errand_returned(state, region, pool, *tickets);
        }
        self.note_moves(now_ms, news);
    }

    /// An operator wants these pools planned now, without tolerance and cooldown.
    pub fn rebalance(&mut self, pools: impl IntoIterator<Item = PoolId>) {
        for pool in pools {
            self.at_once.insert(pool);
            self.soon.insert(pool);
        }
    }

    /// Whether a plan is wanted before the next one is due.
    pub fn hurried(&self) -> bool {
        !self.soon.is_empty()
    }

    /// When a region was heard last, on the caller's clock.
    pub fn heard_at_ms(&self, region: &RegionId) -> Option<u64> {
        self.reports.get(region).map(|heard| heard.at_ms)
    }

    /// Whether nothing was heard of a region for longer than it should be.
    pub fn silent(&self, region: &RegionId, now_ms: u64) -> bool {
        self.reports.get(region).is_none_or(|heard| !self.fresh(heard, now_ms))
    }

    /// A region's latest row and demand of a pool.
    pub fn row(&self, region: &RegionId, pool: &PoolId) -> Option<&PoolReport> {
        self.reports.get(region).and_then(|heard| heard.row(pool))
    }

    fn fresh(&self, heard: &Heard, now_ms: u64) -> bool {
        now_ms.saturating_sub(heard.at_ms) < SILENT_AFTER_HEARTBEATS * self.policy.heartbeat_ms
    }
}

impl Heard {
    fn row(&self, pool: &PoolId) -> Option<&PoolReport> {
        let rows = &self.report.pools;
        rows.binary_search_by_key(pool, |row| row.pool).ok().map(|at| &rows[at])
    }
}

/// Whether a report is of its region's epoch in this incarnation.
fn current(issuer: &Issuer, report: &Report) -> bool {
    let view = issuer.view(&report.region);
    report.incarnation == view.incarnation && report.epoch == view.epoch && view.identity.is_some()
}

/// People wait there for more than is free there.
fn short(row: &PoolReport) -> bool {
    row.demand.queued > row.counters.available()
}
