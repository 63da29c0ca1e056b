//! A region without HTTP: its database, its Redis, its books; people who join; an auditor that recomputes everything.

use ops::local::testing::{self, TestDatabase};
use region_api::wire::ConcertDefinition;
use region_api::{ConcertName, Entry, UserHash};
use region_node::allocator::Allocator;
use region_node::books::{Books, BooksError};
use region_node::db::allocate::Place;
use region_node::db::concerts::{self, ConcertRow};
use region_node::db::snapshot;
use region_node::generations;
use region_node::queue::{JoinItem, Queue, QueueConfig, Secret};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

pub struct World {
    pub _database: TestDatabase,
    pub redis: ops::local::Redis,
    pub folder: tempfile::TempDir,
    pub books: Arc<Books>,
    pub concert: ConcertRow,
}

pub fn queue_config(redis: &ops::local::Redis) -> QueueConfig {
    let mut config = QueueConfig::single(redis.url());
    config.password = Some(Secret::new(redis.password().to_owned()));
    config
}

pub fn definition(totals: &[u64]) -> ConcertDefinition {
    tests::region::definition(totals, 3)
}

impl World {
    pub async fn new(definition: &ConcertDefinition) -> World {
        let (database, redis) = (testing::database().await.unwrap(), testing::redis().await.unwrap());
        let folder = tempfile::tempdir().unwrap();
        let region = tests::region::east();
        let db = tests::region::connect(database.address()).await;
        db.migrate(&region).await.unwrap();
        let queue = Queue::connect(&queue_config(&redis)).await.unwrap();
        let books = Books::new(db, queue, region, folder.path().into()).unwrap();
        let concert = Self::put(&books, definition).await;
        generations::ensure(&books, &concert).await.unwrap();
        World { _database: database, redis, folder, books, concert }
    }

    pub async fn put(books: &Books, definition: &ConcertDefinition) -> ConcertRow {
        let name = ConcertName::new("demo").unwrap();
        concerts::put(&books.db, &name, definition, 3, "operator", books).await.unwrap()
    }

    pub fn id(&self) -> i32 {
        self.concert.concert_id
    }

    /// Joins, as a user of that number, and returns the place.
    pub async fn join(&self, user: u64, quantity: u8, tiers: &[u8], any_quantity: bool) -> Place {
        let item = JoinItem {
            user: user_hash(user),
            request_id: Uuid::from_u128(u128::from(user) << 64 | u128::from(rand::random::<u64>())),
            quantity,
            tiers: tiers.iter().copied().collect(),
            any_quantity,
            identity: None,
        };
        let joined = self.books.queue.join(self.concert.queue(), item).await.unwrap();
        Place {
            entry: joined.entry,
            arrival_ms: joined.arrival_ms,
            user: joined.item.user,
            request_id: Some(joined.item.request_id),
            identity: None,
            quantity: joined.item.quantity.into(),
            tiers: joined.item.tiers,
            any_quantity,
        }
    }

    /// Runs an allocator's rounds until the error or until so many have passed.
    pub async fn allocate(&self, rounds: usize) -> Result<(), BooksError> {
        let mut allocator = Allocator::unlocked(&self.books).await?;
        for _ in 0..rounds {
            allocator.round().await?;
        }
        Ok(())
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.books.db.client().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }

    pub async fn exec(&self, sql: &str) {
        self.books.db.client().await.unwrap().batch_execute(sql).await.unwrap();
    }

    pub async fn state(&self, place: &Place) -> String {
        let sql = "SELECT state::text FROM reservation WHERE concert_id = $1 AND entry = $2";
        let client = self.books.db.client().await.unwrap();
        let row = client.query_opt(sql, &[&self.id(), &place.entry.to_i64()]).await.unwrap();
        row.map_or("none".into(), |row| row.get(0))
    }

