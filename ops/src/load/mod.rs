//! `ops load`: an open-loop crowd that joins, polls, pays, lapses and cancels, and then holds the books to account.
//!
//! One task per buyer; the crowd's plan fixes every arrival beforehand, so a slow server meets the same crowd.

pub mod buyer;
pub mod client;
pub mod command;
pub mod compass;
pub mod homes;
pub mod journal;
pub mod plan;
pub mod tally;

use anyhow::{Context, Result, bail};
use buyer::Scene;
use client::Phone;
use compass::{Compass, ViaDns};
use indicatif::{ProgressBar, ProgressStyle};
use journal::Journal;
use plan::{Crowd, Curve};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tally::{Outcome, Report, Tally};
use tokio::sync::Semaphore;

/// Files that a crowd may count on having open, whatever the machine says.
const OPEN_FILES_LEAST: usize = 256;
/// Files that a crowd has a use for.
const OPEN_FILES_MOST: u64 = 20_000;

/// Where the crowd goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name and public base URL of every region.
    pub regions: Vec<(String, String)>,
    /// Base URL of the sandbox provider, if payments go there.
    pub sandbox: Option<String>,
    /// Folder for the crowd's record.
    pub records: PathBuf,
    /// The name servers that `--via dns` asks.
    pub dns: Option<ViaDns>,
}

/// How buyers learn which region to go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// From the edges, each buyer as from a network of some country
    Dns,
}

/// What the crowd is like, as given on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Concert to buy tickets for
    #[arg(long)]
    pub concert: String,
    /// Buyers
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub users: u64,
    /// Everything random is drawn from this
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How the buyers spread over regions, such as east=8,west=1 (default: evenly)
    #[arg(long)]
    pub spread: Option<String>,
    /// How they find their region, instead of by `--spread`
    #[arg(long, value_enum, conflicts_with = "spread")]
    pub via: Option<Via>,
    /// Time over which they arrive
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub over: Duration,
    /// How they arrive
    #[arg(long, value_enum, default_value_t = Curve::Spike)]
    pub curve: Curve,
    /// Share that lets the hold lapse
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    pub lapse: f64,
    /// Share that cancels
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    pub cancel: f64,
    /// Share that sends every join twice at once with the same request id
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    pub double: f64,
    /// Poll at this pace instead of as told (more than 20 polls in 10 s void a reservation)
    #[arg(long, value_parser = humantime::parse_duration)]
    pub poll_every: Option<Duration>,
    /// When everybody goes home, whatever they have by then
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    pub until: Duration,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".into()),
    }
}

/// What the crowd did.
pub struct Done {
    /// What all buyers shared: counts and latencies.
    pub scene: Arc<Scene>,
    /// The crowd's record.
    pub record: PathBuf,
    /// From the first arrival to the last end.
    pub elapsed: Duration,
}

impl Done {
    /// The report, once the books were looked at.
    pub fn report(&self, users: u64, books_ok: bool) -> Report {
        let mut report = self.scene.tally.report(users, self.elapsed, if books_ok { "ok" } else { "broken" });
        report.via_dns = self.scene.compass.as_ref().map(Compass::found);
        report
    }
}

/// Runs a crowd to its end. Progress goes to standard error when `progress`.
pub async fn run(target: &Target, options: &Options, progress: bool) -> Result<Done> {
    if options.lapse + options.cancel > 1.0 {
        bail!("--lapse and --cancel together are more than 1");
    }
    let compass = match (options.via, &target.dns) {
        (None, _) => None,
        (Some(Via::Dns), Some(via)) => Some(Compass::new(via.clone())),
        (Some(Via::Dns), None) => bail!("this cluster has no edge to ask, or a region without a place on the map"),
    };
    let files = open_files_max();
    let http = http_client(files / 4 / (target.regions.len() + 1))?;
    let lines = Arc::new(Semaphore::new(files / 4));
    let spread = spread(target, options.spread.as_deref())?;
    let shown = concert(&http, target, &spread, &options.concert).await?;
    let crowd = Crowd {
        users: options.users,
        seed: options.seed,
        spread,
        tiers: shown.tiers.len(),
        quantity_max: shown.max_per_order.min(shown.max_per_person),
        over: options.over,
        curve: options.curve,
        lapse: options.lapse,
        cancel: options.cancel,
        double: options.double,
    };
    let record = record_path(&target.records, &options.concert)?;
    let phone = |url: &String| Phone::new(http.clone(), Arc::clone(&lines), url.clone(), target.sandbox.clone());
    let phones = target.regions.iter().map(|(_, url)| phone(url)).collect();
    let started = Instant::now();
    let scene = Arc::new(Scene {
        concert: options.concert.clone(),
        tiers: shown.tiers.into_iter().map(|tier| tier.tier).collect(),
        phones,
        compass,
        started,
        until: started + options.until,
        poll_every: options.poll_every,
        journal: Journal::create(&record)?,
        tally: Tally::default(),
    });
    let buyers: Vec<_> =
        crowd.plan().into_iter().map(|user| tokio::spawn(buyer::live(Arc::clone(&scene), user))).collect();
    watch(&scene, options.users, progress).await;
    for buyer in buyers {
        buyer.await.context("a buyer's task ended badly")?;
    }
    scene.journal.flush()?;
    Ok(Done { scene, record, elapsed: started.elapsed() })
}

