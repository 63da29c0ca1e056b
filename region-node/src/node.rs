//! A whole node: builds the parts, starts the tasks of its roles, serves HTTP, and ends in order.
//!
//! Tasks: one refreshes the catalog, one gathers status look-ups, each role has its own; all stop when `shutdown` fires,
//! after requests under way are answered.

use anyhow::Context;
use region_api::{KeyRing, TicketSigner};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::app::App;
use crate::around::Around;
use crate::books::Books;
use crate::catalog::{self, Catalog};
use crate::config::{Config, ProviderKind, Role, read_secret};
use crate::db::{Db, DbConfig, holder};
use crate::http::{Front, Gate, Jwks, Peers, Polls, ServeConfig, admin_router, router, serve};
use crate::payments::stripe::Stripe;
use crate::payments::{Payments, PaymentsConfig};
use crate::queue::{self, Queue, QueueConfig};
use crate::quota::{self, Standing};
use crate::status::Reader;
use crate::tickets::Tickets;
use crate::{limits, metrics, witness};

/// Where a node listens.
pub struct Listeners {
    /// For everybody.
    pub public: TcpListener,
    /// For operators.
    pub admin: TcpListener,
}

/// Listens where the configuration says.
pub async fn listen(config: &Config) -> anyhow::Result<Listeners> {
    let bind = |key: &str, address| bind(address).with_context(|| format!("{key}: cannot listen on {address}"));
    Ok(Listeners {
        public: bind("public.listen", config.public.listen)?,
        admin: bind("admin.listen", config.admin.listen)?,
    })
}

/// Tokio's own way to listen, but for the length of the line.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}

/// Runs a node until `shutdown` fires and what is under way is done.
pub async fn run(listeners: Listeners, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let app = build(config, shutdown.clone()).await?;
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, &app);
    let router = router(app.clone());
    let front = || Front::new(app.clone(), router.clone());
    tracing::info!(
        region = %app.config.region, public = %app.config.public.listen, admin = %app.config.admin.listen, "serving"
    );
    let public = serve(listeners.public, front, ServeConfig::default(), shutdown.clone());
    let admin = ServeConfig { connections_max: limits::ADMIN_CONNECTIONS_MAX, ..ServeConfig::default() };
    let operators = admin_router(app.clone());
    let admin = serve(listeners.admin, || operators.clone(), admin, shutdown.clone());
    let ((), (), watched) = tokio::join!(public, admin, watch(tasks, &shutdown));
    watched
}

/// Until all tasks have ended. One that panics ends the node: what it did nobody does now, and whoever supervises the
/// process starts it again.
async fn watch(mut tasks: JoinSet<()>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut result = Ok(());
    // The tasks are told at the same time; whoever hangs is left to the crash-safety that all of them need anyway.
    let mut drained = pin!(async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits::DRAIN_TIMEOUT).await;
    });
    loop {
        let done = tokio::select! {
            done = tasks.join_next() => done,
            () = &mut drained => {
                tracing::warn!("some tasks were still at work when the drain time was up");
                return result;
            }
        };
        match done {
            None => return result,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(%error, "a task ended badly; the node ends");
                shutdown.cancel();
                result = Err(error).context("a task ended badly");
            }
        }
    }
}

async fn build(config: Config, shutdown: CancellationToken) -> anyhow::Result<Arc<App>> {
    let secret = |key: &str, path| read_secret(key, path);
    let password =
        config.postgres.password_file.as_ref().map(|path| secret("postgres.password_file", path)).transpose()?;
    let settings = DbConfig {
        host: config.postgres.host.clone(),
        port: config.postgres.port,
        user: config.postgres.user.clone(),
        database: config.postgres.database.clone(),
        password: password.map(|password| Zeroizing::new(password.reveal().to_owned())),
        pool_size: config.postgres.pool_size,
    };
    let db = Db::connect(&settings).await.context("postgres")?;
    let identity = db.migrate(&config.region).await.context("postgres")?.identity;
    let password = config.redis.password_file.as_ref().map(|path| secret("redis.password_file", path)).transpose()?;
    let settings = QueueConfig {
        urls: config.redis.urls.clone(),
        username: config.redis.username.clone(),
        password: password.map(|password| queue::Secret::new(password.reveal().to_owned())),
        cluster: config.redis.cluster,
        wait_replicas: config.redis.wait_replicas,
        batch_items_max: config.intake.batch_items_max,
        batch_wait_max: Duration::from_millis(config.intake.batch_wait_max_ms),
        inflight_max: config.intake.inflight_max,
    };
    let queue = Queue::connect(&settings).await.context("redis")?;
    let ring = secret("keys.ring_file", &config.keys.ring_file)?;
    let keys = KeyRing::from_json(ring.reveal().as_bytes()).context("keys.ring_file")?;
    let keys = Arc::new(keys);
    let signer = secret("keys.ticket_key_file", &config.keys.ticket_key_file)?;
    let signer = TicketSigner::from_pem(signer.reveal()).context("keys.ticket_key_file")?;
    holder::settle_mode(&db, config.arbiter.is_some()).await.context("postgres")?;
    let standing = match &config.arbiter {
        Some(arbiter) => Standing::under_arbiters(arbiter.autonomy_ms),
        None => Standing::alone(),
    };
    let (region, state_dir) = (config.region.clone(), config.state_dir.clone());
    let books = Books::under(Arc::new(standing), db.clone(), queue.clone(), region, state_dir)?;
    let catalog = Arc::new(Catalog::default());
    let payments = payments(&config, &db, &books, &catalog)?;
    // Whoever was first in this process chose; ring is what this program brings.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    Ok(Arc::new(App {
        tickets: Tickets::new(db.clone(), config.region.clone(), keys.clone(), signer, &[]),
        peers: Peers::new(config.region.clone(), config.peers.clone(), client.clone()),
        jwks: config.jwt.as_ref().map(|jwt| Jwks::new(jwt, client)),
        operator_token: secret("admin.operator_token_file", &config.admin.operator_token_file)?,
        reader_token: config
            .admin
            .reader_token_file
            .as_ref()
            .map(|path| secret("admin.reader_token_file", path))
            .transpose()?,
        door_token: secret("admin.door_token_file", &config.admin.door_token_file)?,
        base: config.public.base_url.as_str().trim_end_matches('/').to_owned(),
        rows: Reader::start(db.clone()),
        polls: Polls::default(),
        gate: Gate::new(limits::INFLIGHT_MAX),
        streams: App::stream_places(),
        refusing: Semaphore::new((config.postgres.pool_size / 4).max(1)),
        allocator: Arc::default(),
        draining: AtomicBool::new(false),
        refused_joins: AtomicU64::default(),
        keys,
        db,
        queue,
        books,
        catalog,
        payments,
        identity,
        shutdown,
        config,
    }))
}

