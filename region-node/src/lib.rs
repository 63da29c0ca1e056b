//! One region of a sale: intake, allocator, recycler, payments, tickets and the HTTP interfaces around them.

pub mod clock;
pub mod config;
pub mod db;
pub mod failpoints;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod payments;
pub mod queue;
pub mod tickets;
