//! Starting each part of a local cluster, or finding it running.

use crate::cluster::home::Home;
use crate::cluster::layout::{ROOM, RegionLayout, SANDBOX};
use crate::cluster::node_config::{ALL_ROLES, NodeConfig};
use crate::cluster::secrets::{SecretFiles, server_password};
use crate::cluster::{PostgresAccess, RedisAccess, Region, Sandbox, client};
use crate::local::process::{self, Launch, Record};
use crate::local::{Lifetime, Postgres, PostgresSpec, Purpose, Redis, RedisSpec};
use crate::output::Step;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a node may take: migrations and a first look at its queues included.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Role and database of a region.
const ROLE: &str = "boxoffice";

/// What all parts of one `up` share.
pub(super) struct Site<'a> {
    pub home: &'a Home,
    pub secrets: &'a SecretFiles,
    pub regions: &'a [RegionLayout],
    pub http: reqwest::Client,
    /// Arbiters that the regions have; none where they are standalone.
    pub arbiters: Option<super::arbiters::Bench>,
    /// Programs of ours, built.
    pub programs: super::Programs,
}

/// PostgreSQL, Redis and node of one region.
pub(super) async fn region(site: &Site<'_>, layout: &RegionLayout) -> Result<Region> {
    let postgres = step(format!("PostgreSQL of {}", layout.region), layout.postgres(), postgres(site, layout)).await?;
    let redis = step(format!("Redis of {}", layout.region), layout.redis(), redis(site, layout)).await?;
    let node_folder = site.home.part(layout.region.as_str()).join("node");
    let node = node(site, layout, &node_folder, &postgres, &redis);
    step(format!("node of {}", layout.region), layout.public(), node).await?;
    Ok(Region {
        region: layout.region.clone(),
        public: format!("http://{}", layout.public()),
        admin: format!("http://{}", layout.admin()),
        position: Some(layout.position),
        operator_token_file: site.secrets.operator_token.clone(),
        door_token_file: site.secrets.door_token.clone(),
        ticket_public_key_file: site.secrets.ticket_public_key.clone(),
        postgres,
        redis,
        node_folder,
    })
}

/// The sandbox payment provider.
pub(super) async fn sandbox(site: &Site<'_>) -> Result<Sandbox> {
    step("sandbox payments".to_owned(), SANDBOX.into(), start_sandbox(site)).await?;
    Ok(Sandbox {
        url: format!("http://{SANDBOX}"),
        secret_key_file: site.secrets.payment_key.clone(),
        control_token_file: site.secrets.sandbox_control_token.clone(),
    })
}

/// Whether it ran already.
pub(super) struct Found(pub(super) bool);

/// Shows one part's start as it goes.
pub(super) async fn step<T>(what: String, at: SocketAddr, work: impl Future<Output = Result<(T, Found)>>) -> Result<T> {
    let step = Step::begin(format!("{what} at {at}"));
    match work.await {
        Ok((value, Found(found))) => {
            step.done(if found { "(was running)" } else { "" });
            Ok(value)
        }
        Err(error) => {
            step.failed();
            Err(error.context(format!("starting {what}")))
        }
    }
}

async fn postgres(site: &Site<'_>, layout: &RegionLayout) -> Result<(PostgresAccess, Found)> {
    let folder = site.home.part(layout.region.as_str()).join("postgres");
    let (_, password) = server_password(site.home, &format!("{}-postgres-superuser", layout.region))?;
    let (password_file, role_password) = server_password(site.home, &format!("{}-postgres", layout.region))?;
    free_unless_ours(layout.postgres(), &folder, "postgres")?;
    let spec = PostgresSpec {
        folder,
        address: layout.address,
        port: layout.postgres().port(),
        password,
        purpose: Purpose::Region,
        lifetime: Lifetime::Detached,
    };
    let (server, found) = Postgres::find_or_start(spec).await?;
    server.ensure_database(ROLE, &role_password, ROLE).await?;
    server.leave_running();
    let (host, port) = (layout.address, layout.postgres().port());
    Ok((PostgresAccess { host, port, user: ROLE.into(), database: ROLE.into(), password_file }, Found(found)))
}

async fn redis(site: &Site<'_>, layout: &RegionLayout) -> Result<(RedisAccess, Found)> {
    let folder = site.home.part(layout.region.as_str()).join("redis");
    let (password_file, password) = server_password(site.home, &format!("{}-redis", layout.region))?;
    free_unless_ours(layout.redis(), &folder, "redis")?;
    let spec = RedisSpec {
        folder,
        address: layout.address,
        port: layout.redis().port(),
        password,
        extra: Vec::new(),
        lifetime: Lifetime::Detached,
    };
    let (server, found) = Redis::find_or_start(spec).await?;
    let url = server.url();
    server.leave_running();
    Ok((RedisAccess { url, password_file }, Found(found)))
}

