//! What must hold of a region's books, each rule a named function, for models, tests and `verify` alike.
//!
//! Every function recomputes from rows; none trusts a counter that it was not asked to check.

use crate::allocate::Limits;
use crate::lifecycle::State;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {detail}")]
pub struct Violation {
    /// Name of the function.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
}

fn hold(invariant: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

/// The holder's columns of one pool; each only ever grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns {
    /// Tickets ever granted.
    pub granted: i64,
    /// Tickets ever returned.
    pub returned: i64,
    /// Tickets ever put on hold.
    pub held_in: i64,
    /// Of those, given up without a sale.
    pub released: i64,
    /// Of those, sold.
    pub sold: i64,
    /// Of the sold, refunded.
    pub refunded: i64,
}

impl Columns {
    /// On hold now.
    pub fn held(&self) -> i64 {
        self.held_in - self.released - self.sold
    }
    /// May be held now.
    pub fn available(&self) -> i64 {
        self.granted - self.returned - self.held_in + self.released + self.refunded
    }
    fn each(&self) -> [(&'static str, i64); 6] {
        [
            ("granted", self.granted),
            ("returned", self.returned),
            ("held_in", self.held_in),
            ("released", self.released),
            ("sold", self.sold),
            ("refunded", self.refunded),
        ]
    }
}

/// I2: `available ≥ 0`, `held ≥ 0`, `refunded ≤ sold`, and no column is negative.
pub fn invariant_pool(columns: &Columns) -> Result<(), Violation> {
    let holds = columns.available() >= 0
        && columns.held() >= 0
        && columns.refunded <= columns.sold
        && columns.each().iter().all(|&(_, tickets)| tickets >= 0);
    hold("invariant_pool", holds, || format!("available {}, held {}, {columns:?}", columns.available(), columns.held()))
}

/// I4: no column ever goes down.
pub fn invariant_only_grows(before: &Columns, after: &Columns) -> Result<(), Violation> {
    let lower = before.each().into_iter().zip(after.each()).find(|((_, old), (_, new))| new < old);
    hold("invariant_only_grows", lower.is_none(), || format!("{lower:?}"))
}

/// No oversell: what is held and sold never exceeds what the pool was given. `total` is the seller's number.
pub fn invariant_no_oversell(total: i64, columns: &Columns) -> Result<(), Violation> {
    let out = columns.held() + columns.sold - columns.refunded;
    let given = columns.granted - columns.returned;
    hold("invariant_no_oversell", out <= given && given <= total, || {
        format!("{out} held or sold, {given} given, {total} in all")
    })
}

/// What a ledger row did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// Tickets came.
    Grant,
    /// Tickets left.
    Return,
    /// From available to held.
    Hold,
    /// From held to available.
    Release,
    /// From held to sold.
    Sell,
    /// From sold to available.
    Refund,
}

/// The columns that a pool's ledger rows add up to.
pub fn fold(moves: impl IntoIterator<Item = (Move, i64)>) -> Columns {
    let mut columns = Columns::default();
    for (moved, tickets) in moves {
        let column = match moved {
            Move::Grant => &mut columns.granted,
            Move::Return => &mut columns.returned,
            Move::Hold => &mut columns.held_in,
            Move::Release => &mut columns.released,
            Move::Sell => &mut columns.sold,
            Move::Refund => &mut columns.refunded,
        };
        *column += tickets;
    }
    columns
}

/// The counters are what the ledger adds up to; `unfolded` sales are in the ledger and not yet in `sold`.
pub fn invariant_counters_match_ledger(counters: &Columns, unfolded: i64, ledger: &Columns) -> Result<(), Violation> {
    let expected = Columns { sold: ledger.sold - unfolded, ..*ledger };
    hold("invariant_counters_match_ledger", *counters == expected, || {
        format!("counters {counters:?}, ledger {ledger:?}, {unfolded} unfolded")
    })
}

