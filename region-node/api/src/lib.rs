//! Wire types of a region's public and admin API, reservation ids, session tokens and ticket codes.
//!
//! Pure: no I/O, no clock, no randomness; times and random bytes come in as arguments. Formats are pinned by golden
//! tests, because ids and tokens outlive the program that made them.

pub mod names;

pub use names::{ConcertName, Entry, IdentityHash, NameError, RegionName, TierName, TierNo, UserHash};
