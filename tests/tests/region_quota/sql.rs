//! A region's database under arbiters, by itself.

use ops::local::postgres::DatabaseAddress;
use ops::local::testing::{self, TestDatabase};
use region_api::wire::{ConcertDefinition, TierDefinition};
use region_api::{ConcertName, Currency, Money, RegionName, TierName, Timestamp};
use region_node::db::book::{Floor, Known, NoFloor};
use region_node::db::{Db, DbConfig, concerts, holder};
use uuid::Uuid;
use zeroize::Zeroizing;

/// What a node brings along.
pub(crate) struct Node(pub(crate) Known);

impl Floor for Node {
    fn of(&self, _: i32) -> Known {
        self.0
    }
}

pub(crate) struct Sql {
    pub(crate) db: Db,
    _database: TestDatabase,
}

pub(crate) fn db_config(address: &DatabaseAddress) -> DbConfig {
    DbConfig {
        host: address.host.to_string(),
        port: address.port,
        user: address.user.clone(),
        database: address.database.clone(),
        password: Some(Zeroizing::new(address.password.clone())),
        pool_size: 4,
    }
}

pub(crate) fn definition(totals: &[u64]) -> ConcertDefinition {
    let tier = |(index, &total): (usize, &u64)| TierDefinition {
        tier: TierName::new(["A", "B", "C"][index]).unwrap(),
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
        shards: Some(2),
        tiers: totals.iter().enumerate().map(tier).collect(),
        weights: None,
    }
}

impl Sql {
    pub(crate) async fn new(region: &str) -> Self {
        let database = testing::database().await.unwrap();
        let db = Db::connect(&db_config(database.address())).await.unwrap();
        db.migrate(&RegionName::new(region).unwrap()).await.unwrap();
        holder::settle_mode(&db, true).await.unwrap();
        Self { db, _database: database }
    }

    pub(crate) async fn put(&self, totals: &[u64]) {
        let name = ConcertName::new("demo").unwrap();
        concerts::put(&self.db, &name, &definition(totals), 2, "arbiters", &NoFloor).await.unwrap();
    }

    pub(crate) fn id(&self) -> i32 {
        1
    }

    /// Another copy of the database, as a restore makes one.
    pub(crate) async fn renew(&self, copy: u128) {
        let client = self.db.client().await.unwrap();
        client.execute("UPDATE region SET identity = $1", &[&Uuid::from_u128(copy)]).await.unwrap();
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.db.client().await.unwrap().batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.db.client().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Every row is what its ledger and its seed add up to.
    pub(crate) async fn audit(&self) {
        let wrong = "SELECT count(*) FROM quota q CROSS JOIN LATERAL (
                SELECT coalesce(sum(tickets) FILTER (WHERE kind = 'grant'), 0) AS granted,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'return'), 0) AS returned,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'hold'), 0) AS held_in,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'release'), 0) AS released,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'sell'), 0) AS sold,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'refund'), 0) AS refunded
                FROM ledger l WHERE l.concert_id = q.concert_id AND l.tier = q.tier) l
            WHERE (q.granted, q.returned, q.held_in, q.released, q.refunded)
                  <> (l.granted, l.returned, l.held_in + q.seeded, l.released, l.refunded)
               OR q.sold + (SELECT coalesce(sum(tickets), 0) FROM unfolded u
                            WHERE u.concert_id = q.concert_id AND u.tier = q.tier) <> l.sold + q.seeded";
        assert_eq!(self.count(wrong).await, 0, "ledger and quota disagree");
    }
}
