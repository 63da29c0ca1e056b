//! A concert's quota as a table that an operator reads at a glance.

use crate::output;
use crate::region::RECOVER;
use arbiter_api::{QuotaView, RegionQuota, TierQuota};
use comfy_table::{Cell, CellAlignment, Color, Table};
use quota_protocol::Tickets;
use quota_protocol::issuer::RegionState;

/// Columns of the table.
const HEADINGS: [&str; 11] =
    ["tier", "where", "granted", "returned", "held", "sold", "refunded", "free", "queue", "earmark", "state"];

/// Prints it.
pub fn print(view: &QuotaView) {
    output::line(text(view));
}

/// The whole answer.
pub fn text(view: &QuotaView) -> String {
    let mut lines = vec![format!("{}: {}", view.concert, output::meta(&view.meta))];
    let mut table = output::table(&HEADINGS);
    for tier in &view.tiers {
        rows(&mut table, tier);
    }
    lines.push(table.to_string());
    for tier in &view.tiers {
        lines.extend(remarks(tier));
    }
    lines.join("\n")
}

fn rows(table: &mut Table, tier: &TierQuota) {
    let state = match (tier.sold_out, tier.frozen || tier.forgotten.is_some()) {
        (true, _) => "sold out",
        (_, true) if tier.forgotten.is_some() => "FORGOTTEN",
        (_, true) => "FROZEN",
        _ => "",
    };
    let mut first = vec![Cell::new(tier.tier), Cell::new(format!("pool of {}", tier.total))];
    first.extend((0..5).map(|_| Cell::new("")));
    first.extend([number(tier.pool), Cell::new(""), Cell::new(""), Cell::new(state).fg(Color::Yellow)]);
    table.add_row(first);
    for (region, row) in &tier.regions {
        let counts =
            [row.granted, row.returned, row.held, row.sold, row.refunded, row.available, row.queue, row.earmark];
        let mut cells = vec![Cell::new(""), Cell::new(region)];
        cells.extend(counts.map(number));
        let state = region_state(row);
        cells.push(if state.1 { Cell::new(state.0).fg(Color::Yellow) } else { Cell::new(state.0) });
        table.add_row(cells);
    }
}

fn number(tickets: Tickets) -> Cell {
    Cell::new(tickets).set_alignment(CellAlignment::Right)
}

/// What a region's state is, and whether somebody should look at it.
pub fn region_state(row: &RegionQuota) -> (String, bool) {
    let heard = row.last_report.map_or("not heard yet".to_owned(), |at| format!("heard {} ago", output::age(at)));
    match (row.state, row.silent) {
        (RegionState::WrittenOff, _) => ("written off".to_owned(), true),
        (_, true) => (format!("SILENT, {heard}"), true),
        (RegionState::Draining, false) => (format!("draining, {heard}"), true),
        (RegionState::Active, false) => (heard, false),
    }
}

fn remarks(tier: &TierQuota) -> Vec<String> {
    let mut remarks = Vec::new();
    if !tier.quarantined.is_zero() {
        remarks.push(format!(
            "  {}: {} tickets are quarantined: a silent region has them and may be selling them. `cargo ops region \
             quarantine` says what can be done",
            tier.tier, tier.quarantined
        ));
    }
    if let Some(forgotten) = &tier.forgotten {
        remarks.push(format!("  {}: {forgotten}. {RECOVER}", tier.tier));
    }
    if tier.frozen {
        remarks.push(format!("  {}: frozen by an operator; `cargo ops quota thaw` ends that", tier.tier));
    }
    remarks
}
