//! Every transaction that touches a reservation, in random order, against the pure rules of `sale`: after each one the
//! database says what the rules say, counters and all, and at the end the books add up.

use crate::world::{World, definition};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use region_node::db::allocate::Place;
use region_node::db::finals::{self, Ending};
use region_node::db::payments::settle::{Spare, Tail, Told, settle};
use region_node::db::payments::{self, Opened, expire};
use region_node::db::reclaim::{Reclaimed, reclaim};
use region_node::db::snapshot::snapshot;
use region_node::{folder, generations, outbox, recycler};
use sale::allocate::{Candidate, Decision, Limits, Stock, allocate};
use sale::invariants::Columns;
use sale::lifecycle::{Event, State, Tickets, next};
use sale::payment::{Action, Facts, News, decide};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TOTALS: [u64; 2] = [6, 3];
const LIMITS: Limits = Limits { per_order: 4, per_person: 4, per_identity: None };
const PRICE: i64 = 1_000;
const LONG: Duration = Duration::from_secs(600);

/// `pick` chooses among the reservations there are.
#[derive(Debug, Clone)]
enum Op {
    Join { user: u64, quantity: u8, tiers: Vec<u8>, any_quantity: bool },
    Allocate,
    Begin { pick: usize },
    Paid { pick: usize, stray: bool },
    Undone { pick: usize },
    TimeUp { pick: usize },
    Extend { pick: usize },
    Recycle { pick: usize },
    Cancel { pick: usize },
    Void { pick: usize },
    Fold,
    Lose,
    Reclaim { pick: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let pick = || 0usize..1_000;
    let tiers = prop_oneof![Just(vec![0]), Just(vec![1]), Just(vec![0, 1]), Just(vec![1, 0])];
    prop_oneof![
        8 => (0u64..9, 1u8..=4, tiers, any::<bool>())
            .prop_map(|(user, quantity, tiers, any_quantity)| Op::Join { user, quantity, tiers, any_quantity }),
        5 => Just(Op::Allocate),
        5 => pick().prop_map(|pick| Op::Begin { pick }),
        6 => (pick(), prop::bool::weighted(0.2)).prop_map(|(pick, stray)| Op::Paid { pick, stray }),
        2 => pick().prop_map(|pick| Op::Undone { pick }),
        4 => pick().prop_map(|pick| Op::TimeUp { pick }),
        2 => pick().prop_map(|pick| Op::Extend { pick }),
        3 => pick().prop_map(|pick| Op::Recycle { pick }),
        3 => pick().prop_map(|pick| Op::Cancel { pick }),
        1 => pick().prop_map(|pick| Op::Void { pick }),
        2 => Just(Op::Fold),
        1 => Just(Op::Lose),
        3 => pick().prop_map(|pick| Op::Reclaim { pick }),
    ]
}

/// Where somebody queued stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In Redis, before the cursor's reach.
    Queue,
    /// In `waiting`.
    Waiting,
    /// In a queue that was lost.
    Lost,
    /// Passed by the cursor.
    Passed,
}

#[derive(Debug)]
struct Row {
    user: u64,
    place: Place,
    state: State,
    at: At,
    tier: u8,
    got: u16,
    extended: bool,
    revived: bool,
    intent: Option<String>,
    bought_by: Option<String>,
    /// Its sale is not yet in the counters.
    unfolded: bool,
}

struct Both {
    world: World,
    rows: Vec<Row>,
    columns: [Columns; 2],
    /// Intents whose success or taking back was heard of.
    heard: BTreeSet<String>,
    refunds: i64,
    strays: u32,
    seen: BTreeSet<&'static str>,
}

impl Both {
    async fn new() -> Self {
        let mut definition = definition(&TOTALS);
        // One shard: then the order of arrival is the order of numbers, also within a millisecond.
        definition.shards = Some(1);
        Self {
            world: World::new(&definition).await,
            rows: Vec::new(),
            columns: TOTALS.map(|total| Columns { granted: total as i64, ..Columns::default() }),
            heard: BTreeSet::new(),
            refunds: 0,
            strays: 0,
            seen: BTreeSet::new(),
        }
    }

