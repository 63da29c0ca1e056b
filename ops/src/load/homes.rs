//! Networks that buyers live in when they look for their region by name, and where on earth those are.
//!
//! Written down by hand from capital cities, apart from the edge's own table of countries, so that one checks the
//! other. Left out: countries about as far from one region of the local cluster as from another.

use std::net::IpAddr;

/// A network that resolvers tell name servers about, and its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Home {
    /// Country, ISO 3166-1 alpha-2.
    pub country: &'static str,
    /// First address, as text.
    network: &'static str,
    /// Latitude and longitude in degrees.
    pub position: [f64; 2],
}

const fn home(country: &'static str, network: &'static str, latitude: f64, longitude: f64) -> Home {
    Home { country, network, position: [latitude, longitude] }
}

/// All of them.
pub const HOMES: [Home; 30] = [
    home("DE", "193.99.144.0", 52.5, 13.4),
    home("FR", "194.2.0.0", 48.9, 2.4),
    home("GB", "212.58.224.0", 51.5, -0.1),
    home("IT", "213.205.32.0", 41.9, 12.5),
    home("ES", "62.36.0.0", 40.4, -3.7),
    home("PL", "62.87.128.0", 52.2, 21.0),
    home("SE", "194.71.0.0", 59.3, 18.1),
    home("TR", "78.160.0.0", 39.9, 32.9),
    home("MA", "196.200.176.0", 34.0, -6.8),
    home("NG", "41.203.64.0", 9.1, 7.4),
    home("IN", "49.36.0.0", 28.6, 77.2),
    home("JP", "126.0.0.0", 35.7, 139.7),
    home("ZA", "196.25.1.0", -25.7, 28.2),
    home("US", "8.8.8.0", 38.9, -77.0),
    home("CA", "142.150.0.0", 45.4, -75.7),
    home("MX", "189.240.0.0", 19.4, -99.1),
    home("VE", "200.3.0.0", 10.5, -66.9),
    home("CO", "186.31.0.0", 4.7, -74.1),
    home("PE", "190.42.0.0", -12.0, -77.0),
    home("AR", "200.45.0.0", -34.6, -58.4),
    home("BR", "200.160.0.0", -15.8, -47.9),
    home("CL", "181.43.0.0", -33.4, -70.7),
    home("UY", "200.40.0.0", -34.9, -56.2),
    home("PY", "181.120.0.0", -25.3, -57.6),
    home("DE", "2a02:8100::", 52.5, 13.4),
    home("FR", "2a01:c000::", 48.9, 2.4),
    home("IN", "2409:4000::", 28.6, 77.2),
    home("US", "2600:1f00::", 38.9, -77.0),
    home("CA", "2605:8d80::", 45.4, -75.7),
    home("BR", "2804:14c::", -15.8, -47.9),
];

impl Home {
    /// The network as a resolver names it: what it may say without giving a household away (RFC 7871 §11.1).
    pub fn network(&self) -> (IpAddr, u8) {
        // A test reads them all.
        let address = self.network.parse().unwrap_or(IpAddr::from([0; 4]));
        (address, if address.is_ipv4() { 24 } else { 48 })
    }

    /// Which of several places is nearest; none when none is given.
    pub fn nearest(&self, places: &[[f64; 2]]) -> Option<usize> {
        let far = |at: &usize| angle(self.position, places[*at]);
        (0..places.len()).min_by(|a, b| far(a).total_cmp(&far(b)))
    }
}

/// The angle between two places as seen from the middle of the earth (law of haversines), in radians.
fn angle(a: [f64; 2], b: [f64; 2]) -> f64 {
    let half_chord = |x: f64| (x.to_radians() / 2.0).sin().powi(2);
    let across = a[0].to_radians().cos() * b[0].to_radians().cos() * half_chord(b[1] - a[1]);
    2.0 * (half_chord(b[0] - a[0]) + across).sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_one() {
        let mut all: Vec<(IpAddr, u8)> = HOMES.iter().map(Home::network).collect();
        assert!(all.iter().all(|(address, _)| !address.is_unspecified()));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), HOMES.len());
    }

    #[test]
    fn distances_are_those_of_the_globe() {
        let (paris, new_york, tokyo) = ([48.9, 2.4], [40.7, -74.0], [35.7, 139.7]);
        let km = |a, b| (angle(a, b) * 6_371.0).round();
        assert!((5_820.0..5_850.0).contains(&km(paris, new_york)), "{}", km(paris, new_york));
        assert!((10_830.0..10_870.0).contains(&km(new_york, tokyo)), "{}", km(new_york, tokyo));
        assert_eq!(HOMES[0].nearest(&[new_york, paris, tokyo]), Some(1));
        assert_eq!(HOMES[0].nearest(&[]), None);
    }
}
