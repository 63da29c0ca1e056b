//! Loopback addresses and ports that no other process picks at the same moment.

use super::LocalError;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

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

/// A port that was free on `address` a moment ago, and that this process was not given before: what was to have the
/// earlier one may not listen on it yet.
pub fn free_port(address: Ipv4Addr) -> Result<u16, LocalError> {
    static GIVEN: Mutex<BTreeSet<(Ipv4Addr, u16)>> = Mutex::new(BTreeSet::new());
    loop {
        let listener =
            TcpListener::bind((address, 0)).map_err(LocalError::io(format!("binding a port on {address}")))?;
        let port = listener.local_addr().map_err(LocalError::io("reading the bound port"))?.port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert((address, port)) {
            return Ok(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_address_is_loopback_and_outside_the_cluster_s_addresses() {
        let address = own_address();
        assert!(address.is_loopback());
        assert!((64..128).contains(&address.octets()[1]));
        let ports: BTreeSet<u16> = (0..300).map(|_| free_port(address).unwrap()).collect();
        assert!(ports.len() == 300 && !ports.contains(&0));
        let [first, second, third] = own_addresses();
        assert!(first == address && first != second && second != third && first != third);
        assert!([second, third].iter().all(|other| other.is_loopback() && other.octets()[1] >= 128));
    }
}
