//! Telling people the truth before their turn: a no that is certain, one row that rejects a whole range, chances, and
//! how long a waiting list may be.
//!
//! A certain no must never be wrong: it is said only from what could still come anywhere, unpaid holds included.

use crate::allocate::Stock;

/// Fewest tickets that somebody would take.
pub fn need(quantity: u16, any_quantity: bool) -> u16 {
    if any_quantity { 1 } else { quantity }
}

/// Whether what could still come can never serve somebody, in any tier named. `unsold` per tier is
/// pool + granted − returned − sold + refunded over all regions.
pub fn certain_no(tiers: &[u8], quantity: u16, any_quantity: bool, unsold: &Stock) -> bool {
    let need = u64::from(need(quantity, any_quantity));
    tiers.iter().all(|&tier| unsold.of(tier) < need)
}

/// "Everybody from here to there is told no": one row instead of one per person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRule {
    /// Shard of the queue.
    pub shard: u16,
    /// Its generation.
    pub generation: u16,
    /// First sequence number.
    pub from_seq: u64,
    /// Last sequence number.
    pub to_seq: u64,
    /// Per tier what could still come; `None`: everybody in the range is rejected.
    pub unsold: Option<Stock>,
}

impl RangeRule {
    /// Whether this place in the queue lies in the range.
    pub fn contains(&self, shard: u16, generation: u16, sequence: u64) -> bool {
        self.shard == shard && self.generation == generation && (self.from_seq..=self.to_seq).contains(&sequence)
    }

    /// Whether somebody in the range who asked for this is rejected.
    pub fn rejects(&self, tiers: &[u8], quantity: u16, any_quantity: bool) -> bool {
        self.unsold.as_ref().is_none_or(|unsold| certain_no(tiers, quantity, any_quantity, unsold))
    }
}

/// Whether a new rule would tell somebody no whom the `last` one did not. Rules are written only then. `most` is what
/// anybody may ask for in one order: between numbers above it nobody notices a difference.
pub fn worth_a_rule(unsold: &Stock, last: Option<&Stock>, most: u16) -> bool {
    let seen = |tickets: u64| tickets.min(u64::from(most));
    unsold.tiers().enumerate().any(|(tier, tickets)| {
        let before = last.map_or(u64::from(most), |last| seen(last.of(tier as u8)));
        seen(tickets) < before
    })
}

/// How likely tickets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chance {
    /// Only if nearly every hold lapses, or something comes from elsewhere.
    Slight,
    /// If more holds lapse than usual.
    Unlikely,
    /// What is free, or comes back as usual, will do.
    Likely,
}

/// What one tier looks like to those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// Free here now.
    pub available: u64,
    /// On hold here, unpaid.
    pub held: u64,
    /// Unsold elsewhere: other regions and the pool.
    pub elsewhere: u64,
    /// Holds that get paid, of a thousand; more counts as all.
    pub paid_permille: u16,
}

/// Chance of somebody before whom people want `ahead` tickets, and who wants `need`.
///
/// Likely: it fits into what is free plus half of what usually comes back. Unlikely: into twice of that, elsewhere
/// included. Never better for somebody further back.
pub fn chance(ahead: u64, need: u16, outlook: &Outlook) -> Chance {
    // In half thousandths of a ticket, and wide: whole numbers, so that equal questions get equal answers everywhere.
    let tickets = |count: u64| u128::from(count) * 2_000;
    let wanted = tickets(ahead) + tickets(need.into());
    let comes_back = u128::from(outlook.held) * u128::from(1_000 - outlook.paid_permille.min(1_000));
    if wanted <= tickets(outlook.available) + comes_back {
        Chance::Likely
    } else if wanted <= tickets(outlook.available) + tickets(outlook.elsewhere) + comes_back * 4 {
        Chance::Unlikely
    } else {
        Chance::Slight
    }
}

/// The best chance over several tiers.
pub fn best_chance(need: u16, tiers: impl IntoIterator<Item = (u64, Outlook)>) -> Chance {
    tiers.into_iter().map(|(ahead, outlook)| chance(ahead, need, &outlook)).max().unwrap_or(Chance::Slight)
}

/// How many people a waiting list keeps: `factor` (at least 1) × the tickets that could still come, one ticket each, so
/// that nobody is sent away who could have been served had nobody before them lapsed.
pub fn people_kept(factor: f64, unsold_tickets: u64) -> u64 {
    // Saturates; a factor below 1 or not a number counts as 1.
    (factor.max(1.0) * unsold_tickets as f64).ceil() as u64
}

/// One point of the queue, in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub arrival_ms: u64,
    /// People undecided who arrived up to then, over all shards.
    pub people: u64,
}

/// Who arrived later than the answer is beyond the waiting list's bound; `None`: nobody is. `samples` ascend. Errs on
/// the side of keeping people: the bound is the first sample that already has all that are kept.
pub fn waitlist_bound(kept: u64, samples: &[Sample]) -> Option<u64> {
    let last = samples.last()?;
    let bound = samples.iter().find(|sample| sample.people >= kept)?;
    (bound.people < last.people).then_some(bound.arrival_ms)
}
