//! The quota protocol: how unsold tickets move between regions without one of them being sold twice.
//!
//! One *pool* is one tier of one concert. The [`issuer`] (the arbiter's replicated state) owns what nobody holds, a
//! [`holder`] (one region's database) owns what it was granted, and only cumulative counters travel between them, so a
//! message may be lost, doubled, delayed or reordered. [`invariant`] says what must always hold; [`policy`] decides
//! which moves are worth making.
//!
//! This crate is pure: no clock, no randomness, no I/O, no runtime. Times, identities and epochs come in as arguments,
//! and what has to happen outside comes back as values of closed enums.

#[macro_use]
mod mutant;

pub mod autonomy;
pub mod command;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod counters;
pub mod holder;
pub mod ids;
pub mod invariant;
pub mod issuer;
pub mod limits;
pub mod message;
pub mod policy;
pub mod sold_out;
pub mod wire;

#[cfg(test)]
mod model;

pub use command::{Command, Outcome};
pub use counters::{Counters, Tickets};
pub use holder::{Action, Done, Holder, Refused};
pub use ids::{ConcertId, Epoch, Identity, Incarnation, OrderId, PoolId, RegionId, TierId};
pub use issuer::Issuer;
pub use message::{Answer, ArbitersBehind, Register, Registered, Report};
pub use policy::plan;
