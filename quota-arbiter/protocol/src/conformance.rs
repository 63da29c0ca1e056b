//! The suite that every holder of quota has to pass, action by action: the one in memory and the one in SQL. It knows a
//! holder only through [`Subject`]. First the rules one by one, then long random walks that compare every outcome and
//! every state with the holder in memory, which is the reference.

use std::collections::BTreeMap;

use crate::{
    command::RegisterRefused,
    counters::{Counters, Tickets},
    holder::{Action, Done, HaltReason, Holder, OrderState, Refused, Registration},
    ids::{Epoch, Identity, Incarnation, OrderId, PoolId, RegionId},
    invariant::{invariant_growth, invariant_row},
    message::{Answer, AnswerSlice, Registered},
};

/// A holder under test: one region's database.
pub trait Subject {
    /// One transaction, begun by a node that works under epoch `node`. A refusal must leave nothing behind.
    ///
    /// # Errors
    /// [`Refused`], of the first rule that forbids it, in the order of that enum.
    fn apply(&mut self, node: Epoch, action: &Action) -> Result<Done, Refused>;

    /// Everything that is stored.
    fn snapshot(&mut self) -> Snapshot;

    /// From now on the same rows are on another database: a promoted standby, or a backup brought back.
    fn move_to(&mut self, identity: Identity);
}

/// What a holder stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The arbiters' incarnation.
    pub incarnation: Incarnation,
    /// The stored registration.
    pub registration: Option<Registration>,
    /// Why this database halted.
    pub halted: Option<HaltReason>,
    /// Each row: counters, epoch, registered database.
    pub rows: BTreeMap<PoolId, (Counters, Epoch, Identity)>,
    /// Each order: pool, tickets, state.
    pub orders: BTreeMap<OrderId, (PoolId, Tickets, OrderState)>,
}

impl Subject for Holder {
    fn apply(&mut self, node: Epoch, action: &Action) -> Result<Done, Refused> {
        Holder::apply(self, node, action)
    }

    fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            incarnation: self.incarnation(),
            registration: self.registration(),
            halted: self.halted().cloned(),
            rows: self.rows().iter().map(|(id, row)| (*id, (row.counters, row.epoch, row.registered_as))).collect(),
            orders: self.orders().iter().map(|(id, order)| (*id, (order.pool, order.tickets, order.state))).collect(),
        }
    }

    fn move_to(&mut self, identity: Identity) {
        *self = self.clone().moved_to(identity);
    }
}

/// Runs the whole suite. `make` gives an empty database of that region under that identity, as often as it is asked.
///
/// # Panics
/// At the first rule that does not hold, naming it.
pub fn run<S: Subject>(mut make: impl FnMut(RegionId, Identity) -> S) {
    for (name, rule) in RULES {
        let mut subject = make(region(), database(1));
        let mut bench = Bench { subject: &mut subject, name };
        rule(&mut bench);
    }
}

/// One random walk of `steps` actions, compared with the reference at every step. Same seed, same walk.
///
/// # Panics
/// At the first difference, with the seed, the step and the action.
pub fn walk<S: Subject>(mut make: impl FnMut(RegionId, Identity) -> S, seed: u64, steps: u32) {
    let mut subject = make(region(), database(1));
    let mut reference = Holder::new(region(), database(1));
    let mut walker = Walker { state: seed, epoch: 0, identity: 1, granted: 0 };
    for step in 0..steps {
        let before = reference.counters(&pool());
        if walker.below(40) == 0 {
            walker.identity += 1;
            subject.move_to(database(walker.identity));
            reference.move_to(database(walker.identity));
        }
        let (node, action) = walker.action();
        let expected = reference.apply(node, &action);
        let got = subject.apply(node, &action);
        assert_eq!(got, expected, "seed {seed}, step {step}: {action:?} under epoch {node}");
        assert_eq!(subject.snapshot(), reference.snapshot(), "seed {seed}, step {step}: after {action:?}");
        let after = reference.counters(&pool());
        assert_eq!(invariant_row(&after), Ok(()), "seed {seed}, step {step}");
        assert_eq!(invariant_growth(&before, &after), Ok(()), "seed {seed}, step {step}");
    }
}

fn region() -> RegionId {
    valid("east")
}

fn pool() -> PoolId {
    valid("demo/A")
}

fn valid<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    match text.parse() {
        Ok(id) => id,
        Err(error) => panic!("{text}: {error:?}"),
    }
}