    /// What the rules say of an event, carried out on the model; whether it is allowed.
    fn apply(&mut self, n: usize, event: Event) -> bool {
        let row = &mut self.rows[n];
        let Ok(step) = next(row.state, event) else { return false };
        row.state = step.to;
        let (columns, got) = (&mut self.columns[usize::from(row.tier)], i64::from(row.got));
        match step.tickets {
            Tickets::Stay => {}
            Tickets::Hold => columns.held_in += got,
            Tickets::Release => columns.released += got,
            Tickets::Sell => row.unfolded = true,
            Tickets::HoldAndSell => {
                columns.held_in += got;
                row.unfolded = true;
            }
            Tickets::Refund => {
                columns.sold += if row.unfolded { got } else { 0 };
                columns.refunded += got;
                row.unfolded = false;
            }
        }
        true
    }

    fn available(&self, tier: u8) -> i64 {
        self.columns[usize::from(tier)].available()
    }

    fn unsold(&self, tier: u8) -> i64 {
        let columns = &self.columns[usize::from(tier)];
        let unfolded = self.rows.iter().filter(|row| row.unfolded && row.tier == tier);
        columns.granted - columns.sold + columns.refunded - unfolded.map(|row| i64::from(row.got)).sum::<i64>()
    }

    /// One of those to which this may happen; of all, where it may happen to none.
    fn choose(&self, pick: usize, may: impl Fn(&Row) -> bool) -> usize {
        let able: Vec<usize> = (0..self.rows.len()).filter(|&n| may(&self.rows[n])).collect();
        able.get(pick % able.len().max(1)).copied().unwrap_or(pick % self.rows.len())
    }

    async fn step(&mut self, op: &Op) {
        let (len, id) = (self.rows.len(), self.world.id());
        match *op {
            Op::Join { user, quantity, ref tiers, any_quantity } => {
                self.join(user, quantity, tiers, any_quantity).await;
            }
            Op::Allocate => self.allocate().await,
            Op::Fold => {
                folder::round(&self.world.books).await.unwrap();
                for row in self.rows.iter_mut().filter(|row| row.unfolded) {
                    row.unfolded = false;
                    self.columns[usize::from(row.tier)].sold += i64::from(row.got);
                }
            }
            Op::Lose => self.lose().await,
            _ if len == 0 => {}
            Op::Begin { pick } => self.begin(self.choose(pick, |row| row.state == State::Held)).await,
            Op::Paid { pick, stray } => self.paid(self.choose(pick, |row| row.got > 0), stray).await,
            Op::Undone { pick } => self.undone(self.choose(pick, |row| row.state == State::Sold)).await,
            Op::TimeUp { pick } => self.time_up(self.choose(pick, |row| row.state == State::Held)).await,
            Op::Extend { pick } => {
                let n = self.choose(pick, |row| row.state == State::Expiring);
                let row = &self.rows[n];
                let may = row.state == State::Expiring && !row.extended;
                let entry = row.place.entry.to_i64();
                let extended = expire::extend(&self.world.books.db, id, entry, LONG, LONG).await.unwrap();
                assert_eq!(extended, may, "{row:?}");
                if may {
                    assert!(self.apply(n, Event::Extend));
                    self.rows[n].extended = true;
                    self.seen.insert("extended");
                }
            }
            Op::Recycle { pick } => {
                let n = self.choose(pick, |row| row.state == State::Expiring);
                let entry = self.rows[n].place.entry.to_i64();
                let books = &self.world.books;
                let (_, gone) = expire::expire(&books.db, id, &[entry], Some(LONG), &**books).await.unwrap();
                let expected = self.rows[n].state == State::Expiring && self.apply(n, Event::Recycle);
                assert_eq!(gone == 1, expected, "{:?}", self.rows[n]);
                if expected {
                    self.seen.insert("recycled");
                }
            }
            Op::Cancel { pick } => self.end(pick % len, Ending::Cancel, Event::Cancel).await,
            Op::Void { pick } => self.end(pick % len, Ending::Void, Event::Void).await,
            Op::Reclaim { pick } => {
                let n = self.choose(pick, |row| row.state == State::Queued && row.at == At::Lost);
                let row = &mut self.rows[n];
                let back = row.state == State::Queued && row.at == At::Lost;
                let books = &self.world.books;
                let done = reclaim(&books.db, id, &row.place, &**books).await.unwrap();
                assert_eq!(done == Reclaimed::Back, back, "{row:?}");
                if back {
                    row.at = At::Waiting;
                    self.seen.insert("reclaimed");
                }
            }
        }
        self.compare(op).await;
    }

