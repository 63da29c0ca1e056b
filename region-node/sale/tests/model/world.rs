//! A region's books as the real shell keeps them, driven by the rules of `sale`: counters that only grow, a ledger,
//! sales folded later, candidates decided in batches.

use crate::provider::{Provider, Status};
use crate::{CAP_MS, HOLD_MS, LIMITS, TIERS, TOTALS, Wish, identity_of};
use sale::again::{Again, Rejoin};
use sale::allocate::{Candidate, Decision, Stock, Tiers, allocate};
use sale::invariants::*;
use sale::lifecycle::{Event, State, Tickets, next};
use sale::payment::{Action, Expiry, Facts, News, decide, expiring};
use std::collections::{BTreeSet, VecDeque};

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) user: u8,
    pub(crate) wish: Wish,
    pub(crate) state: State,
    pub(crate) tier: Option<u8>,
    pub(crate) got: u16,
    pub(crate) held_ms: u64,
    pub(crate) due_ms: u64,
    pub(crate) extended: bool,
    pub(crate) revived: bool,
    pub(crate) intents: Vec<usize>,
    pub(crate) bought_by: Option<usize>,
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) rows: Vec<Row>,
    pub(crate) provider: Provider,
    pub(crate) halted: bool,
    pub(crate) closed: bool,
    /// Names of everything that ever happened: a test that reaches nothing shows nothing.
    pub(crate) seen: BTreeSet<String>,
    columns: [Columns; TIERS],
    unfolded: [i64; TIERS],
    ledger: Vec<(u8, usize, Move, i64)>,
    queue: VecDeque<usize>,
    waiting: Vec<usize>,
    again: Vec<Again>,
    /// Per intent: its success was heard of; its money went back or will.
    heard: Vec<bool>,
    money_back: Vec<bool>,
}

impl World {
    pub(crate) fn new(users: usize) -> World {
        World {
            now_ms: 1_000,
            rows: Vec::new(),
            provider: Provider::new(),
            halted: false,
            closed: false,
            seen: BTreeSet::new(),
            columns: TOTALS.map(|granted| Columns { granted, ..Columns::default() }),
            unfolded: [0; TIERS],
            ledger: Vec::new(),
            queue: VecDeque::new(),
            waiting: Vec::new(),
            again: vec![Again::default(); users],
            heard: Vec::new(),
            money_back: Vec::new(),
        }
    }

    pub(crate) fn join(&mut self, user: u8, wish: &Wish) -> Option<usize> {
        if let Some(entry) = self.rows.iter().position(|row| row.user == user && !row.state.is_final()) {
            return Some(entry);
        }
        match self.again[usize::from(user)].join(false, self.now_ms) {
            _ if self.closed => None,
            Rejoin::Fresh => {
                self.rows.push(Row::new(user, wish));
                self.queue.push_back(self.rows.len() - 1);
                Some(self.rows.len() - 1)
            }
            Rejoin::CoolDown { .. } => {
                self.seen.insert("cool-down".into());
                None
            }
            Rejoin::SameAnswer => unreachable!("every join of the model is a new request"),
        }
    }

    pub(crate) fn allocate(&mut self, most: usize) {
        if self.halted || self.closed {
            return;
        }
        let passed_over = self.waiting.len();
        let entries: Vec<usize> = self.waiting.iter().chain(self.queue.iter().take(most)).copied().collect();
        let candidates: Vec<Candidate> = entries.iter().map(|&entry| self.candidate(entry)).collect();
        let available = Stock::new(self.columns.iter().map(|columns| columns.available() as u64));
        let unsold = Stock::new((0..TIERS).map(|tier| {
            let columns = &self.columns[tier];
            (columns.granted - columns.returned - columns.sold - self.unfolded[tier] + columns.refunded) as u64
        }));
        let allocation = allocate(&LIMITS, &available, Some(&unsold), &candidates);
        let mut waiting = Vec::new();
        for (&entry, decision) in entries.iter().zip(&allocation.decisions) {
            match *decision {
                Decision::Hold { tier, quantity } => {
                    let row = &mut self.rows[entry];
                    (row.tier, row.got) = (Some(tier), quantity);
                    (row.held_ms, row.due_ms) = (self.now_ms, self.now_ms + HOLD_MS);
                    self.apply(entry, Event::Hold);
                }
                Decision::Wait => waiting.push(entry),
                Decision::RejectLimit | Decision::RejectSoldOut => self.apply(entry, Event::Reject),
            }
            let name = format!("{decision:?}");
            self.seen.insert(name.split(' ').next().unwrap_or_default().to_owned());
        }
        let undecided = entries.iter().take(passed_over).skip(allocation.taken());
        let decided = &entries[..allocation.taken()];
        self.queue.retain(|entry| !decided.contains(entry));
        self.waiting = waiting.into_iter().chain(undecided.copied()).collect();
        self.waiting.sort_unstable();
        // Guards the shell of the model: only what is free may be held.
        let left: Vec<u64> = self.columns.iter().map(|columns| columns.available() as u64).collect();
        assert_eq!(allocation.left, Stock::new(left));
    }

