//! A region under arbiters: its database as the holder of the quota protocol, and its talk with the arbiters.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod arbiter;
mod bad_days;
mod certificates;
mod conformance;
mod crash_points;
mod operators;
mod region;
mod sql;
mod talk;
