//! `GET /v1/quota/{concert}` and the orders that move tickets by hand.

use std::{collections::BTreeMap, fmt, str::FromStr};

use quota_protocol::{RegionId, Tickets, TierId, issuer::RegionState};
use region_api::{ConcertName, InvalidField, Timestamp, body::Checked};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::meta::Meta;

/// Where the tickets of a concert are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaView {
    /// Where it was read.
    #[serde(flatten)]
    pub meta: Meta,
    /// The concert.
    pub concert: ConcertName,
    /// Its tiers, in the order of its definition.
    pub tiers: Vec<TierQuota>,
    /// The latest moves that a policy or an operator made, newest last; kept by the leader alone, so gone after an
    /// election.
    pub moves: Vec<MoveMade>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierQuota {
    /// The tier.
    pub tier: TierId,
    /// Tickets there are.
    pub total: Tickets,
    /// Tickets that no region has.
    pub pool: Tickets,
    /// An operator stopped grants.
    pub frozen: bool,
    /// Why nothing is granted of it until the arbiters are recovered, and what to do: a region showed that they have
    /// forgotten what they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<String>,
    /// In silent regions, and therefore nobody else's: granted, not returned, not known to be sold.
    pub quarantined: Tickets,
    /// Whether it can be said that there will never be any again.
    pub sold_out: bool,
    /// Each region's part.
    pub regions: BTreeMap<RegionId, RegionQuota>,
}

/// One region's part of a pool. Counters are of its latest report, `granted` and `returned` the arbiter's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionQuota {
    /// Granted, ever.
    pub granted: Tickets,
    /// Returned and accepted, ever.
    pub returned: Tickets,
    /// On hold.
    pub held: Tickets,
    /// Sold, ever.
    pub sold: Tickets,
    /// Of those, refunded.
    pub refunded: Tickets,
    /// Free there.
    pub available: Tickets,
    /// Tickets that its queue asks for.
    pub queue: Tickets,
    /// What the policy keeps in the pool with this region in mind.
    pub earmark: Tickets,
    /// When its latest report came, if one came to the arbiter that leads now.
    pub last_report: Option<Timestamp>,
    /// Not heard from for longer than it should be.
    pub silent: bool,
    /// Whether it takes grants.
    pub state: RegionState,
}

/// One move of tickets, past or under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveMade {
    /// When.
    pub at: Timestamp,
    /// The tier.
    pub tier: TierId,
    /// From where.
    pub from: Place,
    /// To where.
    pub to: Place,
    /// How many.
    pub tickets: Tickets,
    /// Whose idea: `policy`, or an operator's name.
    pub who: String,
}

/// The pool or a region, written `pool` or by the region's name. No region can be called `pool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// What no region has.
    Pool,
    /// A region.
    Region(RegionId),
}

impl FromStr for Place {
    type Err = quota_protocol::ids::InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "pool" { Ok(Self::Pool) } else { text.parse().map(Self::Region) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool => f.write_str("pool"),
            Self::Region(region) => fmt::Display::fmt(region, f),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Body of `POST /v1/quota/{concert}/{tier}/move`. From a region it is a request: the region returns what it can spare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// From where.
    pub from: Place,
    /// To where.
    pub to: Place,
    /// How many; not zero.
    pub tickets: Tickets,
    /// The client's UUID, one per intent.
    pub request_id: String,
}

impl Checked for MoveRequest {
    fn check(&self) -> Result<(), InvalidField> {
        if self.tickets.is_zero() {
            return Err(InvalidField::new("tickets", "must be at least 1"));
        }
        if self.from == self.to {
            return Err(InvalidField::new("to", "must be another place than from"));
        }
        Ok(())
    }
}

/// Body of `PUT /v1/quota/{concert}/{tier}/total`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetTotalRequest {
    /// The total that the operator sees.
    pub from: Tickets,
    /// The total that there should be.
    pub to: Tickets,
}

impl Checked for SetTotalRequest {
    /// What may be is for the state to say.
    fn check(&self) -> Result<(), InvalidField> {
        Ok(())
    }
}
