//! `GET /v1/ledger?concert=&after=`: the books of a concert, every row, for somebody who trusts no counter.
//!
//! One walk: the first page without `after`, then with `next` of each page, until it is null. Each page has the newest
//! state and rows of one kind, in the order of their key; field names are the columns of the database. Pages are read
//! one after the other, so books that move while they are read are compared by their `book`: equal on the first and
//! the last page means one consistent view of everything that `book` guards.

use crate::names::{ConcertName, RegionName};
use crate::units::Timestamp;
use crate::wire::admin::QuotaColumns;
use crate::wire::definition::ConcertDefinition;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;
use uuid::Uuid;

/// One page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LedgerPage {
    /// Newest state, read in the same snapshot as the rows.
    pub state: BookState,
    /// Rows of one kind; may be empty.
    pub rows: BookRows,
    /// `after` of the next page; null on the last one.
    #[schema(value_type = Option<String>)]
    pub next: Option<LedgerCursor>,
}

/// Newest state of a concert's books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BookState {
    /// Which concert.
    pub concert: ConcertName,
    /// The database's number of it.
    pub concert_id: i32,
    /// Whose books.
    pub region: RegionName,
    /// Identity of the database.
    pub identity: Uuid,
    /// Definition in force.
    pub definition: ConcertDefinition,
    /// Its version.
    pub version: i64,
    /// When everybody who waited was answered, if so.
    pub closed_at: Option<Timestamp>,
    /// When it was called off, if so.
    pub cancelled_at: Option<Timestamp>,
    /// The last book number.
    pub book: i64,
    /// Why nothing is sold, if so.
    pub halted: Option<String>,
    /// Quota rows, one per tier.
    pub quota: Vec<QuotaRow>,
    /// Cursors, lost generations included.
    pub generations: Vec<GenerationRow>,
    /// Rows of each kind.
    pub counts: Vec<KindCount>,
    /// The database's time.
    pub as_of: Timestamp,
}

/// Answer to `GET /v1/queue?concert=`: what the requests want that are in the queue and not decided yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueWishes {
    /// Which concert.
    pub concert: ConcertName,
    /// Whose queue.
    pub region: RegionName,
    /// Requests looked at.
    pub requests: u64,
    /// Whether that were all of them: a long queue is looked at from its head, up to a bound.
    pub complete: bool,
    /// One for each choice of tiers that somebody made.
    pub wishes: Vec<QueueWish>,
}

/// What those want who chose the same tiers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueWish {
    /// Numbers of the tiers.
    pub tiers: Vec<u8>,
    /// How many requests.
    pub requests: u64,
    /// The fewest tickets that one of them would take.
    pub least: u64,
}

/// How many rows of a kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KindCount {
    /// The kind.
    pub kind: BookKind,
    /// How many.
    pub rows: u64,
}

/// What a page's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BookKind {
    /// Everything that moved a ticket.
    Ledger,
    /// Sales folded into the quota rows.
    Fold,
    /// Sales not yet folded.
    Unfolded,
    /// Decided reservations.
    Reservation,
    /// Passed over, waiting for a tier.
    Waiting,
    /// "Everybody from here to there is told no".
    RejectedRange,
    /// Payment intents.
    Payment,
    /// Money that goes back.
    Refund,
    /// Tickets.
    Ticket,
}

impl BookKind {
    /// All of them, in the order of a walk: ledger first, so that whatever later pages show has its ledger row either
    /// on an earlier page or under a later book number.
    pub const ALL: [BookKind; 9] = [
        BookKind::Ledger,
        BookKind::Fold,
        BookKind::Unfolded,
        BookKind::Reservation,
        BookKind::Waiting,
        BookKind::RejectedRange,
        BookKind::Payment,
        BookKind::Refund,
        BookKind::Ticket,
    ];

