//! Payments against a real PostgreSQL and the real sandbox provider: the decision table row by row, the provider's bad
//! days, concurrency, tickets at the door.

// A test's helpers fail by panicking, as its tests do.
#![allow(clippy::unwrap_used)]

mod bad_days;
mod door;
mod expiring;
mod money;
mod world;
