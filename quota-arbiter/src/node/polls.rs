//! Heartbeats that wait for news. What was told once is no news: a region that cannot act on it (its database is away)
//! would otherwise ask again at once, for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use quota_protocol::{PoolId, RegionId, Tickets, wire::SyncAnswer};

use super::mail::{Knows, Reply, Synced};
use crate::limits::POLLS_PER_REGION_MAX;

/// A heartbeat that waits.
pub(super) struct Poll {
    pub(super) knows: Knows,
    pub(super) concerts_version: u64,
    pub(super) until: Instant,
    pub(super) reply: Reply<Synced>,
}

/// All heartbeats that wait, and what each region was told last.
#[derive(Default)]
pub(super) struct Polls {
    waiting: BTreeMap<RegionId, Vec<Poll>>,
    told: BTreeMap<RegionId, BTreeMap<PoolId, (Tickets, Tickets)>>,
}

impl Polls {
    /// Whether a region has not heard this yet.
    pub(super) fn is_news(&self, region: &RegionId, knows: &Knows, answer: &SyncAnswer) -> bool {
        let same = answer.incarnation == knows.incarnation
            && Some(answer.epoch) == knows.epoch
            && answer.identity == Some(knows.identity);
        let told = self.told.get(region);
        !same
            || answer.slices.iter().any(|slice| {
                let (granted, returned) = knows.rows.get(&slice.pool).copied().unwrap_or_default();
                let told = told.and_then(|told| told.get(&slice.pool)).copied().unwrap_or_default();
                slice.granted > granted.max(told.0) || slice.return_up_to > returned.max(told.1)
            })
    }

    /// A region is told this now.
    pub(super) fn tell(&mut self, region: RegionId, answer: &SyncAnswer) {
        let told = answer.slices.iter().map(|slice| (slice.pool, (slice.granted, slice.return_up_to)));
        self.told.insert(region, told.collect());
    }

    /// Lets a heartbeat wait. If too many of one region do, the oldest comes back.
    pub(super) fn wait(&mut self, region: RegionId, poll: Poll) -> Option<Poll> {
        let polls = self.waiting.entry(region).or_default();
        polls.retain(|poll| !poll.reply.is_closed());
        polls.push(poll);
        (polls.len() > POLLS_PER_REGION_MAX).then(|| polls.remove(0))
    }

    /// Every heartbeat of a region that waits.
    pub(super) fn take(&mut self, region: &RegionId) -> Vec<Poll> {
        self.waiting.remove(region).unwrap_or_default()
    }

    /// Regions of which a heartbeat waits.
    pub(super) fn regions(&self) -> BTreeSet<RegionId> {
        self.waiting.keys().copied().collect()
    }

    /// Heartbeats whose time is up.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(RegionId, Poll)> {
        let mut due = Vec::new();
        for (region, polls) in &mut self.waiting {
            due.extend(polls.extract_if(.., |poll| poll.until <= now).map(|poll| (*region, poll)));
        }
        self.waiting.retain(|_, polls| !polls.is_empty());
        due
    }

    /// Every heartbeat that waits; what was told is forgotten, since another leader tells now.
    pub(super) fn resign(&mut self) -> Vec<Poll> {
        self.told.clear();
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }
}
