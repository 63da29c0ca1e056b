//! Tickets and the six counters of a region's row. Every column only ever grows; what is held and what is available is
//! derived. Nothing here may wrap: a counter that would leave its bounds is an error of the caller and panics.

use std::{fmt, iter::Sum, ops};

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use crate::limits::{REPORTED_TICKETS_MAX, TICKETS_MAX};

/// A number of tickets, or a counter of tickets: 0 to 2^53 - 1.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Tickets(u64);

/// A number over the limit.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0} tickets: the limit is {TICKETS_MAX}")]
pub struct TooManyTickets(u64);

impl Tickets {
    /// None.
    pub const ZERO: Self = Self(0);

    /// That many.
    ///
    /// # Errors
    /// Over 2^53 - 1.
    pub const fn new(number: u64) -> Result<Self, TooManyTickets> {
        if number <= TICKETS_MAX { Ok(Self(number)) } else { Err(TooManyTickets(number)) }
    }

    /// That many, of a number so small that it cannot be refused.
    pub const fn from_u32(number: u32) -> Self {
        Self(number as u64)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The difference, or `None` if it would be negative.
    #[must_use]
    pub const fn minus(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The difference, or zero if it would be negative.
    #[must_use]
    pub const fn minus_or_zero(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Whether there are none.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl<'de> Deserialize<'de> for Tickets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl ops::Add for Tickets {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let sum = self.0 + other.0;
        assert!(sum <= TICKETS_MAX, "a counter passed {TICKETS_MAX}");
        Self(sum)
    }
}

impl ops::Sub for Tickets {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        assert!(other.0 <= self.0, "{} tickets taken from {}", other.0, self.0);
        Self(self.0 - other.0)
    }
}

impl ops::AddAssign for Tickets {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl ops::SubAssign for Tickets {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Tickets {
    fn sum<I: Iterator<Item = Self>>(numbers: I) -> Self {
        numbers.fold(Self::ZERO, ops::Add::add)
    }
}

/// The counters of one region's row of one pool. Also the shape of a floor, a seed and a report.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Granted to the region, ever.
    pub granted: Tickets,
    /// Given back by the region, ever.
    pub returned: Tickets,
    /// Put on hold, ever.
    pub held_in: Tickets,
    /// Of those, holds that ended without a sale.
    pub released: Tickets,
    /// Of those, holds that ended in a sale.
    pub sold: Tickets,
    /// Sales undone, which made the tickets available again.
    pub refunded: Tickets,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { granted, returned, held_in, released, sold, refunded } = self;
        write!(f, "g{granted} ret{returned} in{held_in} rel{released} sold{sold} ref{refunded}")
    }
}

/// One of the six columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// `granted`
    Granted,
    /// `returned`
    Returned,
    /// `held_in`
    HeldIn,
    /// `released`
    Released,
    /// `sold`
    Sold,
    /// `refunded`
    Refunded,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granted => "granted",
            Self::Returned => "returned",
            Self::HeldIn => "held_in",
            Self::Released => "released",
            Self::Sold => "sold",
            Self::Refunded => "refunded",
        })
    }
}

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self {
        granted: Tickets::ZERO,
        returned: Tickets::ZERO,
        held_in: Tickets::ZERO,
        released: Tickets::ZERO,
        sold: Tickets::ZERO,
        refunded: Tickets::ZERO,
    };

    /// Every column with its name, in the order of the table.
    pub fn columns(&self) -> [(Column, Tickets); 6] {
        [
            (Column::Granted, self.granted),
            (Column::Returned, self.returned),
            (Column::HeldIn, self.held_in),
            (Column::Released, self.released),
            (Column::Sold, self.sold),
            (Column::Refunded, self.refunded),
        ]
    }

    /// Whether every column may be reckoned with: what comes from outside is asked this before anything else.
    pub fn in_bounds(&self) -> bool {
        self.columns().iter().all(|(_, tickets)| tickets.get() <= REPORTED_TICKETS_MAX)
    }

    /// On hold now: neither released nor sold. Zero for a row that breaks I2, which [`crate::invariant::invariant_row`]
    /// tells apart.
    pub fn held(&self) -> Tickets {
        self.held_in.minus_or_zero(self.released + self.sold)
    }

    /// Sold and not refunded.
    pub fn sold_net(&self) -> Tickets {
        self.sold.minus_or_zero(self.refunded)
    }

    /// Free to be put on hold or given back: `granted - returned - held - sold + refunded`, which is
    /// `granted - returned - held_in + released + refunded` and so does not depend on `sold`.
    pub fn available(&self) -> Tickets {
        (self.granted + self.released + self.refunded).minus_or_zero(self.returned + self.held_in)
    }

    /// The column-wise maximum.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        Self {
            granted: self.granted.max(other.granted),
            returned: self.returned.max(other.returned),
            held_in: self.held_in.max(other.held_in),
            released: self.released.max(other.released),
            sold: self.sold.max(other.sold),
            refunded: self.refunded.max(other.refunded),
        }
    }

    /// The first column in which this is below `floor`, with both values (own first).
    pub fn below(&self, floor: &Self) -> Option<(Column, Tickets, Tickets)> {
        let pairs = self.columns().into_iter().zip(floor.columns());
        pairs.filter(|(own, floor)| own.1 < floor.1).map(|(own, floor)| (own.0, own.1, floor.1)).next()
    }

    /// The row with which a written-off region starts again: granted `granted`, of which `sold` remain sold and the
    /// rest counts as given back.
    pub fn seed(granted: Tickets, sold: Tickets) -> Self {
        Self {
            granted,
            returned: granted - sold,
            held_in: sold,
            released: Tickets::ZERO,
            sold,
            refunded: Tickets::ZERO,
        }
    }
}
