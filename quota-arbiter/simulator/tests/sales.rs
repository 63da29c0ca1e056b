//! Skewed sales of 10,000 tickets, 90 % of the demand in one region, over several regions and out of one pool: the time,
//! who starves, what is left, and whether buyers have the same odds everywhere.

#![allow(clippy::print_stdout, reason = "the figures of a sale are part of the test's output")]

use std::ops::RangeInclusive;

use quota_simulator::{Odds, skewed_sale, spread};

/// Two heartbeats and a round trip: so long may a region with a queue wait while another has what nobody there wants.
const STARVED_MAX_MS: u64 = 2_100;

/// By how much the odds may differ, as a part of the mean.
const SPREAD_MAX: f64 = 0.05;

/// Sells, checks everything but the odds, and says by how much these differ. The last sale of a run is one late payer's,
/// and a small region has few buyers: several runs even that out.
fn sales(regions: usize, seeds: RangeInclusive<u64>) -> f64 {
    let (mut split_ms, mut whole_ms) = (0, 0);
    let (mut split_odds, mut whole_odds) = (vec![Odds::default(); regions], vec![Odds::default(); regions]);
    for seed in seeds {
        let split = skewed_sale(regions, 10_000, 900, false, seed);
        let whole = skewed_sale(regions, 10_000, 900, true, seed);
        println!(
            "{regions} regions, seed {seed}: sold out after {} ms, one pool after {} ms; starved at most {} ms",
            split.sold_out_ms, whole.sold_out_ms, split.starved_max_ms
        );
        assert_eq!((split.problems, whole.problems), (Vec::new(), Vec::new()));
        assert_eq!((split.left, whole.left), (0, 0), "tickets are left");
        assert!(split.starved_max_ms <= STARVED_MAX_MS, "{} ms", split.starved_max_ms);
        split_ms += split.sold_out_ms;
        whole_ms += whole.sold_out_ms;
        for (sums, odds) in [(&mut split_odds, split.regions), (&mut whole_odds, whole.regions)] {
            for (sum, odds) in sums.iter_mut().zip(odds) {
                (sum.came, sum.offered) = (sum.came + odds.came, sum.offered + odds.offered);
            }
        }
    }
    let ratio = split_ms as f64 / whole_ms as f64;
    let (split, whole) = (spread(&split_odds), spread(&whole_odds));
    println!(
        "{regions} regions: {ratio:.3} of one pool's time; odds differ by {:.1} % of the mean, with one pool by {:.1} %",
        split * 100.0,
        whole * 100.0
    );
    assert!(ratio <= 1.05, "{ratio}");
    split
}

/// Not what is wanted of the odds, but that they do not become worse.
#[test]
fn a_skewed_sale_in_three_regions() {
    let spread = sales(3, 1..=8);
    assert!(spread <= 0.08, "odds differ by {spread} of the mean");
}

/// As above; with fewer buyers in each region, chance alone makes for more.
#[test]
fn a_skewed_sale_in_thirty_regions() {
    let spread = sales(30, 1..=8);
    assert!(spread <= 0.15, "odds differ by {spread} of the mean");
}

/// Buyers of small regions are better off by this much. It is not known yet how much of that comes from holds that lapse
/// there and are offered there first, while older requests wait in the large region.
#[test]
#[ignore = "not reached: 5.6 % of the mean in three regions, 6.3 % in thirty"]
fn the_odds_are_the_same_everywhere() {
    for regions in [3, 30] {
        let spread = sales(regions, 1..=40);
        assert!(spread <= SPREAD_MAX, "{regions} regions: odds differ by {spread} of the mean");
    }
}