fn payments(config: &Config, db: &Db, books: &Arc<Books>, catalog: &Arc<Catalog>) -> anyhow::Result<Payments> {
    let key = read_secret("payments.secret_key_file", &config.payments.secret_key_file)?;
    let webhook = read_secret("payments.webhook_secret_file", &config.payments.webhook_secret_file)?;
    let name = match config.payments.provider {
        ProviderKind::Sandbox => "sandbox",
        ProviderKind::Stripe => "stripe",
    };
    let provider = Stripe::new(name, config.payments.api_url.clone(), Zeroizing::new(key.reveal().to_owned()))?;
    // Two lines: the new and the old secret while one is being exchanged for the other.
    let secrets = webhook.reveal().lines().map(|line| Zeroizing::new(line.trim().to_owned())).collect();
    let around = Arc::new(Around { books: books.clone(), catalog: catalog.clone() });
    let times = PaymentsConfig::new(config.region.clone(), secrets);
    Ok(Payments::new(db.clone(), Arc::new(provider), around, times))
}

/// Starts the tasks of this node's roles.
fn spawn(tasks: &mut JoinSet<()>, app: &Arc<App>) {
    let stop = || app.shutdown.clone();
    let (db, queue, region) = (app.db.clone(), app.queue.clone(), app.config.region.clone());
    tasks.spawn(catalog::run(app.catalog.clone(), db, queue, region, stop()));
    tasks.spawn(witness::run(app.books.clone(), stop()));
    let end = stop();
    tasks.spawn(async move {
        tokio::select! {
            () = metrics::upkeep() => {}
            () = end.cancelled() => {}
        }
    });
    if let Some(arbiter) = &app.config.arbiter {
        let parts = quota::Parts {
            books: app.books.clone(),
            catalog: app.catalog.clone(),
            allocator: app.allocator.clone(),
            config: arbiter.clone(),
            shards: app.config.intake.shards,
        };
        tasks.spawn(quota::run(parts, stop()));
    }
    if app.config.has(Role::Allocator) {
        tasks.spawn(crate::allocator::run(app.books.clone(), app.allocator.clone(), stop()));
    }
    if app.config.has(Role::Recycler) {
        tasks.spawn(crate::recycler::run(app.books.clone(), stop()));
        tasks.spawn(crate::folder::run(app.books.clone(), stop()));
        tasks.spawn(crate::outbox::run(app.books.clone(), stop()));
        let payments = app.payments.clone();
        let end = stop();
        tasks.spawn(async move { payments.run(end).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_the_node_and_one_that_is_done_does_not() {
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(async {});
        let stop = shutdown.clone();
        tasks.spawn(async move { stop.cancelled().await });
        let mut watched = pin!(watch(tasks, &shutdown));
        let before = tokio::time::timeout(Duration::from_millis(50), &mut watched).await;
        assert!(before.is_err() && !shutdown.is_cancelled());
        shutdown.cancel();
        watched.await.unwrap();

        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let stop = shutdown.clone();
        tasks.spawn(async move { stop.cancelled().await });
        tasks.spawn(async { panic!("on purpose") });
        let error = watch(tasks, &shutdown).await.unwrap_err();
        assert!(shutdown.is_cancelled() && format!("{error:#}").contains("on purpose"), "{error:#}");
    }
}
