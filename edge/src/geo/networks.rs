//! A map from networks to values with the longest match, and how many bits of an address decided it.
//!
//! The second half is what RFC 7871 needs: an answer may be cached for the network of that many bits, and for no larger one,
//! because a longer network inside it could say otherwise.

use std::net::IpAddr;

use ipnet::IpNet;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct TrieNode {
    children: [u32; 2],
    value: u32,
}

const EMPTY: TrieNode = TrieNode { children: [NONE; 2], value: NONE };

/// A binary trie for each address family.
#[derive(Clone, Debug)]
pub struct NetworkMap {
    v4: Vec<TrieNode>,
    v6: Vec<TrieNode>,
}

impl Default for NetworkMap {
    fn default() -> Self {
        Self { v4: vec![EMPTY], v6: vec![EMPTY] }
    }
}

impl NetworkMap {
    /// Puts a network in; the same one again replaces the value. `value` is below `u32::MAX`.
    pub fn insert(&mut self, network: IpNet, value: u32) {
        let (nodes, bits) = match network {
            IpNet::V4(n) => (&mut self.v4, u128::from(n.network().to_bits()) << 96),
            IpNet::V6(n) => (&mut self.v6, n.network().to_bits()),
        };
        let mut at = 0usize;
        for depth in 0..network.prefix_len() {
            let bit = (bits >> (127 - depth)) as usize & 1;
            let next = nodes[at].children[bit];
            at = if next == NONE {
                let new = nodes.len();
                nodes[at].children[bit] = new as u32;
                nodes.push(EMPTY);
                new
            } else {
                next as usize
            };
        }
        nodes[at].value = value;
    }

    /// The longest match and its prefix length, if any, and the bits that decided.
    pub fn find(&self, address: IpAddr) -> (Option<(u32, u8)>, u8) {
        let (nodes, bits, width) = match address {
            IpAddr::V4(a) => (&self.v4, u128::from(a.to_bits()) << 96, 32u8),
            IpAddr::V6(a) => (&self.v6, a.to_bits(), 128),
        };
        let (mut at, mut found) = (0usize, None);
        for depth in 0..=width {
            let node = nodes[at];
            if node.value != NONE {
                found = Some((node.value, depth));
            }
            if node.children == [NONE; 2] || depth == width {
                return (found, depth);
            }
            let next = node.children[(bits >> (127 - depth)) as usize & 1];
            if next == NONE {
                // The other side goes on, this one does not: one bit more tells them apart.
                return (found, depth + 1);
            }
            at = next as usize;
        }
        (found, width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(networks: &[&str]) -> NetworkMap {
        let mut map = NetworkMap::default();
        for (i, network) in networks.iter().enumerate() {
            map.insert(network.parse().unwrap(), i as u32);
        }
        map
    }

    #[test]
    fn longest_match_and_deciding_bits() {
        let map = map(&["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"]);
        let find = |a: &str| map.find(a.parse().unwrap());
        assert_eq!(find("10.1.2.3"), (Some((1, 16)), 16));
        assert_eq!(find("10.0.2.3"), (Some((0, 8)), 16), "10.0/16 differs from 10.1/16 in the sixteenth bit");
        assert_eq!(find("10.128.0.0"), (Some((0, 8)), 9));
        assert_eq!(find("192.0.2.1"), (None, 1));
        assert_eq!(find("2001:db8::1"), (Some((2, 32)), 32));
        assert_eq!(NetworkMap::default().find("192.0.2.1".parse().unwrap()), (None, 0));
    }

    proptest! {
        /// Every address that shares the deciding bits gets the same answer: what a cache relies on.
        #[test]
        fn invariant_scope_covers_one_answer(
            networks in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..30),
            address: u32, other: u32,
        ) {
            let mut map = NetworkMap::default();
            for (i, (base, len)) in networks.iter().enumerate() {
                map.insert(ipnet::Ipv4Net::new((*base).into(), *len).unwrap().trunc().into(), i as u32);
            }
            let ask = |bits: u32| map.find(IpAddr::V4(bits.into()));
            let (found, scope) = ask(address);
            let mask = u32::MAX.checked_shl(32 - u32::from(scope)).unwrap_or(0);
            let neighbour = (address & mask) | (other & !mask);
            prop_assert_eq!(ask(neighbour), (found, scope));
        }
    }
}
