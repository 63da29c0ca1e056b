//! `ops verify`: the books, from outside.
//!
//! Reads every region's rows, every arbiter's log, the crowd's own record of every `202` and the payment provider's own
//! record of every payment, and recomputes everything. It trusts no counter that it can add up itself, and it changes nothing.

pub mod across;
pub mod books;
pub mod command;
pub mod crowd;
pub mod history;
pub mod log;
pub mod money;
pub mod people;
pub mod problem;
pub mod proof;
pub mod replay;
pub mod tickets_move;

use crate::cluster::arbiters::Arbiters;
use crate::cluster::{Arbiter, client};
use crate::load::journal::{self, Record};
use crate::sandbox::{PaymentRow as ProviderRow, PaymentsPage};
use anyhow::{Context, Result, bail};
use arbiter_api::{ClusterView, RegionsView};
use books::{AdminAccess, Books};
use history::Arbitration;
use log::Base;
use problem::{Found, Problem};
use proof::Lost;
use quota_protocol::PoolId;
use quota_protocol::issuer::RegionState;
use region_api::wire::{ConcertList, NodeStatus};
use region_api::{ConcertName, KeyRing, RegionName};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to read.
pub struct Sources {
    /// Every region's admin interface.
    pub regions: Vec<AdminAccess>,
    /// The arbiters, where there are any.
    pub arbiters: Option<(Arbiters, Vec<Arbiter>)>,
    /// The sandbox provider's base URL and control token, where payments go there.
    pub provider: Option<(String, String)>,
    /// The crowd's records.
    pub records: Vec<PathBuf>,
    /// Keys that sign reservation ids.
    pub ring: KeyRing,
    /// Only this concert; all when absent.
    pub concert: Option<ConcertName>,
}

/// Everything that was read.
pub struct Evidence {
    /// Books of every concert in every region.
    pub books: Vec<Books>,
    /// What every region says of itself now.
    pub status: Vec<NodeStatus>,
    /// Regions that were written off and could not be read, and why.
    pub unread: Vec<(RegionName, String)>,
    /// What was read of the arbiters, where there are any.
    pub arbitration: Option<Arbitration>,
    /// The provider's payments, if it could be asked.
    pub provider: Option<Vec<ProviderRow>>,
    /// The crowd's records.
    pub records: Vec<Record>,
    /// Keys that sign reservation ids.
    pub ring: KeyRing,
}

/// What `ops verify --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What is.
    pub problems: Vec<Problem>,
    /// Where the tickets are.
    pub concerts: Vec<TierBooks>,
    /// How much was looked at.
    pub looked_at: LookedAt,
    /// What this verdict says for sure when it is ok, one sentence each.
    pub proven: Vec<String>,
    /// What it cannot say, and why.
    pub not_proven: Vec<String>,
}

/// One tier over all regions.
#[derive(Debug, Clone, Serialize)]
pub struct TierBooks {
    /// Concert.
    pub concert: String,
    /// Tier.
    pub tier: String,
    /// Tickets that there are.
    pub total: u64,
    /// Tickets that no region holds; 0 without an arbiter.
    pub pool: u64,
    /// Free somewhere although somebody waits who would take them, with everything at rest.
    pub stranded: u64,
    /// Per region.
    pub regions: BTreeMap<String, RegionTier>,
}

/// One tier in one region, recomputed from its ledger.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct RegionTier {
    /// Tickets ever granted.
    pub granted: i64,
    /// Tickets ever returned.
    pub returned: i64,
    /// Tickets on hold.
    pub held: i64,
    /// Tickets ever sold.
    pub sold: i64,
    /// Of those, refunded.
    pub refunded: i64,
    /// Tickets that may be held.
    pub available: i64,
}

/// How much an audit looked at: a verdict over nothing should look like one.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LookedAt {
    /// Ledger rows.
    pub ledger_rows: usize,
    /// Reservation rows.
    pub reservations: usize,
    /// Tickets.
    pub tickets: usize,
    /// Payments in the books.
    pub payments: usize,
    /// Payments in the provider's record; none when there was no provider to ask.
    pub provider_payments: Option<usize>,
    /// Joins answered `202`, by the crowd's records.
    pub accepted: u64,
    /// Arbiters whose logs were read; none where there are no arbiters.
    pub arbiters: Option<usize>,
    /// Entries of the longest of these logs.
    pub log_entries: usize,
    /// Whether nothing moved meanwhile, so that it could be said that nothing is stranded.
    pub at_rest: bool,
}