/// What the reservations hold and have bought is what the ledger says: per pool, over `(state, tickets)`.
pub fn invariant_rows_match_ledger(
    ledger: &Columns,
    rows: impl IntoIterator<Item = (State, i64)>,
) -> Result<(), Violation> {
    let (mut held, mut sold, mut refunded) = (0, 0, 0);
    for (state, tickets) in rows {
        match state {
            State::Held | State::Expiring => held += tickets,
            State::Sold => sold += tickets,
            State::Refunded => refunded += tickets,
            State::Queued | State::Rejected | State::Expired | State::Cancelled | State::Voided => {}
        }
    }
    let holds = held == ledger.held() && sold == ledger.sold - ledger.refunded && refunded == ledger.refunded;
    hold("invariant_rows_match_ledger", holds, || {
        format!("reservations: held {held}, sold {sold}, refunded {refunded}; {ledger:?}")
    })
}

/// The ledger rows of one reservation, in order, are a life that the lifecycle allows and that ends in `state`.
pub fn invariant_life(state: State, moves: &[(Move, i64)]) -> Result<(), Violation> {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum At {
        Nothing,
        Held,
        Released,
        Sold,
        Refunded,
    }
    let detail = || format!("{} after {moves:?}", state.as_str());
    let mut at = At::Nothing;
    for &(moved, tickets) in moves {
        at = match (at, moved) {
            _ if tickets != moves[0].1 || tickets <= 0 => return hold("invariant_life", false, detail),
            (At::Nothing | At::Released, Move::Hold) => At::Held,
            (At::Held, Move::Release) => At::Released,
            (At::Held, Move::Sell) => At::Sold,
            (At::Sold, Move::Refund) => At::Refunded,
            _ => return hold("invariant_life", false, detail),
        };
    }
    // A revived one was held twice; nobody is held a third time.
    let holds_made = moves.iter().filter(|(moved, _)| *moved == Move::Hold).count();
    let fits = match state {
        State::Queued | State::Rejected | State::Voided => at == At::Nothing,
        State::Held | State::Expiring => at == At::Held && holds_made == 1,
        State::Sold => at == At::Sold,
        State::Refunded => at == At::Refunded,
        State::Expired => at == At::Released && holds_made == 1,
        // Cancelled while queued, or while held.
        State::Cancelled => matches!(at, At::Nothing | At::Released) && holds_made <= 1,
    };
    hold("invariant_life", fits && holds_made <= 2, detail)
}

/// Nobody has more tickets, held and sold, than a limit allows; over `(who, tickets, state)`.
pub fn invariant_within_limit<K: Ord + std::fmt::Debug>(
    most: u16,
    rows: impl IntoIterator<Item = (K, i64, State)>,
) -> Result<(), Violation> {
    let mut owned: BTreeMap<K, i64> = BTreeMap::new();
    for (who, tickets, state) in rows {
        if state.is_hold() || state == State::Sold {
            *owned.entry(who).or_default() += tickets;
        }
    }
    let over = owned.iter().find(|&(_, &tickets)| tickets > i64::from(most));
    hold("invariant_within_limit", over.is_none(), || format!("{over:?}, at most {most}"))
}

/// Nobody ever got more in one order than allowed.
pub fn invariant_within_order(limits: &Limits, tickets: i64) -> Result<(), Violation> {
    let holds = (1..=i64::from(limits.per_order)).contains(&tickets);
    hold("invariant_within_order", holds, || format!("{tickets} tickets in one order, at most {}", limits.per_order))
}

/// Nobody has two active reservations; over the users of those that are held or expiring.
pub fn invariant_one_active<K: Ord + Hash + std::fmt::Debug>(
    users: impl IntoIterator<Item = K>,
) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    let twice = users.into_iter().find_map(|user| {
        if seen.contains(&user) {
            Some(user)
        } else {
            seen.insert(user);
            None
        }
    });
    hold("invariant_one_active", twice.is_none(), || format!("{twice:?}"))
}

/// Of the payments of one reservation, exactly one is kept while it is sold and none otherwise; `kept` counts those that
/// succeeded and whose refund is not decided.
pub fn invariant_one_payment_kept(state: State, kept: usize) -> Result<(), Violation> {
    let expected = usize::from(state == State::Sold);
    hold("invariant_one_payment_kept", kept == expected, || format!("{} with {kept} payments kept", state.as_str()))
}
