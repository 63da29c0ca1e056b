//! Which part of a local cluster listens where. Nothing outside 127.0.0.0/8, one address per machine that it stands for.

use region_api::RegionName;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// The regions that a local cluster can have, in the order in which they are added.
pub const REGIONS: [&str; 3] = ["east", "west", "south"];

/// Where the sandbox payment provider listens.
pub const SANDBOX: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 41, 1), 8090);

/// Where one region's servers listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionLayout {
    /// Its name.
    pub region: RegionName,
    /// Its address.
    pub address: Ipv4Addr,
}

impl RegionLayout {
    /// The first `count` regions.
    pub fn first(count: usize) -> Vec<Self> {
        let named = REGIONS.iter().zip(11..).take(count);
        named
            .filter_map(|(name, number)| {
                Some(Self { region: RegionName::new(name).ok()?, address: Ipv4Addr::new(127, 0, number, 1) })
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
    }
}
