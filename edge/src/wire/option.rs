//! EDNS options of a query: client subnet (RFC 7871), cookie (RFC 7873), NSID (RFC 5001), TCP keepalive (RFC 7828).
//!
//! An option that the RFCs call malformed makes the whole query malformed; an unknown one is passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Option codes (IANA registry "DNS EDNS0 option codes").
pub(crate) mod code {
    pub(crate) const NSID: u16 = 3;
    pub(crate) const CLIENT_SUBNET: u16 = 8;
    pub(crate) const COOKIE: u16 = 10;
    pub(crate) const TCP_KEEPALIVE: u16 = 11;
}

/// The client's network as a resolver reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSubnet {
    /// First address of the network: bits past the prefix are zero.
    pub address: IpAddr,
    /// Bits of `address` that mean something. 0: the resolver asks that nothing be made of it.
    pub source_prefix: u8,
    /// The family field as sent: 0 is legal only with a prefix of 0, and is echoed.
    pub family: u16,
}

/// A cookie option: the client's half, and the server's half if the client has one from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCookie<'a> {
    /// The client's eight octets.
    pub client: [u8; 8],
    /// The server's cookie as the client remembers it, 8 to 32 octets; empty when it has none.
    pub server: &'a [u8],
}

/// The OPT record of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edns<'a> {
    /// What the client can take over UDP, in bytes, as sent.
    pub udp_size_bytes: u16,
    /// EDNS version; above 0 the answer is BADVERS.
    pub version: u8,
    /// DNSSEC OK: copied into the answer.
    pub dnssec_ok: bool,
    /// The client's network.
    pub subnet: Option<ClientSubnet>,
    /// The client's cookie.
    pub cookie: Option<ClientCookie<'a>>,
    /// The client asks for the server's identifier.
    pub nsid: bool,
    /// The client asks how long a TCP connection may stay idle.
    pub keepalive: bool,
}

/// What is wrong with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// An option runs past the end of the record.
    #[error("an option runs past the end of the OPT record")]
    Length,
    /// The client subnet is not as RFC 7871 §6 wants it.
    #[error("malformed client subnet")]
    ClientSubnet,
    /// A cookie has neither 8 nor 16 to 40 octets (RFC 7873 §5.2.2).
    #[error("malformed cookie")]
    Cookie,
    /// NSID in a query is empty (RFC 5001 §2.1), and so is keepalive (RFC 7828 §3.2.1).
    #[error("an option that must be empty is not")]
    NotEmpty,
}

impl<'a> Edns<'a> {
    /// Reads the options of an OPT record into `self`. Of several client subnets the last counts (as with gdnsd).
    pub(crate) fn read_options(&mut self, mut rest: &'a [u8]) -> Result<(), OptionError> {
        while !rest.is_empty() {
            let [code_high, code_low, len_high, len_low, tail @ ..] = rest else { return Err(OptionError::Length) };
            let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
            let data = tail.get(..len).ok_or(OptionError::Length)?;
            rest = &tail[len..];
            match u16::from_be_bytes([*code_high, *code_low]) {
                code::CLIENT_SUBNET => self.subnet = Some(read_subnet(data)?),
                // RFC 7873 §5.2: of several cookies all but the first are passed over.
                code::COOKIE if self.cookie.is_none() => self.cookie = Some(read_cookie(data)?),
                code::NSID => self.nsid = true,
                code::TCP_KEEPALIVE if data.is_empty() => self.keepalive = true,
                code::TCP_KEEPALIVE => return Err(OptionError::NotEmpty),
                _ => {}
            }
        }
        Ok(())
    }
}

/// RFC 7871 §6: the family is 1 or 2, exactly as many address octets as the prefix needs, bits past it and the scope zero.
fn read_subnet(data: &[u8]) -> Result<ClientSubnet, OptionError> {
    let [family_high, family_low, source_prefix, scope, address @ ..] = data else {
        return Err(OptionError::ClientSubnet);
    };
    let (source_prefix, family) = (*source_prefix, u16::from_be_bytes([*family_high, *family_low]));
    let bits_max = match family {
        1 => 32,
        2 => 128,
        // An option that is all zero, as `dig +subnet=0` sends it, asks to be left out of the choice; it has no address.
        0 => 0,
        _ => return Err(OptionError::ClientSubnet),
    };
    if *scope != 0 || source_prefix > bits_max || address.len() != usize::from(source_prefix).div_ceil(8) {
        return Err(OptionError::ClientSubnet);
    }
    let spare_bits = (8 - source_prefix % 8) % 8;
    if address.last().is_some_and(|last| last & ((1u16 << spare_bits) - 1) as u8 != 0) {
        return Err(OptionError::ClientSubnet);
    }
    let address = if family == 2 {
        let mut octets = [0u8; 16];
        octets[..address.len()].copy_from_slice(address);
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        let mut octets = [0u8; 4];
        octets[..address.len()].copy_from_slice(address);
        IpAddr::V4(Ipv4Addr::from(octets))
    };
    Ok(ClientSubnet { address, source_prefix, family })
}

fn read_cookie(data: &[u8]) -> Result<ClientCookie<'_>, OptionError> {
    if data.len() != 8 && !(16..=40).contains(&data.len()) {
        return Err(OptionError::Cookie);
    }
    let (client, server) = data.split_first_chunk::<8>().ok_or(OptionError::Cookie)?;
    Ok(ClientCookie { client: *client, server })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(data: &[u8]) -> Result<(String, u8), OptionError> {
        read_subnet(data).map(|s| (s.address.to_string(), s.source_prefix))
    }

    #[test]
    fn client_subnet_is_read_to_the_letter() {
        assert_eq!(subnet(&[0, 1, 24, 0, 192, 0, 2]), Ok(("192.0.2.0".to_owned(), 24)));
        assert_eq!(subnet(&[0, 1, 20, 0, 192, 0, 0x20]), Ok(("192.0.32.0".to_owned(), 20)));
        assert_eq!(subnet(&[0, 2, 32, 0, 0x20, 1, 0xd, 0xb8]), Ok(("2001:db8::".to_owned(), 32)));
        assert_eq!(subnet(&[0, 1, 0, 0]), Ok(("0.0.0.0".to_owned(), 0)));
        assert_eq!(subnet(&[0, 0, 0, 0]), Ok(("0.0.0.0".to_owned(), 0)));
        for bad in [
            &[0, 1, 24][..],                 // too short
            &[0, 1, 24, 0, 192, 0],          // an octet too few
            &[0, 1, 24, 0, 192, 0, 2, 0],    // an octet too many
            &[0, 1, 20, 0, 192, 0, 0x21],    // a bit past the prefix
            &[0, 1, 33, 0, 192, 0, 2, 1, 0], // over 32 bits
            &[0, 3, 8, 0, 1],                // unknown family
            &[0, 3, 0, 0],                   // unknown family, no address
            &[0, 0, 8, 0, 1],                // no family, yet an address
            &[0, 1, 24, 24, 192, 0, 2],      // a scope in a query
        ] {
            assert_eq!(subnet(bad), Err(OptionError::ClientSubnet), "{bad:?}");
        }
    }

    #[test]
    fn cookies_have_8_or_16_to_40_octets() {
        for len in 0..64 {
            let ok = len == 8 || (16..=40).contains(&len);
            assert_eq!(read_cookie(&vec![7; len]).is_ok(), ok, "{len}");
        }
    }
}
