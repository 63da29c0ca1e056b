//! Several regions and the arbiters between them: real servers, real buyers, networks that are cut, and the books of all
//! judged after each case.
//!
//! Each test starts a whole cluster, so they take turns: side by side they would measure each other.

#![allow(missing_docs, clippy::unwrap_used)]

mod certificates;
mod commands;
mod faults;
mod growth;
mod loss;
mod moves;
mod recovery;
mod support;
