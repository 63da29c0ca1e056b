//! Decides a batch of reservations, in the order in which they arrived, against the stock at hand.

use smallvec::SmallVec;

/// Tiers that a reservation names, in order of preference.
pub type Tiers = SmallVec<[u8; 8]>;

/// One reservation to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
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
