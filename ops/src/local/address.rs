//! Loopback addresses and ports that no other process picks at the same moment.

use super::LocalError;
use std::net::{Ipv4Addr, TcpListener};

/// A loopback address that belongs to this process alone: a pid has at most 22 bits, and 127.64.0.0/10 has 22 free.
///
/// Two test processes that look for a free port at once could be given the same one between the look and the use;
/// with addresses of their own they cannot.
pub fn own_address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low)
}

/// Three addresses that belong to this process alone, one for each of several machines that it stands for. The first is
/// [`own_address`].
pub fn own_addresses() -> [Ipv4Addr; 3] {
    let [_, second, third, fourth] = own_address().octets();
    [64, 128, 192].map(|block| Ipv4Addr::new(127, block | (second & 0x3f), third, fourth))
}

/// A port that was free on `address` a moment ago.
pub fn free_port(address: Ipv4Addr) -> Result<u16, LocalError> {
    let listener = TcpListener::bind((address, 0)).map_err(LocalError::io(format!("binding a port on {address}")))?;
    Ok(listener.local_addr().map_err(LocalError::io("reading the bound port"))?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_address_is_loopback_and_outside_the_cluster_s_addresses() {
        let address = own_address();
        assert!(address.is_loopback());
        assert!((64..128).contains(&address.octets()[1]));
        assert!(free_port(address).unwrap() > 0);
        let [first, second, third] = own_addresses();
        assert!(first == address && first != second && second != third && first != third);
        assert!([second, third].iter().all(|other| other.is_loopback() && other.octets()[1] >= 128));
    }
}