    async fn join(&mut self, user: u64, quantity: u8, tiers: &[u8], any_quantity: bool) {
        // Who has an active place, or lapsed or was voided before, would be told another story by the queue.
        let barred = |row: &Row| {
            row.user == user && (!row.state.is_final() || matches!(row.state, State::Expired | State::Voided))
        };
        if self.rows.iter().any(barred) {
            return;
        }
        while outbox::round(&self.world.books).await.unwrap() > 0 {}
        let place = self.world.join(user, quantity, tiers, any_quantity).await;
        if self.rows.iter().any(|row| row.place.entry == place.entry) {
            // Told no by a range and still in the queue: the first place is the answer.
            return;
        }
        self.rows.push(Row {
            user,
            place,
            state: State::Queued,
            at: At::Queue,
            tier: 0,
            got: 0,
            extended: false,
            revived: false,
            intent: None,
            bought_by: None,
            unfolded: false,
        });
    }

    async fn allocate(&mut self) {
        self.world.allocate(4).await.unwrap();
        // Housekeeping first: who can never be served is told so.
        let doomed: Vec<usize> = (0..self.rows.len())
            .filter(|&n| {
                let row = &self.rows[n];
                let need = i64::from(row.place.need());
                row.state == State::Queued && row.place.tiers.iter().all(|&tier| self.unsold(tier) < need)
            })
            .collect();
        for n in doomed {
            assert!(self.apply(n, Event::Reject));
            self.seen.insert("told no");
            if self.rows[n].at == At::Waiting {
                self.rows[n].at = At::Passed;
            }
        }
        if (0..2).all(|tier| self.unsold(tier) == 0) {
            self.pass(usize::MAX);
        }
        if (0..2).all(|tier| self.available(tier) == 0) {
            return;
        }
        let queued = |at: At| move |n: &usize, rows: &[Row]| rows[*n].state == State::Queued && rows[*n].at == at;
        let of = |at: At| (0..self.rows.len()).filter(|n| queued(at)(n, &self.rows)).collect::<Vec<_>>();
        let (mut waiting, queue) = (of(At::Waiting), of(At::Queue));
        waiting.sort_by_key(|&n| (self.rows[n].place.arrival_ms, self.rows[n].place.entry));
        let all: Vec<usize> = waiting.iter().chain(&queue).copied().collect();
        let candidates: Vec<Candidate> = all.iter().map(|&n| self.candidate(n)).collect();
        let stock = |of: &dyn Fn(u8) -> i64| Stock::new((0..2).map(|tier| of(tier) as u64));
        let (available, unsold) = (stock(&|tier| self.available(tier)), stock(&|tier| self.unsold(tier)));
        let fitting = |n: usize| {
            let place = &self.rows[n].place;
            place.tiers.iter().any(|&tier| i64::from(place.need()) <= self.available(tier))
        };
        let fits: BTreeMap<usize, bool> = all.iter().map(|&n| (n, fitting(n))).collect();
        let allocation = allocate(&LIMITS, &available, Some(&unsold), &candidates);
        for (&n, decision) in all.iter().zip(&allocation.decisions) {
            match *decision {
                Decision::Hold { tier, quantity } => {
                    (self.rows[n].tier, self.rows[n].got) = (tier, quantity);
                    assert!(self.apply(n, Event::Hold));
                    self.rows[n].at = At::Passed;
                    self.seen.insert("held");
                }
                Decision::Wait => {
                    self.rows[n].at = At::Waiting;
                    self.seen.insert("waits");
                }
                Decision::RejectLimit | Decision::RejectSoldOut => {
                    assert!(self.apply(n, Event::Reject));
                    self.rows[n].at = At::Passed;
                }
            }
        }
        // The cursor goes up to whom nothing was left for; nowhere, if that is somebody who waited.
        let left = &all[allocation.decisions.len()..];
        if left.iter().any(|&n| self.rows[n].at == At::Waiting && fits[&n]) {
            return;
        }
        let first_left = left.iter().find(|&&n| self.rows[n].at == At::Queue);
        self.pass(first_left.copied().unwrap_or(usize::MAX));
    }

    /// Everybody in Redis before number `end` is behind the cursor.
    fn pass(&mut self, end: usize) {
        for row in self.rows.iter_mut().take(end).filter(|row| row.at == At::Queue) {
            row.at = At::Passed;
        }
    }

    fn candidate(&self, n: usize) -> Candidate {
        let row = &self.rows[n];
        let sold = self.rows.iter().filter(|other| other.user == row.user && other.state == State::Sold);
        Candidate {
            user: row.place.user.0,
            identity: None,
            quantity: row.place.quantity,
            tiers: row.place.tiers.clone(),
            any_quantity: row.place.any_quantity,
            owned_by_user: sold.map(|other| other.got).sum(),
            owned_by_identity: 0,
        }
    }

