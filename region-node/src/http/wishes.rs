//! `GET /v1/queue?concert=`: what the requests want that are in the queue and not decided yet, for somebody who wants to
//! know whether a free ticket lies where nobody sees it. Read from Redis as it is; decides nothing.

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use region_api::wire::{QueueWish, QueueWishes};
use region_api::{Code, ConcertName, TierNo};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::concerts;
use super::join::json;
use super::problem::Refusal;
use crate::app::App;
use crate::limits::{WISHES_PAGE, WISHES_READ_MAX};
use crate::queue::QueueError;
use crate::view::View;

/// Which queue.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueueOf {
    concert: String,
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    read: usize,
    requests: u64,
    cut_short: bool,
    wishes: BTreeMap<Vec<TierNo>, (u64, u64)>,
}

/// `GET /v1/queue?concert=`
pub(crate) async fn wishes(
    State(app): State<Arc<App>>,
    of: Result<Query<QueueOf>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(QueueOf { concert }) = of.map_err(|error| Refusal::invalid("query", error.body_text()))?;
    let concert = ConcertName::new(&concert).map_err(|_| Refusal::not_found("concert"))?;
    let view = concerts::find(&app, concert.as_str())?;
    let mut seen = Seen::default();
    for generation in crate::db::generations::load(&app.db, view.concert_id()).await? {
        let to = generation.survived_seq.unwrap_or(u64::MAX);
        let of = (generation.shard, generation.generation);
        let looked = look(&app, &view, of, (generation.cursor_seq, to), &mut seen).await;
        looked.map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
    }
    let wish = |(tiers, (requests, least))| QueueWish { tiers, requests, least };
    let answer = QueueWishes {
        concert,
        region: app.config.region.clone(),
        requests: seen.requests,
        complete: !seen.cut_short,
        wishes: seen.wishes.into_iter().map(wish).collect(),
    };
    Ok(json(StatusCode::OK, &answer))
}

async fn look(
    app: &App,
    view: &View,
    (shard, generation): (u16, u16),
    (mut after, to): (u64, u64),
    seen: &mut Seen,
) -> Result<(), QueueError> {
    loop {
        let entries = app.books.queue.peek(view.queue(), shard, generation, after, WISHES_PAGE).await?;
        // A full page may lie beyond `to`: what ends this is where the page ended.
        let Some(end) = entries.last().map(|entry| entry.entry.sequence()) else { return Ok(()) };
        let last = entries.len() < WISHES_PAGE || end >= to;
        for entry in entries.into_iter().filter(|entry| entry.entry.sequence() <= to) {
            let need = sale::early_no::need(entry.item.quantity.into(), entry.item.any_quantity);
            // Told no with a whole range, or gone by themselves: in the queue until a cursor passes them.
            let told = view.range_for(entry.entry, need, &entry.item.tiers).is_some();
            if told || view.parts().left.contains(&entry.entry) {
                continue;
            }
            let need = u64::from(need);
            let (requests, least) = seen.wishes.entry(entry.item.tiers.to_vec()).or_insert((0, need));
            (*requests, *least) = (*requests + 1, need.min(*least));
            seen.requests += 1;
        }
        if last {
            return Ok(());
        }
        after = end;
        seen.read += WISHES_PAGE;
        if seen.read >= WISHES_READ_MAX {
            seen.cut_short = true;
            return Ok(());
        }
    }
}
