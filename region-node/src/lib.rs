//! One region of a sale: intake, allocator, recycler, payments, tickets and the HTTP interfaces around them.

pub mod queue;
