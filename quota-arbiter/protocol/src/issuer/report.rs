//! What a report asks the log to carry. Reading a report changes nothing: it yields the commands worth proposing, and
//! yields them again for the same report until they are applied.

use super::{Issuer, RegionState};
use crate::{
    command::{Command, Heard},
    message::Report,
};

impl Issuer {
    /// The commands that a report calls for: returns to accept, floors to raise. Empty for a report of another epoch
    /// or incarnation, and for one that says nothing new. The floors of all reports of one tick belong into one command:
    /// they come apart from the rest.
    pub fn read_report(&self, report: &Report) -> (Vec<Command>, Vec<Heard>) {
        let (mut returns, mut floors) = (Vec::new(), Vec::new());
        let Some(region) = self.regions.get(&report.region) else {
            return (returns, floors);
        };
        if report.incarnation != self.incarnation
            || report.epoch != region.epoch
            || region.state == RegionState::WrittenOff
        {
            return (returns, floors);
        }
        let first_word = !region.heard;
        for pool in &report.pools {
            let slice = self.slice(&report.region, &pool.pool);
            if pool.counters.returned > slice.accepted {
                returns.push(Command::AcceptReturn {
                    region: report.region,
                    epoch: report.epoch,
                    pool: pool.pool,
                    returned: pool.counters.returned,
                });
            }
            if first_word || slice.floor.below(&pool.counters).is_some() {
                floors.push(Heard {
                    region: report.region,
                    epoch: report.epoch,
                    pool: pool.pool,
                    counters: pool.counters,
                });
            }
        }
        (returns, floors)
    }
}
