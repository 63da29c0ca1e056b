//! The board: what is known of every region at this moment, and what follows from it for the choice.
//!
//! Pure: one task owns it (`watch`), tells it of checks, reports and drains, lets time pass, and publishes what it says.

use serde::{Deserialize, Serialize};

use super::{Damping, Health, Load, Report, Spill, SpillRules};
use crate::choice::{Policy, RegionIdx, RegionLive};
use crate::config::Config;

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    health: Health,
    checked: bool,
    drained: bool,
    report: Option<(u64, Report)>,
    pushed_ms: Option<u64>,
    capacity_per_s: Option<f64>,
    last_error: Option<String>,
}

/// One region as shown to an operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegionView {
    /// Name.
    pub region: String,
    /// `up`, `down` or `drained`.
    pub state: String,
    /// Health in words, half-way states included.
    pub health: String,
    /// Taken out by the operator.
    pub drained: bool,
    /// Why the last check was bad.
    pub last_error: Option<String>,
    /// The last report, when it still counts.
    pub report: Option<Report>,
    /// Its age, in milliseconds.
    pub report_age_ms: Option<u64>,
    /// Shares of this region's users that go elsewhere, from 0 to 1, by region.
    pub handover: Vec<(String, f64)>,
}

/// What is known of all regions.
#[derive(Clone, Debug)]
pub struct Board {
    entries: Vec<Entry>,
    spill: Spill,
    interval_ms: u64,
    report_life_ms: u64,
    step_ms: u64,
    next_step_ms: u64,
}

impl Board {
    /// A board for a configuration; what `before` knew of regions of the same name goes on.
    pub fn new(config: &Config, policy: &Policy, before: Option<&Board>, now_ms: u64) -> Self {
        let damping = Damping {
            up_after: config.health.up_after,
            down_after: config.health.down_after,
            ok_after: config.health.ok_after,
        };
        let entry = |region: &crate::config::RegionConfig| {
            let known = before.and_then(|b| b.entries.iter().find(|e| e.name == region.name));
            let mut entry = known.cloned().unwrap_or_else(|| Entry {
                name: region.name.clone(),
                health: Health::new(damping),
                checked: true,
                drained: false,
                report: None,
                pushed_ms: None,
                capacity_per_s: None,
                last_error: None,
            });
            entry.health.set_damping(damping);
            entry.checked = region.ready_url.is_some();
            entry.capacity_per_s = region.capacity_per_s;
            entry
        };
        let entries: Vec<Entry> = config.regions.iter().map(entry).collect();
        // Shares are between regions: the same regions keep them, other ones begin with everybody at home.
        let same = before.filter(|b| b.entries.iter().map(|e| &e.name).eq(entries.iter().map(|e| &e.name)));
        let spill = same.map_or_else(
            || Spill::new(SpillRules::from(&config.spill), policy.neighbours.clone()),
            |b| b.spill.clone(),
        );
        Self {
            entries,
            spill,
            interval_ms: config.health.interval_ms.max(10),
            report_life_ms: config.health.report_life_ms,
            step_ms: config.spill.step_ms.max(100),
            next_step_ms: now_ms,
        }
    }

    /// Counts a health check.
    pub fn check(&mut self, region: RegionIdx, result: Result<(), String>, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(region.at()) else { return };
        let ok = result.is_ok();
        entry.last_error = result.err();
        if entry.health.check(ok) {
            // A region that went down or came up changes where users belong: not at the next step, now.
            self.next_step_ms = now_ms;
        }
    }

    /// Takes in a report that the region pushed.
    pub fn report(&mut self, region: RegionIdx, report: Report, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(region.at()) {
            entry.report = Some((now_ms, report));
            entry.pushed_ms = Some(now_ms);
        }
    }

    /// Takes in a report reckoned from the region's status: it knows less, so one that was pushed goes before it.
    pub fn reckoned(&mut self, region: RegionIdx, report: Report, now_ms: u64) {
        let life_ms = self.report_life_ms;
        let Some(entry) = self.entries.get_mut(region.at()) else { return };
        if entry.pushed_ms.is_none_or(|at| now_ms.saturating_sub(at) > life_ms) {
            entry.report = Some((now_ms, report));
        }
    }

    /// Notes the operator's drain.
    pub fn set_drained(&mut self, region: RegionIdx, drained: bool, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(region.at()).filter(|e| e.drained != drained) {
            entry.drained = drained;
            self.next_step_ms = now_ms;
        }
    }

    /// Lets time pass: makes the step of hand-overs that is due. True when there was one.
    pub fn pass(&mut self, now_ms: u64) -> bool {
        if now_ms < self.next_step_ms {
            return false;
        }
        self.next_step_ms = now_ms + self.step_ms;
        let loads: Vec<Load> = (0..self.entries.len()).map(|at| self.load(at, now_ms)).collect();
        self.spill.step(&loads);
        true
    }

    fn fresh(&self, at: usize, now_ms: u64) -> Option<&(u64, Report)> {
        self.entries[at].report.as_ref().filter(|(when, _)| now_ms.saturating_sub(*when) <= self.report_life_ms)
    }

    fn load(&self, at: usize, now_ms: u64) -> Load {
        let entry = &self.entries[at];
        let report = self.fresh(at, now_ms).map(|(_, r)| r);
        Load {
            usable: entry.health.is_up() && !entry.drained,
            arrivals_per_s: report.map(|r| r.arrivals_per_s),
            capacity_per_s: report.and_then(|r| r.capacity_per_s).or(entry.capacity_per_s),
            refuses: report.is_some_and(|r| r.stock == Some(0) || r.is_queue_full()),
        }
    }

    /// What the choice needs to know, one entry for each region.
    pub fn live(&self) -> Vec<RegionLive> {
        let one = |(at, entry): (usize, &Entry)| RegionLive {
            healthy: entry.health.is_up(),
            drained: entry.drained,
            state: entry.health.describe(),
            // A region without a check never changes by itself.
            change_ms: if entry.checked {
                u64::from(entry.health.checks_to_change()) * self.interval_ms
            } else {
                u64::MAX
            },
            handover: self.spill.handover(RegionIdx(at as u8)),
        };
        self.entries.iter().enumerate().map(one).collect()
    }

    /// Time between steps of hand-overs, in milliseconds.
    pub fn step_ms(&self) -> u64 {
        self.step_ms
    }

    /// What an operator is shown.
    pub fn views(&self, now_ms: u64) -> Vec<RegionView> {
        let one = |(at, entry): (usize, &Entry)| {
            let share = |to: usize| self.spill.share(RegionIdx(at as u8), RegionIdx(to as u8));
            let named = |to: usize| (self.entries[to].name.clone(), share(to));
            RegionView {
                region: entry.name.clone(),
                state: match (entry.drained, entry.health.is_up()) {
                    (true, _) => "drained",
                    (false, true) => "up",
                    (false, false) => "down",
                }
                .to_owned(),
                health: entry.health.describe(),
                drained: entry.drained,
                last_error: entry.last_error.clone(),
                report: self.fresh(at, now_ms).map(|(_, r)| *r),
                report_age_ms: self.fresh(at, now_ms).map(|(when, _)| now_ms.saturating_sub(*when)),
                handover: (0..self.entries.len()).filter(|to| share(*to) > 0.0).map(named).collect(),
            }
        };
        self.entries.iter().enumerate().map(one).collect()
    }
}
