//! Judges a run by what is durable and what was said, and knows nothing of why it was done: it shares no code with the
//! workload, only the protocol's own invariants.

use std::collections::BTreeMap;

use quota_arbiter::state::State;
use quota_protocol::{
    Counters, Holder, Identity, Incarnation, OrderId, PoolId, RegionId, Tickets,
    invariant::{
        invariant_agreement, invariant_books, invariant_conservation, invariant_growth, invariant_no_oversell,
        invariant_nothing_stranded, invariant_row,
    },
    issuer::{RegionState, Slice},
};

/// What is known of the whole run.
#[derive(Debug, Default)]
pub(crate) struct Auditor {
    /// What was applied at each index of the log, by the first node to do so.
    log: BTreeMap<u64, u64>,
    /// The arbiters' incarnation.
    incarnation: Incarnation,
    /// The furthest that any arbiter of this incarnation has granted and accepted.
    seen: BTreeMap<(RegionId, PoolId), Slice>,
    written_off: BTreeMap<RegionId, u64>,
    /// Really sold and not refunded, over all databases that ever were.
    sold: BTreeMap<(RegionId, OrderId), (PoolId, Tickets)>,
    /// Sold and refunded, ever.
    counts: BTreeMap<(RegionId, PoolId), (Tickets, Tickets)>,
    rows: BTreeMap<(Identity, PoolId), Counters>,
    pub(crate) sales: u64,
    pub(crate) problems: Vec<String>,
}

impl Auditor {
    pub(crate) fn problem(&mut self, what: impl std::fmt::Display) {
        if self.problems.len() < 10 {
            self.problems.push(what.to_string());
        }
    }

    /// A node applied an entry: every node that does applies the same there.
    pub(crate) fn applied(&mut self, node: u64, index: u64, digest: u64) {
        let first = *self.log.entry(index).or_insert(digest);
        if first != digest {
            self.problem(format!("arbiter {node} applied something else at {index} than others did"));
        }
    }

    /// The state of an arbiter after it applied something.
    pub(crate) fn state(&mut self, state: &State) {
        let issuer = state.issuer();
        // A recovery that is begun again is another incarnation in the same log.
        self.incarnation = self.incarnation.max(issuer.incarnation());
        if let Some(forgotten) = issuer.forgotten() {
            self.problem(forgotten);
        }
        for (id, pool) in issuer.pools() {
            if let Err(broken) = invariant_conservation(issuer, pool) {
                self.problem(format!("{id}: {broken}"));
            }
            for (region, slice) in &pool.slices {
                let seen = self.seen.entry((*region, *id)).or_default();
                seen.granted = seen.granted.max(slice.granted);
                seen.accepted = seen.accepted.max(slice.accepted);
            }
        }
        for (id, region) in issuer.regions() {
            if region.state == RegionState::WrittenOff {
                let epoch = region.epoch.get();
                let last = self.written_off.entry(*id).or_default();
                *last = (*last).max(epoch);
            }
        }
    }

    /// A database after a transaction committed on it.
    pub(crate) fn database(&mut self, region: RegionId, database: &Holder) {
        for (pool, row) in database.rows() {
            let counters = row.counters;
            if let Err(broken) = invariant_row(&counters) {
                self.problem(format!("{region} {pool}: {broken}"));
            }
            let before = self.rows.insert((database.identity(), *pool), counters).unwrap_or_default();
            if let Err(broken) = invariant_growth(&before, &counters) {
                self.problem(format!("{region} {pool}: {broken}"));
            }
            // A database that was written off is fenced; one that is not registered does not speak for its region.
            // Restored arbiters hear what was granted when a database registers with them.
            let registered = database.registration().filter(|stored| stored.incarnation == self.incarnation);
            let speaks = registered.and(database.epoch()).map(|epoch| epoch.get());
            let off = self.written_off.get(&region).copied().unwrap_or(0);
            if speaks.is_some_and(|epoch| epoch > off) {
                let seen = self.seen.get(&(region, *pool)).copied().unwrap_or_default();
                if let Err(broken) = invariant_agreement(&seen, &counters) {
                    self.problem(format!("{region} {pool}: {broken}"));
                }
            }
        }
    }

    /// A sale is durable.
    pub(crate) fn sale(&mut self, region: RegionId, order: OrderId, pool: PoolId, tickets: Tickets, total: Tickets) {
        self.sales += 1;
        if self.sold.insert((region, order), (pool, tickets)).is_some() {
            self.problem(format!("{region} sold order {} twice", order.get()));
        }
        self.counts.entry((region, pool)).or_default().0 += tickets;
        let sold = self.counts.iter().filter(|(key, _)| key.1 == pool).map(|(_, count)| count.0 - count.1).sum();
        if let Err(broken) = invariant_no_oversell(sold, total) {
            self.problem(format!("{pool}: {broken}"));
        }
    }

    /// A refund is durable.
    pub(crate) fn refund(&mut self, region: RegionId, order: OrderId) {
        match self.sold.remove(&(region, order)) {
            Some((pool, tickets)) => self.counts.entry((region, pool)).or_default().1 += tickets,
            None => self.problem(format!("{region} refunded order {} which was not sold", order.get())),
        }
    }

    /// What a region really sold and refunded, ever, as an operator counts it after fencing.
    pub(crate) fn count(&self, region: RegionId, pool: PoolId) -> (Tickets, Tickets) {
        self.counts.get(&(region, pool)).copied().unwrap_or_default()
    }

    /// The arbiters begin a new log, restored from a backup.
    pub(crate) fn new_log(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
        self.log.clear();
        self.seen.clear();
        self.written_off.clear();
    }

    /// At rest: every database agrees with the issuer, and every ticket is somewhere.
    pub(crate) fn rest(&mut self, state: &State, databases: &[(RegionId, Option<&Holder>)]) {
        let issuer = state.issuer();
        if issuer.incarnation() != Incarnation::default() && issuer.recovering().is_some() {
            self.problem("at rest, the arbiters are still recovering");
        }
        for (id, pool) in issuer.pools() {
            let mut rows = Vec::new();
            for (region, database) in databases {
                let slice = pool.slices.get(region).copied().unwrap_or_default();
                let (sold, refunded) = self.count(*region, *id);
                let really = sold - refunded;
                let Some(database) = database else {
                    rows.push(slice.floor);
                    continue;
                };
                let row = database.counters(id);
                if row.granted != slice.granted || row.returned != slice.accepted {
                    self.problem(format!("at rest, {region} {id} has {row:?}, the issuer {slice:?}"));
                }
                if row.sold_net() != really {
                    self.problem(format!("at rest, {region} {id} has {row:?}, but {really} were really sold"));
                }
                if let Err(broken) = invariant_books(database) {
                    self.problem(format!("at rest, {region}: {broken}"));
                }
                rows.push(row);
            }
            if let Err(broken) = invariant_nothing_stranded(pool.pool, rows.into_iter(), pool.total) {
                self.problem(format!("at rest, {id}: {broken}"));
            }
        }
    }
}
