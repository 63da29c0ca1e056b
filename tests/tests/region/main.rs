//! A real region node against what it will meet: bad input, strangers, clocks that jump, a cluster that moves, people
//! who repeat themselves. Every test starts a region of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod access;
mod bad_days;
mod bad_input;
mod buyers;
mod clocks;
mod cluster;
mod connections;
mod described;
mod endpoints;
mod ground;
mod repeats;
mod secrets;
mod wire;
