//! `ops concert create|list|show|close`: concerts, through the arbiters, or through a standalone region's admin interface.
//!
//! Under arbiters a concert is in every region; a command returns when every region that can be reached knows of it. A
//! standalone region has concerts of its own and holds their whole quota.

use crate::cli::Context;
use crate::cluster::arbiters::Arbiters;
use crate::cluster::client::{self, Admin};
use crate::cluster::{Cluster, Region};
use crate::output;
use crate::status::state_text;
use anyhow::{Result, anyhow};
use arbiter_api::{Acted, Concerts};
use clap::Subcommand;
use region_api::wire::{Availability, Concert, ConcertDefinition, ConcertList, ConcertState, TierDefinition};
use region_api::{ConcertName, Currency, Money, RegionName, TierName, Timestamp};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How long regions may take to hear of a concert: a heartbeat, and some for a busy machine.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(15);
/// How long it is waited for the first tickets: two heartbeats.
const STOCKED_WITHIN: Duration = Duration::from_secs(2);
/// The concert that `up` creates.
const DEMO: &str = "demo";

/// Arguments of `ops concert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a concert, or change it
    Create(Box<Create>),
    /// All concerts of all regions
    List,
    /// One concert as buyers see it
    Show(Which),
    /// End the sale; everybody who waits is answered
    Close(Which),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The concert
    name: ConcertName,
    /// Region that shows it, or, where it is standalone, sells it [default: the first]
    #[arg(long)]
    region: Option<RegionName>,
}

#[derive(Debug, clap::Args)]
struct Create {
    #[command(flatten)]
    which: Which,
    /// A tier: NAME=TOTAL@PRICE in minor units, such as A=1000@12000EUR; once per tier
    #[arg(long = "tier", required = true, value_parser = tier)]
    tiers: Vec<TierDefinition>,
    /// When the sale begins: RFC 3339, or now
    #[arg(long, default_value = "now", value_parser = moment)]
    opens: Timestamp,
    /// When the sale ends: RFC 3339 [default: when all is sold]
    #[arg(long, value_parser = moment)]
    closes: Option<Timestamp>,
    /// When the doors open: RFC 3339
    #[arg(long, value_parser = moment)]
    starts: Option<Timestamp>,
    /// How long a hold lasts
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    hold: Duration,
    /// Tickets in one order
    #[arg(long, default_value_t = 4)]
    max_per_order: u16,
    /// Tickets of one person over all orders
    #[arg(long, default_value_t = 4)]
    max_per_person: u16,
    /// Tickets of one identity document; asks buyers for one
    #[arg(long)]
    max_per_identity: Option<u16>,
    /// Title [default: the name]
    #[arg(long)]
    title: Option<String>,
    /// Where it takes place
    #[arg(long, default_value = "")]
    venue: String,
    /// Sell to signed-in users only
    #[arg(long)]
    no_guests: bool,
    /// Ask for a solved challenge before a session
    #[arg(long)]
    challenge: bool,
    /// Keep at most so many times as many people waiting as could still be served
    #[arg(long)]
    waitlist_factor: Option<f64>,
    /// Queue shards; fixed once created
    #[arg(long)]
    shards: Option<u16>,
}

/// Runs one of them.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let cluster = Cluster::read(&context.home)?;
    match args.command {
        Command::Create(create) => {
            let which = &create.which;
            print(context, &put(&cluster, which.region.as_ref(), &which.name, &definition(&create)).await?)
        }
        Command::List => list(context, &cluster).await,
        Command::Show(which) => print(context, &show(cluster.region(which.region.as_ref())?, &which.name).await?),
        Command::Close(which) => {
            let path = format!("/v1/concerts/{}/close", which.name);
            let region = cluster.region(which.region.as_ref())?;
            if cluster.arbiters.is_empty() {
                let _: Value = Admin::of(region)?.post(&path, &json!({})).await?;
            } else {
                let _: Acted = Arbiters::of(&cluster)?.post(&path, &json!({})).await?;
                let closed = |shown: &Concert| matches!(shown.state, ConcertState::Closed | ConcertState::Cancelled);
                until_everywhere(&cluster, &which.name, closed).await?;
            }
            print(context, &show(region, &which.name).await?)
        }
    }
}

