//! The walk down a ranking by what changes: health, drains, hand-overs.
//!
//! Must always name a region: with all of them down, the one that would be first if they were not.

use smallvec::SmallVec;

use super::rank::mix;
use super::{Ranking, RegionIdx};

/// Where the users of a region go, when not simply to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Handover {
    /// All stay; if the region is gone, each goes to the next in its own order.
    None,
    /// Parts of 65,536, added up: a user whose hash is below the figure goes there. Who is above the last one stays.
    Shares(SmallVec<[(RegionIdx, u32); 4]>),
}

/// What changes about a region.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionLive {
    /// The checks say that it is up.
    pub healthy: bool,
    /// The operator took it out.
    pub drained: bool,
    /// Health in words, half-way states included.
    pub state: String,
    /// The earliest moment at which health could turn, in milliseconds from now.
    pub change_ms: u64,
    /// Where its users go.
    pub handover: Handover,
}

impl RegionLive {
    /// True when users may be sent there.
    pub fn is_usable(&self) -> bool {
        self.healthy && !self.drained
    }
}

/// Why a region was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickWhy {
    /// First in the order that is usable.
    First,
    /// The first one hands over this client's part of its users.
    HandedOver,
    /// None is usable; health is left out of account.
    AllDown,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The region.
    pub region: RegionIdx,
    /// Why.
    pub why: PickWhy,
    /// Entries of the ranking that had a say: the answer can change when one of them does.
    pub looked_at: usize,
    /// Bits of the client's address that the answer depends on.
    pub scope: u8,
    /// The earliest moment at which the answer could change, in milliseconds from now.
    pub change_ms: u64,
}

/// Picks a region. `live` has one entry for each region, `step_ms` is the time between steps of hand-overs.
pub fn pick(ranking: &Ranking, live: &[RegionLive], step_ms: u64) -> Pick {
    let usable = |r: RegionIdx| live[r.at()].is_usable();
    let first = ranking.entries[0].region;
    let done = |region, why, looked_at: usize, hashed: bool, change_ms: u64| {
        let hashed = hashed || ranking.entries[..looked_at].iter().any(|e| e.tied);
        let scope = if hashed { ranking.scope.max(ranking.key_bits) } else { ranking.scope };
        let health_ms = ranking.entries[..looked_at].iter().map(|e| live[e.region.at()].change_ms).min();
        Pick { region, why, looked_at, scope, change_ms: change_ms.min(health_ms.unwrap_or(0)) }
    };
    let mut hashed = false;
    let mut change_ms = u64::MAX;
    if let Handover::Shares(shares) = &live[first.at()].handover {
        hashed = true;
        change_ms = step_ms;
        let part = (mix(ranking.key, 0x5711 + u64::from(first.0)) >> 48) as u32;
        if let Some((to, _)) = shares.iter().find(|(to, below)| part < *below && usable(*to)) {
            let change_ms = change_ms.min(live[to.at()].change_ms);
            return done(*to, PickWhy::HandedOver, 1, true, change_ms);
        }
    }
    if let Some(at) = ranking.entries.iter().position(|e| usable(e.region)) {
        return done(ranking.entries[at].region, PickWhy::First, at + 1, hashed, change_ms);
    }
    // Nobody is usable. A drained region was taken out on purpose, a sick one may yet answer some.
    let at = ranking.entries.iter().position(|e| !live[e.region.at()].drained).unwrap_or(0);
    done(ranking.entries[at].region, PickWhy::AllDown, ranking.entries.len(), hashed, 0)
}
