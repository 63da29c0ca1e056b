//! The region's PostgreSQL: connections, migrations, and every transaction that moves a ticket.
//!
//! - [`book`] is the lock of a concert: whoever moves a counter takes it first. Order: book, reservation, quota.
//! - [`holder`]: the region's half of the quota protocol, where it has arbiters.
//! - [`concerts`] definitions; [`snapshot`] and [`status`] what nodes show; [`ledger`] what auditors read.
//! - [`payments`] and [`tickets`]: what is paid, and what it gives.
//! - [`allocate`], [`release`], [`finals`], [`fold`], [`reclaim`], [`generations`]: the transactions themselves.
//!
//! Must never: hold a lock across a call to anything but this database, or believe a commit that it did not see succeed.

pub mod allocate;
pub mod book;
pub mod concerts;
pub mod elsewhere;
pub mod finals;
pub mod find;
pub mod fold;
pub mod generations;
pub mod holder;
pub mod ledger;
pub mod migrate;
pub mod outbox;
pub mod payments;
pub mod ranges;
pub mod reclaim;
pub mod release;
pub mod snapshot;
pub mod status;
pub mod tickets;
pub mod wanted;

pub use migrate::Identity;
pub use snapshot::snapshot;
pub use status::status;

use deadpool_postgres::{Hook, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use zeroize::Zeroizing;

/// Whoever asks for a connection waits this long at most; then the request is refused, not queued.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Opening a connection takes milliseconds; longer means that the server is not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A statement that runs longer is a defect; the server ends it, so no lock is kept for ever. But for a `COPY` whose client
/// sends nothing: that is for [`SERVER_KEEPALIVE`] and `allocator::end_stuck`.
const STATEMENT_MAX_MS: u32 = 30_000;
/// A transaction whose client fell silent between two statements gives its locks back after this.
const IDLE_TRANSACTION_MAX_MS: u32 = 10_000;
/// The server, too, notices within about 20 s that a machine is gone without a word: settings of TCP, which a local socket
/// ignores.
const SERVER_KEEPALIVE: &str = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2 \
                                -c tcp_user_timeout=20000";

/// How to reach the database.
#[derive(Clone)]
pub struct DbConfig {
    /// Host name, address, or folder of the socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// The role's password, if one is asked for.
    pub password: Option<Zeroizing<String>>,
    /// Connections in the pool at most. The allocator has two more of its own.
    pub pool_size: usize,
}

impl fmt::Debug for DbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

impl DbConfig {
    fn to_postgres(&self, application: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(&self.user).dbname(&self.database);
        if let Some(password) = &self.password {
            config.password(password.as_bytes());
        }
        config.application_name(application);
        config.connect_timeout(CONNECT_MAX);
        config.keepalives_idle(Duration::from_secs(10)).tcp_user_timeout(Duration::from_secs(20));
        // `synchronous_commit` may be stricter than `on` (a standby), never laxer: an answer means durable.
        config.options(format!(
            "-c synchronous_commit=on -c jit=off -c default_transaction_isolation=read\\ committed \
             -c statement_timeout={STATEMENT_MAX_MS} -c idle_in_transaction_session_timeout={IDLE_TRANSACTION_MAX_MS} \
             {SERVER_KEEPALIVE}"
        ));
        config
    }
}

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No connection could be had in time.
    #[error("no connection to the database: {0}")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// The server refused, or the connection broke. After a broken COMMIT nobody knows: read before you try again.
    #[error("database: {}", chain(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The pool could not be made.
    #[error("database pool: {0}")]
    Build(String),
    /// The schema could not be brought up to date.
    #[error("migrations: {0}")]
    Migration(String),
    /// The database was made by a newer version of this program.
    #[error(
        "the database has schema version {database}, this program knows only up to {program}: \
         start the newer program that made it (a newer schema is never taken back)"
    )]
    NewerSchema {
        /// Version found in the database.
        database: i64,
        /// Newest version that this program contains.
        program: i64,
    },
    /// The database belongs to another region.
    #[error("the database belongs to region {found}, this node is configured for {expected}")]
    OtherRegion {
        /// Region named in the database.
        found: String,
        /// Region named in the configuration.
        expected: String,
    },
    /// The database is of a region that works in another way than this node is configured for.
    #[error("{0}")]
    OtherMode(&'static str),
    /// There is no such concert.
    #[error("no such concert")]
    NoConcert,
    /// The books of the concert are halted: nothing moves until an operator resolves it.
    #[error("concert {concert_id} is halted: {why}")]
    Halted {
        /// The concert.
        concert_id: i32,
        /// What happened and what to do.
        why: String,
    },
    /// The database is behind a witness of its book numbers: an older copy. Halt before anything else.
    #[error("concert {concert_id}: the database is at book {found}, but book {witnessed} was witnessed")]
    BehindWitness {
        /// The concert.
        concert_id: i32,
        /// Book number in the database.
        found: u64,
        /// Highest book number known from outside.
        witnessed: u64,
    },
    /// The quota was registered by another database than this one.
    #[error("concert {concert_id}: its quota is registered for another database than this one")]
    NotRegistered {
        /// The concert.
        concert_id: i32,
    },
    /// Under arbiters: the database is not, or not yet, the one that is registered. Nothing is spent until it is.
    #[error("this database is not registered with the arbiters: nothing is spent until it is")]
    Unregistered,
    /// Under arbiters: this node has not heard of the newest registration yet.
    #[error("the database was registered anew; this node works under another epoch")]
    OtherEpoch,
    /// Under arbiters: they refused this database, or it found itself behind its own reports.
    #[error("the region is halted: {why}")]
    RegionHalted {
        /// What happened and what to do.
        why: String,
    },
    /// Another transaction changed what this one stood on; nothing was stored.
    #[error("another writer was first")]
    Raced,
    /// The database holds something that this program cannot have written.
    #[error("unreadable row: {0}")]
    Corrupt(String),
    /// A fail point asked for an error here (tests only).
    #[error("fail point {0}")]
    FailPoint(&'static str),
}

impl DbError {
    /// Whether it is about the connection or the server's state, so that the same may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Pool(_) | Self::Raced | Self::FailPoint(_) | Self::Unregistered | Self::OtherEpoch => true,
            Self::Postgres(error) => match error.code() {
                None => true,
                Some(code) => {
                    let class = &code.code()[..2];
                    matches!(class, "08" | "40" | "53" | "55" | "57" | "58")
                }
            },
            _ => false,
        }
    }

    /// Whether a CHECK constraint or a trigger that guards the books refused it.
    pub fn is_refused_by_check(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.code() == Some(&SqlState::CHECK_VIOLATION))
    }
}