/// All crowds' records in a folder, which need not be there.
pub fn records_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", folder.display())),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            records.push(path);
        }
    }
    records.sort();
    Ok(records)
}

/// How often everything is read again while tickets seem to lie stranded: they may be about to move.
const STRANDED_READS_MAX: u32 = 6;
/// Between two of these readings: two heartbeats and a round trip.
const STRANDED_PAUSE: Duration = Duration::from_millis(2_500);

/// Reads everything and judges. What only looks stranded is looked at again.
pub async fn verdict(http: &reqwest::Client, sources: &Sources) -> Result<Verdict> {
    for _ in 1..STRANDED_READS_MAX {
        let verdict = audit(&gather(http, sources).await?);
        let only_stranded = verdict.problems.iter().all(|problem| problem.invariant == "invariant_nothing_stranded");
        if verdict.ok || !only_stranded {
            return Ok(verdict);
        }
        tokio::time::sleep(STRANDED_PAUSE).await;
    }
    Ok(audit(&gather(http, sources).await?))
}

/// Reads everything.
pub async fn gather(http: &reqwest::Client, sources: &Sources) -> Result<Evidence> {
    if sources.regions.is_empty() {
        bail!("there is no region to verify");
    }
    let start = match &sources.arbiters {
        Some((arbiters, members)) => Some(begin(arbiters, members).await?),
        None => None,
    };
    let mut books = Vec::new();
    let mut status = Vec::new();
    let mut unread = Vec::new();
    for access in &sources.regions {
        match region(http, access, sources.concert.as_ref()).await {
            Ok((known, theirs)) => {
                status.push(known);
                books.extend(theirs);
            }
            // Its database is gone, mostly, and nobody can read it; what it sold is what its operator counted.
            Err(error) if start.as_ref().is_some_and(|start| start.written_off.contains(access.region.as_str())) => {
                unread.push((access.region.clone(), format!("{error:#}")));
            }
            Err(error) => return Err(error),
        }
    }
    if let (true, Some(concert)) = (books.is_empty(), &sources.concert) {
        bail!("no region knows a concert {concert}");
    }
    let arbitration = match (&sources.arbiters, start) {
        (Some((arbiters, _)), Some(start)) => {
            let mut arbitration = arbitration(arbiters, start, &books).await?;
            arbitration.at_rest = unmoved(http, sources, &books).await?;
            Some(arbitration)
        }
        _ => None,
    };
    let provider = match &sources.provider {
        Some((url, token)) => Some(provider(http, url, token).await?),
        None => None,
    };
    let mut records = Vec::new();
    for path in &sources.records {
        records.extend(journal::read(path)?);
    }
    if let Some(concert) = &sources.concert {
        keep_concert(&mut records, concert);
    }
    Ok(Evidence { books, status, unread, arbitration, provider, records, ring: sources.ring.clone() })
}

/// What is read of the arbiters before any ledger.
struct Start {
    index: u64,
    written_off: BTreeSet<String>,
    /// With what each log begins; of who does not answer, why not.
    bases: Vec<(Arbiter, Result<Base>)>,
}

/// Members come and go, so the leader is asked who they are.
async fn begin(arbiters: &Arbiters, known: &[Arbiter]) -> Result<Start> {
    let cluster: ClusterView = arbiters.get("/v1/cluster").await?;
    let regions: RegionsView = arbiters.get("/v1/regions").await?;
    let written_off = regions.regions.iter().filter(|known| known.state == RegionState::WrittenOff);
    let written_off = written_off.map(|known| known.region.to_string()).collect();
    let mut bases = Vec::new();
    for member in cluster.members {
        let data_dir = known.iter().find(|known| known.id == member.id).map(|known| known.data_dir.clone());
        let arbiter_api::Member { id, address, people, .. } = member;
        let arbiter = Arbiter { id, address, people, data_dir: data_dir.unwrap_or_default() };
        let base = Base::of(arbiters, &arbiter.address).await;
        bases.push((arbiter, base));
    }
    // After the states, so that none of them is younger.
    let index = arbiters.get::<ClusterView>("/v1/cluster").await?.meta.index;
    Ok(Start { index, written_off, bases })
}

