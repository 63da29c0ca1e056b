//! Raft, as a pure driver around raft-rs: messages, ticks and proposals go in; what has to be made durable, what has to
//! be sent and what was committed come out. Nothing here touches a disk, a socket or a clock, so the same code runs in
//! production and, on virtual time, in the simulation.

mod driver;
mod logger;
mod members;
mod mirror;
mod plausible;
#[cfg(test)]
mod tests;

pub use driver::{Acknowledged, At, Committed, Driver, Output, ProposalId, ProposeRefused, Settings, Stopped, Work};
pub use members::{Membership, MembershipRefused};
/// The messages between arbiters, as raft-rs defines them.
pub use raft::eraftpb::Message;

/// The replicated state machine.
pub trait Machine {
    /// What applying an entry says.
    type Applied;
    /// Why an entry cannot be applied; the node stops.
    type Unknown: std::error::Error + Send + Sync + 'static;
    /// Why a snapshot cannot be taken in; the node stops.
    type BadSnapshot: std::error::Error + Send + Sync + 'static;

    /// Applies one committed entry.
    ///
    /// # Errors
    /// When it is not understood; the state has not changed then.
    fn apply(&mut self, entry: &[u8]) -> Result<Self::Applied, Self::Unknown>;

    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state.
    ///
    /// # Errors
    /// When the snapshot is not understood; the state has not changed then.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Self::BadSnapshot>;
}
