//! Where a reservation stands: from memory where that is enough, else from its row. In order of precedence: its own row
//! (of an alias: the one it stands for), `waiting`, a range that was told no, the queue.

use region_api::wire::{Reason, Reservation, Status};
use region_api::{Money, ReservationId, Timestamp};
use sale::pace;
use std::sync::Arc;

use super::problem::Refusal;
use crate::app::App;
use crate::db::status::{Found, ReservationRow, State};
use crate::status::ReadError;
use crate::view::{Known, View};

/// Where a reservation stands.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// In the queue or in `waiting`.
    Queued,
    /// Told no with a whole range.
    Rejected(Reason),
    /// It has a row.
    Row(Arc<Found>),
    /// Its queue was lost, and it has not been put back.
    Lost,
}

impl Standing {
    /// As the contract calls it.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Queued | Self::Lost => Status::Queued,
            Self::Rejected(_) => Status::Rejected,
            Self::Row(found) => match &**found {
                Found::Row(row) => status(row.state),
                _ => Status::Queued,
            },
        }
    }
}

fn status(state: State) -> Status {
    match state {
        State::Held | State::Expiring => Status::Held,
        State::Sold => Status::Sold,
        State::Rejected => Status::Rejected,
        State::Expired => Status::Expired,
        State::Cancelled => Status::Cancelled,
        State::Voided => Status::Voided,
        State::Refunded => Status::Refunded,
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Overloaded => Self::overloaded("too many polls at once"),
            ReadError::Db(error) if error.is_transient() => Self::unavailable("the database is away", error),
            ReadError::Db(error) => Self::internal(error),
        }
    }
}

/// Where a reservation of this region stands.
pub(crate) async fn of(app: &App, view: &View, id: &ReservationId) -> Result<Standing, Refusal> {
    let known = match view.known(id) {
        Known::Queued if app.catalog.has_left(view.concert_id(), id.entry) => Known::AskRow,
        known => known,
    };
    match known {
        Known::Queued => Ok(Standing::Queued),
        Known::Rejected(reason) => Ok(Standing::Rejected(reason)),
        Known::AskRow => Ok(judge(view, id, app.rows.read(view.concert_id(), id.entry).await?)),
    }
}

/// The same, with its row read anew.
pub(crate) async fn of_now(app: &App, view: &View, id: &ReservationId) -> Result<Standing, Refusal> {
    Ok(judge(view, id, app.rows.read_now(view.concert_id(), id.entry).await?))
}

fn judge(view: &View, id: &ReservationId, found: Arc<Found>) -> Standing {
    match &*found {
        // Entry numbers of a lost queue may have been given out again: then the row is somebody else's.
        Found::Row(row) if row.user == id.user => return Standing::Row(found),
        Found::Waiting { user, .. } if *user == id.user => return Standing::Queued,
        _ => {}
    }
    match view.range(id) {
        Some(reason) => Standing::Rejected(reason),
        None if view.is_lost(id.entry) => Standing::Lost,
        None => Standing::Queued,
    }
}

/// When to ask again; `None` in a final state.
pub(crate) fn poll_after_ms(view: &View, status: Status, ahead: Option<u64>) -> Option<u64> {
    match status {
        Status::Queued => Some(pace::poll_after_ms(ahead, view.hold_ms())),
        Status::Held => Some(pace::poll_after_ms(Some(0), view.hold_ms())),
        _ => None,
    }
}

/// As its owner sees it. `text` is its id as it was sent.
pub(crate) fn show(view: &View, id: &ReservationId, text: String, standing: &Standing) -> Reservation {
    let now = standing.status();
    let ahead = (now == Status::Queued).then(|| view.ahead(id));
    let mut shown = Reservation {
        reservation: text,
        concert: id.concert.clone(),
        status: now,
        reason: None,
        position: ahead.map(|ahead| ahead + 1),
        estimated_wait_ms: ahead.and_then(|ahead| view.wait_ms(ahead)),
        chance: ahead.map(|ahead| view.chance(id, ahead)),
        poll_after_ms: poll_after_ms(view, now, ahead),
        tier: None,
        quantity: u16::from(id.quantity),
        amount: None,
        hold_expires_at: None,
        tickets: Vec::new(),
        region: id.region.clone(),
        as_of: view.as_of(),
    };
    match standing {
        Standing::Rejected(reason) => shown.reason = Some(*reason),
        Standing::Row(found) => {
            if let Found::Row(row) = &**found {
                show_row(view, row, &mut shown);
            }
        }
        Standing::Queued | Standing::Lost => {}
    }
    shown
}

fn show_row(view: &View, row: &ReservationRow, shown: &mut Reservation) {
    shown.reason = row.reason.as_deref().and_then(|reason| reason.parse().ok());
    shown.quantity = row.quantity;
    if let Some((name, price)) = row.tier.and_then(|tier| view.tier(tier)) {
        shown.tier = Some(name.clone());
        let amount = row.amount.and_then(|amount| i64::try_from(amount).ok());
        shown.amount = amount.map(|amount| Money { amount, currency: price.currency });
    }
    if shown.status == Status::Held {
        shown.hold_expires_at = row.hold_expires_at_ms.map(Timestamp::from_ms);
    }
    shown.tickets.clone_from(&row.tickets);
    // A row may be newer than the view.
    shown.as_of = shown.as_of.max(Timestamp::from_ms(row.changed_at_ms));
}
