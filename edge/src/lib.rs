//! The edge: authoritative DNS for the sale's name that knows where clients are, which regions are healthy, and which have
//! stock; and the configuration of what stands in front of a region's nodes.
//!
//! | module | what | pure |
//! |---|---|---|
//! | `wire` | reading queries, writing answers | yes |
//! | `zone` | the zone's fixed records | yes |
//! | `geo` | country, place, operator of a network | yes, once read |
//! | `choice` | which region a network gets, and why | yes |
//! | `dns` | the one function from query bytes to answer bytes; cookies; rate limits | yes |
//! | `live` | health, load, drains, hand-overs | but `watch` and `drains` |
//! | `snapshot` | all that an answer is made from, as one value | yes, once read |
//! | `config`, `haproxy` | what an operator says; what HAProxy is told | but for reading files |
//! | `net`, `admin`, `server` | sockets, admin port, reload | no |
//!
//! Invariant: an answer is made by `dns::answer` from one `snapshot::Snapshot`, whichever way the query came.

pub mod admin;
pub mod choice;
pub mod compare;
pub mod config;
pub mod dns;
pub mod geo;
pub mod haproxy;
pub mod limits;
pub mod live;
pub mod net;
pub mod server;
pub mod snapshot;
pub mod wire;
pub mod zone;
