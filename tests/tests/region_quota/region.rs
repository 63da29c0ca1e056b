//! A region in this process: real PostgreSQL and Redis, the catalog, an allocator and the sync task; no HTTP of its own.

use ops::local::postgres::DatabaseAddress;
use ops::local::testing;
use quota_protocol::Counters;
use region_api::{ConcertName, Entry, RegionName};
use region_node::allocator::{self, AllocatorState};
use region_node::books::Books;
use region_node::catalog::{self, Catalog};
use region_node::config::Arbiter;
use region_node::db::allocate::Place;
use region_node::db::holder::{self, Own};
use region_node::db::{Db, concerts};
use region_node::queue::{JoinItem, Queue, QueueConfig, Secret};
use region_node::quota::{self, Standing};
use region_node::{generations, witness};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::arbiter::{TestArbiter, pool};
use super::sql::db_config;

pub(crate) struct Region {
    pub(crate) address: DatabaseAddress,
    pub(crate) redis: ops::local::Redis,
    pub(crate) folder: PathBuf,
    pub(crate) config: Arbiter,
    pub(crate) life: Option<Life>,
    _folder: tempfile::TempDir,
}

/// What a restart ends.
pub(crate) struct Life {
    pub(crate) books: Arc<Books>,
    pub(crate) catalog: Arc<Catalog>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

/// Waits for something that must come true soon.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Region {
    pub(crate) async fn new(address: DatabaseAddress, arbiter: &TestArbiter, autonomy_ms: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("certificates");
        std::fs::create_dir(&files).unwrap();
        let config = arbiter.authority.files(&files, "boxoffice://region/east", &arbiter.urls, autonomy_ms);
        let redis = testing::redis().await.unwrap();
        let mut region =
            Self { address, redis, folder: folder.path().join("state"), config, life: None, _folder: folder };
        region.start().await;
        region
    }

    pub(crate) async fn start(&mut self) {
        // Whoever was first in this process chose.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let east = RegionName::new("east").unwrap();
        let db = Db::connect(&db_config(&self.address)).await.unwrap();
        db.migrate(&east).await.unwrap();
        holder::settle_mode(&db, true).await.unwrap();
        let mut queue = QueueConfig::single(self.redis.url());
        queue.password = Some(Secret::new(self.redis.password().to_owned()));
        let queue = Queue::connect(&queue).await.unwrap();
        let standing = Arc::new(Standing::under_arbiters(self.config.autonomy_ms));
        let books = Books::under(standing, db.clone(), queue.clone(), east.clone(), self.folder.clone()).unwrap();
        let (catalog, allocator) = (Arc::new(Catalog::default()), Arc::new(AllocatorState::default()));
        let shutdown = CancellationToken::new();
        let stop = || shutdown.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(catalog::run(catalog.clone(), db, queue, east, stop()));
        tasks.spawn(witness::run(books.clone(), stop()));
        tasks.spawn(allocator::run(books.clone(), allocator.clone(), stop()));
        let parts = quota::Parts {
            books: books.clone(),
            catalog: catalog.clone(),
            allocator,
            config: self.config.clone(),
            shards: 2,
        };
        tasks.spawn(quota::run(parts, stop()));
        self.life = Some(Life { books, catalog, tasks, shutdown });
    }

    pub(crate) async fn stop(&mut self) {
        let Some(mut life) = self.life.take() else { return };
        life.shutdown.cancel();
        while let Some(ended) = life.tasks.join_next().await {
            ended.unwrap();
        }
    }

    pub(crate) fn books(&self) -> &Arc<Books> {
        &self.life.as_ref().unwrap().books
    }

    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.life.as_ref().unwrap().catalog
    }

    pub(crate) async fn own(&self) -> Own {
        holder::read(&self.books().db).await.unwrap()
    }

    pub(crate) async fn counters(&self, tier: &str) -> Counters {
        self.own().await.stored.rows.get(&pool(tier)).map(|row| row.counters).unwrap_or_default()
    }

    /// Until the concert is there, with a queue.
    pub(crate) async fn on_sale(&self) {
        until("the concert is on sale", || async {
            let name = ConcertName::new("demo").unwrap();
            let Some(row) = concerts::load(&self.books().db, &name).await.unwrap() else { return false };
            generations::ensure(self.books(), &row).await.unwrap();
            self.catalog().view("demo").is_some()
        })
        .await;
    }

    pub(crate) async fn registered(&self) {
        until("registered", || async { self.books().standing.may_hold() }).await;
    }

    /// Somebody joins the queue.
    pub(crate) async fn join(&self, user: u64, quantity: u8) -> Place {
        let view = self.catalog().view("demo").unwrap();
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&user.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let item = JoinItem {
            user: region_api::UserHash(hash),
            request_id: Uuid::new_v4(),
            quantity,
            tiers: [0].into_iter().collect(),
            any_quantity: false,
            identity: None,
        };
        let joined = self.books().queue.join(view.queue(), item).await.unwrap();
        Place {
            entry: joined.entry,
            arrival_ms: joined.arrival_ms,
            user: joined.item.user,
            request_id: Some(joined.item.request_id),
            identity: None,
            quantity: joined.item.quantity.into(),
            tiers: joined.item.tiers,
            any_quantity: false,
        }
    }

    pub(crate) async fn state(&self, entry: Entry) -> Option<String> {
        let client = self.books().db.client().await.unwrap();
        let sql = "SELECT state::text FROM reservation WHERE entry = $1";
        client.query_opt(sql, &[&entry.to_i64()]).await.unwrap().map(|row| row.get(0))
    }

    pub(crate) async fn held(&self, place: &Place) {
        until("held", || async { self.state(place.entry).await.as_deref() == Some("held") }).await;
    }

    /// For a while nothing becomes of it.
    pub(crate) async fn stays_queued(&self, place: &Place, long: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < long {
            assert_eq!(self.state(place.entry).await, None);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.books().db.client().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }
}
