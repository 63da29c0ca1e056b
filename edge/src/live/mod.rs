//! What changes: health, load and stock of the regions, the operator's drains, hand-overs between regions.
//!
//! `health` and `spill` are pure state machines; `board` holds them together, pure as well: time comes in as an argument.
//! `drains` is the one part that touches the disk; `watch` is the shell: one task for each region asks, one task owns the board.
//! `door` keeps HAProxy in step, where one runs beside this edge.

mod board;
mod door;
mod drains;
mod health;
mod report;
mod spill;
mod watch;

pub use board::{Board, RegionView};
pub use door::Door;
pub use drains::{DrainError, Drains};
pub use health::{Damping, Health, HealthState};
pub use report::{Report, ReportError, StatusMeter};
pub use spill::{Load, Spill, SpillRules};
pub use watch::{BoardHandle, WatchError, spawn as spawn_watch};
