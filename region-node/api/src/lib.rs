//! Wire types of a region's public and admin API, reservation ids, session tokens and ticket codes.
//!
//! Pure: no I/O, no clock, no randomness; times and random bytes come in as arguments. Formats are pinned by golden
//! tests, because ids and tokens outlive the program that made them.

pub mod body;
pub mod challenge;
mod codec;
pub mod id;
pub mod keys;
pub mod limits;
pub mod names;
pub mod problem;
mod seal;
pub mod session;
pub mod ticket_code;
pub mod units;
pub mod wire;

pub use body::{BodyError, InvalidField};
pub use id::{IdError, ReservationId};
pub use keys::{KeyRing, KeyRingError, Purpose, identity_hash, owns, user_hash};
pub use names::{ConcertName, Entry, IdentityHash, NameError, RegionName, TierName, TierNo, UserHash};
pub use problem::{Code, Problem, SideEffects};
pub use seal::SealError;
pub use session::{Recovery, Session, TokenError, UserId, Verified};
pub use ticket_code::{CodeError, TicketCode, TicketSigner, TicketVerifier};
pub use units::{Currency, Money, Timestamp};
