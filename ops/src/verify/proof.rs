//! What a verdict rests on, in words: what could be proven with what there was to read, and what could not.
//!
//! Must never call something proven that was only not found to be wrong.

use super::Evidence;
use super::books::Books;
use super::history::{Accounts, Start};
use quota_protocol::issuer::RegionState;
use quota_protocol::{PoolId, RegionId};
use region_api::RegionName;
use std::collections::BTreeMap;

/// Regions that were given up once, and until when: whatever came in before, by the clocks of those who took it, went
/// with a database that is gone.
#[derive(Debug, Default)]
pub struct Lost {
    /// In milliseconds since 1970. Where the log does not say any more: the first thing in the books that the region has
    /// now, or the end of time.
    until_ms: BTreeMap<String, u64>,
    /// Requests of buyers that cannot be looked up any more.
    pub requests: u64,
    /// Payments that the provider keeps for such requests.
    pub payments: u64,
}

impl Lost {
    /// As the arbiters know it; of a region that was written off and not begun again, `books` may still be there.
    pub fn of(accounts: Option<&Accounts>, books: &[Books]) -> Self {
        let read = |region: &RegionId| books.iter().any(|books| books.state.region.as_str() == region.as_str());
        let regions = accounts.iter().flat_map(|accounts| accounts.after.issuer.regions());
        let lost = regions.filter(|(region, known)| {
            known.fenced.is_some() && !(known.state == RegionState::WrittenOff && read(region))
        });
        let lost = lost.map(|(region, _)| {
            let logged = accounts.and_then(|accounts| accounts.after.written_off.get(region)).map(|gone| gone.at_ms);
            let theirs = books.iter().filter(|books| books.state.region.as_str() == region.as_str());
            let begun = || theirs.flat_map(|books| &books.ledger).map(|row| row.at.ms()).min();
            (region.to_string(), logged.or_else(begun).unwrap_or(u64::MAX))
        });
        Self { until_ms: lost.collect(), requests: 0, payments: 0 }
    }

    /// Whether what this region took in at that moment is gone with its database.
    pub fn has(&self, region: &str, at_ms: u64) -> bool {
        self.until_ms.get(region).is_some_and(|until| at_ms < *until)
    }

    /// Whether anything of this region's is.
    pub fn has_some(&self, region: &str) -> bool {
        self.until_ms.contains_key(region)
    }
}

/// What could be proven, and what could not.
pub(super) fn statements(
    evidence: &Evidence,
    accounts: Option<&Accounts>,
    open: &BTreeMap<PoolId, &'static str>,
    lost: &Lost,
) -> (Vec<String>, Vec<String>) {
    let (mut proven, mut not) = (Vec::new(), Vec::new());
    let regions = names(evidence.status.iter().map(|status| status.region.to_string()));
    proven.push(format!("every ticket of {regions} goes back to a hold, a grant and, if sold, to a payment"));
    if let (Some(arbitration), Some(accounts)) = (&evidence.arbitration, accounts) {
        let to = accounts.after.issuer.incarnation();
        let last = arbitration.logs.iter().map(|log| log.read_to).max().unwrap_or(0);
        let heard = arbitration.logs.len();
        let leads = if accounts.lags { "" } else { " and leads to what the leader says" };
        match accounts.start {
            Start::Beginning => proven.push(format!(
                "every order, grant and return since the cluster began (entry {last} is the last) follows the protocol's \
                 rules{leads}; {heard} logs agree"
            )),
            Start::Restored => {
                proven.push(format!(
                    "every order, grant and return since the arbiters were restored from a backup (incarnation {to}) \
                     follows the protocol's rules{leads}; {heard} logs agree"
                ));
                not.push(
                    "what was ordered, granted and returned before the restore: no arbiter remembers it. What regions \
                     have is taken from their own ledgers, which say what they were granted and gave back"
                        .to_owned(),
                );
            }
            Start::Snapshot { index, confirmed_by } => {
                proven.push(format!(
                    "every order, grant and return after entry {index} follows the protocol's rules{leads}; {heard} logs \
                     agree, and so do the later states of {confirmed_by} other arbiters"
                ));
                not.push(format!(
                    "how the arbiters came to the state of entry {index}: the entries before it were dropped (the \
                     arbiters' `history_size_max_bytes`). That state adds up, and every region's whole ledger agrees with \
                     it"
                ));
            }
        }
        for (id, why) in &arbitration.silent {
            not.push(format!("that arbiter {id} agrees: {why}"));
        }
        if accounts.after.issuer.recovering().is_some() {
            not.push("how many tickets are in the pool: the arbiters wait for regions after a restore".to_owned());
        }
        gone(accounts, evidence, lost, &mut not);
        if accounts.lags {
            not.push(
                "that the log leads to what the leader says: no arbiter that answers has all of its entries and a state \
                 to begin with"
                    .to_owned(),
            );
        }
        if arbitration.at_rest {
            let nothing = if open.is_empty() { ", and nothing lies stranded" } else { "" };
            proven.push(format!("no more is held and sold over all regions than there is{nothing}"));
            not.extend(open.iter().map(|(pool, why)| format!("that nothing of {pool} lies stranded: {why}")));
        } else {
            not.push("that nothing lies stranded: tickets were moving while the books were read".to_owned());
        }
    }
    for queue in evidence.books.iter().filter(|books| books.queued.as_ref().is_none_or(|queued| !queued.complete)) {
        not.push(format!("what everybody wants who is in the queue of {}: it was not read to its end", queue.place()));
    }
    if lost.requests > 0 {
        let requests = lost.requests;
        not.push(format!("what became of {requests} acknowledged requests: their region was written off with them"));
    }
    if lost.payments > 0 {
        let payments = lost.payments;
        not.push(format!(
            "what {payments} payments bought that the provider keeps: their region was written off; give them back or \
             honour them by hand"
        ));
    }
    (proven, not)
}

/// Databases that nobody can read any more.
fn gone(accounts: &Accounts, evidence: &Evidence, lost: &Lost, not: &mut Vec<String>) {
    let regions = accounts.after.issuer.regions().iter();
    for (region, known) in regions.filter(|(region, _)| lost.has_some(region.as_str())) {
        let sold = if known.state == RegionState::WrittenOff {
            let pools = accounts.after.issuer.pools().values();
            let slices = pools.filter_map(|pool| pool.slices.get(region));
            slices.map(|slice| slice.granted.minus_or_zero(slice.accepted).get()).sum::<u64>()
        } else {
            seeded(evidence, region)
        };
        let why = match evidence.unread.iter().find(|(unread, _)| unread.as_str() == region.as_str()) {
            Some((_, error)) => format!("that database is gone, or cannot be read: {error}"),
            None if accounts.after.written_off.contains_key(region) => "that database is gone".to_owned(),
            None => "that database is gone, and so are the entries that say how many it were".to_owned(),
        };
        not.push(format!(
            "to whom {region} sold the {sold} tickets that its operator counted when it was written off ({}): {why}",
            known.fenced.as_deref().unwrap_or_default()
        ));
    }
}

fn seeded(evidence: &Evidence, region: &RegionId) -> u64 {
    let of_region = evidence.books.iter().filter(|books| books.state.region.as_str() == region.as_str());
    of_region.flat_map(|books| &books.state.quota).map(|row| row.seeded.unsigned_abs()).sum()
}

fn names(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The region that a payment at the provider was for.
pub(super) fn region_of(metadata: &BTreeMap<String, String>) -> Option<RegionName> {
    RegionName::new(metadata.get("region")?).ok()
}
