//! The arbiters' logs, held against each other, against the states that they follow on, and against what the leader
//! says; and what they add up to before and after the ledgers were read.
//!
//! Not every log reaches back to the cluster's beginning: arbiters drop their oldest entries, and restored ones begin
//! with a backup. Then the replay begins with the oldest state that there is, and [`Start`] says so.

use super::log::{ArbiterLog, BEGINNING, Base};
use super::problem::Found;
use super::replay::Replay;
use arbiter_api::QuotaView;
use quota_protocol::PoolId;
use quota_protocol::invariant::invariant_conservation;
use serde::Serialize;
use std::collections::BTreeMap;

/// Where problems of the arbiters are noted.
pub(super) const PLACE: &str = "arbiters";
const NAME: &str = "invariant_logs";

/// What was read of the arbiters.
#[derive(Debug, Clone)]
pub struct Arbitration {
    /// Logs of all that answered.
    pub logs: Vec<ArbiterLog>,
    /// Those that did not, and why.
    pub silent: Vec<(u64, String)>,
    /// Where the log was before any ledger was read.
    pub before: u64,
    /// What the leader says of every concert, read after the ledgers.
    pub views: Vec<QuotaView>,
    /// Nothing moved while all of this was read.
    pub at_rest: bool,
}

/// What the logs add up to: before and after the ledgers were read.
pub struct Accounts {
    pub(super) before: Replay,
    /// After.
    pub after: Replay,
    /// With what the replay began.
    pub start: Start,
    /// The log that was replayed ends before the entries that the leader had when the books were read.
    pub(super) lags: bool,
}

/// With what a replay began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With nothing: the whole log is there.
    Beginning,
    /// With the backup from which the arbiters were restored.
    Restored,
    /// With a snapshot; the entries before it were dropped.
    Snapshot {
        /// The last entry that is in it.
        index: u64,
        /// Arbiters whose own, later snapshot is what the replay comes to there.
        confirmed_by: usize,
    },
}

/// Arbiters agree with each other entry by entry, the log can be replayed from the oldest state that there is without
/// breaking a rule, every other state that is there is what the replay comes to, and so is what the leader says.
pub fn invariant_logs(arbitration: &Arbitration, found: &mut Found) -> Option<Accounts> {
    let mut known: BTreeMap<u64, (u64, &arbiter_api::LogItem)> = BTreeMap::new();
    for log in &arbitration.logs {
        for item in &log.entries {
            let (first, seen) = known.entry(item.index).or_insert((log.id, item));
            if (seen.term, &seen.work) != (item.term, &item.work) {
                let detail = format!("entry {} differs between arbiters {first} and {}", item.index, log.id);
                found.add(NAME, PLACE, detail);
            }
        }
        let mut last = 0;
        for item in &log.entries {
            if item.index <= last {
                found.add(NAME, PLACE, format!("arbiter {}: entry {} after entry {last}", log.id, item.index));
            }
            last = item.index;
        }
    }
    lacks(arbitration, &known, found);
    // A state that is younger than the first look at the ledgers would not do: who had returned what by then?
    let usable =
        arbitration.logs.iter().filter(|log| log.is_whole() && log.base.index <= arbitration.before.max(BEGINNING));
    // One that reaches as far as the leader did goes before one that reaches back further: an arbiter that is cut off
    // answers with what it had then.
    let lags = |log: &ArbiterLog| log.read_to < needed(arbitration);
    let Some(log) = usable.min_by_key(|log| (lags(log), log.base.index, std::cmp::Reverse(log.read_to))) else {
        let why = "no arbiter that answers has a state and all entries after it; if a log was cut while it was read, read again";
        found.add(NAME, PLACE, why.to_owned());
        return None;
    };
    match replay(arbitration, log, found) {
        Ok(accounts) => Some(accounts),
        Err(why) => {
            found.add(NAME, PLACE, why);
            None
        }
    }
}

