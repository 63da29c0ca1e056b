//! A private PostgreSQL: initdb into its own folder, its own port and password, no socket, scram only.
//!
//! Never runs with `fsync = off`: what is proven against it must hold for what people run. The superuser is for this
//! code alone; a region gets a role without rights beyond its own database.

use super::process::{self, Launch, Lifetime, Record, Started};
use super::user::ServerUser;
use super::{LocalError, OwnFolder, make_place, tail};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The oldest PostgreSQL that will do.
const VERSION_MIN: u32 = 15;
/// How long a start may take: recovery after a crash under load included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a server is for; decides its memory and how many connections it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One region of a cluster that people use.
    Region,
    /// Short tests, many databases.
    Tests,
}

/// Which server to start.
#[derive(Debug, Clone)]
pub struct PostgresSpec {
    /// Its folder; made when missing, kept when it is there.
    pub folder: PathBuf,
    /// Loopback address to listen on.
    pub address: Ipv4Addr,
    /// Port to listen on.
    pub port: u16,
    /// The superuser's password; fixed when the folder is first made.
    pub password: String,
    /// What it is for.
    pub purpose: Purpose,
    /// How long it lives.
    pub lifetime: Lifetime,
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    spec: PostgresSpec,
    user: ServerUser,
    place: PathBuf,
    started: Option<Started>,
    /// Its folder, where that is to be removed in the end.
    temporary: Option<OwnFolder>,
}

/// How to reach one database of a server.
#[derive(Debug, Clone)]
pub struct DatabaseAddress {
    /// Loopback address.
    pub host: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// The role's password.
    pub password: String,
    /// Database.
    pub database: String,
}

impl DatabaseAddress {
    /// As tokio-postgres wants it.
    pub fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.host.to_string()).port(self.port).user(&self.user).password(&self.password);
        config.dbname(&self.database).connect_timeout(Duration::from_secs(5));
        config
    }

    /// One connection; its task ends when the client is dropped.
    pub async fn connect(&self) -> Result<tokio_postgres::Client, LocalError> {
        let (client, connection) = self.config().connect(tokio_postgres::NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to PostgreSQL ended");
            }
        });
        Ok(client)
    }
}

impl Postgres {
    /// Starts a server and waits until it answers. An existing data folder is kept (crash recovery included).
    pub async fn start(spec: PostgresSpec) -> Result<Self, LocalError> {
        let mut server = Self::prepare(spec)?;
        server.start_again().await?;
        Ok(server)
    }

    /// Finds the server of this folder if it runs, else starts it; says which it was.
    pub async fn find_or_start(spec: PostgresSpec) -> Result<(Self, bool), LocalError> {
        let mut server = Self::prepare(spec)?;
        let found = Record::read(&process::record_file(&server.place, "postgres")).is_some_and(|record| record.alive());
        if found {
            server.wait_ready().await?;
        } else {
            server.start_again().await?;
        }
        Ok((server, found))
    }

    /// The same as [`Self::start`] for a folder that is removed when this value is dropped.
    pub(super) async fn start_temporary(spec: PostgresSpec, folder: OwnFolder) -> Result<Self, LocalError> {
        let mut server = Self::prepare(spec)?;
        server.temporary = Some(folder);
        server.start_again().await?;
        Ok(server)
    }

    /// Starts a server as the child of `keeper` (a shell script and its arguments), which ends it.
    pub(super) async fn start_kept(spec: PostgresSpec, keeper: Vec<OsString>) -> Result<Self, LocalError> {
        let mut server = Self::prepare(spec)?;
        server.write_settings()?;
        let mut args: Vec<OsString> = ["-c".into()].into_iter().chain(keeper).collect();
        args.extend(process::setpriv(Some(&server.user), Lifetime::WithOwner(Signal::SIGQUIT)));
        args.extend([program("postgres")?.into(), "-D".into(), server.data().into()]);
        server.started = Some(process::launch(&Launch {
            program: Path::new("sh"),
            args,
            env: Vec::new(),
            cwd: &server.place,
            log: &server.log(),
            record: &process::record_file(&server.place, "keeper"),
            user: None,
            lifetime: Lifetime::Detached,
        })?);
        server.wait_ready().await?;
        Ok(server)
    }

