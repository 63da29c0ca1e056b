//! Which region a network gets, and why.
//!
//! Two pure steps: `rank` orders the regions by what is fixed (network, place, operator, configuration), `pick` walks that
//! order by what changes (health, drains, hand-overs). Every answer and every explanation comes from these same two
//! functions, so an explanation cannot say anything else than what was answered.

mod explain;
mod pick;
mod policy;
mod private;
mod rank;

pub use explain::{Explanation, Step, explain};
pub use pick::{Handover, Pick, PickWhy, RegionLive, pick};
pub use policy::{Policy, PolicyError, RegionPolicy};
pub use private::unplaced;
pub use rank::{Client, Ranked, Ranking, Why, rank};

/// A region, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionIdx(pub u8);

impl RegionIdx {
    /// As an index into lists that have one entry for each region.
    pub fn at(self) -> usize {
        usize::from(self.0)
    }
}