fn database(number: u32) -> Identity {
    Identity { system: 7, timeline: 1, copy: u128::from(number) }
}

fn tickets(number: u32) -> Tickets {
    Tickets::from_u32(number)
}

fn registered(epoch: u64, identity: u32, seed: Option<Counters>) -> Action {
    Action::Adopt(Registered {
        incarnation: Incarnation::new(1),
        epoch: Epoch::new(epoch),
        identity: database(identity),
        seeds: seed.map(|seed| (pool(), seed)).into_iter().collect(),
    })
}

fn granted(epoch: u64, granted: u32, floor: Counters) -> Action {
    let slice = AnswerSlice { pool: pool(), granted: tickets(granted), floor, return_up_to: Tickets::ZERO };
    Action::Deliver(Answer { incarnation: Incarnation::new(1), epoch: Epoch::new(epoch), slices: vec![slice] })
}

fn hold(order: u128, number: u32) -> Action {
    Action::Hold { pool: pool(), order: OrderId::new(order), tickets: tickets(number) }
}

fn give_back(number: u32) -> Action {
    Action::Return { pool: pool(), tickets: tickets(number) }
}

fn sell(order: u128) -> Action {
    Action::Sell { order: OrderId::new(order) }
}

fn release(order: u128) -> Action {
    Action::Release { order: OrderId::new(order) }
}

fn refund(order: u128) -> Action {
    Action::Refund { order: OrderId::new(order) }
}

struct Bench<'a> {
    subject: &'a mut dyn Subject,
    name: &'static str,
}

impl Bench<'_> {
    fn check(&mut self, node: u64, action: &Action, expected: Result<Done, Refused>) {
        let before = self.subject.snapshot();
        let got = self.subject.apply(Epoch::new(node), action);
        assert_eq!(got, expected, "{}: {action:?}", self.name);
        if got != Ok(Done::Changed) && !matches!(got, Ok(Done::Halted(_))) {
            assert_eq!(self.subject.snapshot(), before, "{}: {action:?} left something behind", self.name);
        }
    }

    fn changes(&mut self, node: u64, action: &Action) {
        self.check(node, action, Ok(Done::Changed));
    }

    fn refuses(&mut self, node: u64, action: &Action, refused: Refused) {
        self.check(node, action, Err(refused));
    }

    fn counters(&mut self, expected: [u32; 6]) {
        let row = self.subject.snapshot().rows.get(&pool()).map(|row| row.0).unwrap_or_default();
        let got = row.columns().map(|(_, value)| value);
        assert_eq!(got, expected.map(tickets), "{}: granted, returned, held_in, released, sold, refunded", self.name);
    }

    /// Registered under epoch 1 and granted five.
    fn five(&mut self) {
        self.changes(0, &registered(1, 1, None));
        self.changes(1, &granted(1, 5, Counters::ZERO));
    }
}

type Rule = (&'static str, fn(&mut Bench<'_>));

