//! Countries and continents: codes, and a table of continents and rough centres (`data/countries.txt`).
//!
//! The table is compiled in, so that a database with nothing but country codes is enough to order regions.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use super::Point;

/// An ISO 3166-1 alpha-2 code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

/// A continent, by the two letters that geo databases use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Continent {
    /// AF
    Africa,
    /// AN
    Antarctica,
    /// AS
    Asia,
    /// EU
    Europe,
    /// NA
    NorthAmerica,
    /// OC
    Oceania,
    /// SA
    SouthAmerica,
}

/// A text is no country or continent code.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a {1} code")]
pub struct CountryError(String, &'static str);

impl FromStr for Country {
    type Err = CountryError;

    fn from_str(text: &str) -> Result<Self, CountryError> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(CountryError(text.to_owned(), "country")),
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.0[0]), char::from(self.0[1]))
    }
}

const CONTINENTS: [(Continent, &str); 7] = [
    (Continent::Africa, "AF"),
    (Continent::Antarctica, "AN"),
    (Continent::Asia, "AS"),
    (Continent::Europe, "EU"),
    (Continent::NorthAmerica, "NA"),
    (Continent::Oceania, "OC"),
    (Continent::SouthAmerica, "SA"),
];

impl FromStr for Continent {
    type Err = CountryError;

    fn from_str(text: &str) -> Result<Self, CountryError> {
        let found = CONTINENTS.iter().find(|(_, code)| code.eq_ignore_ascii_case(text));
        found.map(|(c, _)| *c).ok_or_else(|| CountryError(text.to_owned(), "continent"))
    }
}

impl fmt::Display for Continent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CONTINENTS.iter().find(|(c, _)| c == self).map_or("", |(_, code)| code))
    }
}

/// Continent and rough centre of every country.
pub fn countries() -> &'static HashMap<Country, (Continent, Point)> {
    static TABLE: LazyLock<HashMap<Country, (Continent, Point)>> = LazyLock::new(|| {
        let lines = include_str!("../../data/countries.txt").lines();
        lines.filter(|line| !line.starts_with('#')).filter_map(line).collect()
    });
    &TABLE
}

fn line(line: &str) -> Option<(Country, (Continent, Point))> {
    let mut words = line.split_whitespace();
    let country = words.next()?.parse().ok()?;
    let continent = words.next()?.parse().ok()?;
    let point = Point::from_degrees(words.next()?.parse().ok()?, words.next()?.parse().ok()?)?;
    Some((country, (continent, point)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let lines = include_str!("../../data/countries.txt").lines().filter(|l| !l.starts_with('#')).count();
        assert_eq!(countries().len(), lines);
        assert!(lines >= 249, "{lines}");
    }

    #[test]
    fn codes() {
        assert_eq!("de".parse::<Country>().unwrap().to_string(), "DE");
        assert!("d1".parse::<Country>().is_err() && "deu".parse::<Country>().is_err());
        assert_eq!("eu".parse::<Continent>().unwrap().to_string(), "EU");
        assert!("XX".parse::<Continent>().is_err());
    }

    #[test]
    fn distances_are_plausible() {
        let km = |a: &str, b: &str| {
            let at = |c: &str| countries()[&c.parse::<Country>().unwrap()].1;
            at(a).distance_km(at(b))
        };
        assert!(
            km("DE", "FR") < 800.0 && km("DE", "JP") > 8000.0 && km("NZ", "AU") < 3500.0 && km("BR", "AR") < 2600.0
        );
    }
}
