//! The edge in front of real regions: where people are sent, what happens to them there, and what happens when a region
//! or a node of it dies.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod countries;
mod dual;
mod haproxy;
mod spill;
mod world;
