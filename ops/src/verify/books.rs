//! The books of one concert in one region, read page by page through the admin interface.
//!
//! Books that move while they are read are no evidence: a walk whose first and last page differ in their book number is
//! read again, a bounded number of times.

use crate::cluster::client;
use anyhow::{Context, Result, bail};
use region_api::wire::books::{
    BookRows, BookState, FoldRow, LedgerPage, LedgerRow, PaymentRow, QueueWishes, RefundRow, RejectedRangeRow,
    ReservationRow, TicketRow, UnfoldedRow, WaitingRow,
};
use region_api::{ConcertName, RegionName};
use std::time::Duration;

/// Everything that a region wrote down about one concert.
#[derive(Debug, Clone)]
pub struct Books {
    /// Newest state.
    pub state: BookState,
    /// Everything that moved a ticket, by `ledger_id`.
    pub ledger: Vec<LedgerRow>,
    /// Sales folded into the quota rows.
    pub folds: Vec<FoldRow>,
    /// Sales not yet folded.
    pub unfolded: Vec<UnfoldedRow>,
    /// Decided reservations, by entry.
    pub reservations: Vec<ReservationRow>,
    /// Waiting rows, by entry and tier.
    pub waiting: Vec<WaitingRow>,
    /// Rejected ranges.
    pub ranges: Vec<RejectedRangeRow>,
    /// Payment intents.
    pub payments: Vec<PaymentRow>,
    /// Money that goes back.
    pub refunds: Vec<RefundRow>,
    /// Tickets.
    pub tickets: Vec<TicketRow>,
    /// What those want who are in the queue and not decided yet, if the queue could be read.
    pub queued: Option<QueueWishes>,
}

/// One region's admin interface.
#[derive(Debug, Clone)]
pub struct AdminAccess {
    /// The region.
    pub region: RegionName,
    /// Base URL without a trailing slash.
    pub url: String,
    /// Operator's bearer token.
    pub token: String,
}

/// How often books that moved are read again before giving up.
const READS_MAX: u32 = 8;

impl Books {
    /// Reads one consistent view.
    pub async fn read(http: &reqwest::Client, access: &AdminAccess, concert: &ConcertName) -> Result<Books> {
        for attempt in 0..READS_MAX {
            let (first, books) = walk(http, access, concert).await?;
            if first == (books.state.book, books.state.counts.clone()) {
                let queued = queued(http, access, concert).await.ok();
                return Ok(Books { queued, ..books });
            }
            tokio::time::sleep(Duration::from_millis(200 << attempt.min(4))).await;
        }
        bail!(
            "the books of {concert} in {} moved during each of {READS_MAX} readings; wait until the sale is quieter, or \
             drain the region first",
            access.region
        )
    }

    /// Whether nothing was written into them since they were read.
    pub async fn unmoved(&self, http: &reqwest::Client, access: &AdminAccess) -> Result<bool> {
        let now = page(http, access, &self.state.concert, None).await?.state;
        Ok((now.book, &now.counts) == (self.state.book, &self.state.counts))
    }

    /// Title of these books in problems.
    pub fn place(&self) -> String {
        format!("{}/{}", self.state.region, self.state.concert)
    }
}

type Mark = (i64, Vec<region_api::wire::books::KindCount>);

async fn walk(http: &reqwest::Client, access: &AdminAccess, concert: &ConcertName) -> Result<(Mark, Books)> {
    let first = page(http, access, concert, None).await?;
    let mark = (first.state.book, first.state.counts.clone());
    let mut books = Books {
        state: first.state.clone(),
        ledger: Vec::new(),
        folds: Vec::new(),
        unfolded: Vec::new(),
        reservations: Vec::new(),
        waiting: Vec::new(),
        ranges: Vec::new(),
        payments: Vec::new(),
        refunds: Vec::new(),
        tickets: Vec::new(),
        queued: None,
    };
    let mut here = first;
    loop {
        match here.rows {
            BookRows::Ledger(rows) => books.ledger.extend(rows),
            BookRows::Fold(rows) => books.folds.extend(rows),
            BookRows::Unfolded(rows) => books.unfolded.extend(rows),
            BookRows::Reservation(rows) => books.reservations.extend(rows),
            BookRows::Waiting(rows) => books.waiting.extend(rows),
            BookRows::RejectedRange(rows) => books.ranges.extend(rows),
            BookRows::Payment(rows) => books.payments.extend(rows),
            BookRows::Refund(rows) => books.refunds.extend(rows),
            BookRows::Ticket(rows) => books.tickets.extend(rows),
        }
        books.state = here.state;
        let Some(next) = here.next else { return Ok((mark, books)) };
        here = page(http, access, concert, Some(next.to_string())).await?;
    }
}

async fn page(
    http: &reqwest::Client,
    access: &AdminAccess,
    concert: &ConcertName,
    after: Option<String>,
) -> Result<LedgerPage> {
    let mut request = http
        .get(format!("{}/v1/ledger", access.url))
        .bearer_auth(&access.token)
        .query(&[("concert", concert.as_str())]);
    if let Some(after) = after {
        request = request.query(&[("after", after)]);
    }
    client::answer(request).await.with_context(|| format!("reading the books of region {}", access.region))
}

async fn queued(http: &reqwest::Client, access: &AdminAccess, concert: &ConcertName) -> Result<QueueWishes> {
    let request = http.get(format!("{}/v1/queue", access.url)).bearer_auth(&access.token);
    client::answer(request.query(&[("concert", concert.as_str())])).await
}
