//! Which part of a local cluster listens where. Nothing outside 127.0.0.0/8, one address per machine that it stands for.

use super::node_config::Room;
use region_api::RegionName;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// The regions that a local cluster can have, in the order in which they are added.
pub const REGIONS: [&str; 3] = ["east", "west", "south"];

/// Where the sandbox payment provider listens.
pub const SANDBOX: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 41, 1), 8090);

/// Where the edges listen, DNS and operators alike: two name servers, so that one may die.
pub const EDGES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 31, 1), Ipv4Addr::new(127, 0, 32, 1)];

/// What each region takes: three of them on one machine of four cores accept more than this together, so the edges begin to
/// move people before anybody is refused. A million waiting are 200 MB of its Redis.
pub const ROOM: Room = Room { capacity_per_s: 2_000.0, queue_max: 1_000_000 };

/// The zone of a local cluster; its own name is the sale's.
pub const ZONE: &str = "tickets.example";

/// Where each of [`REGIONS`] stands for the choice by distance, in degrees: Frankfurt, Virginia, São Paulo.
const POSITIONS: [[f64; 2]; 3] = [[50.1, 8.7], [39.0, -77.5], [-23.5, -46.6]];

/// Arbiters of a local cluster: three, so that one may die.
const ARBITERS: std::ops::RangeInclusive<u8> = 1..=3;

/// Where one arbiter listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArbiterLayout {
    /// Its raft id.
    pub id: u64,
    /// Its address.
    pub address: Ipv4Addr,
}

impl ArbiterLayout {
    /// All of them.
    pub fn all() -> Vec<Self> {
        ARBITERS.map(|id| Self { id: id.into(), address: Ipv4Addr::new(127, 0, 20 + id, 1) }).collect()
    }

    /// Its part of the state folder, and the name in its certificate.
    pub fn name(&self) -> String {
        format!("arbiter-{}", self.id)
    }

    /// For regions, arbiters and operators' programs.
    pub fn machines(&self) -> SocketAddr {
        (self.address, 7400).into()
    }

    /// For people.
    pub fn people(&self) -> SocketAddr {
        (self.address, 9080).into()
    }
}

/// Where one edge listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLayout {
    /// Its name.
    pub edge: String,
    /// Its address.
    pub address: Ipv4Addr,
}

impl EdgeLayout {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let named = EDGES.iter().zip(1..);
        named.map(|(address, number)| Self { edge: format!("edge-{number}"), address: *address }).collect()
    }

    /// DNS, over UDP and TCP.
    pub fn dns(&self) -> SocketAddr {
        (self.address, 5353).into()
    }

    /// For operators and metrics.
    pub fn admin(&self) -> SocketAddr {
        (self.address, 9080).into()
    }
}

/// Where one region's servers listen.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionLayout {
    /// Its name.
    pub region: RegionName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where it stands on earth: latitude and longitude in degrees.
    pub position: [f64; 2],
}

impl RegionLayout {
    /// The first `count` regions.
    pub fn first(count: usize) -> Vec<Self> {
        let named = REGIONS.iter().zip(POSITIONS).zip(11..).take(count);
        named
            .filter_map(|((name, position), number)| {
                let address = Ipv4Addr::new(127, 0, number, 1);
                Some(Self { region: RegionName::new(name).ok()?, address, position })
            })
            .collect()
    }

    /// For buyers.
    pub fn public(&self) -> SocketAddr {
        (self.address, 8080).into()
    }

    /// For operators and metrics.
    pub fn admin(&self) -> SocketAddr {
        (self.address, 9080).into()
    }

    /// Its database.
    pub fn postgres(&self) -> SocketAddr {
        (self.address, 5432).into()
    }

    /// Its queue.
    pub fn redis(&self) -> SocketAddr {
        (self.address, 6379).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_the_documented_addresses() {
        let all: Vec<String> = RegionLayout::first(3)
            .iter()
            .map(|region| format!("{} {} {}", region.region, region.public(), region.admin()))
            .collect();
        assert_eq!(
            all,
            [
                "east 127.0.11.1:8080 127.0.11.1:9080",
                "west 127.0.12.1:8080 127.0.12.1:9080",
                "south 127.0.13.1:8080 127.0.13.1:9080"
            ]
        );
        assert_eq!(SANDBOX.to_string(), "127.0.41.1:8090");
        let edges: Vec<String> =
            EdgeLayout::all().iter().map(|edge| format!("{} {} {}", edge.edge, edge.dns(), edge.admin())).collect();
        assert_eq!(edges, ["edge-1 127.0.31.1:5353 127.0.31.1:9080", "edge-2 127.0.32.1:5353 127.0.32.1:9080"]);
        let arbiters: Vec<String> =
            ArbiterLayout::all().iter().map(|a| format!("{} {} {}", a.name(), a.machines(), a.people())).collect();
        assert_eq!(
            arbiters,
            [
                "arbiter-1 127.0.21.1:7400 127.0.21.1:9080",
                "arbiter-2 127.0.22.1:7400 127.0.22.1:9080",
                "arbiter-3 127.0.23.1:7400 127.0.23.1:9080"
            ]
        );
    }
}
