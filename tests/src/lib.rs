//! What tests of several crates share. The tests themselves are in `tests/`, named after what must hold.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod region;
