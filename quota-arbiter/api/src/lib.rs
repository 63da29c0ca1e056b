//! Wire types of the arbiter's HTTP API: what regions, operators and the arbiters themselves say to an arbiter, and who a
//! certificate says they are. Known by the arbiter, by the region node (its quota client) and by `ops`, none of which
//! may know another's inside.
//!
//! Pure: no I/O, no clock. Concert definitions are the region's own type ([`region_api::wire::ConcertDefinition`]), the rows
//! and grants the protocol's ([`quota_protocol::wire`]).

pub mod audit;
pub mod cluster;
pub mod concerts;
pub mod limits;
pub mod meta;
pub mod quota;
pub mod regions;
pub mod role;
pub mod sync;

pub use audit::{LogBase, LogItem, LogPage};
pub use cluster::{AddMember, ClusterView, Member, MemberRole, Transfer};
pub use concerts::{ConcertOrder, Concerts};
pub use meta::{Acted, Meta};
pub use quota::{MoveMade, MoveRequest, Place, QuotaView, RegionQuota, SetTotalRequest, TierQuota};
pub use regions::{RegionStatus, RegionsView, WriteOffRequest};
pub use role::{NotARole, Role};
pub use sync::{PoolStock, RegisterReply, SyncBody, SyncReply};
