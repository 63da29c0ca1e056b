//! Where a client's network is: country, continent, position, operator.
//!
//! Pure: databases are read by whoever builds a snapshot, and looked up here without I/O or allocation.

mod country;
mod database;
mod networks;
mod point;

pub use country::{Continent, Country, CountryError, countries};
pub use database::{GeoDatabase, GeoError, GeoSet};
pub use networks::NetworkMap;
pub use point::Point;

/// What is known about a client's network. Each part may be unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Located {
    /// Country.
    pub country: Option<Country>,
    /// Continent: the database's, else the country's.
    pub continent: Option<Continent>,
    /// Position: the database's, else the country's centre.
    pub position: Option<Point>,
    /// Operator: autonomous system number.
    pub asn: Option<u32>,
    /// Bits of the address that this was decided by: all addresses sharing them have the same answer.
    pub scope: u8,
}