    async fn begin(&mut self, n: usize) {
        let row = &mut self.rows[n];
        if row.state != State::Held || row.intent.is_some() {
            return;
        }
        let (db, entry) = (&self.world.books.db, row.place.entry.to_i64());
        let payable = payments::payable(db, self.world.concert.concert_id, entry).await.unwrap().unwrap();
        let intent = format!("pi_{n}");
        let (provider, client_secret) = ("sandbox".to_owned(), "secret".to_owned());
        let opened = Opened { intent: intent.clone(), provider, client_secret, checkout_url: None, open: true };
        assert!(payments::attach(db, self.world.concert.concert_id, &payable, &opened, "text").await.unwrap());
        row.intent = Some(intent);
    }

    /// Whether the tickets of an ended hold are free and nobody waits for them; and whether the limits allow them.
    fn may_revive(&self, n: usize) -> (bool, bool) {
        let row = &self.rows[n];
        let free = self.available(row.tier);
        let wanted = self.rows.iter().any(|other| {
            let waits = other.state == State::Queued && other.at == At::Waiting;
            other.at == At::Queue
                || waits && other.place.tiers.contains(&row.tier) && i64::from(other.place.need()) <= free
        });
        let theirs =
            |other: &&Row| other.user == row.user && matches!(other.state, State::Held | State::Expiring | State::Sold);
        let owned: u16 = self.rows.iter().filter(theirs).map(|other| other.got).sum();
        (free >= i64::from(row.got) && !wanted, owned + row.got <= LIMITS.per_person)
    }

    async fn paid(&mut self, n: usize, stray: bool) {
        let row = &self.rows[n];
        if row.got == 0 {
            return;
        }
        let intent = match &row.intent {
            Some(intent) if !stray => intent.clone(),
            _ => {
                self.strays += 1;
                format!("pi_stray_{}", self.strays)
            }
        };
        let (free_for_it, limits_allow) = self.may_revive(n);
        let row = &self.rows[n];
        let facts = Facts {
            state: row.state,
            sold_by_this: row.state == State::Sold && row.bought_by.as_ref() == Some(&intent),
            money_back: false,
            amount_right: true,
            revived: row.revived,
            free_for_it,
            limits_allow,
            selling: true,
        };
        let expected = if self.heard.contains(&intent) { Action::Nothing } else { decide(News::Succeeded, &facts) };
        self.tell(n, &intent, false).await;
        self.heard.insert(intent.clone());
        match expected {
            Action::Sell => {
                assert!(self.apply(n, Event::Pay));
                self.seen.insert("sold");
            }
            Action::Revive => {
                assert!(self.apply(n, Event::Revive));
                self.rows[n].revived = true;
                self.seen.insert("revived");
            }
            Action::Refund(_) => {
                self.refunds += 1;
                self.seen.insert("money back");
            }
            Action::Nothing | Action::TakeBack => {}
        }
        if matches!(expected, Action::Sell | Action::Revive) {
            self.rows[n].bought_by = Some(intent.clone());
            self.rows[n].intent = Some(intent);
        }
    }

    async fn undone(&mut self, n: usize) {
        let Some(intent) = self.rows[n].bought_by.clone() else { return };
        self.tell(n, &intent, true).await;
        if self.apply(n, Event::Refund) {
            self.seen.insert("undone");
        }
    }

    async fn tell(&self, n: usize, intent: &str, undone: bool) {
        let (books, row) = (&self.world.books, &self.rows[n]);
        let attached = region_node::payments::notice::Attached {
            region: "east".to_owned(),
            concert: "demo".to_owned(),
            entry: row.place.entry.to_i64(),
        };
        let told = Told {
            intent,
            amount: PRICE * i64::from(row.got),
            currency: "EUR",
            undone,
            attached: Some(&attached),
            event: None,
        };
        let shards = books.queue.shards(self.world.concert.queue()).await.unwrap();
        let tails: Vec<Tail> = shards
            .iter()
            .map(|state| Tail { shard: state.shard, generation: state.generation, tail_seq: state.tail_seq })
            .collect();
        settle(&books.db, told, Spare::After(&tails), &**books, "sandbox").await.unwrap();
    }