    fn prepare(spec: PostgresSpec) -> Result<Self, LocalError> {
        let user = ServerUser::pick();
        let place = make_place(&spec.folder, &user)?;
        let server = Self { spec, user, place, started: None, temporary: None };
        server.initialise()?;
        Ok(server)
    }

    /// Starts a server that was stopped or killed, on the same address and data, and waits until it answers.
    pub async fn start_again(&mut self) -> Result<(), LocalError> {
        self.write_settings()?;
        let data = self.data();
        // Backends of a killed server hold its shared memory until they notice; a new one would refuse to start.
        for left in process::processes_in(&data) {
            left.stop(Signal::SIGKILL, Duration::ZERO);
        }
        let lifetime = self.spec.lifetime;
        self.started = Some(process::launch(&Launch {
            program: &program("postgres")?,
            args: vec!["-D".into(), data.clone().into()],
            env: Vec::new(),
            cwd: &data,
            log: &self.log(),
            record: &process::record_file(&self.place, "postgres"),
            user: Some(&self.user),
            lifetime,
        })?);
        self.wait_ready().await
    }

    /// How to reach a database as the superuser.
    pub fn superuser(&self, database: &str) -> DatabaseAddress {
        DatabaseAddress {
            host: self.spec.address,
            port: self.spec.port,
            user: "postgres".to_owned(),
            password: self.spec.password.clone(),
            database: database.to_owned(),
        }
    }

    /// Makes a role that owns one database, if they are not there; sets the role's password either way.
    pub async fn ensure_database(&self, role: &str, password: &str, name: &str) -> Result<DatabaseAddress, LocalError> {
        let client = self.superuser("postgres").connect().await?;
        let role_there = !client.query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role]).await?.is_empty();
        let verb = if role_there { "ALTER" } else { "CREATE" };
        client
            .batch_execute(&format!("{verb} ROLE {} LOGIN PASSWORD {}", quote_name(role), quote_text(password)))
            .await?;
        if client.query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await?.is_empty() {
            client.batch_execute(&format!("CREATE DATABASE {} OWNER {}", quote_name(name), quote_name(role))).await?;
        }
        let (user, password, database) = (role.to_owned(), password.to_owned(), name.to_owned());
        Ok(DatabaseAddress { host: self.spec.address, port: self.spec.port, user, password, database })
    }

    /// The server's process; `None` while it is stopped.
    pub fn record(&self) -> Option<&Record> {
        self.started.as_ref().map(|started| &started.record)
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.place.join("log")
    }

    /// SIGKILL to the server and all its backends at once: what a power cut of the machine looks like from outside.
    pub fn kill(&mut self) {
        let all = process::processes_in(&self.data());
        if let Some(mut started) = self.started.take() {
            started.stop(Signal::SIGKILL, Duration::from_secs(5));
        }
        for left in all {
            left.stop(Signal::SIGKILL, Duration::ZERO);
        }
    }

    /// SIGSTOP: the server neither answers nor closes its connections.
    pub fn pause(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// SIGCONT after [`Self::pause`].
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// A fast, clean stop: open transactions are rolled back, a checkpoint is written.
    pub fn stop(&mut self) {
        if let Some(mut started) = self.started.take() {
            started.stop(Signal::SIGINT, Duration::from_secs(20));
        }
    }

    /// Leaves a detached server running without this value.
    pub fn leave_running(mut self) {
        self.started = None;
    }

    fn signal_all(&self, signal: Signal) {
        for process in process::processes_in(&self.data()) {
            process.signal(signal);
        }
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// Makes the data folder, whole or not at all: an initdb that was killed half-way is thrown away.
    fn initialise(&self) -> Result<(), LocalError> {
        if self.data().exists() {
            return Ok(());
        }
        let new = self.place.join("data.new");
        match std::fs::remove_dir_all(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LocalError::io(format!("removing {}", new.display()))(error));
            }
            _ => {}
        }
        let password_file = self.place.join("password.new");
        write_private(&password_file, &self.spec.password, &self.user)?;
        let (new_text, file_text) = (new.display().to_string(), password_file.display().to_string());
        let mut args = vec!["-D", &new_text, "--username=postgres", "--pwfile", &file_text];
        args.extend(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]);
        if self.spec.purpose == Purpose::Tests {
            args.push("--no-sync");
        }
        let made = process::run(&self.user, &self.place, &program("initdb")?, &args);
        let _ = std::fs::remove_file(&password_file);
        made?;
        std::fs::rename(&new, self.data()).map_err(LocalError::io("naming the new data folder"))
    }

    fn write_settings(&self) -> Result<(), LocalError> {
        let data = self.data();
        write_private(&data.join("postgresql.conf"), &settings(&self.spec), &self.user)?;
        let everyone = "# Only this machine, only with a password.\nhost all all 127.0.0.0/8 scram-sha-256\n\
                        host replication all 127.0.0.0/8 scram-sha-256\n";
        write_private(&data.join("pg_hba.conf"), everyone, &self.user)
    }

    async fn wait_ready(&mut self) -> Result<(), LocalError> {
        let begun = Instant::now();
        let address = self.superuser("postgres");
        loop {
            let why = match address.connect().await {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            let ended = self.started.as_mut().and_then(Started::ended);
            if ended.is_some() || begun.elapsed() > READY_WITHIN {
                let why = ended.map_or(why, |status| format!("it ended ({status})"));
                let (server, log) = (format!("PostgreSQL at {}:{}", self.spec.address, self.spec.port), self.log());
                let log_tail = tail(&log);
                return Err(LocalError::NotReady { server, waited: begun.elapsed(), why, log, log_tail });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let (Some(mut started), Lifetime::WithOwner(_)) = (self.started.take(), self.spec.lifetime) {
            started.stop(Signal::SIGQUIT, Duration::from_secs(5));
        }
    }
}

/// Finds the newest PostgreSQL on this machine that is new enough: Debian's folders first, then the path.
pub fn program(name: &str) -> Result<PathBuf, LocalError> {
    let missing = LocalError::Missing { program: "PostgreSQL 15 or later", install: "apt-get install postgresql-15" };
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin").join(name)))
        })
        .filter(|(version, path)| *version >= VERSION_MIN && path.exists())
        .max();
    if let Some((_, path)) = newest {
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists()).ok_or(missing)
}

