//! The same sale, as somebody would write it who has all the time in the world: no counters, no batches, no rules of
//! `sale`; every question is answered by looking at all reservations again. One person after the other.

use crate::provider::Provider;
use crate::world::Row;
use crate::{CAP_MS, HOLD_MS, LIMITS, TIERS, TOTALS, Wish, identity_of};
use sale::lifecycle::State;
use sale::payment::{Answer, News};

pub(crate) struct Naive {
    pub(crate) now_ms: u64,
    pub(crate) rows: Vec<Row>,
    pub(crate) provider: Provider,
    pub(crate) halted: bool,
    pub(crate) closed: bool,
    passed_over: Vec<bool>,
    /// Per user: when each hold lapsed, and when the last final state was reached, what it was.
    lapses: Vec<u32>,
    last_end: Vec<Option<(u64, State)>>,
    gone: Vec<bool>,
}

impl Naive {
    pub(crate) fn new(users: usize) -> Naive {
        Naive {
            now_ms: 1_000,
            rows: Vec::new(),
            provider: Provider::new(),
            halted: false,
            closed: false,
            passed_over: Vec::new(),
            lapses: vec![0; users],
            last_end: vec![None; users],
            gone: Vec::new(),
        }
    }

    fn out(row: &Row) -> bool {
        matches!(row.state, State::Held | State::Expiring | State::Sold)
    }
    fn free(&self, tier: u8) -> i64 {
        let out = self.rows.iter().filter(|row| row.tier == Some(tier) && Self::out(row));
        TOTALS[usize::from(tier)] - out.map(|row| i64::from(row.got)).sum::<i64>()
    }
    fn unsold(&self, tier: u8) -> i64 {
        let sold = self.rows.iter().filter(|row| row.tier == Some(tier) && row.state == State::Sold);
        TOTALS[usize::from(tier)] - sold.map(|row| i64::from(row.got)).sum::<i64>()
    }
    fn may_have(&self, user: u8, more: u16) -> bool {
        let have = |same: &dyn Fn(u8) -> bool| -> u16 {
            self.rows.iter().filter(|row| same(row.user) && Self::out(row)).map(|row| row.got).sum()
        };
        more <= LIMITS.per_order
            && have(&|other| other == user) + more <= LIMITS.per_person
            && LIMITS
                .per_identity
                .is_none_or(|most| have(&|other| identity_of(other) == identity_of(user)) + more <= most)
    }

    pub(crate) fn join(&mut self, user: u8, wish: &Wish) -> Option<usize> {
        let active = |row: &Row| matches!(row.state, State::Queued | State::Held | State::Expiring);
        if let Some(entry) = (0..self.rows.len()).find(|&at| self.rows[at].user == user && active(&self.rows[at])) {
            return Some(entry);
        }
        let too_soon = match self.last_end[usize::from(user)] {
            Some((at, State::Voided)) => self.now_ms < at + 60_000,
            Some((at, State::Expired)) => self.lapses[usize::from(user)] >= 2 && self.now_ms < at + 300_000,
            _ => false,
        };
        if too_soon || self.closed {
            return None;
        }
        self.rows.push(Row::new(user, wish));
        self.passed_over.push(false);
        Some(self.rows.len() - 1)
    }

    pub(crate) fn allocate(&mut self, most: usize) {
        if self.halted || self.closed {
            return;
        }
        let waits = |row: &Row| row.state == State::Queued;
        let old: Vec<usize> =
            (0..self.rows.len()).filter(|&at| waits(&self.rows[at]) && self.passed_over[at]).collect();
        let new = (0..self.rows.len()).filter(|&at| waits(&self.rows[at]) && !self.passed_over[at]).take(most);
        let turn: Vec<usize> = old.into_iter().chain(new).collect();
        for entry in turn {
            if (0..TIERS as u8).all(|tier| self.free(tier) == 0) {
                return;
            }
            self.decide(entry);
        }
    }

    fn decide(&mut self, entry: usize) {
        let (user, wish) = (self.rows[entry].user, self.rows[entry].wish.clone());
        let fewest = if wish.any_quantity { 1 } else { wish.quantity };
        let sizes: Vec<u16> = (fewest..=wish.quantity).rev().filter(|&size| self.may_have(user, size)).collect();
        if sizes.is_empty() {
            self.end(entry, State::Rejected);
            return;
        }
        for tier in wish.tiers.iter().copied() {
            if let Some(&size) = sizes.iter().find(|&&size| i64::from(size) <= self.free(tier)) {
                let now_ms = self.now_ms;
                let row = &mut self.rows[entry];
                (row.state, row.tier, row.got) = (State::Held, Some(tier), size);
                (row.held_ms, row.due_ms) = (now_ms, now_ms + HOLD_MS);
                return;
            }
        }
        if wish.tiers.iter().all(|&tier| self.unsold(tier) < i64::from(fewest)) {
            self.end(entry, State::Rejected);
        } else {
            self.passed_over[entry] = true;
        }
    }

