//! The whole sale against a naive one: joins, batches, holds, payments that are late, double, reordered, of the wrong
//! amount or taken back, a provider that is away, expiries, cancels, voids, refunds, folds, a halt and the close.
//!
//! After every step both must agree on every reservation and every payment, and every invariant must hold. At the end,
//! when all news have been heard, the provider keeps money for exactly what is sold.
#![allow(clippy::unwrap_used, reason = "test code")]

mod naive;
mod provider;
mod world;

use naive::Naive;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use sale::allocate::Limits;
use sale::invariants::invariant_only_grows;
use sale::lifecycle::Event;
use std::collections::BTreeSet;
use world::World;

pub(crate) const TIERS: usize = 3;
pub(crate) const TOTALS: [i64; TIERS] = [5, 4, 1];
pub(crate) const LIMITS: Limits = Limits { per_order: 3, per_person: 4, per_identity: Some(5) };
pub(crate) const HOLD_MS: u64 = 10_000;
pub(crate) const CAP_MS: u64 = 40_000;
const USERS: u8 = 9;

/// Three people share each document.
pub(crate) fn identity_of(user: u8) -> u8 {
    user / 3
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) quantity: u16,
    pub(crate) tiers: Vec<u8>,
    pub(crate) any_quantity: bool,
}

/// `pick` chooses among what there is, modulo how many there are.
#[derive(Debug, Clone)]
enum Op {
    Join { user: u8, wish: Wish },
    Allocate { most: usize },
    Pass { ms: u64 },
    Recycle,
    Begin { pick: usize, another: bool, amount_right: bool },
    Pay { pick: usize },
    Decline { pick: usize },
    Process { pick: usize },
    TakeBack { pick: usize },
    Hear { pick: usize, and_again: bool },
    Cancel { pick: usize },
    Void { pick: usize },
    Provider { up: bool },
    Fold,
    Halt { halted: bool },
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let pick = || 0usize..1_000;
    let tiers = proptest::sample::subsequence((0..TIERS as u8).collect::<Vec<u8>>(), 1..=TIERS).prop_shuffle();
    let wish = (1u16..=4, tiers, any::<bool>()).prop_map(|(quantity, tiers, any_quantity)| Wish {
        quantity,
        tiers,
        any_quantity,
    });
    prop_oneof![
        12 => (0..USERS, wish).prop_map(|(user, wish)| Op::Join { user, wish }),
        8 => (1usize..5).prop_map(|most| Op::Allocate { most }),
        4 => (1u64..12_000).prop_map(|ms| Op::Pass { ms }),
        1 => (60_000u64..400_000).prop_map(|ms| Op::Pass { ms }),
        6 => Just(Op::Recycle),
        8 => (pick(), prop::bool::weighted(0.3), prop::bool::weighted(0.9))
            .prop_map(|(pick, another, amount_right)| Op::Begin { pick, another, amount_right }),
        8 => pick().prop_map(|pick| Op::Pay { pick }),
        2 => pick().prop_map(|pick| Op::Decline { pick }),
        3 => pick().prop_map(|pick| Op::Process { pick }),
        2 => pick().prop_map(|pick| Op::TakeBack { pick }),
        10 => (pick(), prop::bool::weighted(0.3)).prop_map(|(pick, and_again)| Op::Hear { pick, and_again }),
        3 => pick().prop_map(|pick| Op::Cancel { pick }),
        1 => pick().prop_map(|pick| Op::Void { pick }),
        2 => prop::bool::weighted(0.7).prop_map(|up| Op::Provider { up }),
        2 => Just(Op::Fold),
        1 => prop::bool::weighted(0.3).prop_map(|halted| Op::Halt { halted }),
        // Seldom: it ends the queue.
        1 => prop::bool::weighted(0.2).prop_map(|close| if close { Op::Close } else { Op::Fold }),
    ]
}

struct Both {
    world: World,
    naive: Naive,
}

impl Both {
    fn step(&mut self, op: &Op) {
        let before = self.world.columns();
        self.run(op);
        self.compare(op);
        if let Err(violation) = self.world.check() {
            panic!("after {op:?}: {violation}");
        }
        for (before, after) in before.iter().zip(&self.world.columns()) {
            assert_eq!(invariant_only_grows(before, after), Ok(()), "after {op:?}");
        }
    }