    /// As cursors spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            BookKind::Ledger => "ledger",
            BookKind::Fold => "fold",
            BookKind::Unfolded => "unfolded",
            BookKind::Reservation => "reservation",
            BookKind::Waiting => "waiting",
            BookKind::RejectedRange => "rejected_range",
            BookKind::Payment => "payment",
            BookKind::Refund => "refund",
            BookKind::Ticket => "ticket",
        }
    }

    /// The kind after this one in a walk.
    pub fn following(self) -> Option<BookKind> {
        let at = BookKind::ALL.iter().position(|&kind| kind == self)?;
        BookKind::ALL.get(at + 1).copied()
    }
}

/// Where a walk is: a kind and the key of the last row seen (empty: from the first row). Written `kind:key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerCursor {
    /// The kind.
    pub kind: BookKind,
    /// Key of the last row seen, as its columns joined with `.`; at most 128 visible ASCII characters.
    pub after: String,
}

/// A text that is no [`LedgerCursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("after: must be what a page's `next` was")]
pub struct CursorError;

impl LedgerCursor {
    /// Longest key.
    pub const KEY_MAX_BYTES: usize = 128;

    /// Where a walk begins.
    pub fn start() -> LedgerCursor {
        LedgerCursor::of(BookKind::Ledger)
    }
    /// The first row of a kind.
    pub fn of(kind: BookKind) -> LedgerCursor {
        LedgerCursor { kind, after: String::new() }
    }
    /// The key as one number; `None` from the first row.
    pub fn number(&self) -> Result<Option<i64>, CursorError> {
        if self.after.is_empty() { Ok(None) } else { self.after.parse().map(Some).map_err(|_| CursorError) }
    }
    /// The key as `N` numbers; `None` from the first row.
    pub fn numbers<const N: usize>(&self) -> Result<Option<[i64; N]>, CursorError> {
        if self.after.is_empty() {
            return Ok(None);
        }
        let parts: Result<Vec<i64>, _> = self.after.split('.').map(str::parse).collect();
        parts.ok().and_then(|parts| parts.try_into().ok()).map(Some).ok_or(CursorError)
    }
}

impl fmt::Display for LedgerCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.after)
    }
}
impl FromStr for LedgerCursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (kind, after) = text.split_once(':').ok_or(CursorError)?;
        let kind = BookKind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or(CursorError)?;
        if after.len() > Self::KEY_MAX_BYTES || !after.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CursorError);
        }
        Ok(LedgerCursor { kind, after: after.to_owned() })
    }
}
impl Serialize for LedgerCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for LedgerCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Rows of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", content = "rows", rename_all = "snake_case")]
pub enum BookRows {
    /// By `ledger_id`.
    Ledger(Vec<LedgerRow>),
    /// By `ledger_id`.
    Fold(Vec<FoldRow>),
    /// By `ledger_id`.
    Unfolded(Vec<UnfoldedRow>),
    /// By `entry`.
    Reservation(Vec<ReservationRow>),
    /// By `entry.tier`.
    Waiting(Vec<WaitingRow>),
    /// By `shard.generation.book.from_seq`.
    RejectedRange(Vec<RejectedRangeRow>),
    /// By `intent`.
    Payment(Vec<PaymentRow>),
    /// By `refund_id`.
    Refund(Vec<RefundRow>),
    /// By `ticket_id`.
    Ticket(Vec<TicketRow>),
}

