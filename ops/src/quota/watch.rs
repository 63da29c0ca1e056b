//! `ops quota watch`: one concert, refreshed in place, with tickets flowing between regions.

use super::flow::{Flow, between};
use super::show::region_state;
use crate::cli::Context;
use crate::cluster::arbiters::Arbiters;
use crate::output;
use anyhow::Result;
use arbiter_api::{QuotaView, TierQuota};
use quota_protocol::Tickets;
use region_api::{ConcertName, Timestamp};
use serde_json::json;
use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Flows kept on the screen.
const FLOWS_SHOWN: usize = 12;
/// Widest bar, in characters.
const BAR_WIDTH: u64 = 40;
/// How long one look may take: a new leader is looked for in the meantime, and the screen says so.
const PATIENCE: Duration = Duration::from_secs(1);

struct Screen {
    in_place: bool,
    flows: VecDeque<(Timestamp, Flow)>,
    moved: u64,
}

/// Looks every so often, until Ctrl-C or for `time`. Tells of a lost look, and goes on.
pub(super) async fn run(
    context: &Context,
    arbiters: &Arbiters,
    concert: &ConcertName,
    every: Duration,
    time: Option<Duration>,
) -> Result<()> {
    let mut screen = Screen { in_place: std::io::stdout().is_terminal(), flows: VecDeque::new(), moved: 0 };
    // The first look has all patience: an answer that is no is to be heard at once.
    let mut before = super::view(arbiters, concert, false).await?;
    let hasty = arbiters.clone().with_patience(PATIENCE);
    let ends = time.map(|time| Instant::now() + time);
    show(context, &mut screen, &before, Vec::new())?;
    loop {
        let wait = ends.map_or(every, |ends| every.min(ends.saturating_duration_since(Instant::now())));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        if ends.is_some_and(|ends| Instant::now() >= ends) {
            return Ok(());
        }
        match super::view(&hasty, concert, false).await {
            Ok(after) => {
                show(context, &mut screen, &after, between(&before, &after))?;
                before = after;
            }
            Err(error) => output::note(format_args!("{error:#}")),
        }
    }
}

fn show(context: &Context, screen: &mut Screen, view: &QuotaView, flows: Vec<Flow>) -> Result<()> {
    if context.json {
        let mut seen = serde_json::to_value(view)?;
        seen["flows"] = json!(flows);
        return output::json(&seen);
    }
    for flow in flows {
        screen.moved += flow.tickets.get();
        screen.flows.push_front((view.meta.as_of, flow));
    }
    screen.flows.truncate(FLOWS_SHOWN);
    let text = screen.text(view);
    if screen.in_place {
        // Home, then each line with the rest of it erased, then everything below: no flicker.
        let text = text.replace('\n', "\x1b[K\n");
        let _ = write!(std::io::stdout(), "\x1b[H{text}\x1b[K\n\x1b[J");
        let _ = std::io::stdout().flush();
    } else {
        output::line(text);
    }
    Ok(())
}

impl Screen {
    fn text(&self, view: &QuotaView) -> String {
        let mut lines = vec![format!("{}: {}", view.concert, output::meta(&view.meta)), String::new()];
        for tier in &view.tiers {
            tier_lines(tier, &mut lines);
        }
        lines.push("█ sold  ▓ held  ░ free".to_owned());
        lines.push(String::new());
        lines.push(format!("{} tickets moved since this watch began", self.moved));
        for (at, flow) in &self.flows {
            let (from, to) = (flow.from.to_string(), flow.to.to_string());
            let ago = output::age(*at);
            lines.push(format!("  {}  {from:>8} ──{:─^7}──▶ {to:<8} {ago} ago", flow.tier, flow.tickets.to_string()));
        }
        lines.join("\n")
    }
}

fn tier_lines(tier: &TierQuota, lines: &mut Vec<String>) {
    let state = if tier.sold_out {
        "  sold out"
    } else if tier.frozen {
        "  FROZEN"
    } else {
        ""
    };
    let pool = bar(&[("░", tier.pool)], tier.total);
    lines.push(format!(
        "{:<4} {:<8} {pool} {} of {} in the pool{state}",
        tier.tier.as_str(),
        "pool",
        tier.pool,
        tier.total
    ));
    for (region, row) in &tier.regions {
        let sold = row.sold.minus_or_zero(row.refunded);
        let bar = bar(&[("█", sold), ("▓", row.held), ("░", row.available)], tier.total);
        let (state, look) = region_state(row);
        let state = if look { format!("  {state}") } else { String::new() };
        lines.push(format!(
            "     {:<8} {bar} sold {sold}, held {}, free {}, queue {}{state}",
            region.as_str(),
            row.held,
            row.available,
            row.queue
        ));
    }
    lines.push(String::new());
}

/// Parts of a whole, one character for each share of it; whatever there is of a part is seen.
fn bar(parts: &[(&str, Tickets)], whole: Tickets) -> String {
    let mut text = String::new();
    let mut left = BAR_WIDTH;
    for (mark, tickets) in parts {
        let share = (tickets.get() * BAR_WIDTH).div_ceil(whole.get().max(1)).min(left);
        text += &mark.repeat(share as usize);
        left -= share;
    }
    text + &" ".repeat(left as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_whatever_there_is_and_never_more_than_its_width() {
        let tickets = Tickets::from_u32;
        assert_eq!(bar(&[("█", tickets(50)), ("░", tickets(50))], tickets(100)), "█".repeat(20) + &"░".repeat(20));
        assert_eq!(bar(&[("█", tickets(1))], tickets(100_000)), "█".to_owned() + &" ".repeat(39));
        assert_eq!(bar(&[("█", tickets(300)), ("░", tickets(1))], tickets(100)).chars().count(), 40);
        assert_eq!(bar(&[("█", tickets(0))], tickets(0)), " ".repeat(40));
    }
}
