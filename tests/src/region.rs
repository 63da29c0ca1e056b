//! A region's database without the rest of the region: how to reach it, and what to define in it.

use ops::local::postgres::DatabaseAddress;
use region_api::wire::{ConcertDefinition, TierDefinition};
use region_api::{Currency, Money, RegionName, TierName, Timestamp};
use region_node::db::{Db, DbConfig};
use zeroize::Zeroizing;

/// The region of every test that has one only.
pub fn east() -> RegionName {
    RegionName::new("east").unwrap()
}

/// How a node reaches a test's database.
pub fn db_config(address: &DatabaseAddress) -> DbConfig {
    DbConfig {
        host: address.host.to_string(),
        port: address.port,
        user: address.user.clone(),
        database: address.database.clone(),
        password: Some(Zeroizing::new(address.password.clone())),
        pool_size: 12,
    }
}

/// A node's connections to it.
pub async fn connect(address: &DatabaseAddress) -> Db {
    Db::connect(&db_config(address)).await.unwrap()
}

/// A concert with so many tickets in tiers `T0`, `T1`, …, at 10 euros each.
pub fn definition(totals: &[u64], shards: u16) -> ConcertDefinition {
    let tier = |(index, &total): (usize, &u64)| TierDefinition {
        tier: TierName::new(&format!("T{index}")).unwrap(),
        title: String::new(),
        price: Money { amount: 1000, currency: Currency::new("EUR").unwrap() },
        total,
    };
    ConcertDefinition {
        concert: None,
        title: "A concert".into(),
        venue: "A hall".into(),
        starts_at: None,
        sale_opens_at: Timestamp::from_ms(1_000),
        sale_closes_at: None,
        hold_ms: 600_000,
        max_per_order: 4,
        max_per_person: 4,
        max_per_identity: None,
        guests: true,
        challenge: false,
        waitlist_factor: None,
        shards: Some(shards),
        tiers: totals.iter().enumerate().map(tier).collect(),
        weights: None,
    }
}