const RULES: &[Rule] = &[
    ("an order goes from hold to sale to refund, once", |bench| {
        bench.five();
        bench.changes(1, &hold(1, 2));
        bench.refuses(1, &hold(1, 2), Refused::OrderState(OrderState::Held));
        bench.refuses(1, &refund(1), Refused::OrderState(OrderState::Held));
        bench.changes(1, &sell(1));
        bench.refuses(1, &sell(1), Refused::OrderState(OrderState::Sold));
        bench.refuses(1, &release(1), Refused::OrderState(OrderState::Sold));
        bench.changes(1, &refund(1));
        bench.refuses(1, &refund(1), Refused::OrderState(OrderState::Refunded));
        bench.refuses(1, &hold(1, 1), Refused::OrderState(OrderState::Refunded));
        bench.refuses(1, &sell(9), Refused::NoSuchOrder);
        bench.counters([5, 0, 2, 0, 2, 2]);
    }),
    ("a released order may be held again", |bench| {
        bench.five();
        bench.changes(1, &hold(1, 2));
        bench.changes(1, &release(1));
        bench.refuses(1, &sell(1), Refused::OrderState(OrderState::Released));
        bench.changes(1, &hold(1, 3));
        bench.changes(1, &sell(1));
        bench.counters([5, 0, 5, 2, 3, 0]);
    }),
    ("only what is available is held or returned", |bench| {
        bench.five();
        bench.changes(1, &hold(1, 3));
        bench.refuses(1, &hold(2, 3), Refused::TooFew(tickets(2)));
        bench.refuses(1, &give_back(3), Refused::TooFew(tickets(2)));
        bench.changes(1, &give_back(2));
        bench.refuses(1, &hold(2, 1), Refused::TooFew(Tickets::ZERO));
        bench.changes(1, &sell(1));
        bench.refuses(1, &give_back(1), Refused::TooFew(Tickets::ZERO));
        bench.changes(1, &refund(1));
        bench.changes(1, &give_back(1));
        bench.refuses(1, &hold(2, 0), Refused::NothingAsked);
        bench.refuses(1, &give_back(0), Refused::NothingAsked);
        bench.counters([5, 3, 3, 0, 3, 3]);
    }),
    ("a grant is a target: late, double and out of order are harmless", |bench| {
        bench.five();
        bench.check(1, &granted(1, 5, Counters::ZERO), Ok(Done::Unchanged));
        bench.check(1, &granted(1, 3, Counters::ZERO), Ok(Done::Unchanged));
        bench.changes(1, &granted(1, 8, Counters::ZERO));
        bench.counters([8, 0, 0, 0, 0, 0]);
    }),
    ("a grant of another epoch or incarnation is ignored", |bench| {
        bench.five();
        bench.check(1, &granted(2, 9, Counters::ZERO), Ok(Done::Unchanged));
        bench.check(1, &granted(0, 9, Counters::ZERO), Ok(Done::Unchanged));
        bench.changes(1, &Action::Observe(Incarnation::new(2)));
        bench.check(1, &Action::Observe(Incarnation::new(1)), Ok(Done::Unchanged));
        bench.check(1, &granted(1, 9, Counters::ZERO), Ok(Done::Unchanged));
        bench.check(1, &registered(2, 1, None), Ok(Done::Unchanged));
        bench.changes(1, &hold(1, 5));
    }),
    ("nothing is spent before registration", |bench| {
        bench.refuses(1, &granted(1, 5, Counters::ZERO), Refused::NotRegistered);
        bench.refuses(1, &hold(1, 1), Refused::NoRow);
        bench.five();
        bench.changes(1, &hold(1, 1));
        bench.subject.move_to(database(2));
        bench.refuses(1, &hold(2, 1), Refused::NotRegistered);
        bench.refuses(1, &sell(1), Refused::NotRegistered);
        bench.refuses(1, &release(1), Refused::NotRegistered);
        bench.refuses(1, &give_back(1), Refused::NotRegistered);
        bench.refuses(1, &granted(1, 9, Counters::ZERO), Refused::NotRegistered);
        bench.changes(1, &registered(2, 2, None));
        bench.refuses(1, &sell(1), Refused::OtherEpoch);
        bench.changes(2, &sell(1));
        bench.check(2, &granted(1, 9, Counters::ZERO), Ok(Done::Unchanged));
        bench.counters([5, 0, 1, 0, 1, 0]);
    }),
    ("a registration is for the database that it names, and not older than the stored one", |bench| {
        bench.check(0, &registered(1, 2, Some(Counters::seed(tickets(9), tickets(1)))), Ok(Done::Unchanged));
        bench.changes(0, &registered(3, 1, None));
        bench.check(0, &registered(3, 1, None), Ok(Done::Unchanged));
        bench.check(0, &registered(2, 1, None), Ok(Done::Unchanged));
    }),
    ("a seed is inserted, and never written over a row", |bench| {
        bench.changes(0, &registered(4, 1, Some(Counters::seed(tickets(9), tickets(4)))));
        bench.counters([9, 5, 4, 0, 4, 0]);
        bench.changes(4, &granted(4, 11, Counters::ZERO));
        bench.changes(4, &hold(1, 2));
        bench.refuses(4, &hold(2, 1), Refused::TooFew(Tickets::ZERO));
        bench.changes(4, &registered(5, 1, Some(Counters::seed(tickets(20), tickets(1)))));
        bench.counters([11, 5, 6, 0, 4, 0]);
    }),
    ("a row below its floor halts the database, until another one is brought", |bench| {
        bench.five();
        let floor = Counters { granted: tickets(5), held_in: tickets(1), ..Counters::ZERO };
        let reason = HaltReason::BelowFloor {
            pool: pool(),
            column: crate::counters::Column::HeldIn,
            own: Tickets::ZERO,
            floor: tickets(1),
        };
        bench.check(1, &granted(1, 9, floor), Ok(Done::Halted(reason.clone())));
        assert_eq!(bench.subject.snapshot().halted, Some(reason));
        bench.counters([5, 0, 0, 0, 0, 0]);
        for action in [hold(1, 1), give_back(1), granted(1, 9, Counters::ZERO), registered(2, 1, None), sell(5)] {
            bench.refuses(1, &action, Refused::Halted);
        }
        bench.subject.move_to(database(2));
        assert_eq!(bench.subject.snapshot().halted, None);
        bench.changes(1, &registered(2, 2, None));
        bench.changes(2, &hold(1, 1));
    }),
    ("a floor of a pool without a row halts the database", |bench| {
        bench.changes(0, &registered(1, 1, None));
        let floor = Counters { granted: tickets(1), ..Counters::ZERO };
        let got = bench.subject.apply(Epoch::new(1), &granted(1, 1, floor));
        assert!(matches!(got, Ok(Done::Halted(HaltReason::BelowFloor { .. }))), "{}", bench.name);
    }),
    ("a refused database halts", |bench| {
        bench.five();
        let reason = HaltReason::Refused(RegisterRefused::WrittenOff);
        bench.check(1, &Action::Halt(reason.clone()), Ok(Done::Halted(reason)));
        bench.refuses(1, &hold(1, 1), Refused::Halted);
    }),
];

