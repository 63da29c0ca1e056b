//! A private Redis: append-only file synced before every answer, nothing ever evicted, a password, its own folder.

use super::postgres::write_private;
use super::process::{self, Launch, Lifetime, Record, Started};
use super::user::ServerUser;
use super::{LocalError, OwnFolder, make_place, tail};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a start may take: replaying a long append-only file included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Which server to start.
#[derive(Debug, Clone)]
pub struct RedisSpec {
    /// Its folder; made when missing, kept when it is there.
    pub folder: PathBuf,
    /// Loopback address to listen on.
    pub address: Ipv4Addr,
    /// Port to listen on.
    pub port: u16,
    /// Password of the default user, and towards a master.
    pub password: String,
    /// Further lines of `redis.conf`, such as `cluster-enabled yes`.
    pub extra: Vec<String>,
    /// How long it lives.
    pub lifetime: Lifetime,
}

/// A running server.
#[derive(Debug)]
pub struct Redis {
    spec: RedisSpec,
    user: ServerUser,
    place: PathBuf,
    started: Option<Started>,
    /// Its folder, where that is to be removed in the end.
    temporary: Option<OwnFolder>,
}

impl Redis {
    /// Starts a server and waits until it answers. What its folder holds is replayed.
    pub async fn start(spec: RedisSpec) -> Result<Self, LocalError> {
        let mut server = Self::prepare(spec)?;
        server.start_again().await?;
        Ok(server)
    }

    /// Finds the server of this folder if it runs, else starts it; says which it was.
    pub async fn find_or_start(spec: RedisSpec) -> Result<(Self, bool), LocalError> {
        let mut server = Self::prepare(spec)?;
        let found = Record::read(&process::record_file(&server.place, "redis")).is_some_and(|record| record.alive());
        if found {
            server.wait_ready().await?;
        } else {
            server.start_again().await?;
        }
        Ok((server, found))
    }

    /// The same as [`Self::start`] for a folder that is removed when this value is dropped.
    pub(super) async fn start_temporary(spec: RedisSpec, folder: OwnFolder) -> Result<Self, LocalError> {
        let mut server = Self::prepare(spec)?;
        server.temporary = Some(folder);
        server.start_again().await?;
        Ok(server)
    }

    fn prepare(spec: RedisSpec) -> Result<Self, LocalError> {
        let user = ServerUser::pick();
        let place = make_place(&spec.folder, &user)?;
        Ok(Self { spec, user, place, started: None, temporary: None })
    }

    /// Starts a server that was stopped or killed, on the same address and data, and waits until it answers.
    pub async fn start_again(&mut self) -> Result<(), LocalError> {
        let settings = self.place.join("redis.conf");
        write_private(&settings, &self.settings(), &self.user)?;
        self.started = Some(process::launch(&Launch {
            program: &program()?,
            args: vec![settings.into()],
            env: Vec::new(),
            cwd: &self.place,
            log: &self.log(),
            record: &process::record_file(&self.place, "redis"),
            user: Some(&self.user),
            lifetime: self.spec.lifetime,
        })?);
        self.wait_ready().await
    }

    /// Loopback address.
    pub fn host(&self) -> Ipv4Addr {
        self.spec.address
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.spec.port
    }

    /// Password of the default user.
    pub fn password(&self) -> &str {
        &self.spec.password
    }

    /// `redis://…` without the password.
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.spec.address, self.spec.port)
    }

    /// `redis://…` with the password.
    pub fn url_with_password(&self) -> String {
        format!("redis://:{}@{}:{}", self.spec.password, self.spec.address, self.spec.port)
    }

    /// One connection, past any pool of the program under test.
    pub async fn connect(&self) -> Result<::redis::aio::MultiplexedConnection, LocalError> {
        let client = ::redis::Client::open(self.url_with_password())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// The server's process; `None` while it is stopped.
    pub fn record(&self) -> Option<&Record> {
        self.started.as_ref().map(|started| &started.record)
    }

    /// Its folder: the append-only file lies in `appendonlydir` below it.
    pub fn folder(&self) -> &std::path::Path {
        &self.place
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.place.join("log")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut started) = self.started.take() {
            started.stop(Signal::SIGKILL, Duration::from_secs(5));
        }
    }

    /// SIGSTOP: the server neither answers nor closes its connections.
    pub fn pause(&self) {
        if let Some(record) = self.record() {
            record.signal(Signal::SIGSTOP);
        }
    }

    /// SIGCONT after [`Self::pause`].
    pub fn resume(&self) {
        if let Some(record) = self.record() {
            record.signal(Signal::SIGCONT);
        }
    }

    /// A clean stop.
    pub fn stop(&mut self) {
        if let Some(mut started) = self.started.take() {
            started.stop(Signal::SIGTERM, Duration::from_secs(20));
        }
    }

    /// Leaves a detached server running without this value.
    pub fn leave_running(mut self) {
        self.started = None;
    }

    fn settings(&self) -> String {
        let (address, port, password) = (self.spec.address, self.spec.port, &self.spec.password);
        let mut text = format!(
            "bind {address}\nport {port}\nprotected-mode yes\nrequirepass {password}\nmasterauth {password}\n\
             dir {place}\ndaemonize no\nlogfile \"\"\nloglevel notice\n\
             # A 202 means: on disk, and it stays there.\n\
             appendonly yes\nappendfsync always\nno-appendfsync-on-rewrite no\nsave \"\"\n\
             maxmemory-policy noeviction\ntcp-backlog 511\n",
            place = self.place.display(),
        );
        for line in &self.spec.extra {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    async fn wait_ready(&mut self) -> Result<(), LocalError> {
        let begun = Instant::now();
        loop {
            // While it replays its log it answers LOADING to everything.
            let answer: Result<String, LocalError> = async {
                let mut connection = self.connect().await?;
                Ok(::redis::cmd("PING").query_async(&mut connection).await?)
            }
            .await;
            let why = match answer {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            let ended = self.started.as_mut().and_then(Started::ended);
            if ended.is_some() || begun.elapsed() > READY_WITHIN {
                let why = ended.map_or(why, |status| format!("it ended ({status})"));
                let (server, log) = (format!("Redis at {}:{}", self.spec.address, self.spec.port), self.log());
                let log_tail = tail(&log);
                return Err(LocalError::NotReady { server, waited: begun.elapsed(), why, log, log_tail });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let (Some(mut started), Lifetime::WithOwner(_)) = (self.started.take(), self.spec.lifetime) {
            started.stop(Signal::SIGKILL, Duration::from_secs(5));
        }
    }
}

/// Finds `redis-server` on the path.
pub fn program() -> Result<PathBuf, LocalError> {
    let missing = LocalError::Missing { program: "Redis 7 or later", install: "apt-get install redis-server" };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|path| path.exists()).ok_or(missing)
}