async fn node(
    site: &Site<'_>,
    layout: &RegionLayout,
    folder: &Path,
    postgres: &PostgresAccess,
    redis: &RedisAccess,
) -> Result<((), Found)> {
    let (state_dir, config) = (folder.join("state"), folder.join("node.toml"));
    std::fs::create_dir_all(&state_dir).with_context(|| format!("making {}", state_dir.display()))?;
    let others = site.regions.iter().filter(|other| other.region != layout.region);
    let peers: Vec<_> = others.map(|other| (other.region.clone(), other.public())).collect();
    let access = site.arbiters.as_ref().map(|arbiters| arbiters.access(&layout.region)).transpose()?;
    let text = NodeConfig {
        region: &layout.region,
        state_dir: &state_dir,
        roles: &ALL_ROLES,
        worker_threads: None,
        public: layout.public(),
        admin: layout.admin(),
        postgres,
        redis,
        secrets: site.secrets,
        sandbox_url: &format!("http://{SANDBOX}"),
        peers: &peers,
        arbiter: access.as_ref(),
        room: Some(ROOM),
    }
    .text()?;
    let changed = std::fs::read_to_string(&config).ok().as_deref() != Some(&text);
    let running = Record::read(&process::record_file(folder, "node")).filter(Record::alive);
    if let Some(record) = running.as_ref().filter(|_| changed) {
        // It must learn of regions that were added: a tidy restart, which every client survives.
        record.stop(Signal::SIGTERM, Duration::from_secs(30));
    }
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let args = vec!["--config".into(), config.into()];
    let program = site.programs.node.clone();
    let ready = format!("http://{}/readyz", layout.public());
    program_part(site, folder, "node", &program, args, &[layout.public(), layout.admin()], &ready).await
}

async fn start_sandbox(site: &Site<'_>) -> Result<((), Found)> {
    let folder = site.home.part("sandbox");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let program = std::env::current_exe().context("finding this program")?;
    let mut args: Vec<OsString> = vec!["sandbox".into(), "--listen".into(), SANDBOX.to_string().into()];
    let files = [
        ("--secret-key-file", site.secrets.payment_key.clone()),
        ("--control-token-file", site.secrets.sandbox_control_token.clone()),
        ("--webhook-secret-file", site.secrets.webhook_secret.clone()),
        ("--record", folder.join("record")),
    ];
    args.extend(files.into_iter().flat_map(|(flag, file)| [flag.into(), file.into_os_string()]));
    for layout in site.regions {
        args.extend(["--webhook-url".into(), format!("http://{}/v1/webhooks/stripe", layout.public()).into()]);
    }
    let told = folder.join("arguments");
    let text = args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join("\n");
    let changed = std::fs::read_to_string(&told).ok().as_deref() != Some(&text);
    if let Some(record) = Record::read(&process::record_file(&folder, "sandbox")).filter(|_| changed) {
        // Its webhooks must reach regions that were added; its record outlives the restart.
        record.stop(Signal::SIGTERM, Duration::from_secs(10));
    }
    std::fs::write(&told, text).with_context(|| format!("writing {}", told.display()))?;
    let ready = format!("http://{SANDBOX}/healthz");
    program_part(site, &folder, "sandbox", &program, args, &[SANDBOX.into()], &ready).await
}

/// A program of ours that runs.
pub(super) struct Launched {
    /// It was running.
    pub found: bool,
    record: Record,
    log: PathBuf,
}

/// Starts a program of ours unless it runs, and waits until its health address answers with 200.
pub(super) async fn program_part(
    site: &Site<'_>,
    folder: &Path,
    name: &str,
    program: &Path,
    args: Vec<OsString>,
    listens: &[SocketAddr],
    ready: &str,
) -> Result<((), Found)> {
    let launched = launch_part(folder, name, program, args, listens)?;
    until_ready(&site.http, &launched, ready).await?;
    Ok(((), Found(launched.found)))
}

/// Starts a program of ours unless it runs.
pub(super) fn launch_part(
    folder: &Path,
    name: &str,
    program: &Path,
    args: Vec<OsString>,
    listens: &[SocketAddr],
) -> Result<Launched> {
    let (record_file, log) = (process::record_file(folder, name), folder.join("log"));
    if let Some(record) = Record::read(&record_file).filter(Record::alive) {
        return Ok(Launched { found: true, record, log });
    }
    for address in listens {
        free_unless_ours(*address, folder, name)?;
    }
    let (env, lifetime) = (Vec::new(), Lifetime::Detached);
    let launch = Launch { program, args, env, cwd: folder, log: &log, record: &record_file, user: None, lifetime };
    let record = process::launch(&launch)?.record;
    Ok(Launched { found: false, record, log })
}

/// Waits until its health address answers with 200.
pub(super) async fn until_ready(http: &reqwest::Client, launched: &Launched, ready: &str) -> Result<()> {
    let Launched { record, log, .. } = launched;
    let begun = Instant::now();
    loop {
        let why = match http.get(ready).send().await {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) => {
                format!("{ready} says {}: {}", response.status(), response.text().await.unwrap_or_default())
            }
            Err(error) => format!("{ready} does not answer: {}", client::why(&error)),
        };
        let alive = record.alive();
        if !alive || begun.elapsed() > READY_WITHIN {
            let why = if alive { why } else { "it ended".to_owned() };
            bail!("not ready: {why}\nthe end of its log {}:\n{}", log.display(), crate::local::tail(log));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Refuses to start a server where another program listens, with words that help.
fn free_unless_ours(address: SocketAddr, folder: &Path, name: &str) -> Result<()> {
    if Record::read(&process::record_file(folder, name)).is_some_and(|record| record.alive()) {
        return Ok(());
    }
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "another program listens on {address}: see which with `ss -ltnp`, and stop it (a cluster of another working \
             tree: `cargo ops down` there)"
        ),
        Err(error) => Err(error).with_context(|| format!("binding {address}")),
    }
}
