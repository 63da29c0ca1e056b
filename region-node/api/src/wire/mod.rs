//! Bodies of the region's public and admin API, as the contract writes them.
//!
//! Only shapes and their bounds: what they mean is decided elsewhere. Requests refuse unknown fields; answers are
//! closed types that tests pin.

pub mod admin;
pub mod books;
pub mod concert;
pub mod definition;
pub mod payment;
pub mod reservation;
pub mod session;
pub mod ticket;

pub use admin::{
    AcceptBooks, ArbiterStatus, ConcertStatus, Health, IntakeStatus, NodeStatus, PoolStatus, QuotaColumns, Ready,
    ShardStatus,
};
pub use books::{BookKind, BookRows, BookState, LedgerCursor, LedgerPage, QueueWish, QueueWishes};
pub use concert::{Availability, Concert, ConcertList, ConcertState, QueueInfo, Tier};
pub use definition::{ConcertDefinition, TierDefinition};
pub use payment::{Payment, ProviderName};
pub use reservation::{Chance, JoinAnswer, JoinRequest, Reason, Reservation, Status};
pub use session::{ChallengeAnswer, ChallengeSolution, SessionAnswer, SessionRequest};
pub use ticket::{Ticket, TicketCheckAnswer, TicketCheckRequest, TicketStatus};
