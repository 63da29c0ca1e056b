//! The bounds that are searched by default (within a minute on one core) and on request, and one test for each mutant.
//! `QUOTA_MODEL_SCALE=1` raises the bounds (minutes), `=2` once more (hours).

use std::time::Instant;

use super::{
    search::{Found, Order, search},
    world::{Bounds, SiteBounds},
};
use crate::mutant::{Mutant, with};

fn scale() -> u32 {
    std::env::var("QUOTA_MODEL_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(0)
}

/// A region that only sells what it is granted.
const SELLER: SiteBounds = SiteBounds {
    holds: 3,
    releases: 0,
    refunds: 0,
    returns: 0,
    reports: false,
    late_reports: 0,
    backups: 0,
    restores: 0,
    failovers: 0,
    losses: 0,
};

fn clean(name: &str, bounds: &Bounds) {
    let began = Instant::now();
    match search(bounds, Order::DepthFirst) {
        Ok(searched) => println!(
            "model {name}: {} states, {} steps, at most {} deep, {:.1} s",
            searched.states,
            searched.steps,
            searched.deepest,
            began.elapsed().as_secs_f32()
        ),
        Err(found) => panic!("model {name}: {}", tell(&found)),
    }
}

fn tell(found: &Found) -> String {
    let way = found.way.iter().map(|(site, step)| format!("  {site}: {step:?}")).collect::<Vec<_>>().join("\n");
    format!("{}\n{way}\n{}", found.wrong.0, found.shown)
}

/// A region that does everything which needs no accident.
const TRADER: SiteBounds = SiteBounds { holds: 2, releases: 1, refunds: 1, returns: 1, ..SELLER };

fn bounds(total: u32, sites: &[SiteBounds]) -> Bounds {
    Bounds { total, sites: sites.to_vec(), total_changes: 0, arbiter_restores: 0, careless: false, prune: true }
}

#[test]
fn a_market_of_two() {
    let more = scale();
    let trader = SiteBounds { holds: 3 + more, releases: 1 + more, refunds: 1 + more, returns: 2 + more, ..TRADER };
    clean("market of two", &bounds(3, &[trader; 2]));
}

#[test]
fn a_market_of_two_with_four_tickets() {
    let more = scale();
    let trader = SiteBounds { holds: 3 + more, returns: 2, ..TRADER };
    clean("market of two, T = 4", &bounds(4, &[trader; 2]));
}

#[test]
fn a_market_of_three() {
    let more = scale();
    let trader = SiteBounds { holds: 1 + more, releases: more, refunds: 1, ..TRADER };
    clean("market of three", &bounds(3, &[trader; 3]));
}

#[test]
fn totals_that_change() {
    let more = scale();
    let trader = SiteBounds { holds: 2 + more, releases: more, returns: 2, ..TRADER };
    clean("totals that change", &Bounds { total_changes: 2 + more, ..bounds(3, &[trader; 2]) });
}

#[test]
fn failovers() {
    let more = scale();
    let first = SiteBounds { releases: more, refunds: more, failovers: 2, reports: true, ..TRADER };
    let first = SiteBounds { late_reports: 1, ..first };
    let other = SiteBounds { holds: 1 + more, ..SELLER };
    clean("failovers", &bounds(3, &[first, other]));
}

#[test]
fn backups_that_come_back() {
    let more = scale();
    let first = SiteBounds { backups: 1, restores: 1, releases: more, refunds: 0, reports: true, ..TRADER };
    let first = SiteBounds { failovers: more, late_reports: more as usize, ..first };
    let other = SiteBounds { holds: 2, ..SELLER };
    clean("backups that come back", &bounds(3, &[first, other]));
}

#[test]
fn refunds_and_late_reports_and_backups() {
    let more = scale();
    let first = SiteBounds { holds: 2, refunds: 1, backups: 1, restores: 1, reports: true, late_reports: 1, ..SELLER };
    let first = SiteBounds { returns: more, ..first };
    let other = SiteBounds { holds: 1 + more, ..SELLER };
    clean("refunds, late reports and backups", &bounds(3, &[first, other]));
}

#[test]
fn write_offs() {
    let more = scale();
    let first = SiteBounds { losses: 2, failovers: more, releases: more, reports: true, ..TRADER };
    let first = SiteBounds { late_reports: more as usize, ..first };
    let other = SiteBounds { holds: 1 + more, ..SELLER };
    clean("write-offs", &bounds(3, &[first, other]));
}

#[test]
fn write_offs_and_older_backups() {
    let more = scale();
    let first = SiteBounds { returns: 1, losses: 1, backups: 1, restores: 1, refunds: more, reports: true, ..SELLER };
    let first = SiteBounds { holds: 1 + more, ..first };
    let other = SiteBounds { holds: 1 + more, ..SELLER };
    clean("write-offs and older backups", &bounds(3, &[first, other]));
}

#[test]
fn accidents_in_three_regions() {
    let more = scale();
    let first = SiteBounds { holds: 1, returns: 1, failovers: more, losses: 1, reports: true, ..SELLER };
    let first = SiteBounds { refunds: more, ..first };
    let other = SiteBounds { holds: 1, ..SELLER };
    clean("accidents among three, T = 4", &bounds(4, &[first, other, other]));
}

#[test]
fn arbiters_restored_from_a_backup() {
    let more = scale();
    let first = SiteBounds { holds: 1 + more, returns: 1, failovers: 1, reports: more > 0, ..SELLER };
    let other = SiteBounds { holds: 1, returns: more, ..SELLER };
    // Nothing is forgotten: epochs start again from the backup's, so what is old cannot be told by them alone.
    let bounds = Bounds { arbiter_restores: 1, prune: false, ..bounds(1 + more, &[first, other]) };
    clean("arbiters restored", &bounds);
}

#[test]
fn arbiters_restored_to_before_a_write_off() {
    let more = scale();
    let first = SiteBounds { holds: 1, returns: more, losses: 1 + more, ..SELLER };
    let other = SiteBounds { holds: 1, ..SELLER };
    let bounds = Bounds { arbiter_restores: 1, prune: false, ..bounds(1 + more, &[first, other]) };
    clean("arbiters restored to before a write-off", &bounds);
}

#[test]
fn arbiters_restored_twice_by_somebody_who_counts_from_the_backup() {
    let first = SiteBounds { holds: 1, returns: scale(), failovers: 1, ..SELLER };
    let others = vec![SiteBounds { holds: 1, ..SELLER }; scale() as usize];
    clean("arbiters restored twice", &restored_twice(&[vec![first], others].concat()));
}

#[test]
fn arbiters_restored_twice_around_a_write_off() {
    let first = SiteBounds { holds: 1, returns: scale(), losses: 1, ..SELLER };
    clean("arbiters restored twice around a write-off", &restored_twice(&[first]));
}

fn restored_twice(sites: &[SiteBounds]) -> Bounds {
    Bounds { arbiter_restores: 2, careless: true, prune: false, ..bounds(1, sites) }
}

/// Searches for the shortest way in which the defect shows, and checks that the same bounds are clean without it.
fn killed(mutant: Mutant, total: u32, sites: &[SiteBounds]) {
    let bounds = Bounds { prune: false, ..bounds(total, sites) };
    killed_within(mutant, &bounds);
    let pruned = Bounds { prune: true, ..bounds };
    if let Err(found) = search(&pruned, Order::DepthFirst) {
        panic!("without {mutant:?}: {}", tell(&found));
    }
}

fn killed_within(mutant: Mutant, bounds: &Bounds) {
    match with(mutant, || search(bounds, Order::BreadthFirst)) {
        Ok(searched) => panic!("{mutant:?} lives: {searched:?}"),
        Err(found) => println!("{mutant:?} dies after {} steps: {}", found.way.len(), tell(&found)),
    }
}

#[test]
fn mutant_grants_as_differences() {
    killed(Mutant::GrantsAsDifferences, 2, &[SELLER]);
}

#[test]
fn mutant_returns_as_differences() {
    killed(Mutant::ReturnsAsDifferences, 2, &[SiteBounds { returns: 1, ..SELLER }]);
}

#[test]
fn mutant_returning_held_tickets() {
    killed(Mutant::ReturningHeldTickets, 2, &[SiteBounds { returns: 1, ..SELLER }]);
}

#[test]
fn mutant_return_sent_before_its_debit() {
    let first = SiteBounds { holds: 1, returns: 1, ..SELLER };
    killed(Mutant::ReturnSentBeforeItsDebit, 1, &[first, SiteBounds { holds: 1, ..SELLER }]);
}

#[test]
fn mutant_seizing_a_silent_slice() {
    killed(Mutant::SeizingASilentSlice, 1, &[SiteBounds { holds: 1, ..SELLER }; 2]);
}

#[test]
fn mutant_grant_to_a_written_off_region() {
    killed(Mutant::GrantToAWrittenOffRegion, 1, &[SiteBounds { losses: 1, ..SELLER }]);
}

#[test]
fn mutant_accept_return_without_epoch() {
    let first = SiteBounds { holds: 1, returns: 1, backups: 1, restores: 1, ..SELLER };
    killed(Mutant::AcceptReturnWithoutEpoch, 1, &[first, SiteBounds { holds: 1, ..SELLER }]);
}

#[test]
fn mutant_spending_before_the_epoch_is_heard() {
    let first = SiteBounds { holds: 1, returns: 1, backups: 1, restores: 1, ..SELLER };
    killed(Mutant::SpendingBeforeTheEpochIsHeard, 1, &[first, SiteBounds { holds: 1, ..SELLER }]);
}

#[test]
fn mutant_register_without_row_unchecked() {
    killed(Mutant::RegisterWithoutRowUnchecked, 1, &[SiteBounds { holds: 1, losses: 1, ..SELLER }]);
}

#[test]
fn mutant_register_without_returned_check() {
    let first = SiteBounds { holds: 1, returns: 1, backups: 1, restores: 1, ..SELLER };
    killed(Mutant::RegisterWithoutReturnedCheck, 1, &[first, SiteBounds { holds: 1, ..SELLER }]);
}

#[test]
fn mutant_register_without_epoch_as_read() {
    killed(Mutant::RegisterWithoutEpochAsRead, 1, &[SiteBounds { holds: 1, failovers: 2, ..SELLER }]);
}

#[test]
fn mutant_reports_overwrite_the_floor() {
    let first = SiteBounds { holds: 2, backups: 1, restores: 1, reports: true, late_reports: 1, ..SELLER };
    killed(Mutant::ReportsOverwriteTheFloor, 1, &[first]);
}

#[test]
fn mutant_sold_gross_of_refunds() {
    killed(Mutant::SoldGrossOfRefunds, 1, &[SiteBounds { holds: 1, refunds: 1, losses: 1, ..SELLER }]);
}

#[test]
fn mutant_refund_twice() {
    killed(Mutant::RefundTwice, 2, &[SiteBounds { holds: 3, refunds: 2, ..SELLER }]);
}

#[test]
fn mutant_seed_without_a_name() {
    let first = SiteBounds { holds: 1, losses: 3, ..SELLER };
    killed(Mutant::SeedWithoutAName, 1, &[first]);
}

#[test]
fn mutant_write_off_without_a_fence() {
    let first = SiteBounds { holds: 1, losses: 1, ..SELLER };
    killed(Mutant::WriteOffWithoutAFence, 1, &[first, SiteBounds { holds: 1, ..SELLER }]);
}

/// Within the bounds of `arbiters_restored_twice_by_somebody_who_counts_from_the_backup`, which is clean.
#[test]
fn mutant_incarnation_without_chance() {
    killed_within(Mutant::IncarnationWithoutChance, &restored_twice(&[SiteBounds { holds: 1, ..SELLER }]));
}

#[test]
fn mutant_following_arbiters_that_know_less() {
    killed_within(Mutant::FollowingArbitersThatKnowLess, &restored_twice(&[SiteBounds { holds: 1, ..SELLER }]));
}
