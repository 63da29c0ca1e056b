//! Networks that are nowhere in particular: private, shared and local ones. A client in one says nothing about its place.
//!
//! RFC 7871 §10: an authoritative server on the public Internet that is told an ADDRESS "in [RFC1918] or [RFC4193] private
//! address space, it SHOULD ignore ADDRESS and look up its answer based on the address of the Recursive Resolver", and in
//! the response "it SHOULD set SCOPE PREFIX-LENGTH to cover all of the relevant private space". The same is done for the
//! other networks in which a client can be and that are not the Internet's (RFC 6890): shared, loopback, link-local. What the operator's configuration gives a place is
//! there all the same: a company's own network may well be somewhere. What a geo database says of them counts for nothing;
//! the one that comes along has private networks in Australia.

use std::net::IpAddr;

use super::{Client, Policy};

/// Networks by RFC 6890 and its registries: "this network", private use, shared, loopback, link-local.
const V4: [(u128, u8); 7] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
];
/// The same for IPv6: loopback, unique local, link-local.
const V6: [(u128, u8); 3] = [(1, 128), (0xfc << 120, 7), (0xfe80 << 112, 10)];

const fn v4(octets: [u8; 4], prefix: u8) -> (u128, u8) {
    ((u32::from_be_bytes(octets) as u128) << 96, prefix)
}

/// Bits of the block that a network lies in as a whole, where that is no place.
fn block(client: Client) -> Option<u8> {
    let (blocks, bits) = match client.address {
        IpAddr::V4(address) => (&V4[..], u128::from(address.to_bits()) << 96),
        IpAddr::V6(address) => (&V6[..], address.to_bits()),
    };
    let inside =
        |(block, prefix): &&(u128, u8)| *prefix <= client.prefix && (bits ^ block) >> (128 - u32::from(*prefix)) == 0;
    blocks.iter().find(inside).map(|(_, prefix)| *prefix)
}

/// For a client in a network that is nowhere in particular, and that the configuration gives no place: how many bits of its
/// address the answer's scope is to have, so that it covers that block, and nothing in it that does have a place.
pub fn unplaced(policy: &Policy, client: Client) -> Option<u8> {
    let block = block(client)?;
    let (overridden, deciding) = policy.overrides.find(client.address);
    overridden.is_none().then(|| block.max(deciding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_as_the_registries_have_them() {
        let of = |network: &str| {
            let network: ipnet::IpNet = network.parse().unwrap();
            block(Client { address: network.addr(), prefix: network.prefix_len() })
        };
        for (network, bits) in [
            ("10.1.2.0/24", 8),
            ("10.0.0.0/8", 8),
            ("172.31.255.0/24", 12),
            ("192.168.0.0/16", 16),
            ("127.0.0.1/32", 8),
            ("169.254.1.0/24", 16),
            ("100.127.0.0/16", 10),
            ("0.0.0.0/8", 8),
            ("fd12:3456::/48", 7),
            ("fe80::/64", 10),
            ("::1/128", 128),
        ] {
            assert_eq!(of(network), Some(bits), "{network}");
        }
        for network in [
            "8.0.0.0/6",
            "172.32.0.0/16",
            "172.0.0.0/8",
            "192.169.0.0/16",
            "9.255.255.0/24",
            "::/64",
            "2001:db8::/32",
            "fe00::/8",
        ] {
            assert_eq!(of(network), None, "{network} is not all of one kind");
        }
    }
}