    fn candidate(&self, entry: usize) -> Candidate {
        let row = &self.rows[entry];
        let sum = |wanted: &dyn Fn(&Row) -> bool| self.rows.iter().filter(|row| wanted(row)).map(|row| row.got).sum();
        let identity = identity_of(row.user);
        Candidate {
            user: [row.user; 16],
            identity: Some([identity; 16]),
            quantity: row.wish.quantity,
            tiers: Tiers::from_slice(&row.wish.tiers),
            any_quantity: row.wish.any_quantity,
            owned_by_user: sum(&|other| other.user == row.user && other.state == State::Sold),
            owned_by_identity: sum(&|other| {
                identity_of(other.user) == identity && (other.state == State::Sold || other.state.is_hold())
            }),
        }
    }

    /// Carries out one step of the lifecycle; what the state does not allow is refused, as the shell would.
    pub(crate) fn apply(&mut self, entry: usize, event: Event) {
        let Ok(step) = next(self.rows[entry].state, event) else {
            self.seen.insert("not allowed".into());
            return;
        };
        self.seen.insert(format!("{event:?}"));
        if self.rows[entry].state == State::Queued && step.to.is_final() {
            self.queue.retain(|&queued| queued != entry);
            self.waiting.retain(|&waiting| waiting != entry);
        }
        self.rows[entry].state = step.to;
        let moves: &[Move] = match step.tickets {
            Tickets::Stay => &[],
            Tickets::Hold => &[Move::Hold],
            Tickets::Release => &[Move::Release],
            Tickets::Sell => &[Move::Sell],
            Tickets::HoldAndSell => &[Move::Hold, Move::Sell],
            Tickets::Refund => &[Move::Refund],
        };
        for &moved in moves {
            self.record(entry, moved);
        }
        if let Some(outcome) = step.settle {
            let again = &mut self.again[usize::from(self.rows[entry].user)];
            *again = again.settled(outcome, self.now_ms);
        }
    }

    fn record(&mut self, entry: usize, moved: Move) {
        let row = &self.rows[entry];
        let (tier, tickets) = (row.tier.unwrap_or(u8::MAX), i64::from(row.got));
        let at = usize::from(tier);
        match moved {
            Move::Hold => self.columns[at].held_in += tickets,
            Move::Release => self.columns[at].released += tickets,
            Move::Sell => self.unfolded[at] += tickets,
            Move::Refund => {
                self.fold();
                self.columns[at].refunded += tickets;
            }
            Move::Grant | Move::Return => unreachable!("the model's stock is given at the start"),
        }
        self.ledger.push((tier, entry, moved, tickets));
    }

    pub(crate) fn fold(&mut self) {
        for (columns, unfolded) in self.columns.iter_mut().zip(&mut self.unfolded) {
            columns.sold += std::mem::take(unfolded);
        }
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        for entry in 0..self.rows.len() {
            if self.rows[entry].state == State::Queued {
                self.apply(entry, Event::Reject);
            }
        }
    }

    pub(crate) fn begin(&mut self, entry: usize, another: bool, amount_right: bool) {
        if !self.rows[entry].state.is_hold() || (!another && !self.rows[entry].intents.is_empty()) {
            return;
        }
        let intent = self.provider.create(entry, amount_right);
        self.rows[entry].intents.push(intent);
        self.heard.push(false);
        self.money_back.push(false);
    }

    pub(crate) fn recycle(&mut self) {
        for entry in 0..self.rows.len() {
            let row = &self.rows[entry];
            if row.state == State::Held && row.due_ms <= self.now_ms {
                let event = if row.intents.is_empty() { Event::TimeUp } else { Event::TimeUpWithIntent };
                self.apply(entry, event);
            }
            if self.rows[entry].state == State::Expiring {
                self.ask_about(entry);
            }
        }
    }

    fn ask_about(&mut self, entry: usize) {
        let intent = self.rows[entry].intents[0];
        let past_cap = self.now_ms >= self.rows[entry].held_ms + CAP_MS;
        let mut answer = self.provider.ask(intent);
        loop {
            let expiry = expiring(answer, self.rows[entry].extended, past_cap);
            self.seen.insert(format!("Expiry::{expiry:?}"));
            match expiry {
                Expiry::CancelIntent => {
                    answer = self.provider.cancel(intent);
                    continue;
                }
                Expiry::Paid => {
                    self.hear(intent, News::Succeeded);
                    if self.rows[entry].state == State::Expiring {
                        self.apply(entry, Event::Recycle);
                    }
                }
                Expiry::Extend => {
                    self.apply(entry, Event::Extend);
                    self.rows[entry].extended = true;
                    self.rows[entry].due_ms = self.now_ms + HOLD_MS;
                }
                Expiry::Keep => {}
                Expiry::Recycle => self.apply(entry, Event::Recycle),
            }
            return;
        }
    }