/// An error with its causes: tokio-postgres keeps the server's message in the source.
fn chain(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Stops here with an error when a test armed the fail point of that name.
macro_rules! db_fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| Err($crate::db::DbError::FailPoint($name).into()))
    };
}
pub(crate) use db_fail_point;

/// The region's database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    config: Arc<DbConfig>,
    connects: Arc<AtomicU64>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({:?})", self.config)
    }
}

impl Db {
    /// Makes the pool and opens one connection, so that a wrong address or password is known at once.
    pub async fn connect(config: &DbConfig) -> Result<Self, DbError> {
        let manager = Manager::from_config(
            config.to_postgres("region-node"),
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let connects = Arc::new(AtomicU64::new(0));
        let counted = connects.clone();
        let pool = Pool::builder(manager)
            .max_size(config.pool_size)
            .wait_timeout(Some(WAIT_MAX))
            .create_timeout(Some(CONNECT_MAX))
            .recycle_timeout(Some(CONNECT_MAX))
            .runtime(Runtime::Tokio1)
            .post_create(Hook::sync_fn(move |_, _| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }))
            .build()
            .map_err(|error| DbError::Build(error.to_string()))?;
        let db = Self { pool, config: Arc::new(config.clone()), connects };
        drop(db.client().await?);
        Ok(db)
    }

    /// A pooled connection. A transaction left open by a dropped future is rolled back before the next user.
    pub async fn client(&self) -> Result<deadpool_postgres::Object, DbError> {
        Ok(self.pool.get().await?)
    }

    /// A connection outside the pool, with the task that drives it: for session locks. Ends when dropped.
    pub(crate) async fn dedicated(&self, application: &str) -> Result<Dedicated, DbError> {
        let (client, connection) = self.config.to_postgres(application).connect(NoTls).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "a dedicated database connection ended");
            }
        });
        Ok(Dedicated { client, driver: driver.abort_handle() })
    }

    /// Connections opened so far. When it moved, the server may be another one than before: check the witnesses.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Whether the database answers now.
    pub async fn ping(&self) -> Result<(), DbError> {
        self.client().await?.batch_execute("").await?;
        Ok(())
    }
}

/// See [`Db::dedicated`].
#[derive(Debug)]
pub(crate) struct Dedicated {
    /// The connection.
    pub(crate) client: tokio_postgres::Client,
    driver: tokio::task::AbortHandle,
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        // Closes the socket also when statements are still under way; the server rolls back.
        self.driver.abort();
    }
}

/// Milliseconds since 1970 as the database counts them.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count or a time that the schema keeps from being negative.
pub(crate) fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