    fn end(&mut self, entry: usize, state: State) {
        let user = usize::from(self.rows[entry].user);
        self.rows[entry].state = state;
        self.lapses[user] += u32::from(state == State::Expired);
        self.last_end[user] = Some((self.now_ms, state));
    }

    pub(crate) fn cancel(&mut self, entry: usize) {
        if matches!(self.rows[entry].state, State::Queued | State::Held | State::Expiring) {
            self.end(entry, State::Cancelled);
        }
    }
    pub(crate) fn void(&mut self, entry: usize) {
        if self.rows[entry].state == State::Queued {
            self.end(entry, State::Voided);
        }
    }
    pub(crate) fn close(&mut self) {
        self.closed = true;
        for entry in 0..self.rows.len() {
            if self.rows[entry].state == State::Queued {
                self.end(entry, State::Rejected);
            }
        }
    }

    pub(crate) fn begin(&mut self, entry: usize, another: bool, amount_right: bool) {
        let held = matches!(self.rows[entry].state, State::Held | State::Expiring);
        if held && (another || self.rows[entry].intents.is_empty()) {
            let intent = self.provider.create(entry, amount_right);
            self.rows[entry].intents.push(intent);
            self.gone.push(false);
        }
    }

    pub(crate) fn recycle(&mut self) {
        for entry in 0..self.rows.len() {
            let late = self.rows[entry].state == State::Held && self.rows[entry].due_ms <= self.now_ms;
            if late && self.rows[entry].intents.is_empty() {
                self.end(entry, State::Expired);
            } else if late || self.rows[entry].state == State::Expiring {
                self.rows[entry].state = State::Expiring;
                self.time_is_up(entry);
            }
        }
    }

    fn time_is_up(&mut self, entry: usize) {
        let intent = self.rows[entry].intents[0];
        let kept_too_long = self.now_ms >= self.rows[entry].held_ms + CAP_MS;
        let first_time = !self.rows[entry].extended;
        let mut answer = self.provider.ask(intent);
        let under_way = answer == Answer::Processing && !first_time && !kept_too_long;
        if answer == Answer::Open || under_way {
            answer = self.provider.cancel(intent);
        }
        if answer == Answer::Succeeded {
            self.hear(intent, News::Succeeded);
            if self.rows[entry].state == State::Expiring {
                self.end(entry, State::Expired);
            }
        } else if answer == Answer::Cancelled || kept_too_long {
            self.end(entry, State::Expired);
        } else if first_time && answer == Answer::Processing {
            let due_ms = self.now_ms + HOLD_MS;
            let row = &mut self.rows[entry];
            (row.state, row.extended, row.due_ms) = (State::Held, true, due_ms);
        }
    }

    pub(crate) fn hear(&mut self, intent: usize, news: News) {
        let entry = self.provider.intents[intent].entry;
        let row = self.rows[entry].clone();
        let this_bought_it = row.bought_by == Some(intent);
        if news == News::TakenBack {
            self.gone[intent] = true;
            if this_bought_it && row.state == State::Sold {
                self.rows[entry].state = State::Refunded;
            }
        }
        if news != News::Succeeded || this_bought_it || self.gone[intent] {
            return;
        }
        let right = self.provider.intents[intent].amount_right;
        let in_time = matches!(row.state, State::Held | State::Expiring);
        if right && (in_time || self.could_have_it_again(&row)) {
            self.rows[entry].bought_by = Some(intent);
            self.rows[entry].revived |= !in_time;
            self.end(entry, State::Sold);
        } else {
            self.gone[intent] = true;
            self.provider.take_back(intent);
        }
    }

    fn could_have_it_again(&self, row: &Row) -> bool {
        let Some(tier) = row.tier else { return false };
        let wanted = self.rows.iter().any(|other| other.state == State::Queued && other.wish.tiers.contains(&tier));
        matches!(row.state, State::Expired | State::Cancelled)
            && !row.revived
            && !self.halted
            && !wanted
            && self.free(tier) >= i64::from(row.got)
            && self.may_have(row.user, row.got)
    }
}
