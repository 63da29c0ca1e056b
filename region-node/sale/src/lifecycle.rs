//! A reservation's states, what may happen to it, and which tickets move when it does: the whole table in [`next`].
//!
//! Whoever changes a reservation asks here first and carries out exactly the [`Step`] that it gets, in one transaction.

use crate::again::SettleOutcome;

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Waits for its turn; has no row yet.
    Queued,
    /// Tickets are kept for it.
    Held,
    /// Its time is up and the payment provider is being asked; tickets are still kept.
    Expiring,
    /// Paid; has tickets.
    Sold,
    /// Told no.
    Rejected,
    /// Not paid in time.
    Expired,
    /// By its owner.
    Cancelled,
    /// For too many polls.
    Voided,
    /// Money and tickets went back.
    Refunded,
}

impl State {
    /// All of them.
    pub const ALL: [State; 9] = [
        State::Queued,
        State::Held,
        State::Expiring,
        State::Sold,
        State::Rejected,
        State::Expired,
        State::Cancelled,
        State::Voided,
        State::Refunded,
    ];

    /// As the database spells it; `queued` is never written.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Held => "held",
            State::Expiring => "expiring",
            State::Sold => "sold",
            State::Rejected => "rejected",
            State::Expired => "expired",
            State::Cancelled => "cancelled",
            State::Voided => "voided",
            State::Refunded => "refunded",
        }
    }

    /// From the database's spelling.
    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether tickets are kept for it, unpaid.
    pub fn is_hold(self) -> bool {
        matches!(self, State::Held | State::Expiring)
    }

    /// Whether its user may have a new place: it is neither queued nor held.
    pub fn is_final(self) -> bool {
        !matches!(self, State::Queued | State::Held | State::Expiring)
    }
}

/// What may happen to a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The allocator keeps tickets for it.
    Hold,
    /// The allocator, a range or the close of the sale tells it no.
    Reject,
    /// Its owner gives it up.
    Cancel,
    /// Its owner polled too often.
    Void,
    /// Its hold's time is up and no payment was begun.
    TimeUp,
    /// Its hold's time is up and a payment was begun: the provider is asked first.
    TimeUpWithIntent,
    /// The provider says that the payment is under way: the hold is extended, once.
    Extend,
    /// The payment is cancelled at the provider, or the stock was kept as long as it may be.
    Recycle,
    /// Paid.
    Pay,
    /// Paid after its end, and free tickets may go to it.
    Revive,
    /// The sale is undone: refunded or disputed at the provider, or by an operator.
    Refund,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 11] = [
        Event::Hold,
        Event::Reject,
        Event::Cancel,
        Event::Void,
        Event::TimeUp,
        Event::TimeUpWithIntent,
        Event::Extend,
        Event::Recycle,
        Event::Pay,
        Event::Revive,
        Event::Refund,
    ];
}

/// What a step does to the tickets: one or two ledger rows, of the reservation's quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tickets {
    /// Nothing moves.
    Stay,
    /// `hold`: from available to held.
    Hold,
    /// `release`: from held to available.
    Release,
    /// `sell`: from held to sold; tickets are issued.
    Sell,
    /// `hold` and `sell` in one transaction; tickets are issued.
    HoldAndSell,
    /// `refund`: from sold to available; tickets become void.
    Refund,
}

/// What has to be done, in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The new state.
    pub to: State,
    /// What the tickets do.
    pub tickets: Tickets,
    /// What the queue's dedupe has to be told (outbox), if anything.
    pub settle: Option<SettleOutcome>,
}

/// The state does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reservation that is {} cannot {}", .state.as_str(), .event.verb())]
pub struct NotAllowed {
    /// Where it stands.
    pub state: State,
    /// What was to happen.
    pub event: Event,
}

impl Event {
    fn verb(self) -> &'static str {
        match self {
            Event::Hold => "be held",
            Event::Reject => "be rejected",
            Event::Cancel => "be cancelled",
            Event::Void => "be voided",
            Event::TimeUp | Event::TimeUpWithIntent => "run out of time",
            Event::Extend => "be extended",
            Event::Recycle => "be recycled",
            Event::Pay => "be paid",
            Event::Revive => "be revived",
            Event::Refund => "be refunded",
        }
    }
}

/// The lifecycle. Everything that is not listed is not allowed.
pub fn next(state: State, event: Event) -> Result<Step, NotAllowed> {
    use SettleOutcome::{Done, Lapsed, Voided};
    let (to, tickets, settle) = match (state, event) {
        (State::Queued, Event::Hold) => (State::Held, Tickets::Hold, None),
        (State::Queued, Event::Reject) => (State::Rejected, Tickets::Stay, Some(Done)),
        (State::Queued, Event::Cancel) => (State::Cancelled, Tickets::Stay, Some(Done)),
        (State::Queued, Event::Void) => (State::Voided, Tickets::Stay, Some(Voided)),

        (State::Held | State::Expiring, Event::Pay) => (State::Sold, Tickets::Sell, Some(Done)),
        (State::Held | State::Expiring, Event::Cancel) => (State::Cancelled, Tickets::Release, Some(Done)),
        (State::Held, Event::TimeUp) => (State::Expired, Tickets::Release, Some(Lapsed)),
        (State::Held, Event::TimeUpWithIntent) => (State::Expiring, Tickets::Stay, None),
        (State::Expiring, Event::Extend) => (State::Held, Tickets::Stay, None),
        (State::Expiring, Event::Recycle) => (State::Expired, Tickets::Release, Some(Lapsed)),

        (State::Expired | State::Cancelled, Event::Revive) => (State::Sold, Tickets::HoldAndSell, Some(Done)),
        // The queue was told when it was sold.
        (State::Sold, Event::Refund) => (State::Refunded, Tickets::Refund, None),
        _ => return Err(NotAllowed { state, event }),
    };
    Ok(Step { to, tickets, settle })
}
