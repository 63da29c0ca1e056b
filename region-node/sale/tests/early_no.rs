//! Certain noes, ranges, chances, waiting lists; cool-downs; how often to ask.
#![allow(clippy::unwrap_used, reason = "test code")]

use proptest::prelude::*;
use sale::again::{Again, Rejoin, SettleOutcome};
use sale::allocate::{Candidate, Decision, Limits, Stock, Tiers, allocate};
use sale::early_no::{
    Chance, Outlook, RangeRule, Sample, best_chance, certain_no, chance, people_kept, waitlist_bound, worth_a_rule,
};
use sale::pace::{Polls, Rate, estimated_wait_ms, poll_after_ms};

fn stock<const N: usize>(tickets: [u64; N]) -> Stock {
    Stock::new(tickets)
}

#[test]
fn a_range_rejects_those_whom_nothing_can_serve() {
    let rule = RangeRule { shard: 3, generation: 1, from_seq: 5, to_seq: 9, unsold: Some(stock([1, 0])) };
    assert!(rule.contains(3, 1, 5) && rule.contains(3, 1, 9));
    assert!(!rule.contains(3, 1, 4) && !rule.contains(3, 1, 10) && !rule.contains(2, 1, 7) && !rule.contains(3, 2, 7));
    assert!(rule.rejects(&[0, 1], 2, false));
    assert!(!rule.rejects(&[0, 1], 2, true) && !rule.rejects(&[0], 1, false));
    assert!(rule.rejects(&[1], 2, true));
    let everybody = RangeRule { unsold: None, ..rule };
    assert!(everybody.rejects(&[0], 1, true));
}

#[test]
fn a_rule_is_written_only_when_it_tells_somebody_more() {
    assert!(!worth_a_rule(&stock([100, 4]), None, 4));
    assert!(worth_a_rule(&stock([100, 3]), None, 4));
    assert!(!worth_a_rule(&stock([4, 3]), Some(&stock([100, 3])), 4));
    assert!(worth_a_rule(&stock([4, 2]), Some(&stock([100, 3])), 4));
    assert!(!worth_a_rule(&stock([4, 4]), Some(&stock([4, 3])), 4), "more than before is no reason");
}

#[test]
fn chances_in_words() {
    let outlook = Outlook { available: 10, held: 100, elsewhere: 0, paid_permille: 800 };
    // 20 usually come back: likely up to 10 + 10, unlikely up to 10 + 40.
    assert_eq!(chance(18, 2, &outlook), Chance::Likely);
    assert_eq!(chance(19, 2, &outlook), Chance::Unlikely);
    assert_eq!(chance(48, 2, &outlook), Chance::Unlikely);
    assert_eq!(chance(49, 2, &outlook), Chance::Slight);
    assert_eq!(chance(49, 2, &Outlook { elsewhere: 1, ..outlook }), Chance::Unlikely);
    assert_eq!(best_chance(2, [(49, outlook), (0, outlook)]), Chance::Likely);
    assert_eq!(best_chance(2, []), Chance::Slight);
    // Nonsense in, no nonsense out.
    assert_eq!(chance(u64::MAX, 100, &Outlook { paid_permille: u16::MAX, ..outlook }), Chance::Slight);
}

#[test]
fn a_waiting_list_keeps_factor_times_what_can_still_come() {
    assert_eq!(people_kept(2.0, 1_000), 2_000);
    assert_eq!(people_kept(1.5, 3), 5);
    assert_eq!(people_kept(0.1, 7), 7);
    assert_eq!(people_kept(f64::NAN, 7), 7);
    assert_eq!(people_kept(1e300, u64::MAX), u64::MAX);
    let samples = [(100, 10), (200, 20), (300, 30)].map(|(arrival_ms, people)| Sample { arrival_ms, people });
    assert_eq!(waitlist_bound(20, &samples), Some(200));
    assert_eq!(waitlist_bound(21, &samples), None, "the next sample is the last one");
    assert_eq!(waitlist_bound(30, &samples), None);
    assert_eq!(waitlist_bound(0, &samples), Some(100));
    assert_eq!(waitlist_bound(5, &[]), None);
}