    pub(crate) fn hear(&mut self, intent: usize, news: News) {
        let entry = self.provider.intents[intent].entry;
        let action = decide(news, &self.facts(intent));
        self.seen.insert(format!("{action:?}"));
        self.heard[intent] |= news == News::Succeeded;
        self.money_back[intent] |= news == News::TakenBack;
        match action {
            Action::Nothing => {}
            Action::Sell => {
                self.rows[entry].bought_by = Some(intent);
                self.apply(entry, Event::Pay);
            }
            Action::Revive => {
                self.rows[entry].bought_by = Some(intent);
                self.rows[entry].revived = true;
                self.apply(entry, Event::Revive);
            }
            Action::Refund(_) => {
                self.money_back[intent] = true;
                self.provider.take_back(intent);
            }
            Action::TakeBack => self.apply(entry, Event::Refund),
        }
    }

    fn facts(&self, intent: usize) -> Facts {
        let paid = &self.provider.intents[intent];
        let row = &self.rows[paid.entry];
        let tier = row.tier.unwrap_or(u8::MAX);
        let wanted = |other: &Row| other.state == State::Queued && other.wish.tiers.contains(&tier);
        let owned = |same: &dyn Fn(&Row) -> bool| -> u16 {
            let counts = |other: &&Row| same(other) && (other.state.is_hold() || other.state == State::Sold);
            self.rows.iter().filter(counts).map(|other| other.got).sum()
        };
        let by_user = owned(&|other| other.user == row.user);
        let by_identity = owned(&|other| identity_of(other.user) == identity_of(row.user));
        Facts {
            state: row.state,
            sold_by_this: row.bought_by == Some(intent),
            money_back: self.money_back[intent],
            amount_right: paid.amount_right,
            revived: row.revived,
            free_for_it: self.columns[usize::from(tier)].available() >= i64::from(row.got)
                && !self.rows.iter().any(wanted),
            limits_allow: LIMITS.room(by_user, by_identity) >= row.got,
            selling: !self.halted,
        }
    }

    /// Everything that must hold after every step.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        for (tier, &total) in TOTALS.iter().enumerate() {
            let moves = self.ledger.iter().filter(|row| usize::from(row.0) == tier).map(|row| (row.2, row.3));
            let ledger = fold(std::iter::once((Move::Grant, total)).chain(moves));
            let columns = &self.columns[tier];
            invariant_pool(columns)?;
            invariant_pool(&ledger)?;
            invariant_no_oversell(total, columns)?;
            invariant_no_oversell(total, &ledger)?;
            invariant_counters_match_ledger(columns, self.unfolded[tier], &ledger)?;
            let rows = self.rows.iter().filter(|row| row.tier.map(usize::from) == Some(tier));
            invariant_rows_match_ledger(&ledger, rows.map(|row| (row.state, i64::from(row.got))))?;
        }
        for (entry, row) in self.rows.iter().enumerate() {
            let moves: Vec<_> =
                self.ledger.iter().filter(|moved| moved.1 == entry).map(|moved| (moved.2, moved.3)).collect();
            invariant_life(row.state, &moves)?;
            let kept = row.intents.iter().filter(|&&intent| self.heard[intent] && !self.money_back[intent]).count();
            invariant_one_payment_kept(row.state, kept)?;
            if row.tier.is_some() {
                invariant_within_order(&LIMITS, row.got.into())?;
            }
        }
        let owned = |row: &Row| (i64::from(row.got), row.state);
        let by_user = self.rows.iter().map(|row| (row.user, owned(row).0, owned(row).1));
        invariant_within_limit(LIMITS.per_person, by_user)?;
        let by_identity = self.rows.iter().map(|row| (identity_of(row.user), owned(row).0, owned(row).1));
        invariant_within_limit(LIMITS.per_identity.unwrap_or(u16::MAX), by_identity)?;
        invariant_one_active(self.rows.iter().filter(|row| !row.state.is_final()).map(|row| row.user))
    }

    /// The columns, for a comparison with those before.
    pub(crate) fn columns(&self) -> [Columns; TIERS] {
        self.columns
    }

    /// At the end, with all news heard: the provider keeps money for exactly what is sold, once, and nobody waits for
    /// what is free.
    pub(crate) fn check_at_rest(&self) {
        for (intent, paid) in self.provider.intents.iter().enumerate() {
            let row = &self.rows[paid.entry];
            let bought = row.state == State::Sold && row.bought_by == Some(intent);
            assert_eq!(paid.status == Status::Succeeded, bought, "intent {intent} {paid:?} of {row:?}");
        }
        for (entry, row) in self.rows.iter().enumerate().filter(|(_, row)| row.state == State::Queued) {
            let candidate = self.candidate(entry);
            let need = if row.wish.any_quantity { 1 } else { i64::from(row.wish.quantity) };
            let room = LIMITS.room(candidate.owned_by_user, candidate.owned_by_identity);
            let free = row.wish.tiers.iter().any(|&tier| self.columns[usize::from(tier)].available() >= need);
            assert!(!free || i64::from(room) < need, "stranded: {row:?}");
        }
    }
}

impl Row {
    pub(crate) fn new(user: u8, wish: &Wish) -> Row {
        Row {
            user,
            wish: wish.clone(),
            state: State::Queued,
            tier: None,
            got: 0,
            held_ms: 0,
            due_ms: 0,
            extended: false,
            revived: false,
            intents: Vec::new(),
            bought_by: None,
        }
    }
}
