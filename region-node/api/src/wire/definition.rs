//! `PUT /v1/concerts/{concert}`: what an operator says about a concert, its bounds, and what may change later.
//!
//! A concert's tiers keep their position for ever (it is their number in ids and databases); so does its number of
//! queue shards. Totals are the seller's: in a standalone region they are the quota, else the arbiter's.

use crate::body::{Checked, InvalidField, object, objects};
use crate::limits;
use crate::names::{ConcertName, RegionName, TierName};
use crate::units::{Money, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Body of `PUT /v1/concerts/{concert}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcertDefinition {
    /// Its name; may be left out, else it must be the address's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concert: Option<ConcertName>,
    /// Its title.
    pub title: String,
    /// Where.
    #[serde(default)]
    pub venue: String,
    /// When the doors open.
    #[serde(default)]
    pub starts_at: Option<Timestamp>,
    /// When the sale begins.
    pub sale_opens_at: Timestamp,
    /// When the sale ends.
    #[serde(default)]
    pub sale_closes_at: Option<Timestamp>,
    /// How long a hold lasts: 1 s to a day, ten minutes by default.
    #[serde(default = "hold_ms_default")]
    #[schema(minimum = 1000, maximum = 86400000)]
    pub hold_ms: u64,
    /// Tickets in one order, 1..=100; 4 by default.
    #[serde(default = "per_order_default")]
    #[schema(minimum = 1, maximum = 100)]
    pub max_per_order: u16,
    /// Tickets of one person over all orders, 1..=1000; 4 by default.
    #[serde(default = "per_order_default")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_per_person: u16,
    /// Tickets of one identity over all users; left out: no identity is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_per_identity: Option<u16>,
    /// Whether guests may buy; yes by default.
    #[serde(default = "yes")]
    pub guests: bool,
    /// Whether a session needs a solved challenge; no by default.
    #[serde(default)]
    pub challenge: bool,
    /// Keep at most so many times as many people as could still be served; left out: everybody is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub waitlist_factor: Option<f64>,
    /// Logical queue shards, fixed when the concert is created; left out: the region's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1024)]
    pub shards: Option<u16>,
    /// 1..=64 of them.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1, max_items = 64)]
    pub tiers: Vec<TierDefinition>,
    /// How to share the tickets out among regions at first; left out: equally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, u32>>)]
    pub weights: Option<BTreeMap<RegionName, u32>>,
}

/// A tier as an operator defines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierDefinition {
    /// Its name.
    pub tier: TierName,
    /// Its title; its name by default.
    #[serde(default)]
    pub title: String,
    /// Of one ticket.
    #[serde(deserialize_with = "object")]
    pub price: Money,
    /// Tickets there are.
    #[schema(maximum = 10000000)]
    pub total: u64,
}

impl TierDefinition {
    /// Its title, or its name when it has none.
    pub fn title(&self) -> &str {
        if self.title.is_empty() { self.tier.as_str() } else { &self.title }
    }
}

fn hold_ms_default() -> u64 {
    limits::HOLD_MS_DEFAULT
}
fn per_order_default() -> u16 {
    limits::PER_ORDER_DEFAULT
}
fn yes() -> bool {
    true
}

impl Checked for ConcertDefinition {
    fn check(&self) -> Result<(), InvalidField> {
        if self.title.trim().is_empty() {
            return Err(InvalidField::new("title", "must not be empty"));
        }
        line("title", &self.title)?;
        line("venue", &self.venue)?;
        if self.sale_closes_at.is_some_and(|closes| closes <= self.sale_opens_at) {
            return Err(InvalidField::new("sale_closes_at", "must be after sale_opens_at"));
        }
        between("hold_ms", self.hold_ms, limits::HOLD_MS_MIN, limits::HOLD_MS_MAX)?;
        between("max_per_order", self.max_per_order.into(), 1, limits::QUANTITY_MAX.into())?;
        between("max_per_person", self.max_per_person.into(), 1, limits::PER_PERSON_MAX.into())?;
        if let Some(most) = self.max_per_identity {
            between("max_per_identity", most.into(), 1, limits::PER_PERSON_MAX.into())?;
        }
        if self.waitlist_factor.is_some_and(|factor| !factor.is_finite() || factor < 1.0) {
            return Err(InvalidField::new("waitlist_factor", "must be a number of at least 1"));
        }
        if let Some(shards) = self.shards {
            between("shards", shards.into(), 1, limits::SHARDS_MAX.into())?;
        }
        self.check_tiers()?;
        self.check_weights()
    }
}

impl ConcertDefinition {
    fn check_tiers(&self) -> Result<(), InvalidField> {
        if !(1..=limits::TIERS_PER_CONCERT_MAX).contains(&self.tiers.len()) {
            return Err(InvalidField::new("tiers", format!("must be 1 to {}", limits::TIERS_PER_CONCERT_MAX)));
        }
        for (index, tier) in self.tiers.iter().enumerate() {
            let field = |name: &str| format!("tiers[{index}].{name}");
            if self.tiers[..index].iter().any(|other| other.tier == tier.tier) {
                return Err(InvalidField::new(field("tier"), format!("{} is defined twice", tier.tier)));
            }
            line(&field("title"), &tier.title)?;
            if !(0..=limits::PRICE_MINOR_MAX).contains(&tier.price.amount) {
                let message = format!("must be 0 to {} minor units", limits::PRICE_MINOR_MAX);
                return Err(InvalidField::new(field("price.amount"), message));
            }
            between(&field("total"), tier.total, 0, limits::TIER_TOTAL_MAX)?;
        }
        Ok(())
    }

    fn check_weights(&self) -> Result<(), InvalidField> {
        let Some(weights) = &self.weights else { return Ok(()) };
        if !(1..=limits::WEIGHTS_MAX).contains(&weights.len()) {
            return Err(InvalidField::new("weights", format!("must name 1 to {} regions", limits::WEIGHTS_MAX)));
        }
        for (region, &weight) in weights {
            between(&format!("weights.{region}"), weight.into(), 0, limits::WEIGHT_MAX.into())?;
        }
        if weights.values().all(|&weight| weight == 0) {
            return Err(InvalidField::new("weights", "must not all be 0"));
        }
        Ok(())
    }

    /// Whether the body names the concert of the address, or none.
    pub fn check_name(&self, address: &ConcertName) -> Result<(), InvalidField> {
        match &self.concert {
            Some(name) if name != address => Err(InvalidField::new("concert", format!("is not {address}"))),
            _ => Ok(()),
        }
    }

    /// Whether this may follow `before`: tiers keep position, name and currency, and the shards their number. Totals
    /// may change either way; whether enough is unsold to shrink one, the books decide.
    pub fn check_change(&self, before: &ConcertDefinition) -> Result<(), InvalidField> {
        for (index, old) in before.tiers.iter().enumerate() {
            let Some(new) = self.tiers.get(index) else {
                let message = format!("{} may not be removed; set its total to what is sold", old.tier);
                return Err(InvalidField::new("tiers", message));
            };
            if new.tier != old.tier {
                let message = format!("must stay {}: tiers keep their order, new ones go to the end", old.tier);
                return Err(InvalidField::new(format!("tiers[{index}].tier"), message));
            }
            if new.price.currency != old.price.currency {
                let message = format!("must stay {}", old.price.currency);
                return Err(InvalidField::new(format!("tiers[{index}].price.currency"), message));
            }
        }
        match (self.shards, before.shards) {
            (Some(new), Some(old)) if new != old => Err(InvalidField::new("shards", format!("must stay {old}"))),
            _ => Ok(()),
        }
    }
}

fn line(field: &str, text: &str) -> Result<(), InvalidField> {
    if text.len() > limits::TITLE_MAX_BYTES {
        return Err(InvalidField::new(field, format!("longer than {} bytes", limits::TITLE_MAX_BYTES)));
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidField::new(field, "must not contain control characters"));
    }
    Ok(())
}

fn between(field: &str, value: u64, least: u64, most: u64) -> Result<(), InvalidField> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(InvalidField::new(field, format!("must be {least} to {most}")))
}