impl BookRows {
    /// What they are.
    pub fn kind(&self) -> BookKind {
        match self {
            BookRows::Ledger(_) => BookKind::Ledger,
            BookRows::Fold(_) => BookKind::Fold,
            BookRows::Unfolded(_) => BookKind::Unfolded,
            BookRows::Reservation(_) => BookKind::Reservation,
            BookRows::Waiting(_) => BookKind::Waiting,
            BookRows::RejectedRange(_) => BookKind::RejectedRange,
            BookRows::Payment(_) => BookKind::Payment,
            BookRows::Refund(_) => BookKind::Refund,
            BookRows::Ticket(_) => BookKind::Ticket,
        }
    }
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            BookRows::Ledger(rows) => rows.len(),
            BookRows::Fold(rows) => rows.len(),
            BookRows::Unfolded(rows) => rows.len(),
            BookRows::Reservation(rows) => rows.len(),
            BookRows::Waiting(rows) => rows.len(),
            BookRows::RejectedRange(rows) => rows.len(),
            BookRows::Payment(rows) => rows.len(),
            BookRows::Refund(rows) => rows.len(),
            BookRows::Ticket(rows) => rows.len(),
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Key of the last row, as a cursor writes it.
    pub fn last_key(&self) -> Option<String> {
        match self {
            BookRows::Ledger(rows) => rows.last().map(|row| row.ledger_id.to_string()),
            BookRows::Fold(rows) => rows.last().map(|row| row.ledger_id.to_string()),
            BookRows::Unfolded(rows) => rows.last().map(|row| row.ledger_id.to_string()),
            BookRows::Reservation(rows) => rows.last().map(|row| row.entry.to_string()),
            BookRows::Waiting(rows) => rows.last().map(|row| format!("{}.{}", row.entry, row.tier)),
            BookRows::RejectedRange(rows) => {
                rows.last().map(|row| format!("{}.{}.{}.{}", row.shard, row.generation, row.book, row.from_seq))
            }
            BookRows::Payment(rows) => rows.last().map(|row| row.intent.clone()),
            BookRows::Refund(rows) => rows.last().map(|row| row.refund_id.to_string()),
            BookRows::Ticket(rows) => rows.last().map(|row| row.ticket_id.to_string()),
        }
    }
    /// Where a walk goes on after a page of at most `most` rows: the next row, or the next kind, or nowhere.
    pub fn next(&self, most: usize) -> Option<LedgerCursor> {
        match self.last_key() {
            Some(after) if self.len() >= most => Some(LedgerCursor { kind: self.kind(), after }),
            _ => self.kind().following().map(LedgerCursor::of),
        }
    }
}

/// A quota row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaRow {
    /// Tier number: position in the definition.
    pub tier: i16,
    /// The protocol's columns.
    #[serde(flatten)]
    pub columns: QuotaColumns,
    /// Quota epoch; 0 in a standalone region.
    pub epoch: i64,
    /// Identity of the database that registered.
    pub registered_as: Uuid,
    /// Of `held_in` and `sold`, what the row began with after its region was written off: sold by databases that are
    /// gone, so without ledger rows here.
    #[serde(default)]
    pub seeded: i64,
}

/// A generation of one shard's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GenerationRow {
    /// The shard.
    pub shard: i16,
    /// The generation, from 1.
    pub generation: i16,
    /// The last sequence number decided.
    pub cursor_seq: i64,
    /// The highest sequence number known to have been given out.
    pub tail_seq: i64,
    /// When a newer generation replaced it, if so.
    pub lost_at: Option<Timestamp>,
    /// Of a lost one: the last sequence number still there then.
    pub survived_seq: Option<i64>,
}

/// What a ledger row did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LedgerKind {
    /// Tickets came to the region.
    Grant,
    /// Tickets left the region.
    Return,
    /// Tickets were put on hold.
    Hold,
    /// A hold ended without a sale.
    Release,
    /// A hold became a sale.
    Sell,
    /// A sale was undone.
    Refund,
}

/// A ledger row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerRow {
    /// Its number.
    pub ledger_id: i64,
    /// Book number of its transaction; null for a sale.
    pub book: Option<i64>,
    /// What it did.
    pub kind: LedgerKind,
    /// Tier number.
    pub tier: i16,
    /// Reservation; null for grant and return.
    pub entry: Option<i64>,
    /// How many tickets.
    pub tickets: i32,
    /// When.
    pub at: Timestamp,
}

/// A sale that was folded into its quota row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoldRow {
    /// The sale.
    pub ledger_id: i64,
    /// Book number that folded it.
    pub book: i64,
}

/// A sale that was not yet folded into its quota row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfoldedRow {
    /// The sale.
    pub ledger_id: i64,
    /// Tier number.
    pub tier: i16,
    /// How many tickets.
    pub tickets: i32,
}

/// State of a reservation's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowState {
    /// Tickets are kept.
    Held,
    /// Time is up; the provider is being asked.
    Expiring,
    /// Paid.
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
    /// Another entry of the same request; `alias_of` is the real one.
    Alias,
}

