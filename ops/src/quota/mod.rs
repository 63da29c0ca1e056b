//! `ops quota …`: where the tickets of a concert are, and orders that move them by hand.
//!
//! Everything goes through the arbiters, which check it again; nothing here can sell a ticket twice.

mod flow;
pub mod show;
mod watch;

use crate::ask::Consent;
use crate::cli::Context;
use crate::cluster::Cluster;
use crate::cluster::arbiters::Arbiters;
use crate::output;
use anyhow::{Result, anyhow};
use arbiter_api::{Acted, Concerts, MoveRequest, Place, QuotaView, SetTotalRequest};
use clap::Subcommand;
use quota_protocol::Tickets;
use region_api::{ConcertName, TierName};
use serde_json::json;
use std::time::Duration;

/// Arguments of `ops quota`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who has how many
    Show(Show),
    /// Move tickets between regions, or between a region and the pool
    Move(Move),
    /// Plan now, without waiting for patience or cooldown
    Rebalance(Which),
    /// Stop grants: every region keeps what it has and gets no more
    Freeze(Dangerous),
    /// Allow grants again
    Thaw(Which),
    /// Refresh in place and show tickets flowing between regions
    Watch(Watch),
    /// Change how many tickets a tier has
    Total(Total),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The concert
    concert: ConcertName,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The concert [default: all]
    concert: Option<ConcertName>,
    /// From whichever arbiter answers, even if it may be behind the others
    #[arg(long)]
    stale: bool,
}

#[derive(Debug, clap::Args)]
struct Dangerous {
    /// The concert
    concert: ConcertName,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Debug, clap::Args)]
struct Move {
    /// The concert
    concert: ConcertName,
    /// The tier
    tier: TierName,
    /// How many; a region gives what it can spare, never what is on hold
    #[arg(value_parser = tickets)]
    tickets: Tickets,
    /// A region, or `pool`
    #[arg(long)]
    from: Place,
    /// A region, or `pool`
    #[arg(long)]
    to: Place,
}

#[derive(Debug, clap::Args)]
struct Watch {
    /// The concert
    concert: ConcertName,
    /// Stop after so long [default: at Ctrl-C]
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// How often to look
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    every: Duration,
}

#[derive(Debug, clap::Args)]
struct Total {
    /// The concert
    concert: ConcertName,
    /// The tier
    tier: TierName,
    /// The new total
    #[arg(value_parser = tickets)]
    to: Tickets,
    #[command(flatten)]
    consent: Consent,
}

fn tickets(text: &str) -> Result<Tickets> {
    let number = text.parse().map_err(|_| anyhow!("not a number of tickets"))?;
    Ok(Tickets::new(number)?)
}

/// Runs one of them.
pub async fn run(context: &Context, args: Args) -> Result<()> {
    let arbiters = Arbiters::of(&Cluster::read(&context.home)?)?;
    match args.command {
        Command::Show(Show { concert, stale }) => show_all(context, &arbiters, concert, stale).await,
        Command::Watch(watch) => watch::run(context, &arbiters, &watch.concert, watch.every, watch.time).await,
        Command::Move(order) => move_tickets(context, &arbiters, order).await,
        Command::Rebalance(Which { concert }) => act(context, &arbiters, &concert, "rebalance").await,
        Command::Thaw(Which { concert }) => act(context, &arbiters, &concert, "thaw").await,
        Command::Freeze(Dangerous { concert, consent }) => {
            let what = format!(
                "No region will get tickets of {concert} any more until it is thawed, however long its queue is. Each \
                 goes on selling what it has."
            );
            consent.ask(&what, "freeze")?;
            act(context, &arbiters, &concert, "freeze").await
        }
        Command::Total(total) => set_total(context, &arbiters, total).await,
    }
}

/// The view of one concert, from the leader or, if asked for, from anybody.
async fn view(arbiters: &Arbiters, concert: &ConcertName, stale: bool) -> Result<QuotaView> {
    let query = if stale { "?stale=true" } else { "" };
    arbiters.get(&format!("/v1/quota/{concert}{query}")).await
}

async fn show_all(context: &Context, arbiters: &Arbiters, concert: Option<ConcertName>, stale: bool) -> Result<()> {
    let concerts = match concert {
        Some(concert) => vec![concert],
        None => {
            let known: Concerts = arbiters.get("/v1/concerts").await?;
            let names = known.concerts.iter().map(|known| ConcertName::new(known.concert.as_str()));
            names.collect::<Result<_, _>>()?
        }
    };
    let mut views = Vec::new();
    for concert in &concerts {
        views.push(view(arbiters, concert, stale).await?);
    }
    if context.json {
        return match &views[..] {
            [one] => output::json(one),
            all => output::json(&json!({ "quota": all })),
        };
    }
    if views.is_empty() {
        output::line("no concerts; `cargo ops concert create` makes one");
    }
    for view in &views {
        show::print(view);
    }
    Ok(())
}

async fn move_tickets(context: &Context, arbiters: &Arbiters, order: Move) -> Result<()> {
    let Move { concert, tier, tickets, from, to } = order;
    let body = MoveRequest { from, to, tickets, request_id: uuid::Uuid::new_v4().to_string() };
    let acted: Acted = arbiters.post(&format!("/v1/quota/{concert}/{tier}/move"), &body).await?;
    output::acted(context, &acted)
}

async fn act(context: &Context, arbiters: &Arbiters, concert: &ConcertName, what: &str) -> Result<()> {
    let acted: Acted = arbiters.post(&format!("/v1/quota/{concert}/{what}"), &json!({})).await?;
    output::acted(context, &acted)
}

async fn set_total(context: &Context, arbiters: &Arbiters, order: Total) -> Result<()> {
    let Total { concert, tier, to, consent } = order;
    let view = view(arbiters, &concert, false).await?;
    let known = view.tiers.iter().find(|known| known.tier.as_str() == tier.as_str());
    let known =
        known.ok_or_else(|| anyhow!("{concert} has no tier {tier}; `cargo ops quota show {concert}` lists them"))?;
    let from = known.total;
    let what = format!(
        "Tier {tier} of {concert} has {from} tickets and will have {to}. {} of them are in the pool; a total can shrink by \
         no more than that.",
        known.pool
    );
    consent.ask(&what, to.to_string().as_str())?;
    let acted: Acted =
        arbiters.put(&format!("/v1/quota/{concert}/{tier}/total"), &SetTotalRequest { from, to }).await?;
    output::acted(context, &acted)
}
