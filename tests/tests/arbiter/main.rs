//! The arbiters as real processes: what they serve, whom they serve, and what becomes of them when something dies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod access;
mod bodies;
mod disk;
mod faults;
mod ordinary;
mod world;
