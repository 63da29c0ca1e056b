//! A region under arbiters: how its database stands with them, and the task that keeps it so.
//!
//! - [`standing`]: what every task of this node may know of it, read from memory.
//! - `sync`: the task; `link`: its HTTPS; `demand`, `spare`: what it reports and returns; `concerts`: what it carries over.
//!
//! What must hold for the tickets is in `db::holder` and `db::book`, and in the crate `quota-protocol`. A standalone region has
//! a [`Standing`] too, which says that nobody has to be asked.

mod concerts;
mod demand;
mod limits;
mod link;
mod spare;
pub mod standing;
mod sync;

pub use standing::Standing;
pub use sync::{Parts, run};
