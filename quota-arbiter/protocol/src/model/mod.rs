//! The exhaustive model: every state that the crate's own issuer and holders can reach together, within bounds, over a
//! network where any message sent may arrive any number of times, in any order, or never; with crashes, failovers to a
//! synchronous standby, older backups that come back, fenced write-offs with seeded restarts, and changes of the total.
//! It drives the code that is shipped, not a copy of it, and the mutants are changes to that code.
//!
//! What it assumes of the world, because nobody can see it otherwise: a restored backup has lost no sale, or the floor
//! shows that it has; and what an operator counts after fencing is true. Every assumption is one line in `step.rs`.

mod search;
mod settle;
mod step;
mod tests;
mod world;
