//! Other people's name servers with the same zone and the same networks, to test and measure against: gdnsd and Knot.
//!
//! Never part of serving: tests (which also wait with `until`) and `ops bench dns` use it. A server started here listens on loopback, in a folder of its
//! own, and ends when its value is dropped.

mod bench;
mod load;
mod peers;
mod wait;

pub use bench::{BenchError, BenchLine, BenchPlan, run_bench};
pub use load::{LoadResult, blast};
pub use peers::{Peer, PeerError, PeerPlan, cpu_seconds, free_address, free_port, nets};
pub use wait::until;
