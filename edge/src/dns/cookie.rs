//! Server cookies (RFC 7873, made as RFC 9018 §4 says): a client that returns ours has shown that its address is real.
//!
//! Pure: the time is an argument. Edges that share the secrets accept each other's cookies.

use std::hash::Hasher;
use std::net::IpAddr;
use std::path::Path;

use siphasher::sip::SipHasher24;

/// RFC 9018 §4.3: cookies live an hour, and may be five minutes ahead of our clock.
const LIFE_S: i32 = 3600;
const AHEAD_S: i32 = 300;

/// Why secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CookieError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// A line is not 32 hexadecimal digits, or there is none.
    #[error("{0}: expected lines of 32 hexadecimal digits, newest secret first")]
    Shape(String),
}

/// Secrets, newest first: the first makes cookies, all of them accept.
#[derive(Clone)]
pub struct CookieSecrets(Vec<[u8; 16]>);

impl std::fmt::Debug for CookieSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CookieSecrets({} of them)", self.0.len())
    }
}

impl CookieSecrets {
    /// One secret.
    pub fn new(secret: [u8; 16]) -> Self {
        Self(vec![secret])
    }

    /// Reads a file of secrets.
    ///
    /// # Errors
    /// [`CookieError`]; the secret itself is never part of the message.
    pub fn open(path: &Path) -> Result<Self, CookieError> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| CookieError::Io(place.clone(), e))?;
        let secret =
            |line: &str| u128::from_str_radix(line, 16).ok().filter(|_| line.len() == 32).map(u128::to_be_bytes);
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        let secrets: Option<Vec<_>> = lines.map(secret).collect();
        secrets.filter(|s| !s.is_empty()).map(Self).ok_or(CookieError::Shape(place))
    }

    /// The server cookie for a client: version, time, hash.
    pub fn make(&self, client: [u8; 8], address: IpAddr, now_s: u32) -> [u8; 16] {
        let secret = self.0.first().copied().unwrap_or_default();
        let mut cookie = [0; 16];
        cookie[0] = 1;
        cookie[4..8].copy_from_slice(&now_s.to_be_bytes());
        let hash = hash(secret, client, &cookie[..8], address);
        cookie[8..].copy_from_slice(&hash);
        cookie
    }

    /// True when `server` was made here (or by an edge with the same secrets) for this client, not too long ago.
    pub fn is_valid(&self, client: [u8; 8], server: &[u8], address: IpAddr, now_s: u32) -> bool {
        let Some((head, sent)) = server.split_first_chunk::<8>() else { return false };
        let made_s = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        // Serial arithmetic: the clock's 32 bits may wrap (RFC 9018 §4.3).
        let age_s = now_s.wrapping_sub(made_s) as i32;
        if head[0] != 1 || sent.len() != 8 || !(-AHEAD_S..=LIFE_S).contains(&age_s) {
            return false;
        }
        // A plain comparison: SipHash's 64 bits over a network cannot be guessed octet by octet within the hour.
        self.0.iter().any(|secret| hash(*secret, client, head, address) == sent)
    }
}

fn hash(secret: [u8; 16], client: [u8; 8], head: &[u8], address: IpAddr) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(&secret);
    hasher.write(&client);
    hasher.write(head);
    match address {
        IpAddr::V4(a) => hasher.write(&a.octets()),
        IpAddr::V6(a) => hasher.write(&a.octets()),
    }
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(hex: &str) -> CookieSecrets {
        CookieSecrets::new(u128::from_str_radix(hex, 16).unwrap().to_be_bytes())
    }

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    /// RFC 9018 appendix A.1 and A.2: a resolver learns a cookie, and an old one is renewed.
    #[test]
    fn makes_the_cookies_of_the_rfc() {
        let secrets = secret("e5e973e5a6b2a43f48e7dc849e37bfcf");
        let client = octets("2464c4abcf10c957");
        let address = "198.51.100.100".parse().unwrap();
        assert_eq!(secrets.make(client, address, 1_559_731_985), octets("010000005cf79f111f8130c3eee29480"));
        let server: [u8; 16] = octets("010000005cf79f111f8130c3eee29480");
        assert!(secrets.is_valid(client, &server, address, 1_559_734_385));
        assert!(!secrets.is_valid(client, &server, address, 1_559_731_985 + 3601), "over an hour old");
        assert!(secrets.is_valid(client, &server, address, 1_559_731_985 - 300));
        assert!(!secrets.is_valid(client, &server, address, 1_559_731_985 - 301), "from the future");
        assert!(!secrets.is_valid(client, &server, "198.51.100.101".parse().unwrap(), 1_559_734_385));
        assert!(!secrets.is_valid(octets("2464c4abcf10c958"), &server, address, 1_559_734_385));
    }

    /// RFC 9018 appendix A.4: the secret rolls over, over IPv6.
    #[test]
    fn accepts_the_secret_before() {
        let address: IpAddr = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        let client = octets("22681ab97d52c298");
        let old: [u8; 16] = octets("010000005cf7c57926556bd0934c72f8");
        let both =
            CookieSecrets(vec![octets("445536bcd2513298075a5d379663c962"), octets("dd3bdf9344b678b185a6f5cb60fca715")]);
        assert!(both.is_valid(client, &old, address, 1_559_741_961));
        assert_eq!(both.make(client, address, 1_559_741_961), octets("010000005cf7c609a6bb79d16625507a"));
    }

    #[test]
    fn secrets_come_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        std::fs::write(&path, "e5e973e5a6b2a43f48e7dc849e37bfcf\n\n445536bcd2513298075a5d379663c962\n").unwrap();
        assert_eq!(CookieSecrets::open(&path).unwrap().0.len(), 2);
        for bad in ["", "e5e973", "+5e973e5a6b2a43f48e7dc849e37bfcfx"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(CookieSecrets::open(&path), Err(CookieError::Shape(_))), "{bad}");
        }
    }
}
