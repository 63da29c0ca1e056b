//! `GET /v1/log?after=`: the committed commands, with who ordered them and when. Read from the disk of the asked
//! arbiter, up to what it has applied. `GET /v1/log/base`: the state that they follow on. Both are of the asked arbiter
//! itself, so that somebody can compare them.

use std::sync::Arc;

use arbiter_api::{LogBase, LogItem, LogPage, limits::LOG_PAGE_MAX};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use raft::eraftpb::{Entry, EntryType};
use region_api::{Code, Timestamp};
use serde::Deserialize;

use super::{App, Refusal};
use crate::{
    command::{LogEntry, Work},
    node::Consistency,
};

/// Which page.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageOf {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    stale: bool,
}

pub(super) async fn page(
    State(app): State<Arc<App>>,
    page: Result<Query<PageOf>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(PageOf { after, stale }) = page.map_err(|error| Refusal::invalid("query", error.body_text()))?;
    let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
    let meta = app.node.read(consistency, |view| view.meta()).await?;
    let history = app.history.clone().ok_or_else(|| Refusal::new(Code::NotFound, "this arbiter keeps no history"))?;
    let read = tokio::task::spawn_blocking(move || history.page(after, meta.index, LOG_PAGE_MAX));
    let page = read.await.map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
    let page = page.map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
    let mut entries = Vec::new();
    for entry in page.entries {
        entries.extend(item(entry).map_err(|error| Refusal::new(Code::Internal, error.to_string()))?);
    }
    Ok(Json(LogPage { meta, first_index: page.first_index, entries, next_after: page.next_after }).into_response())
}

/// `GET /v1/log/base`
pub(super) async fn base(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let meta = app.node.read(Consistency::Stale, |view| view.meta()).await?;
    let history = app.history.clone().ok_or_else(|| Refusal::new(Code::NotFound, "this arbiter keeps no history"))?;
    // A state may have tens of megabytes: what carries raft's messages does not wait while it is read and written.
    let made = tokio::task::spawn_blocking(move || {
        let base = history.base().map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
        let (base_index, state) = base.ok_or_else(|| Refusal::new(Code::NotFound, "this arbiter has no state yet"))?;
        let state = serde_json::from_slice(&state).map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
        Ok(Json(LogBase { meta, base_index, state }).into_response())
    });
    made.await.map_err(|error| Refusal::new(Code::Internal, error.to_string()))?
}

fn item(entry: Entry) -> Result<Option<LogItem>, crate::command::UnknownEntry> {
    if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
        return Ok(None);
    }
    let LogEntry { proposed_at_ms, work, .. } = LogEntry::decode(&entry.data)?;
    let who = match &work {
        Work::Request(request) => Some(request.who.clone()),
        Work::Quota(_) | Work::Found(_) | Work::Seen(_) => None,
    };
    let work = serde_json::to_value(&work)?;
    let proposed_at = Timestamp::from_ms(proposed_at_ms);
    Ok(Some(LogItem { index: entry.index, term: entry.term, proposed_at, who, work }))
}
