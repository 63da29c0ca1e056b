//! One region of a sale: intake, allocator, recycler, payments, tickets and the HTTP interfaces around them.

pub mod allocator;
pub mod app;
pub mod around;
pub mod books;
pub mod buyers;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod db;
pub mod failpoints;
pub mod folder;
pub mod generations;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod outbox;
pub mod payments;
pub mod queue;
pub mod quota;
pub mod recycler;
pub mod status;
mod sweep;
pub mod tickets;
pub mod view;
pub mod witness;
