//! The end of a run: everything is healed, nothing goes wrong any more, and the system has a while to come to rest.

use quota_protocol::{Tickets, holder::OrderState};

use crate::world::World;

/// Longer than any hold, cooldown, election or recovery takes.
const REST_MAX_MS: u64 = 240_000;

impl World {
    pub(crate) fn come_to_rest(&mut self) {
        self.calm = true;
        self.network.heal();
        self.disk_slow_ms = 5;
        for id in self.arbiters.keys().copied().collect::<Vec<_>>() {
            self.start_arbiter(id);
        }
        for region in &mut self.regions {
            if region.node.is_none() && region.database.is_some() {
                region.start_node();
            }
        }
        let until_ms = self.now_ms + REST_MAX_MS;
        while self.now_ms < until_ms && self.auditor.problems.is_empty() {
            self.resume_all();
            self.run_until(self.now_ms + 2_000);
            if self.restless().is_none() {
                break;
            }
        }
        if !self.auditor.problems.is_empty() {
            return;
        }
        if let Some(why) = self.restless() {
            self.auditor.problem(format!("no rest after {} s: {why}", REST_MAX_MS / 1_000));
        }
        let Some(state) = self.state().cloned() else { return };
        let databases = self.regions.iter().map(|region| (region.id, region.database.as_ref())).collect::<Vec<_>>();
        self.auditor.rest(&state, &databases);
    }

    /// Both sides' books, for whoever looks for the cause of a problem.
    pub(crate) fn tell_books(&self) -> String {
        let mut told = String::new();
        for (pool, book) in self.state().iter().flat_map(|state| state.issuer().pools()) {
            told += &format!("{pool}: T {} P {}\n", book.total, book.pool);
            for region in &self.regions {
                let slice = book.slices.get(&region.id).copied().unwrap_or_default();
                let row = region.database.as_ref().map(|database| (database.counters(pool), database.registration()));
                let count = self.auditor.count(region.id, *pool);
                let (id, granted, accepted) = (region.id, slice.granted, slice.accepted);
                told += &format!("  {id}: G {granted} R {accepted}, has {row:?}, really sold and refunded {count:?}\n");
            }
        }
        told
    }

    /// Why it has not come to rest, if it has not.
    fn restless(&self) -> Option<String> {
        let Some(life) = self.leader().and_then(|leader| leader.life.as_ref()) else {
            return Some("nobody leads".to_owned());
        };
        let (leader, applied) = (life.driver.machine(), life.driver.applied());
        for id in life.driver.members().voters {
            let other = self.arbiters.get(&id).and_then(|arbiter| arbiter.life.as_ref());
            if other.is_none_or(|other| other.driver.applied() != applied || other.driver.machine() != leader) {
                let other = other.map(|other| (other.driver.applied(), other.driver.members(), other.driver.leader()));
                let leader = (life.driver.id(), applied, life.driver.members(), life.driver.matched(id));
                return Some(format!("arbiter {id} is at {other:?}, the leader at {leader:?}"));
            }
        }
        let issuer = leader.issuer();
        if issuer.pools().len() < self.pools.len() || issuer.recovering().is_some() {
            return Some("the arbiters are not set up".to_owned());
        }
        for region in &self.regions {
            let Some(database) = region.database.as_ref().filter(|_| region.node.is_some()) else {
                return Some(format!("{} has no database", region.id));
            };
            if database.epoch() != Some(issuer.view(&region.id).epoch) {
                return Some(format!("{} is not registered", region.id));
            }
            if !region.orders(OrderState::Held).is_empty() {
                return Some(format!("{} has holds", region.id));
            }
            for pool in issuer.pools().keys() {
                let (slice, row) = (issuer.slice(&region.id, pool), database.counters(pool));
                if slice.granted != row.granted || slice.accepted != row.returned || slice.floor != row {
                    return Some(format!("{} {pool}: the issuer has {slice:?}, the database {row:?}", region.id));
                }
            }
        }
        for (pool, book) in issuer.pools() {
            let rows = self.regions.iter().filter_map(|region| region.database.as_ref());
            let free = book.pool + rows.map(|database| database.counters(pool).available()).sum::<Tickets>();
            let buyers = self.regions.iter().flat_map(|region| &region.queue).filter(|buyer| buyer.pool == *pool);
            if let Some(buyer) = buyers.clone().find(|buyer| buyer.quantity <= free) {
                return Some(format!("somebody waits for {} of {pool} while {free} are free", buyer.quantity));
            }
        }
        None
    }
}
