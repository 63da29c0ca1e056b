//! Real servers for tests: one PostgreSQL shared by the processes of a test run, everything else a test's own.
//!
//! The first test that asks starts the shared PostgreSQL, under `target/boxoffice-tests/`; each test gets a database of
//! its own in it, copied from a template that is filled once. A keeper process ends the server a minute after its last
//! user ended; `cargo ops test` ends it at once ([`stop_shared`]). A Redis is cheap, so every test that asks gets one.
//! Tests that kill or stop a PostgreSQL take one of their own ([`own_postgres`]).
//!
//! Whatever a test started dies with its process, also by panic or SIGKILL. Folders that a killed test left are
//! removed by the next test that asks for a server.

use super::places::{OwnFolder, remove_place};
use super::postgres::{DatabaseAddress, Postgres, PostgresSpec, Purpose, quote_name};
use super::process::Record;
use super::redis::{Redis, RedisSpec};
use super::{Lifetime, LocalError, free_port, new_password, own_address};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long the shared server waits for another user, in seconds.
const IDLE_S: u32 = 60;
/// The role that owns the tests' databases; it has no other rights, like a region's.
const ROLE: &str = "boxoffice";

/// How to reach the shared server, as its starter wrote it down.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shared {
    host: std::net::Ipv4Addr,
    port: u16,
    superuser_password: String,
    role_password: String,
    keeper: Record,
}

/// A database of a test's own; dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    address: DatabaseAddress,
    superuser: DatabaseAddress,
}

impl TestDatabase {
    /// How to reach it as the role that owns it.
    pub fn address(&self) -> &DatabaseAddress {
        &self.address
    }

    /// How to reach it as superuser.
    pub fn superuser(&self) -> &DatabaseAddress {
        &self.superuser
    }

    /// One connection as its owner.
    pub async fn connect(&self) -> Result<tokio_postgres::Client, LocalError> {
        self.address.connect().await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let mut admin = self.superuser.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_name(&self.address.database));
        admin.database = "postgres".to_owned();
        // On a thread of its own: this may run inside a runtime that is just shutting down.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| {
                runtime.block_on(async {
                    admin.connect().await?.batch_execute(&statement).await.map_err(LocalError::from)
                })
            })
        });
        if !matches!(dropping.join(), Ok(Ok(Ok(())))) {
            tracing::warn!(database = %self.address.database, "a test's database stays until its server ends");
        }
    }
}

/// An empty database of the test's own.
pub async fn database() -> Result<TestDatabase, LocalError> {
    create_database("template1").await
}

/// A database of the test's own, copied from a template. `fill` fills the template, once in a test run; `key` must
/// change whenever what `fill` does changes while a server may still run (for migrations: a hash of them).
pub async fn database_from<F, Filling, E>(key: &str, fill: F) -> Result<TestDatabase, LocalError>
where
    F: FnOnce(DatabaseAddress) -> Filling,
    Filling: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let template = format!("template_{key}");
    ensure_template(&template, fill).await?;
    create_database(&template).await
}

/// A Redis of the test's own; ends with this value.
pub async fn redis() -> Result<Redis, LocalError> {
    redis_with(&[]).await
}

/// The same with further lines of `redis.conf`.
pub async fn redis_with(extra: &[&str]) -> Result<Redis, LocalError> {
    let (folder, address) = (own_path("redis")?, own_address());
    let spec = RedisSpec {
        folder: folder.0.clone(),
        address,
        port: free_port(address)?,
        password: new_password(),
        extra: extra.iter().map(|line| (*line).to_owned()).collect(),
        lifetime: Lifetime::WithOwner(Signal::SIGKILL),
    };
    Redis::start_temporary(spec, folder).await
}

/// A PostgreSQL of the test's own, which it may kill, stop and start again; ends with this value.
pub async fn own_postgres() -> Result<Postgres, LocalError> {
    own_postgres_for(Purpose::Tests).await
}

/// The same, tuned for something else than tests.
pub async fn own_postgres_for(purpose: Purpose) -> Result<Postgres, LocalError> {
    let (folder, address) = (own_path("postgres")?, own_address());
    let spec = PostgresSpec {
        folder: folder.0.clone(),
        address,
        port: free_port(address)?,
        password: new_password(),
        purpose,
        lifetime: Lifetime::WithOwner(Signal::SIGQUIT),
    };
    Postgres::start_temporary(spec, folder).await
}

