//! What the policy would give each region out of the pool if everybody sold at once: shown to operators, and kept by
//! nobody.

use std::collections::BTreeMap;

use quota_protocol::{
    PoolId, RegionId, Tickets,
    issuer::{Pool, RegionState},
    policy::split,
};

use super::Leader;
use crate::state::State;

impl Leader {
    /// How much of a pool each region may expect, by its queue and its weight.
    pub fn earmarks(&self, state: &State, id: &PoolId, pool: &Pool) -> BTreeMap<RegionId, Tickets> {
        let regions = state.issuer().regions().iter().filter(|(_, known)| known.state == RegionState::Active);
        let regions = regions.map(|(region, _)| *region).collect::<Vec<_>>();
        let weight = |region: &RegionId| {
            let queued = self.row(region, id).map(|row| row.demand.queued.get()).unwrap_or_default();
            let floor = self.policy.weight_floor.get().max(1) * u64::from(state.weight(&id.concert, region));
            queued.max(floor)
        };
        let weights = regions.iter().map(weight).collect::<Vec<_>>();
        regions.into_iter().zip(split(pool.pool, &weights)).collect()
    }
}