/// How many files this process may have open, after asking for as many as it is allowed to ask for: every call under way
/// and every idle connection is one, and a crowd that runs out of them waits for itself and not for the servers.
fn open_files_max() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return OPEN_FILES_LEAST };
    let wanted = hard.min(OPEN_FILES_MOST);
    let files = if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(files.min(OPEN_FILES_MOST)).unwrap_or(OPEN_FILES_LEAST).max(OPEN_FILES_LEAST)
}

fn http_client(idle_max: usize) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(idle_max)
        .pool_idle_timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .context("building the HTTP client")
}

#[derive(serde::Deserialize)]
struct Shown {
    max_per_order: u8,
    max_per_person: u8,
    tiers: Vec<ShownTier>,
}

#[derive(serde::Deserialize)]
struct ShownTier {
    tier: String,
}

/// The concert as the first region shows it that answers. A region that buyers may go to and that does not have it is a
/// mistake worth naming before a crowd finds out; one that does not answer is what drills are about.
async fn concert(http: &reqwest::Client, target: &Target, weights: &[f64], concert: &str) -> Result<Shown> {
    let visited = target.regions.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
    let (mut shown, mut silent) = (None, None);
    for ((region, url), _) in visited {
        match concert_at(http, url, concert).await {
            Ok(Some(here)) => shown = shown.or(Some(here)),
            Ok(None) => {
                bail!("region {region} has no concert {concert:?}; cargo ops concert list shows those there are")
            }
            Err(error) => silent = silent.or(Some(error)),
        }
    }
    match (shown, silent) {
        (Some(shown), _) => Ok(shown),
        (None, Some(error)) => Err(error),
        (None, None) => bail!("this cluster has no region"),
    }
}

async fn concert_at(http: &reqwest::Client, url: &str, concert: &str) -> Result<Option<Shown>> {
    let answer = http
        .get(format!("{url}/v1/concerts/{concert}"))
        .send()
        .await
        .with_context(|| format!("{url} does not answer; is the cluster up? (cargo ops status)"))?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    answer.error_for_status()?.json().await.context("reading the concert").map(Some)
}

fn spread(target: &Target, spread: Option<&str>) -> Result<Vec<f64>> {
    let Some(spread) = spread else { return Ok(vec![1.0; target.regions.len()]) };
    let mut weights = vec![0.0; target.regions.len()];
    for part in spread.split(',') {
        let weight = part.split_once('=').and_then(|(name, weight)| Some((name, weight.parse::<f64>().ok()?)));
        let Some((name, weight)) = weight.filter(|(_, weight)| weight.is_finite() && *weight >= 0.0) else {
            bail!("--spread takes REGION=WEIGHT,…, got {part:?}");
        };
        let Some(index) = target.regions.iter().position(|(region, _)| region == name) else {
            let known: Vec<&str> = target.regions.iter().map(|(region, _)| region.as_str()).collect();
            bail!("--spread names region {name:?}; there are {}", known.join(", "));
        };
        weights[index] = weight;
    }
    if weights.iter().sum::<f64>() <= 0.0 {
        bail!("--spread sends nobody anywhere");
    }
    Ok(weights)
}

fn record_path(records: &Path, concert: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(records).with_context(|| format!("creating {}", records.display()))?;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    Ok(records.join(format!("{concert}-{since}.jsonl")))
}

async fn watch(scene: &Scene, users: u64, progress: bool) {
    let bar = if progress { ProgressBar::new(users) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} answered  {msg}") {
        bar.set_style(style);
    }
    while scene.tally.ended_total() < users {
        bar.set_position(scene.tally.ended_total());
        bar.set_message(format!(
            "{} accepted, {} sold, {} rejected, {} errors",
            scene.tally.accepted.load(Relaxed),
            scene.tally.count(Outcome::Sold),
            scene.tally.count(Outcome::Rejected),
            scene.tally.count(Outcome::Error),
        ));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bar.finish_and_clear();
}
