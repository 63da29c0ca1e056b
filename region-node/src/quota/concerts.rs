//! Concerts as the arbiters define them, carried over into this region's database: created and changed with quota rows
//! of zeros, and closed. Idempotent; totals are the arbiters' business.

use crate::books::Books;
use crate::db::DbError;
use crate::db::concerts::{self, PutError};
use crate::generations;
use arbiter_api::ConcertOrder;
use region_api::ConcertName;

/// Who the books say it was.
const WHO: &str = "arbiters";

/// Carries all of them over. One that cannot be is logged and left; the rest goes on.
pub(super) async fn carry_over(books: &Books, shards: u16, orders: &[ConcertOrder]) -> Result<(), DbError> {
    for order in orders {
        let Ok(concert) = ConcertName::new(order.concert.as_str()) else {
            tracing::error!(concert.id = %order.concert, "the arbiters sell a concert whose name is none here");
            continue;
        };
        match one(books, shards, &concert, order).await {
            Ok(()) => {}
            Err(PutError::Db(error)) => return Err(error),
            Err(error) => tracing::error!(concert.id = %concert, %error, "the arbiters' definition was not taken"),
        }
    }
    Ok(())
}

async fn one(books: &Books, shards: u16, concert: &ConcertName, order: &ConcertOrder) -> Result<(), PutError> {
    let known = concerts::load(&books.db, concert).await?;
    let over = known.as_ref().is_some_and(|row| row.closed_at_ms.is_some() || row.cancelled_at_ms.is_some());
    // A closed one keeps the definition under which it was closed: its end would be undone by the one before.
    if known.is_none() || (order.closed_at.is_none() && !over) {
        let mut definition = order.definition.clone();
        definition.concert = Some(concert.clone());
        definition.weights = None;
        let row = concerts::define(&books.db, concert, &definition, shards, WHO).await?;
        // The queue's server may be away: the allocator sees to it later.
        if let Err(error) = generations::ensure(books, &row).await {
            tracing::warn!(%error, concert.id = %concert, "the concert's queue is not ready yet");
        }
    }
    if order.closed_at.is_some() && !over {
        concerts::close(&books.db, concert, WHO).await?;
    }
    Ok(())
}