/// Chooses actions, mostly sensible ones.
struct Walker {
    state: u64,
    epoch: u64,
    identity: u32,
    granted: u32,
}

impl Walker {
    /// SplitMix64 (Steele, Lea, Flood 2014): a few lines that are the same everywhere.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (self.next() % u64::from(bound)) as u32
    }

    fn action(&mut self) -> (Epoch, Action) {
        let node = Epoch::new(if self.below(20) == 0 { self.epoch + 1 } else { self.epoch });
        let order = u128::from(self.below(12));
        let number = self.below(5);
        let action = match self.below(20) {
            0 => {
                let stale = self.below(4) == 0;
                if !stale {
                    self.epoch += 1;
                }
                let identity = if self.below(6) == 0 { self.identity + 1 } else { self.identity };
                let seed = (self.below(3) == 0).then(|| Counters::seed(tickets(self.granted + 2), tickets(1)));
                registered(self.epoch, identity, seed)
            }
            1..=4 => {
                self.granted += number;
                let late = self.below(4);
                let mut floor = Counters::ZERO;
                if self.below(60) == 0 {
                    floor.sold = tickets(self.below(8));
                }
                granted(self.epoch, self.granted.saturating_sub(late), floor)
            }
            5..=10 => hold(order, number),
            11..=12 => release(order),
            13..=15 => sell(order),
            16..=17 => refund(order),
            18 => give_back(number),
            _ if self.below(30) == 0 => Action::Halt(HaltReason::Refused(RegisterRefused::WrittenOff)),
            _ => Action::Observe(Incarnation::new(u64::from(self.below(2)))),
        };
        (node, action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_in_memory_conforms() {
        run(Holder::new);
        for seed in 0..200 {
            walk(Holder::new, seed, 300);
        }
    }

    #[test]
    fn a_walk_gets_somewhere() {
        let mut reference = Holder::new(region(), database(1));
        let mut walker = Walker { state: 1, epoch: 0, identity: 1, granted: 0 };
        let mut changed = 0;
        for _ in 0..300 {
            let (node, action) = walker.action();
            changed += u32::from(reference.apply(node, &action) == Ok(Done::Changed));
        }
        assert!(changed > 60, "only {changed} of 300 actions did something");
        assert!(!reference.counters(&pool()).refunded.is_zero());
    }

    #[test]
    #[should_panic(expected = "left something behind")]
    fn a_holder_that_keeps_traces_of_a_refusal_is_found() {
        struct Leaky(Holder);
        impl Subject for Leaky {
            fn apply(&mut self, node: Epoch, action: &Action) -> Result<Done, Refused> {
                let done = self.0.apply(node, action);
                if matches!(done, Err(Refused::TooFew(_))) {
                    let _ = self.0.apply(node, &hold(77, 1));
                }
                done
            }
            fn snapshot(&mut self) -> Snapshot {
                self.0.snapshot()
            }
            fn move_to(&mut self, identity: Identity) {
                self.0.move_to(identity);
            }
        }
        run(|region, identity| Leaky(Holder::new(region, identity)));
    }
}