    async fn time_up(&mut self, n: usize) {
        let row = &self.rows[n];
        if row.state != State::Held {
            return;
        }
        let entry = row.place.entry.to_i64();
        self.world
            .exec(&format!("UPDATE reservation SET hold_expires_at = now() - interval '1 s' WHERE entry = {entry}"))
            .await;
        let event = if row.intent.is_some() { Event::TimeUpWithIntent } else { Event::TimeUp };
        let recycled = recycler::round(&self.world.books).await.unwrap();
        let marked = payments::mark_due(&self.world.books.db, 100, Duration::ZERO).await.unwrap();
        assert_eq!((recycled, marked), if event == Event::TimeUp { (1, 0) } else { (0, 1) });
        assert!(self.apply(n, event));
        self.seen.insert("time up");
    }

    async fn end(&mut self, n: usize, ending: Ending, event: Event) {
        // Of somebody told no with a whole range there is no row: the shell asks that first.
        if self.rows[n].state == State::Rejected {
            return;
        }
        let books = &self.world.books;
        finals::end(&books.db, self.world.concert.concert_id, &self.rows[n].place, ending, &**books).await.unwrap();
        if self.apply(n, event) {
            if self.rows[n].at != At::Queue {
                self.rows[n].at = At::Passed;
            }
            self.seen.insert(if event == Event::Void { "voided" } else { "cancelled" });
        }
    }

    /// Redis forgets everything; what was known of its numbers is written down before, as housekeeping does now and then.
    async fn lose(&mut self) {
        let books = &self.world.books;
        for state in books.queue.shards(self.world.concert.queue()).await.unwrap() {
            let (generation, tail) = (state.generation, state.tail_seq);
            let note = format!(
                "UPDATE queue_generation SET tail_seq = greatest(tail_seq, {tail}) WHERE generation = {generation}"
            );
            self.world.exec(&note).await;
        }
        let mut redis = self.world.redis.connect().await.unwrap();
        let () = redis::cmd("FLUSHALL").arg("SYNC").query_async(&mut redis).await.unwrap();
        generations::ensure(books, &self.world.concert).await.unwrap();
        for row in self.rows.iter_mut().filter(|row| row.at == At::Queue) {
            row.at = if row.state == State::Queued { At::Lost } else { At::Passed };
        }
    }

    async fn compare(&self, op: &Op) {
        let db = &self.world.books.db;
        let now = snapshot(db, self.world.id()).await.unwrap();
        for (tier, (stock, columns)) in now.stock.iter().zip(&self.columns).enumerate() {
            let row = Columns {
                granted: stock.granted as i64,
                returned: stock.returned as i64,
                held_in: stock.held_in as i64,
                released: stock.released as i64,
                sold: stock.sold as i64,
                refunded: stock.refunded as i64,
            };
            assert_eq!(row, *columns, "tier {tier} after {op:?}");
        }
        for (n, row) in self.rows.iter().enumerate() {
            let place = &row.place;
            let said = match self.world.state(place).await.as_str() {
                "none" if now.ranges.iter().any(|range| range.rejects(place.entry, place.need(), &place.tiers)) => {
                    "rejected".to_owned()
                }
                "none" => "queued".to_owned(),
                other => other.to_owned(),
            };
            assert_eq!(said, row.state.as_str(), "number {n} after {op:?}: {row:?}");
        }
        assert_eq!(self.world.count("SELECT count(*) FROM refund").await, self.refunds, "after {op:?}");
    }
}

#[test]
fn transactions_in_any_order_do_what_the_rules_say() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config =
        ProptestConfig { cases: 12, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() };
    let seen = std::cell::RefCell::new(BTreeSet::new());
    let ran = TestRunner::new(config).run(&prop::collection::vec(op(), 40..120), |ops| {
        runtime.block_on(async {
            let mut both = Both::new().await;
            for op in &ops {
                both.step(op).await;
            }
            let joined: Vec<Place> =
                both.rows.iter().filter(|row| row.at != At::Lost).map(|row| row.place.clone()).collect();
            both.world.audit_with_revivals(&joined).await;
            seen.borrow_mut().extend(both.seen);
            Ok::<(), TestCaseError>(())
        })
    });
    ran.unwrap();
    let seen = seen.into_inner();
    for wanted in [
        "held",
        "waits",
        "told no",
        "sold",
        "revived",
        "money back",
        "undone",
        "time up",
        "extended",
        "recycled",
        "cancelled",
        "voided",
        "reclaimed",
    ] {
        assert!(seen.contains(wanted), "never happened: {wanted}; {seen:?}");
    }
}