    /// A sale as payments write it: the row, the ledger, `unfolded`, the outbox.
    pub async fn sell(&self, entry: Entry) -> bool {
        let sql = "WITH paid AS (
                UPDATE reservation SET state = 'sold', changed_at = now()
                WHERE concert_id = $1 AND entry = $2 AND state = 'held' RETURNING entry, user_hash, tier, quantity
            ), booked AS (
                INSERT INTO ledger (concert_id, kind, tier, entry, tickets)
                SELECT $1, 'sell', tier, entry, quantity FROM paid RETURNING ledger_id, tier, tickets
            ), told AS (
                INSERT INTO outbox (concert_id, entry, user_hash, state) SELECT $1, entry, user_hash, 'sold' FROM paid
            )
            INSERT INTO unfolded (ledger_id, concert_id, tier, tickets) SELECT ledger_id, $1, tier, tickets FROM booked";
        let client = self.books.db.client().await.unwrap();
        client.execute(sql, &[&self.id(), &entry.to_i64()]).await.unwrap() == 1
    }

    /// Everything that must hold at any time, recomputed from rows alone. `joined`: every place that was confirmed.
    pub async fn audit(&self, joined: &[Place]) {
        self.audit_holds(joined, 1).await;
    }

    /// The same where late payments may have held tickets a second time.
    pub async fn audit_with_revivals(&self, joined: &[Place]) {
        self.audit_holds(joined, 2).await;
    }

    async fn audit_holds(&self, joined: &[Place], holds_max: i64) {
        self.invariant_ledger_matches_quota().await;
        self.invariant_reservations_match_ledger(holds_max).await;
        self.invariant_limits().await;
        self.invariant_nobody_lost(joined).await;
    }

    async fn invariant_ledger_matches_quota(&self) {
        let wrong = "SELECT count(*) FROM quota q CROSS JOIN LATERAL (
                SELECT coalesce(sum(tickets) FILTER (WHERE kind = 'grant'), 0) AS granted,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'return'), 0) AS returned,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'hold'), 0) AS held_in,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'release'), 0) AS released,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'sell'), 0) AS sold,
                       coalesce(sum(tickets) FILTER (WHERE kind = 'refund'), 0) AS refunded
                FROM ledger l WHERE l.concert_id = q.concert_id AND l.tier = q.tier) l
            WHERE (q.granted, q.returned, q.held_in, q.released, q.refunded)
                  <> (l.granted, l.returned, l.held_in, l.released, l.refunded)
               OR q.sold + (SELECT coalesce(sum(tickets), 0) FROM unfolded u
                            WHERE u.concert_id = q.concert_id AND u.tier = q.tier) <> l.sold
               OR q.granted - q.returned - q.held_in + q.released + q.refunded < 0
               OR q.held_in - q.released - l.sold < 0";
        assert_eq!(self.count(wrong).await, 0, "ledger and quota disagree");
        let books = "SELECT count(*) FROM ledger l JOIN book b USING (concert_id) WHERE l.book > b.book";
        assert_eq!(self.count(books).await, 0, "a book number of the future");
        let folds = "SELECT count(*) FROM ledger l WHERE kind = 'sell' AND
            (SELECT count(*) FROM fold f WHERE f.ledger_id = l.ledger_id)
            + (SELECT count(*) FROM unfolded u WHERE u.ledger_id = l.ledger_id) <> 1";
        assert_eq!(self.count(folds).await, 0, "a sale is folded once or waits for it");
    }

    async fn invariant_reservations_match_ledger(&self, holds_max: i64) {
        let wrong = format!(
            "SELECT count(*) FROM reservation r CROSS JOIN LATERAL (
                SELECT coalesce(sum(CASE kind WHEN 'hold' THEN tickets WHEN 'release' THEN -tickets
                           WHEN 'refund' THEN -tickets ELSE 0 END), 0) AS kept,
                       count(*) FILTER (WHERE kind = 'hold') AS holds
                FROM ledger l WHERE l.concert_id = r.concert_id AND l.entry = r.entry) l
            WHERE l.kept <> CASE WHEN r.state IN ('held', 'expiring', 'sold') THEN r.quantity ELSE 0 END
               OR l.holds > {holds_max}
               OR (r.state IN ('held', 'expiring', 'expired') AND l.holds <> 1)
               OR (r.state = 'sold' AND l.holds < 1)"
        );
        assert_eq!(self.count(&wrong).await, 0, "a reservation's row and its ledger rows disagree");
        let orphans = "SELECT count(*) FROM ledger l WHERE entry IS NOT NULL AND NOT EXISTS
            (SELECT FROM reservation r WHERE r.concert_id = l.concert_id AND r.entry = l.entry)";
        assert_eq!(self.count(orphans).await, 0, "a ledger row without a reservation");
    }

    async fn invariant_limits(&self) {
        let most = i64::from(self.concert.definition.max_per_person);
        let over = format!(
            "SELECT count(*) FROM (SELECT user_hash FROM reservation WHERE state IN ('held', 'expiring', 'sold')
             GROUP BY user_hash HAVING sum(quantity) > {most}) o"
        );
        assert_eq!(self.count(&over).await, 0, "somebody is over the limit");
    }

    async fn invariant_nobody_lost(&self, joined: &[Place]) {
        let snapshot = snapshot(&self.books.db, self.id()).await.unwrap();
        let asked: Vec<_> = joined.iter().map(|place| (self.id(), place.entry)).collect();
        let found = region_node::db::status(&self.books.db, &asked).await.unwrap();
        let mut left: BTreeMap<(u16, u16), Vec<u64>> = BTreeMap::new();
        for generation in &snapshot.generations {
            let (shard, number) = (generation.shard, generation.generation);
            let rest = self.books.queue.peek(self.concert.queue(), shard, number, generation.cursor_seq, 100_000);
            let rest = rest.await.unwrap().into_iter().map(|queued| queued.entry.sequence()).collect();
            left.insert((shard, number), rest);
        }
        for (place, found) in joined.iter().zip(found) {
            let entry = place.entry;
            let queued = left
                .get(&(entry.shard(), entry.generation()))
                .is_some_and(|rest| rest.binary_search(&entry.sequence()).is_ok());
            let range = snapshot.ranges.iter().any(|r| r.rejects(entry, place.need(), &place.tiers));
            let known = found != region_node::db::status::Found::Nothing;
            assert!(known || range || queued, "{entry:?} is lost");
        }
    }
}

pub fn user_hash(user: u64) -> UserHash {
    // Spread over shards by the first eight bytes.
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&user.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&user.to_be_bytes());
    UserHash(bytes)
}
