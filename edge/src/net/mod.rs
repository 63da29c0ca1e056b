//! Sockets: how bytes get to `dns::answer` and back. Nothing here knows what a query means.

mod stats;
mod tcp;
mod udp;

pub use stats::{Shared, Stats};
pub use tcp::TcpService;
pub use udp::UdpService;