/// A reservation row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReservationRow {
    /// Place in the queue.
    pub entry: i64,
    /// Whose.
    pub user_hash: Uuid,
    /// The client's; null where a signed id was all that was left.
    pub request_id: Option<Uuid>,
    /// Where the concert asks for one.
    pub identity_hash: Option<Uuid>,
    /// When the place was given, milliseconds since 1970.
    pub arrival_ms: i64,
    /// State.
    pub state: RowState,
    /// Why.
    pub reason: Option<crate::wire::reservation::Reason>,
    /// Tier number, once held.
    pub tier: Option<i16>,
    /// Tickets.
    pub quantity: i16,
    /// Minor units of the tier's currency, fixed when held.
    pub amount: Option<i64>,
    /// When held.
    pub held_at: Option<Timestamp>,
    /// When the hold ends.
    pub hold_expires_at: Option<Timestamp>,
    /// Had its one extension.
    pub extended: bool,
    /// Held and sold again after a late payment.
    pub revived: bool,
    /// Payment intent.
    pub intent: Option<String>,
    /// Of an alias.
    pub alias_of: Option<i64>,
    /// Book number that held it.
    pub book: Option<i64>,
    /// When it last changed.
    pub changed_at: Timestamp,
}

/// A waiting row: one per tier that a reservation names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingRow {
    /// Place in the queue.
    pub entry: i64,
    /// Tier number.
    pub tier: i16,
    /// Fewest tickets that it would take.
    pub need: i16,
    /// When the place was given, milliseconds since 1970.
    pub arrival_ms: i64,
    /// Whose.
    pub user_hash: Uuid,
    /// The client's; null where a signed id was all that was left.
    pub request_id: Option<Uuid>,
    /// Where the concert asks for one.
    pub identity_hash: Option<Uuid>,
    /// Tickets asked for.
    pub quantity: i16,
    /// Down to one ticket is welcome.
    pub any_quantity: bool,
    /// All tiers that it names, in order of preference.
    pub tiers: Vec<i16>,
}

/// A range of rejected entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RejectedRangeRow {
    /// The shard.
    pub shard: i16,
    /// Its generation.
    pub generation: i16,
    /// First sequence number.
    pub from_seq: i64,
    /// Last sequence number.
    pub to_seq: i64,
    /// Why: `sold_out` or `sale_closed`.
    pub reason: crate::wire::reservation::Reason,
    /// Per tier what could still come, capped at 32767; null: everybody in the range is rejected.
    pub unsold: Option<Vec<i16>>,
    /// Book number of its transaction.
    pub book: i64,
    /// When.
    pub at: Timestamp,
}

/// State of a payment intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    /// Not yet paid.
    Open,
    /// Paid.
    Succeeded,
    /// Cancelled at the provider.
    Cancelled,
    /// Paid and given back.
    Refunded,
}

/// A payment intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentRow {
    /// The provider's id.
    pub intent: String,
    /// Who takes the money.
    pub provider: String,
    /// For which reservation.
    pub entry: i64,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// State.
    pub status: PaymentStatus,
    /// When made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub changed_at: Timestamp,
}

/// Money that goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefundRow {
    /// Idempotency key at the provider.
    pub refund_id: Uuid,
    /// Of which payment.
    pub intent: String,
    /// For which reservation.
    pub entry: i64,
    /// Minor units.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// The provider's id, once it said so.
    pub provider_refund: Option<String>,
    /// When decided.
    pub created_at: Timestamp,
    /// When the provider confirmed, if so.
    pub done_at: Option<Timestamp>,
}

/// A ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TicketRow {
    /// Its id.
    pub ticket_id: Uuid,
    /// Of which reservation.
    pub entry: i64,
    /// 1..=quantity within its reservation.
    pub number: i16,
    /// Tier number.
    pub tier: i16,
    /// Holder.
    pub holder_hash: Uuid,
    /// Whether it lets somebody in.
    pub status: crate::wire::ticket::TicketStatus,
    /// When issued.
    pub issued_at: Timestamp,
    /// When checked in, if so.
    pub used_at: Option<Timestamp>,
}
