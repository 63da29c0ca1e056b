//! A place on the globe, kept as a unit vector: distances then cost one dot product and one arc cosine.

/// Mean radius of the Earth, in kilometres (IUGG).
const EARTH_RADIUS_KM: f64 = 6371.0;

/// A place on the globe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    x: f64,
    y: f64,
    z: f64,
}

impl Point {
    /// From latitude and longitude in degrees; `None` when they are no place.
    pub fn from_degrees(latitude: f64, longitude: f64) -> Option<Self> {
        if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
            return None;
        }
        let (lat, lon) = (latitude.to_radians(), longitude.to_radians());
        Some(Self { x: lat.cos() * lon.cos(), y: lat.cos() * lon.sin(), z: lat.sin() })
    }

    /// Distance along the surface, in kilometres.
    pub fn distance_km(self, other: Self) -> f64 {
        let dot = self.x * other.x + self.y * other.y + self.z * other.z;
        dot.clamp(-1.0, 1.0).acos() * EARTH_RADIUS_KM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances() {
        let at = |lat, lon| Point::from_degrees(lat, lon).unwrap();
        let paris_new_york = at(48.85, 2.35).distance_km(at(40.71, -74.0));
        assert!((paris_new_york - 5837.0).abs() < 20.0, "{paris_new_york}");
        assert!(at(0.0, 179.5).distance_km(at(0.0, -179.5)) < 112.0, "across the date line");
        assert_eq!(Point::from_degrees(91.0, 0.0), None);
        assert_eq!(Point::from_degrees(f64::NAN, 0.0), None);
    }
}
