//! What may be sold to whom: allocation of a batch, the reservation lifecycle, limits, late payments, certain noes.
//!
//! Pure: no tokio, no clock, no randomness, no I/O. Times come in as milliseconds since 1970.

pub mod again;
pub mod allocate;
pub mod early_no;
pub mod invariants;
pub mod lifecycle;
pub mod limits;
pub mod pace;
pub mod payment;