/// A new folder of this process's own under `target/`, gone with the returned value; swept later if we are killed.
pub fn own_folder(what: &str) -> Result<OwnFolder, LocalError> {
    let folder = own_path(what)?;
    std::fs::create_dir(&folder.0).map_err(LocalError::io(format!("making {}", folder.0.display())))?;
    Ok(folder)
}

/// The same, not yet made: a server makes its folder itself, elsewhere if need be.
fn own_path(what: &str) -> Result<OwnFolder, LocalError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SWEPT: OnceLock<()> = OnceLock::new();
    let above = root().join("own");
    std::fs::create_dir_all(&above).map_err(LocalError::io(format!("making {}", above.display())))?;
    SWEPT.get_or_init(|| sweep(&above));
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = above.join(format!("{}-{number}-{what}", std::process::id()));
    // A killed process with our pid may have left one of this name.
    remove_place(&folder)?;
    Ok(OwnFolder(folder))
}

/// Ends the shared server, if one runs. Tests that still use it fail.
pub fn stop_shared() {
    if let Some(shared) = read_shared() {
        shared.keeper.stop(Signal::SIGTERM, Duration::from_secs(20));
    }
    let _ = remove_place(&shared_folder());
}

async fn create_database(template: &str) -> Result<TestDatabase, LocalError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let shared = shared().await?;
    let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let admin = shared.superuser("postgres").connect().await?;
    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
    let copy = format!("CREATE DATABASE {name} TEMPLATE {} OWNER {ROLE}", quote_name(template));
    admin.batch_execute(&copy).await?;
    let address = DatabaseAddress {
        host: shared.host,
        port: shared.port,
        user: ROLE.to_owned(),
        password: shared.role_password.clone(),
        database: name.clone(),
    };
    Ok(TestDatabase { address, superuser: shared.superuser(&name) })
}

async fn ensure_template<F, Filling, E>(template: &str, fill: F) -> Result<(), LocalError>
where
    F: FnOnce(DatabaseAddress) -> Filling,
    Filling: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let shared = shared().await?;
    let admin = shared.superuser("postgres").connect().await?;
    let known = "SELECT 1 FROM pg_database WHERE datname = $1 AND NOT datallowconn";
    if !admin.query(known, &[&template]).await?.is_empty() {
        return Ok(());
    }
    let _lock = lock_start().await?;
    if !admin.query(known, &[&template]).await?.is_empty() {
        return Ok(());
    }
    let name = quote_name(template);
    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
    admin.batch_execute(&format!("CREATE DATABASE {name} OWNER {ROLE}")).await?;
    let address = DatabaseAddress {
        host: shared.host,
        port: shared.port,
        user: ROLE.to_owned(),
        password: shared.role_password.clone(),
        database: template.to_owned(),
    };
    fill(address)
        .await
        .map_err(|error| LocalError::Template { template: template.to_owned(), why: error.to_string() })?;
    // A template with connections cannot be copied; without permission to connect it stays as it is.
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await?;
    admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", &[&template]).await?;
    Ok(())
}

impl Shared {
    fn superuser(&self, database: &str) -> DatabaseAddress {
        DatabaseAddress {
            host: self.host,
            port: self.port,
            user: "postgres".to_owned(),
            password: self.superuser_password.clone(),
            database: database.to_owned(),
        }
    }
}

/// The shared server: joined if it runs, else started. Once per process.
async fn shared() -> Result<Shared, LocalError> {
    static SHARED: tokio::sync::OnceCell<Shared> = tokio::sync::OnceCell::const_new();
    SHARED.get_or_try_init(join_or_start).await.cloned()
}

async fn join_or_start() -> Result<Shared, LocalError> {
    let _start = lock_start().await?;
    hold_users_lock().await?;
    if let Some(shared) = read_shared().filter(|shared| shared.keeper.alive()) {
        if shared.superuser("postgres").connect().await.is_ok() {
            return Ok(shared);
        }
        shared.keeper.stop(Signal::SIGTERM, Duration::from_secs(10));
    }
    remove_place(&shared_folder())?;
    let address = own_address();
    let spec = PostgresSpec {
        folder: shared_folder(),
        address,
        port: free_port(address)?,
        password: new_password(),
        purpose: Purpose::Tests,
        lifetime: Lifetime::Detached,
    };
    let (host, port, superuser_password) = (spec.address, spec.port, spec.password.clone());
    let keeper = vec![
        include_str!("keeper.sh").into(),
        "keeper".into(),
        shared_folder().into(),
        users_file().into(),
        IDLE_S.to_string().into(),
    ];
    let server = Postgres::start_kept(spec, keeper).await?;
    let role_password = new_password();
    server.ensure_database(ROLE, &role_password, ROLE).await?;
    let Some(keeper) = server.record().cloned() else {
        return Err(LocalError::io("finding the keeper")(std::io::ErrorKind::NotFound.into()));
    };
    let shared = Shared { host, port, superuser_password, role_password, keeper };
    let text = serde_json::to_string(&shared).map_err(|error| LocalError::io("writing")(error.into()))?;
    super::postgres::write_private(&shared_file(), &text, &super::user::ServerUser::pick())?;
    server.leave_running();
    Ok(shared)
}

