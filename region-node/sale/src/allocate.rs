//! Decides a batch of reservations, in the order in which they arrived, against the stock at hand.
//!
//! Rejections have a fixed precedence: a limit first (it is true whatever the stock), then a hold if there is one, then
//! the certain no, then waiting. Nobody ever gets more than asked for, and nobody overtakes within a tier: whoever comes
//! first and fits is served first. Must never hold more than the stock that it was given.

use crate::early_no;
use smallvec::SmallVec;
use std::collections::HashMap;

/// Tiers that a reservation names, in order of preference.
pub type Tiers = SmallVec<[u8; 8]>;

/// One reservation to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Whose: keyed hash of the user. Twice in a batch, the earlier hold counts against the later one.
    pub user: [u8; 16],
    /// Hashed identity where the concert asks for one. Twice in a batch, the earlier hold counts against the later one.
    pub identity: Option<[u8; 16]>,
    /// Tickets asked for, 1..=max_per_order (a lower limit may have come since).
    pub quantity: u16,
    /// Tiers in order of preference, each once.
    pub tiers: Tiers,
    /// Down to one ticket is welcome.
    pub any_quantity: bool,
    /// Tickets that this user already has, sold, in this concert.
    pub owned_by_user: u16,
    /// Tickets held or sold for this identity; 0 where the concert asks for none.
    pub owned_by_identity: u16,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Held: so many tickets of that tier.
    Hold {
        /// The tier.
        tier: u8,
        /// Tickets, 1..=quantity.
        quantity: u16,
    },
    /// Nothing that it wants is there now; it waits in order of arrival.
    Wait,
    /// Over a limit whatever the stock.
    RejectLimit,
    /// No tier that it names can ever serve it.
    RejectSoldOut,
}

/// A concert's limits, in tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In one order.
    pub per_order: u16,
    /// Of one user over all orders.
    pub per_person: u16,
    /// Of one identity over all users; `None`: no identity is asked for.
    pub per_identity: Option<u16>,
}

impl Limits {
    /// Tickets that somebody may still have in one more order.
    pub fn room(&self, owned_by_user: u16, owned_by_identity: u16) -> u16 {
        let person = self.per_person.saturating_sub(owned_by_user);
        let identity = self.per_identity.map_or(u16::MAX, |most| most.saturating_sub(owned_by_identity));
        self.per_order.min(person).min(identity)
    }
}

/// Tickets per tier, by tier number; a tier beyond the end has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock(SmallVec<[u64; 8]>);

impl Stock {
    /// Tickets of tier 0, 1, 2, …
    pub fn new(tickets: impl IntoIterator<Item = u64>) -> Stock {
        Stock(tickets.into_iter().collect())
    }
    /// Tickets of that tier.
    pub fn of(&self, tier: u8) -> u64 {
        self.0.get(usize::from(tier)).copied().unwrap_or(0)
    }
    /// All tickets.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
    /// Whether no tier has any.
    pub fn is_dry(&self) -> bool {
        self.0.iter().all(|&tickets| tickets == 0)
    }
    /// Tickets per tier.
    pub fn tiers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
    fn take(&mut self, tier: u8, quantity: u16) {
        let tickets = &mut self.0[usize::from(tier)];
        // Guards quota: `choose` has just seen that many; anything else is a defect that must not reach the books.
        assert!(*tickets >= u64::from(quantity), "tier {tier} has {tickets}, asked to hold {quantity}");
        *tickets -= u64::from(quantity);
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// One for each candidate from the front; the rest, when every tier was dry before them, stays undecided.
    pub decisions: Vec<Decision>,
    /// Stock afterwards.
    pub left: Stock,
}

impl Allocation {
    /// How many candidates were decided before every tier was dry.
    pub fn taken(&self) -> usize {
        self.decisions.len()
    }
}

/// Decides candidates in their order until every tier is dry.
///
/// `available` is what may be held now; `unsold` what could still come, anywhere, unpaid holds included (so never less
/// than `available`); `None` when that is not known, then nobody is told a certain no.
pub fn allocate(limits: &Limits, available: &Stock, unsold: Option<&Stock>, candidates: &[Candidate]) -> Allocation {
    let mut left = available.clone();
    let mut left_total = left.total();
    let mut decisions = Vec::with_capacity(candidates.len());
    let mut held_by_user: HashMap<[u8; 16], u16> = HashMap::new();
    let mut held_by_identity: HashMap<[u8; 16], u16> = HashMap::new();
    for candidate in candidates {
        if left_total == 0 {
            break;
        }
        let earlier = |held: &HashMap<[u8; 16], u16>, key: &[u8; 16]| held.get(key).copied().unwrap_or(0);
        let by_user = candidate.owned_by_user.saturating_add(earlier(&held_by_user, &candidate.user));
        let by_identity = candidate.identity.map_or(0, |identity| earlier(&held_by_identity, &identity));
        let by_identity = candidate.owned_by_identity.saturating_add(by_identity);
        let decision = decide(candidate, limits.room(by_user, by_identity), &left, unsold);
        if let Decision::Hold { tier, quantity } = decision {
            left.take(tier, quantity);
            left_total -= u64::from(quantity);
            *held_by_user.entry(candidate.user).or_default() += quantity;
            if let Some(identity) = candidate.identity {
                *held_by_identity.entry(identity).or_default() += quantity;
            }
        }
        decisions.push(decision);
    }
    Allocation { decisions, left }
}

/// Decides one candidate that may have `room` more tickets.
fn decide(candidate: &Candidate, room: u16, left: &Stock, unsold: Option<&Stock>) -> Decision {
    let wanted = if candidate.any_quantity { candidate.quantity.min(room) } else { candidate.quantity };
    if wanted == 0 || wanted > room {
        return Decision::RejectLimit;
    }
    for &tier in &candidate.tiers {
        let there = left.of(tier);
        if there >= u64::from(wanted) {
            return Decision::Hold { tier, quantity: wanted };
        }
        // The preferred tier wins over the larger number: whoever says "any" cares more where than how many.
        if candidate.any_quantity && there >= 1 {
            return Decision::Hold { tier, quantity: there as u16 };
        }
    }
    match unsold {
        Some(unsold) if early_no::certain_no(&candidate.tiers, candidate.quantity, candidate.any_quantity, unsold) => {
            Decision::RejectSoldOut
        }
        _ => Decision::Wait,
    }
}