/// Creates the demo concert, unless it is there.
pub async fn ensure_demo(cluster: &Cluster) -> Result<()> {
    let (region, name) = (cluster.region(None)?, ConcertName::new(DEMO)?);
    let known = match cluster.arbiters.is_empty() {
        true => {
            let concerts: ConcertList = Admin::of(region)?.get("/v1/concerts").await?;
            concerts.concerts.iter().any(|concert| concert.concert == name)
        }
        false => {
            let concerts: Concerts = Arbiters::of(cluster)?.get("/v1/concerts").await?;
            concerts.concerts.iter().any(|concert| concert.concert.as_str() == name.as_str())
        }
    };
    if known {
        return Ok(());
    }
    let step = output::Step::begin("demo concert");
    let now = Timestamp::from_datetime(OffsetDateTime::now_utc());
    let definition = ConcertDefinition {
        concert: None,
        title: "The Demonstration".to_owned(),
        venue: "Loopback Hall".to_owned(),
        starts_at: Some(now.plus_ms(30 * 24 * 3600 * 1000)),
        sale_opens_at: now,
        sale_closes_at: None,
        hold_ms: 600_000,
        max_per_order: 4,
        max_per_person: 4,
        max_per_identity: None,
        guests: true,
        challenge: false,
        waitlist_factor: None,
        shards: None,
        tiers: vec![demo_tier("A", "Stalls", 1000, 12_000)?, demo_tier("B", "Balcony", 2000, 7_500)?],
        weights: None,
    };
    put(cluster, None, &name, &definition).await?;
    step.done(format_args!("{DEMO}: 1000 tickets of tier A, 2000 of tier B"));
    Ok(())
}

fn demo_tier(name: &str, title: &str, total: u64, amount: i64) -> Result<TierDefinition> {
    let price = Money { amount, currency: Currency::new("EUR")? };
    Ok(TierDefinition { tier: TierName::new(name)?, title: title.to_owned(), price, total })
}

/// Creates or changes a concert and returns it as buyers see it.
async fn put(
    cluster: &Cluster,
    region: Option<&RegionName>,
    name: &ConcertName,
    definition: &ConcertDefinition,
) -> Result<Concert> {
    let (path, region) = (format!("/v1/concerts/{name}"), cluster.region(region)?);
    if cluster.arbiters.is_empty() {
        let _: Value = Admin::of(region)?.put(&path, definition).await?;
    } else {
        let _: Acted = Arbiters::of(cluster)?.put(&path, definition).await?;
        until_everywhere(cluster, name, |shown| shows(shown, definition)).await?;
        return stocked(region, name).await;
    }
    show(region, name).await
}