#[test]
fn polls_slow_down_from_5_to_30_seconds() {
    const HOLD_MS: u64 = 600_000;
    assert_eq!(poll_after_ms(Some(0), HOLD_MS), 5_000);
    assert_eq!(poll_after_ms(Some(10_000), HOLD_MS), 10_000);
    assert_eq!(poll_after_ms(Some(50_000), HOLD_MS), 30_000);
    assert_eq!(poll_after_ms(Some(u64::MAX), HOLD_MS), 30_000);
    assert_eq!(poll_after_ms(None, HOLD_MS), 30_000);
}

#[test]
fn nobodys_hold_ends_between_two_polls() {
    assert_eq!(poll_after_ms(None, 30_000), 10_000);
    assert_eq!(poll_after_ms(Some(25_000), 30_000), 7_500);
    assert_eq!(poll_after_ms(None, 90_000), 30_000);
    // Not more often than at the head, however short the hold.
    assert_eq!(poll_after_ms(None, 1_000), 5_000);
    assert_eq!(poll_after_ms(None, u64::MAX), 30_000);
}

#[test]
fn the_twenty_first_poll_in_ten_seconds_is_one_too_many() {
    let mut polls = Polls::default();
    assert!((0..20).all(|poll| !polls.one_too_many(1_000 + poll * 499)));
    assert!(polls.one_too_many(1_000 + 9_999));
    let mut polls = Polls::default();
    assert!((0..200).all(|poll| !polls.one_too_many(poll * 500)), "20 in 10 s is allowed for ever");
    let mut polls = Polls::default();
    assert!((0..20).all(|_| !polls.one_too_many(9_000)));
    assert!(!polls.one_too_many(5), "a clock that was set back begins anew");
    assert_eq!(polls.last_ms(), Some(5));
}

#[test]
fn a_wait_is_estimated_from_the_rate_of_decisions() {
    assert_eq!(estimated_wait_ms(8_000, 1_000.0), Some(8_000));
    assert_eq!(estimated_wait_ms(0, 1_000.0), Some(0));
    assert_eq!(estimated_wait_ms(1, 0.0), None);
    assert_eq!(estimated_wait_ms(1, -1.0), None);
    assert_eq!(estimated_wait_ms(1, f64::NAN), None);
    assert_eq!(estimated_wait_ms(u64::MAX, 0.001), None, "nobody knows that");
    let mut rate = Rate::default();
    assert_eq!(rate.per_s(), 0.0);
    rate.observe(1_000, 0);
    rate.observe(2_000, 500);
    assert_eq!(rate.per_s(), 500.0);
    rate.observe(2_000, 9_999);
    rate.observe(1_500, 9_999);
    assert_eq!(rate.per_s(), 500.0, "a clock that stands or was set back is skipped");
    rate.observe(12_000, 500);
    assert!((rate.per_s() - 250.0).abs() < 1e-9, "half is forgotten after one half-life: {}", rate.per_s());
}

#[test]
fn two_lapsed_holds_bring_a_cool_down_and_a_void_a_minute() {
    let first = Again::default().settled(SettleOutcome::Lapsed, 1_000);
    assert_eq!(first.join(false, 1_000), Rejoin::Fresh);
    let second = first.settled(SettleOutcome::Lapsed, 2_000);
    assert_eq!(second.join(false, 2_000), Rejoin::CoolDown { wait_ms: 300_000 });
    assert_eq!(second.join(false, 301_999), Rejoin::CoolDown { wait_ms: 1 });
    assert_eq!(second.join(false, 302_000), Rejoin::Fresh);
    let third = second.settled(SettleOutcome::Lapsed, 400_000);
    assert_eq!(third.join(false, 400_000), Rejoin::CoolDown { wait_ms: 300_000 });
    let voided = Again::default().settled(SettleOutcome::Voided, 1_000);
    assert_eq!(voided.join(false, 1_000), Rejoin::CoolDown { wait_ms: 60_000 });
    // The same request gets its first answer, cool-down or not.
    assert_eq!(voided.join(true, 1_000), Rejoin::SameAnswer);
    assert_eq!(Again::default().settled(SettleOutcome::Done, 1_000).join(false, 1_000), Rejoin::Fresh);
    // A lapse is not forgotten because an order was cancelled in between.
    let cancelled_between = first.settled(SettleOutcome::Done, 1_500).settled(SettleOutcome::Lapsed, 2_000);
    assert_eq!(cancelled_between.join(false, 2_000), Rejoin::CoolDown { wait_ms: 300_000 });
    let many = (0..300).fold(Again::default(), |again, _| again.settled(SettleOutcome::Lapsed, 0));
    assert_eq!(many.lapses, 15);
}