async fn region(
    http: &reqwest::Client,
    access: &AdminAccess,
    only: Option<&ConcertName>,
) -> Result<(NodeStatus, Vec<Books>)> {
    let mut books = Vec::new();
    for concert in concerts(http, access, only).await? {
        books.push(Books::read(http, access, &concert).await?);
    }
    Ok((admin(http, access, "/v1/status").await?, books))
}

/// What the leader says of every concert, then every arbiter's log. One that does not answer is noted.
async fn arbitration(arbiters: &Arbiters, start: Start, books: &[Books]) -> Result<Arbitration> {
    let concerts: BTreeSet<&ConcertName> = books.iter().map(|books| &books.state.concert).collect();
    let mut views = Vec::new();
    for concert in concerts {
        views.push(arbiters.get(&format!("/v1/quota/{concert}")).await?);
    }
    let (mut logs, mut silent) = (Vec::new(), Vec::new());
    for (member, base) in start.bases {
        let read = match base {
            Ok(base) => log::read(arbiters, &member, base).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(log) => logs.push(log),
            Err(error) => silent.push((member.id, format!("{error:#}"))),
        }
    }
    Ok(Arbitration { logs, silent, before: start.index, views, at_rest: false })
}

/// Whether all books still stand where they were read.
async fn unmoved(http: &reqwest::Client, sources: &Sources, books: &[Books]) -> Result<bool> {
    for books in books {
        let access = sources.regions.iter().find(|access| access.region == books.state.region);
        if let Some(access) = access
            && !books.unmoved(http, access).await?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Leaves out what a record says about other concerts.
fn keep_concert(records: &mut Vec<Record>, concert: &ConcertName) {
    let ours: BTreeSet<String> = records
        .iter()
        .filter_map(|record| match record {
            Record::Accepted { concert: of, reservation, .. } if of == concert.as_str() => Some(reservation.clone()),
            _ => None,
        })
        .collect();
    records.retain(|record| match record {
        Record::Accepted { concert: of, .. } => of == concert.as_str(),
        Record::Ended { reservation, .. } | Record::Paid { reservation, .. } => ours.contains(reservation),
    });
}

async fn concerts(
    http: &reqwest::Client,
    access: &AdminAccess,
    only: Option<&ConcertName>,
) -> Result<Vec<ConcertName>> {
    let list: ConcertList = admin(http, access, "/v1/concerts").await?;
    Ok(list.concerts.into_iter().map(|concert| concert.concert).filter(|c| only.is_none_or(|only| only == c)).collect())
}

async fn admin<T: serde::de::DeserializeOwned>(http: &reqwest::Client, access: &AdminAccess, path: &str) -> Result<T> {
    let request = http.get(format!("{}{path}", access.url)).bearer_auth(&access.token);
    client::answer(request).await.with_context(|| format!("asking region {}", access.region))
}

async fn provider(http: &reqwest::Client, url: &str, token: &str) -> Result<Vec<ProviderRow>> {
    let mut rows = Vec::new();
    let mut after = Some(0);
    while let Some(from) = after {
        let request = http.get(format!("{url}/control/payments")).query(&[("after", from)]).bearer_auth(token);
        let page: PaymentsPage = client::answer(request).await.context("asking the payment provider")?;
        rows.extend(page.payments);
        after = page.next;
    }
    Ok(rows)
}

/// Judges. Pure: the same evidence gives the same verdict.
pub fn audit(evidence: &Evidence) -> Verdict {
    let mut found = Found::default();
    for books in &evidence.books {
        tickets_move::invariant_conservation(books, &mut found);
        tickets_move::invariant_state_is_in_the_ledger(books, &mut found);
        tickets_move::invariant_book_numbers(books, &mut found);
        tickets_move::invariant_folds(books, &mut found);
        tickets_move::invariant_tickets(books, &mut found);
        people::invariant_limits(books, &mut found);
        people::invariant_one_place(books, &mut found);
        people::invariant_cursors(books, &mut found);
        people::invariant_closed(books, &mut found);
        money::invariant_payments(books, &mut found);
        if evidence.arbitration.is_none() {
            tickets_move::invariant_nothing_seeded(books, &mut found);
        }
    }
    across::invariant_people(&evidence.books, &mut found);
    let mut accounts = None;
    let mut together = across::Together::default();
    if let Some(arbitration) = &evidence.arbitration {
        accounts = history::invariant_logs(arbitration, &mut found);
        if let Some(accounts) = &accounts {
            across::invariant_regions(&evidence.books, accounts, &mut found);
            together = across::invariant_all_tickets(&evidence.books, arbitration, accounts, &mut found);
        }
    }
    let mut lost = Lost::of(accounts.as_ref(), &evidence.books);
    if let Some(provider) = &evidence.provider {
        money::invariant_provider(&evidence.books, provider, &mut lost, &mut found);
    }
    let accepted = crowd::invariant_accepted(evidence, &mut lost, &mut found);
    let problems = found.finish();
    let logs = evidence.arbitration.iter().flat_map(|arbitration| &arbitration.logs);
    let (proven, not_proven) = proof::statements(evidence, accounts.as_ref(), &together.open, &lost);
    Verdict {
        ok: problems.is_empty(),
        problems,
        concerts: tiers(&evidence.books, accounts.map(|accounts| accounts.after).as_ref(), &together.stranded),
        proven,
        not_proven,
        looked_at: LookedAt {
            ledger_rows: evidence.books.iter().map(|books| books.ledger.len()).sum(),
            reservations: evidence.books.iter().map(|books| books.reservations.len()).sum(),
            tickets: evidence.books.iter().map(|books| books.tickets.len()).sum(),
            payments: evidence.books.iter().map(|books| books.payments.len()).sum(),
            provider_payments: evidence.provider.as_ref().map(Vec::len),
            accepted,
            arbiters: evidence.arbitration.as_ref().map(|arbitration| arbitration.logs.len()),
            log_entries: logs.map(|log| log.entries.len()).max().unwrap_or(0),
            at_rest: evidence.arbitration.as_ref().is_none_or(|arbitration| arbitration.at_rest),
        },
    }
}

fn tiers(all: &[Books], replay: Option<&replay::Replay>, stranded: &BTreeMap<PoolId, u64>) -> Vec<TierBooks> {
    let mut tiers: BTreeMap<(String, usize), TierBooks> = BTreeMap::new();
    for books in all {
        let sums = tickets_move::tier_sums(books);
        for (number, tier) in books.state.definition.tiers.iter().enumerate() {
            let row = tiers.entry((books.state.concert.to_string(), number)).or_insert_with(|| TierBooks {
                concert: books.state.concert.to_string(),
                tier: tier.tier.to_string(),
                total: 0,
                pool: 0,
                stranded: 0,
                regions: BTreeMap::new(),
            });
            let id = format!("{}/{}", books.state.concert, tier.tier).parse::<PoolId>().ok();
            let pool = id.and_then(|id| replay?.issuer.pools().get(&id));
            match pool {
                Some(pool) => (row.total, row.pool) = (pool.total.get(), pool.pool.get()),
                // Standalone regions each sell a total of their own.
                None => row.total += tier.total,
            }
            row.stranded = id.and_then(|id| stranded.get(&id).copied()).unwrap_or(0);
            row.regions.insert(books.state.region.to_string(), sums.get(&(number as i16)).copied().unwrap_or_default());
        }
    }
    for row in tiers.values_mut() {
        let id = format!("{}/{}", row.concert, row.tier).parse::<PoolId>().ok();
        for (region, gone) in id.iter().flat_map(|id| gone(replay, id)) {
            row.regions.entry(region).or_insert(gone);
        }
    }
    tiers.into_values().collect()
}

/// Regions that were written off and have no books any more: what they sold is what was counted then.
fn gone(replay: Option<&replay::Replay>, id: &PoolId) -> Vec<(String, RegionTier)> {
    let Some(issuer) = replay.map(|replay| &replay.issuer) else { return Vec::new() };
    let slices = issuer.pools().get(id).into_iter().flat_map(|pool| &pool.slices);
    let of_gone = slices.filter(|(region, _)| {
        issuer.regions().get(*region).is_some_and(|known| known.state == RegionState::WrittenOff)
    });
    let row = |(region, slice): (&quota_protocol::RegionId, &quota_protocol::issuer::Slice)| {
        let (granted, returned) = (slice.granted.get() as i64, slice.accepted.get() as i64);
        (region.to_string(), RegionTier { granted, returned, sold: granted - returned, ..RegionTier::default() })
    };
    of_gone.map(row).collect()
}
