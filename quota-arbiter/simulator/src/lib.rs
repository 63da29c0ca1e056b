//! Deterministic simulation of the quota arbiter: the real raft driver, issuer, holders and policy on one thread, on
//! virtual time, with every chance drawn from a seed. Messages are dropped, doubled, delayed and reordered, links cut
//! (also one way), nodes crash with what was not synced, disks are slow, databases fail over, are lost and come back
//! older, members change, and arbiters are restored from backups. A run ends with everything healed and at rest, and
//! then every ticket must be accounted for.
//!
//! The workload (`world`, `operator`, `faults`) is apart from the [`auditor`] that judges it.

mod arbiter;
mod auditor;
mod commits;
mod dice;
mod faults;
mod network;
mod operator;
mod region;
mod rest;
mod sale;
mod sizes;
mod world;

pub use commits::{Nothing, commits_per_s, heartbeat_cost};
pub use sale::{Odds, Sale, scatter, skewed_sale, spread};
pub use sizes::{LogSizes, log_sizes};
use world::World;

/// The size of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Regions.
    pub regions: usize,
    /// Tickets in each of two pools.
    pub tickets: u32,
    /// Virtual milliseconds of accidents before everything is healed.
    pub chaos_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { regions: 3, tickets: 120, chaos_ms: 30_000 }
    }
}

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// A digest of everything that happened.
    pub hash: u64,
    /// Events.
    pub steps: u64,
    /// Tickets' orders sold.
    pub sales: u64,
    /// What was wrong; empty for a good run.
    pub problems: Vec<String>,
}

/// One run. With `tell`, says on standard error what happens.
pub fn run(settings: Settings, seed: u64, tell: bool) -> Run {
    // Few enough that tickets have to move.
    let batch = (settings.tickets / (settings.regions as u32 * 8)).max(2);
    let mut world = World::new(settings, batch, seed, tell);
    world.run_until(settings.chaos_ms);
    world.come_to_rest();
    if tell {
        world.note(&world.tell_books());
    }
    Run {
        hash: world.hash,
        steps: world.steps,
        sales: world.auditor.sales,
        problems: std::mem::take(&mut world.auditor.problems),
    }
}

/// The same run twice: they must be equal to the last event.
pub fn run_twice(settings: Settings, seed: u64) -> Run {
    let mut first = run(settings, seed, false);
    let second = run(settings, seed, false);
    if first != second {
        first.problems.push(format!(
            "two runs of one seed differ: {:016x} after {} steps, {:016x} after {}",
            first.hash, first.steps, second.hash, second.steps
        ));
    }
    first
}
