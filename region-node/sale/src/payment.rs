//! What a payment's news means: the decision table for successes, late or double ones, failures and refunds; and what to
//! do with a hold whose time is up while a payment is under way.
//!
//! Facts in, one action out. Money that bought nothing goes back, in full, once; nothing here is ever decided by who is
//! told first, so news may come late, twice and in any order.

use crate::lifecycle::State;

/// News of one payment intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum News {
    /// Paid.
    Succeeded,
    /// An attempt was declined; another may follow.
    Failed,
    /// The bank takes its time.
    Processing,
    /// The intent was cancelled.
    Cancelled,
    /// The whole payment went back to the buyer, or the buyer's bank took it back.
    TakenBack,
}

impl News {
    /// All of them.
    pub const ALL: [News; 5] = [News::Succeeded, News::Failed, News::Processing, News::Cancelled, News::TakenBack];
}

/// What is known, read under the reservation's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Where the reservation stands.
    pub state: State,
    /// The reservation is sold, or was, by this very payment.
    pub sold_by_this: bool,
    /// This payment's refund is decided already, or the money is known to have gone back: it can buy nothing any more.
    /// (News come in any order: a refund may be heard of before its success.)
    pub money_back: bool,
    /// Amount and currency are what the reservation costs.
    pub amount_right: bool,
    /// It was held and sold again before.
    pub revived: bool,
    /// Enough tickets of its tier are available, and nobody waits for them (neither in `waiting` nor in the queue).
    pub free_for_it: bool,
    /// Its user and identity stay within the limits with it, whatever else they hold or own.
    pub limits_allow: bool,
    /// The concert takes place and its books are not halted.
    pub selling: bool,
}

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Sell what is held.
    Sell,
    /// Hold and sell again, once.
    Revive,
    /// Give this payment back, in full, once.
    Refund(RefundReason),
    /// Tickets become void, the stock goes back.
    TakeBack,
}

/// Why a payment is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefundReason {
    /// It came after the reservation had ended.
    Late,
    /// The reservation is sold by another payment.
    Second,
    /// Not what the reservation costs.
    WrongAmount,
}

impl RefundReason {
    /// As the database spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            RefundReason::Late => "late_payment",
            RefundReason::Second => "second_payment",
            RefundReason::WrongAmount => "wrong_amount",
        }
    }
}

/// The decision table.
pub fn decide(news: News, facts: &Facts) -> Action {
    match news {
        // It stays held until its time is up, and may be paid again.
        News::Failed | News::Processing | News::Cancelled => Action::Nothing,
        News::TakenBack if facts.state == State::Sold && facts.sold_by_this => Action::TakeBack,
        // A refund of ours, or of something that bought nothing. The caller notes it, see `Facts::money_back`.
        News::TakenBack => Action::Nothing,
        News::Succeeded => succeeded(facts),
    }
}

fn succeeded(facts: &Facts) -> Action {
    if facts.money_back || facts.sold_by_this {
        return Action::Nothing;
    }
    match facts.state {
        State::Sold => Action::Refund(RefundReason::Second),
        _ if !facts.amount_right => Action::Refund(RefundReason::WrongAmount),
        State::Held | State::Expiring => Action::Sell,
        State::Expired | State::Cancelled => {
            let may = !facts.revived && facts.free_for_it && facts.limits_allow && facts.selling;
            if may { Action::Revive } else { Action::Refund(RefundReason::Late) }
        }
        // The other payment's sale was undone; this one does not stand in for it.
        State::Refunded => Action::Refund(RefundReason::Second),
        // Never held, so never to be paid: whatever it was, it goes back.
        State::Queued | State::Rejected | State::Voided => Action::Refund(RefundReason::Late),
    }
}

/// What the provider says of an intent whose hold's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Not paid; can be cancelled.
    Open,
    /// The bank takes its time.
    Processing,
    /// Paid.
    Succeeded,
    /// Cancelled.
    Cancelled,
    /// It refused to cancel.
    CannotCancel,
    /// No clear answer.
    Unreachable,
}

impl Answer {
    /// All of them.
    pub const ALL: [Answer; 6] = [
        Answer::Open,
        Answer::Processing,
        Answer::Succeeded,
        Answer::Cancelled,
        Answer::CannotCancel,
        Answer::Unreachable,
    ];
}

/// What to do with an expiring hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// Cancel the intent at the provider, then ask here again with its answer.
    CancelIntent,
    /// It was paid: ask [`decide`] about that success. If that does not sell (the amount is wrong, the money has gone
    /// back), give the tickets back.
    Paid,
    /// Extend the hold; only ever once.
    Extend,
    /// Keep the tickets and ask again later.
    Keep,
    /// Give the tickets back. A late success then goes through [`decide`].
    Recycle,
}

/// What to do with an expiring hold; `extended`: had its one extension, `past_cap`: its stock was kept as long as it may.
///
/// Only a payment that is known to be under way extends a hold. Where the provider does not answer, the stock is kept
/// and the provider asked again soon: one answer that got lost must not lock tickets for a whole extension.
pub fn expiring(answer: Answer, extended: bool, past_cap: bool) -> Expiry {
    match answer {
        Answer::Succeeded => Expiry::Paid,
        Answer::Cancelled => Expiry::Recycle,
        Answer::Open => Expiry::CancelIntent,
        Answer::Processing | Answer::CannotCancel | Answer::Unreachable if past_cap => Expiry::Recycle,
        Answer::Processing if extended => Expiry::CancelIntent,
        Answer::Processing => Expiry::Extend,
        Answer::CannotCancel | Answer::Unreachable => Expiry::Keep,
    }
}