/// Quotes a name for SQL.
pub(super) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Writes a file that only the servers' account may read.
pub(super) fn write_private(path: &Path, text: &str, user: &ServerUser) -> Result<(), LocalError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let write = || options.open(path)?.write_all(text.as_bytes());
    write().map_err(LocalError::io(format!("writing {}", path.display())))?;
    user.own(path, 0o600)
}

fn settings(spec: &PostgresSpec) -> String {
    let (shared_buffers, connections, min_wal_size, max_wal_size) = match spec.purpose {
        Purpose::Region => ("256MB", 100, "1GB", "2GB"),
        Purpose::Tests => ("64MB", 400, "80MB", "1GB"),
    };
    format!(
        "listen_addresses = '{address}'\nport = {port}\nunix_socket_directories = ''\n\
         password_encryption = 'scram-sha-256'\nmax_connections = {connections}\nshared_buffers = '{shared_buffers}'\n\
         # A 202 and a hold mean: on disk.\n\
         fsync = on\nsynchronous_commit = on\nfull_page_writes = on\n\
         # Files of the log are kept for the next sale: making one takes as long as three batches.\n\
         min_wal_size = '{min_wal_size}'\nmax_wal_size = '{max_wal_size}'\ncheckpoint_timeout = '15min'\nwal_level = replica\n\
         # Short statements on indexes: compiling them or splitting them over workers costs more than it saves.\n\
         jit = off\nmax_parallel_workers_per_gather = 0\nrandom_page_cost = 1.1\n\
         timezone = 'UTC'\nlog_timezone = 'UTC'\nlc_messages = 'C.UTF-8'\n\
         logging_collector = off\nlog_line_prefix = '%m [%p] %a '\nlog_min_duration_statement = '1s'\n\
         log_checkpoints = off\nlog_parameter_max_length = 0\nlog_parameter_max_length_on_error = 0\n",
        address = spec.address,
        port = spec.port,
    )
}
