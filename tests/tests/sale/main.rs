//! Whole sales: real buyers over HTTP, real PostgreSQL, Redis, provider and nodes, and the books judged in the end.
//!
//! Every test has a stage of its own, so they may run side by side and break what they like.

#![allow(missing_docs, clippy::unwrap_used)]

mod corruptions;
mod crash_points;
mod kills;
mod ordinary;
mod support;