/// Held by whoever starts the server or fills a template.
async fn lock_start() -> Result<File, LocalError> {
    let path = root().join("start.lock");
    blocking(move || {
        let file = open_lock(&path)?;
        file.lock().map_err(LocalError::io(format!("locking {}", path.display())))?;
        Ok(file)
    })
    .await
}

/// Held by every process that uses the server, from its first use to its end; the keeper looks at it.
async fn hold_users_lock() -> Result<(), LocalError> {
    static HELD: OnceLock<File> = OnceLock::new();
    let file = blocking(|| {
        let file = open_lock(&users_file())?;
        file.lock_shared().map_err(LocalError::io("locking the list of users"))?;
        Ok(file)
    })
    .await?;
    let _ = HELD.set(file);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LocalError> + Send + 'static,
) -> Result<T, LocalError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| LocalError::io("waiting for a lock")(error.into()))?
}

fn open_lock(path: &Path) -> Result<File, LocalError> {
    std::fs::create_dir_all(root()).map_err(LocalError::io(format!("making {}", root().display())))?;
    let mut options = File::options();
    options.create(true).append(true);
    options.open(path).map_err(LocalError::io(format!("opening {}", path.display())))
}

fn read_shared() -> Option<Shared> {
    serde_json::from_slice(&std::fs::read(shared_file()).ok()?).ok()
}

fn users_file() -> PathBuf {
    root().join("users.lock")
}

fn shared_folder() -> PathBuf {
    root().join("shared")
}

fn shared_file() -> PathBuf {
    shared_folder().join("server.json")
}

/// `target/boxoffice-tests`: cargo's build folder carries a tag file, and the test program lies below it.
pub(super) fn root() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf);
    let fallback = || std::env::temp_dir().join(format!("boxoffice-{}", nix::unistd::geteuid()));
    target.unwrap_or_else(fallback).join("boxoffice-tests")
}

/// Removes the folders of processes that are gone.
fn sweep(above: &Path) {
    let Ok(entries) = std::fs::read_dir(above) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.split('-').next()).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| Record::of_pid(pid).is_none()) {
            let _ = remove_place(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::process::{Launch, launch, record_file};

    /// The keeper with a program that does nothing in the server's place.
    fn keeper(folder: &Path, patience: &str) -> crate::local::process::Started {
        let users = folder.join("users.lock");
        let script = include_str!("keeper.sh");
        let arguments = ["-c", script, "keeper"].map(Into::into).into_iter();
        let server = [folder.into(), users.into(), patience.into(), "sleep".into(), "100".into()];
        launch(&Launch {
            program: Path::new("sh"),
            args: arguments.chain(server).collect(),
            env: Vec::new(),
            cwd: folder,
            log: &folder.join("log"),
            record: &record_file(folder, "keeper"),
            user: None,
            lifetime: Lifetime::WithOwner(Signal::SIGTERM),
        })
        .unwrap()
    }

    #[test]
    fn the_keeper_ends_the_server_when_its_last_user_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("server.json"), "{}").unwrap();
        let user = open_file(folder.path());
        user.lock_shared().unwrap();
        let mut started = keeper(folder.path(), "2");
        std::thread::sleep(Duration::from_secs(5));
        assert!(started.record.alive() && started.ended().is_none(), "ended under a user");
        drop(user);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while started.ended().is_none() {
            assert!(std::time::Instant::now() < deadline, "the keeper does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(!folder.path().join("server.json").exists());
        let left = crate::local::process::processes_in(&folder.path().canonicalize().unwrap());
        assert_eq!(left, Vec::new());
    }

    fn open_file(folder: &Path) -> File {
        File::options().create(true).append(true).open(folder.join("users.lock")).unwrap()
    }
}