/// How far a log must reach to say what regions may have, and to be held against what the leader says.
fn needed(arbitration: &Arbitration) -> u64 {
    arbitration.views.iter().map(|view| view.meta.index).fold(arbitration.before, u64::max)
}

fn replay(arbitration: &Arbitration, log: &ArbiterLog, found: &mut Found) -> Result<Accounts, String> {
    let mut before = Replay::from(&log.base);
    for (id, pool) in before.issuer.pools() {
        invariant_conservation(&before.issuer, pool)
            .map_err(|broken| format!("in the state of entry {}: {id}: {broken}", log.base.index))?;
    }
    let confirmed_by = states(arbitration, log, found)?;
    before.advance(log, arbitration.before)?;
    let mut after = before.clone();
    for view in &arbitration.views {
        after.advance(log, view.meta.index)?;
        if log.read_to >= view.meta.index {
            compare(view, &after, found);
        }
    }
    after.advance(log, u64::MAX)?;
    let start = match (log.base.index, log.base.founded) {
        (BEGINNING, false) => Start::Beginning,
        (BEGINNING, true) => Start::Restored,
        (index, _) => Start::Snapshot { index, confirmed_by },
    };
    Ok(Accounts { before, after, start, lags: log.read_to < needed(arbitration) })
}

/// Every state that another arbiter's log follows on is what the replay comes to at that entry. Says how many there are.
fn states(arbitration: &Arbitration, log: &ArbiterLog, found: &mut Found) -> Result<usize, String> {
    let mut others: Vec<(u64, &Base)> = arbitration
        .logs
        .iter()
        .filter(|other| other.id != log.id && other.base.index <= log.read_to)
        .map(|other| (other.id, &other.base))
        .collect();
    others.sort_by_key(|(_, base)| base.index);
    let (mut replay, mut confirmed) = (Replay::from(&log.base), 0);
    for (id, base) in others {
        replay.advance(log, base.index)?;
        if (&base.issuer, &base.concerts) == (&replay.issuer, &replay.concerts) {
            confirmed += usize::from(base.index > log.base.index);
        } else {
            let detail =
                format!("the state of entry {} that arbiter {id} has is not what the log adds up to", base.index);
            found.add(NAME, PLACE, detail);
        }
    }
    Ok(confirmed)
}

/// No arbiter lacks an entry in the middle of what it has.
fn lacks(arbitration: &Arbitration, known: &BTreeMap<u64, (u64, &arbiter_api::LogItem)>, found: &mut Found) {
    for log in &arbitration.logs {
        let has: std::collections::HashSet<u64> = log.entries.iter().map(|item| item.index).collect();
        let within = known.keys().filter(|index| (log.first_index..=log.read_to).contains(*index));
        for index in within.filter(|index| !has.contains(*index)) {
            found.add("invariant_logs", PLACE, format!("arbiter {} lacks entry {index}", log.id));
        }
    }
}

fn compare(view: &QuotaView, replay: &Replay, found: &mut Found) {
    for tier in &view.tiers {
        let Ok(concert) = view.concert.as_str().parse() else { continue };
        let id = PoolId { concert, tier: tier.tier };
        let Some(pool) = replay.issuer.pools().get(&id) else {
            found.add(NAME, PLACE, format!("{id} is not in the log"));
            continue;
        };
        if (pool.total, pool.pool) != (tier.total, tier.pool) {
            let detail = format!(
                "{id}: arbiter {} says {} of {} in the pool, its log adds up to {} of {}",
                view.meta.node, tier.pool, tier.total, pool.pool, pool.total
            );
            found.add(NAME, PLACE, detail);
        }
        for (region, theirs) in &tier.regions {
            let slice = pool.slices.get(region).copied().unwrap_or_default();
            if (slice.granted, slice.accepted) != (theirs.granted, theirs.returned) {
                let detail = format!(
                    "{id}: arbiter {} says {region} was granted {} and gave back {}, its log adds up to {} and {}",
                    view.meta.node, theirs.granted, theirs.returned, slice.granted, slice.accepted
                );
                found.add(NAME, PLACE, detail);
            }
        }
    }
}