fn wish() -> impl Strategy<Value = (Vec<u8>, u16, bool)> {
    let tiers = proptest::sample::subsequence((0u8..5).collect::<Vec<u8>>(), 1..=5).prop_shuffle();
    (tiers, 1u16..8, proptest::bool::ANY)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Even if all that is unsold came back and went to this one person, it would not do; and if it would, nobody says no.
    #[test]
    fn a_certain_no_is_certain((tiers, quantity, any_quantity) in wish(), unsold in proptest::collection::vec(0u64..8, 1..5)) {
        let unsold = Stock::new(unsold);
        let candidate = Candidate {
            user: [1; 16], identity: None, quantity, tiers: Tiers::from_slice(&tiers), any_quantity,
            owned_by_user: 0, owned_by_identity: 0,
        };
        let limits = Limits { per_order: 100, per_person: 100, per_identity: None };
        let decided = allocate(&limits, &unsold, None, &[candidate]).decisions;
        let served = matches!(decided.first(), Some(Decision::Hold { .. }));
        prop_assert_eq!(certain_no(&tiers, quantity, any_quantity, &unsold), !served);
    }

    /// A rule that is not worth writing tells nobody no whom the last one did not.
    #[test]
    fn a_rule_not_written_is_not_missed(
        (tiers, quantity, any_quantity) in wish(),
        last in proptest::option::of(proptest::collection::vec(0u64..12, 5)),
        now in proptest::collection::vec(0u64..12, 5),
    ) {
        let (now, last) = (Stock::new(now), last.map(Stock::new));
        if !worth_a_rule(&now, last.as_ref(), 8) && certain_no(&tiers, quantity, any_quantity, &now) {
            prop_assert!(last.is_some_and(|last| certain_no(&tiers, quantity, any_quantity, &last)));
        }
    }

    #[test]
    fn chances_never_grow_further_back(
        ahead in 0u64..1_000, more in 0u64..1_000, need in 1u16..8,
        available in 0u64..1_000, held in 0u64..1_000, elsewhere in 0u64..100, paid_permille in 0u16..=1_100,
    ) {
        let outlook = Outlook { available, held, elsewhere, paid_permille };
        prop_assert!(chance(ahead + more, need, &outlook) <= chance(ahead, need, &outlook));
        let better = Outlook { available: available + more, ..outlook };
        prop_assert!(chance(ahead, need, &better) >= chance(ahead, need, &outlook));
    }

    #[test]
    fn the_waiting_lists_bound_keeps_at_least_so_many(
        kept in 0u64..500, steps in proptest::collection::vec((1u64..50, 0u64..50), 0..20),
    ) {
        let mut at = Sample { arrival_ms: 0, people: 0 };
        let samples: Vec<Sample> = steps.iter().map(|&(ms, people)| {
            at = Sample { arrival_ms: at.arrival_ms + ms, people: at.people + people };
            at
        }).collect();
        if let Some(bound_ms) = waitlist_bound(kept, &samples) {
            let people = samples.iter().filter(|sample| sample.arrival_ms <= bound_ms).map(|sample| sample.people).max();
            prop_assert!(people.unwrap() >= kept);
            prop_assert!(samples.last().unwrap().people > people.unwrap(), "somebody is beyond it");
        }
    }

    #[test]
    fn polls_never_get_more_frequent_further_back(
        near in 0u64..200_000, more in 0u64..200_000, hold_ms in 1_000u64..86_400_000
    ) {
        prop_assert!(poll_after_ms(Some(near), hold_ms) <= poll_after_ms(Some(near + more), hold_ms));
        prop_assert!((5_000..=30_000).contains(&poll_after_ms(Some(near), hold_ms)));
    }

    /// The count of polls equals a naive one that keeps every time.
    #[test]
    fn polls_are_counted_as_a_naive_count_does(pauses in proptest::collection::vec(0u64..1_500, 0..80)) {
        let (mut polls, mut times, mut now) = (Polls::default(), Vec::new(), 0);
        for pause in pauses {
            now += pause;
            times.push(now);
            let recent = times.iter().filter(|&&time| now - time < 10_000).count();
            prop_assert_eq!(polls.one_too_many(now), recent > 20);
        }
    }
}