/// The concert once its region has been given tickets, or as it is by then: some regions get none beforehand.
async fn stocked(region: &Region, name: &ConcertName) -> Result<Concert> {
    let deadline = Instant::now() + STOCKED_WITHIN;
    loop {
        let shown = show(region, name).await?;
        let waits = shown.tiers.iter().any(|tier| tier.availability == Availability::NoneHere);
        if !waits || Instant::now() > deadline {
            return Ok(shown);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a region already shows what was defined.
fn shows(shown: &Concert, definition: &ConcertDefinition) -> bool {
    let tier = |(shown, defined): (&region_api::wire::Tier, &TierDefinition)| {
        shown.tier == defined.tier && shown.price == defined.price
    };
    shown.title == definition.title
        && shown.venue == definition.venue
        && shown.sale_opens_at == definition.sale_opens_at
        && shown.sale_closes_at == definition.sale_closes_at
        && shown.hold_ms == definition.hold_ms
        && (shown.max_per_order, shown.max_per_person) == (definition.max_per_order, definition.max_per_person)
        && shown.tiers.len() == definition.tiers.len()
        && shown.tiers.iter().zip(&definition.tiers).all(tier)
}

/// Waits until every region shows the concert so. One that does not in time is named and left: it will when it hears the
/// arbiters again.
async fn until_everywhere(cluster: &Cluster, name: &ConcertName, so: impl Fn(&Concert) -> bool) -> Result<()> {
    let deadline = Instant::now() + EVERYWHERE_WITHIN;
    for region in &cluster.regions {
        while !show(region, name).await.is_ok_and(|shown| so(&shown)) {
            if Instant::now() > deadline {
                output::note(format_args!(
                    "region {} does not know of it yet: it is down or does not hear the arbiters (`cargo ops status`)",
                    region.region
                ));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn show(region: &Region, name: &ConcertName) -> Result<Concert> {
    client::answer(client::http()?.get(format!("{}/v1/concerts/{name}", region.public))).await
}

async fn list(context: &Context, cluster: &Cluster) -> Result<()> {
    let mut all = Vec::new();
    for region in &cluster.regions {
        let answer: ConcertList = client::answer(client::http()?.get(format!("{}/v1/concerts", region.public))).await?;
        all.extend(answer.concerts);
    }
    if context.json {
        return output::json(&json!({ "concerts": all }));
    }
    for concert in &all {
        table_of(concert);
    }
    Ok(())
}

fn print(context: &Context, concert: &Concert) -> Result<()> {
    if context.json {
        return output::json(concert);
    }
    table_of(concert);
    Ok(())
}

fn table_of(concert: &Concert) {
    output::line(format_args!(
        "{} ({}) in {}: {}, {} waiting, as of {}",
        concert.concert,
        concert.title,
        concert.region,
        state_text(concert.state),
        concert.queue.waiting,
        state_text(concert.as_of)
    ));
    let mut table = output::table(&["tier", "title", "price", "availability"]);
    for tier in &concert.tiers {
        let price = format!("{} {} (minor units)", tier.price.amount, tier.price.currency.as_str());
        table.add_row([tier.tier.to_string(), tier.title.clone(), price, state_text(tier.availability)]);
    }
    output::line(table);
}

fn definition(create: &Create) -> ConcertDefinition {
    ConcertDefinition {
        concert: None,
        title: create.title.clone().unwrap_or_else(|| create.which.name.to_string()),
        venue: create.venue.clone(),
        starts_at: create.starts,
        sale_opens_at: create.opens,
        sale_closes_at: create.closes,
        hold_ms: u64::try_from(create.hold.as_millis()).unwrap_or(u64::MAX),
        max_per_order: create.max_per_order,
        max_per_person: create.max_per_person,
        max_per_identity: create.max_per_identity,
        guests: !create.no_guests,
        challenge: create.challenge,
        waitlist_factor: create.waitlist_factor,
        shards: create.shards,
        tiers: create.tiers.clone(),
        weights: None,
    }
}

/// `A=1000@12000EUR`.
fn tier(text: &str) -> Result<TierDefinition> {
    let shape = || anyhow!("a tier is NAME=TOTAL@PRICE, such as A=1000@12000EUR (minor units)");
    let (name, rest) = text.split_once('=').ok_or_else(shape)?;
    let (total, price) = rest.split_once('@').ok_or_else(shape)?;
    let split = price.find(|c: char| !c.is_ascii_digit()).ok_or_else(shape)?;
    let (amount, currency) = price.split_at(split);
    let price = Money { amount: amount.parse().map_err(|_| shape())?, currency: Currency::new(currency)? };
    let total = total.parse().map_err(|_| shape())?;
    Ok(TierDefinition { tier: TierName::new(name)?, title: String::new(), price, total })
}

/// `now` or RFC 3339.
fn moment(text: &str) -> Result<Timestamp> {
    if text == "now" {
        return Ok(Timestamp::from_datetime(OffsetDateTime::now_utc()));
    }
    let parsed = OffsetDateTime::parse(text, &Rfc3339);
    parsed
        .map(Timestamp::from_datetime)
        .map_err(|_| anyhow!("not RFC 3339 (such as 2030-01-31T18:00:00Z) and not `now`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_read_as_documented() {
        let read = tier("A=1000@12000EUR").unwrap();
        assert_eq!((read.tier.as_str(), read.total, read.price.amount), ("A", 1000, 12_000));
        assert_eq!(read.price.currency.as_str(), "EUR");
        for wrong in ["A", "A=1", "A=1@EUR", "A=1@5", "=1@5EUR", "A=x@5EUR", "A=1@5euro", "A=-1@5EUR"] {
            assert!(tier(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_now_or_rfc_3339() {
        assert_eq!(moment("2030-01-31T18:00:00Z").unwrap().ms(), 1_896_112_800_000);
        assert!(moment("now").unwrap().ms() > 1_700_000_000_000);
        assert!(moment("tomorrow").is_err());
    }
}