    fn run(&mut self, op: &Op) {
        let (world, naive) = (&mut self.world, &mut self.naive);
        let entries = world.rows.len();
        let intents = world.provider.intents.len();
        match *op {
            Op::Join { user, ref wish } => assert_eq!(world.join(user, wish), naive.join(user, wish), "{op:?}"),
            Op::Allocate { most } => {
                world.allocate(most);
                naive.allocate(most);
            }
            Op::Pass { ms } => {
                world.now_ms += ms;
                naive.now_ms += ms;
            }
            Op::Recycle => {
                world.recycle();
                naive.recycle();
            }
            Op::Begin { pick, another, amount_right } if entries > 0 => {
                world.begin(pick % entries, another, amount_right);
                naive.begin(pick % entries, another, amount_right);
            }
            Op::Cancel { pick } if entries > 0 => {
                world.apply(pick % entries, Event::Cancel);
                naive.cancel(pick % entries);
            }
            Op::Void { pick } if entries > 0 => {
                world.apply(pick % entries, Event::Void);
                naive.void(pick % entries);
            }
            Op::Hear { pick, and_again } if !world.provider.news.is_empty() => {
                let at = pick % world.provider.news.len();
                let (intent, news) = world.provider.news[at];
                if !and_again {
                    world.provider.news.remove(at);
                    naive.provider.news.remove(at);
                }
                world.hear(intent, news);
                naive.hear(intent, news);
            }
            Op::Fold => world.fold(),
            Op::Halt { halted } => (world.halted, naive.halted) = (halted, halted),
            Op::Close => {
                world.close();
                naive.close();
            }
            Op::Pay { .. } | Op::Decline { .. } | Op::Process { .. } | Op::TakeBack { .. } if intents == 0 => {}
            Op::Provider { .. } | Op::Pay { .. } | Op::Decline { .. } | Op::Process { .. } | Op::TakeBack { .. } => {
                for provider in [&mut world.provider, &mut naive.provider] {
                    match *op {
                        Op::Pay { pick } => provider.pay(pick % intents),
                        Op::Decline { pick } => provider.decline(pick % intents),
                        Op::Process { pick } => provider.process(pick % intents),
                        Op::TakeBack { pick } => provider.take_back(pick % intents),
                        Op::Provider { up } => provider.up = up,
                        _ => unreachable!("the outer match lets only these through"),
                    }
                }
            }
            Op::Begin { .. } | Op::Cancel { .. } | Op::Void { .. } | Op::Hear { .. } => {}
        }
    }

    fn compare(&self, op: &Op) {
        assert_eq!(self.world.rows.len(), self.naive.rows.len(), "after {op:?}");
        for (entry, (one, other)) in self.world.rows.iter().zip(&self.naive.rows).enumerate() {
            let what = |row: &world::Row| {
                (row.state, row.tier, row.got, row.due_ms, row.extended, row.revived, row.bought_by, row.user)
            };
            assert_eq!(what(one), what(other), "reservation {entry} after {op:?}");
        }
        assert_eq!(self.world.provider, self.naive.provider, "after {op:?}");
    }

    /// All news are heard, every hold is paid for or lapses, everybody gets a turn.
    fn come_to_rest(&mut self) {
        self.step(&Op::Provider { up: true });
        self.step(&Op::Halt { halted: false });
        for _ in 0..=self.world.rows.len() {
            for intent in 0..self.world.provider.intents.len() {
                if self.world.provider.intents[intent].status == provider::Status::Processing {
                    self.step(&Op::Pay { pick: intent });
                }
            }
            while !self.world.provider.news.is_empty() {
                self.step(&Op::Hear { pick: 0, and_again: false });
            }
            self.step(&Op::Pass { ms: CAP_MS });
            self.step(&Op::Recycle);
            self.step(&Op::Allocate { most: usize::MAX });
        }
        while !self.world.provider.news.is_empty() {
            self.step(&Op::Hear { pick: 0, and_again: false });
        }
        self.world.check_at_rest();
        self.step(&Op::Close);
        assert!(self.world.rows.iter().all(|row| row.state != sale::lifecycle::State::Queued), "everybody is answered");
    }
}

fn run(ops: &[Op]) -> BTreeSet<String> {
    let (world, naive) = (World::new(USERS.into()), Naive::new(USERS.into()));
    let mut both = Both { world, naive };
    for op in ops {
        both.step(op);
    }
    both.come_to_rest();
    both.world.seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_sale_agrees_with_the_naive_one_and_its_books_hold(ops in prop::collection::vec(op(), 0..160)) {
        run(&ops);
    }
}

/// The generator reaches everything that can happen; otherwise the test above shows little.
#[test]
fn the_model_reaches_everything_that_can_happen() {
    let mut runner = TestRunner::deterministic();
    let ops = prop::collection::vec(op(), 160);
    let mut seen = BTreeSet::new();
    for _ in 0..400 {
        seen.extend(run(&ops.new_tree(&mut runner).unwrap().current()));
    }
    let expected = [
        "Hold",
        "Wait",
        "RejectLimit",
        "RejectSoldOut",
        "Reject",
        "Cancel",
        "Void",
        "TimeUp",
        "TimeUpWithIntent",
        "Extend",
        "Recycle",
        "Pay",
        "Revive",
        "Refund",
        "not allowed",
        "cool-down",
        "Nothing",
        "Sell",
        "TakeBack",
        "Refund(Late)",
        "Refund(Second)",
        "Refund(WrongAmount)",
        "Expiry::CancelIntent",
        "Expiry::Paid",
        "Expiry::Extend",
        "Expiry::Keep",
        "Expiry::Recycle",
    ];
    let missing: Vec<_> = expected.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}; happened: {seen:?}");
}
