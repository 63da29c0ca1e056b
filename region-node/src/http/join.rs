//! `POST /v1/concerts/{concert}/reservations`: a place in the queue, on disk before the answer.
//!
//! Rejections come in a fixed order: session, home, body, concert, sale window, guests, challenge, tiers, limits,
//! identity, what was bought before, then what the queue says. Nothing is stored before all of them have passed.

use axum::body::HttpBody;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use region_api::id::Tiers;
use region_api::wire::{ConcertState, JoinAnswer, JoinRequest, Status};
use region_api::{Code, ReservationId, UserHash, identity_hash, user_hash};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::body;
use super::problem::Refusal;
use super::standing::{self, Standing};
use super::{acts, caller, concerts};
use crate::app::App;
use crate::config::Role;
use crate::db::find;
use crate::queue::{JoinError, JoinItem, JoinOutcome, Joined};
use crate::view::View;

/// Answers a join.
pub(crate) async fn join<B>(app: &Arc<App>, concert: &str, parts: &Parts, request_id: &HeaderValue, body: B) -> Response
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    answer(app, concert, parts, request_id, body).await.unwrap_or_else(|refusal| {
        if refusal.code() == Code::Overloaded && takes_joins(app).is_ok() {
            app.refused_joins.fetch_add(1, Ordering::Relaxed);
        }
        refusal.into_response()
    })
}

async fn answer<B>(
    app: &Arc<App>,
    concert: &str,
    parts: &Parts,
    request_id: &HeaderValue,
    body: B,
) -> Result<Response, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    let caller = caller::writer(app, &parts.headers)?;
    let bytes = body::read(body, region_api::limits::BODY_MAX_BYTES).await?;
    if caller.session.home != app.config.region {
        app.gate.metrics.passed_on.increment(1);
        return app.peers.pass_on(&caller.session.home, parts, request_id, Some(caller.token), bytes).await;
    }
    let asked: JoinRequest = region_api::body::parse(&bytes)?;
    let view = concerts::find(app, concert)?;
    let user = user_hash(&app.keys, &caller.session.user);
    if let Err(refusal) = open(app, &view) {
        return earlier(app, &view, user, &asked, refusal).await;
    }
    let definition = &view.parts().concert.definition;
    if !definition.guests && caller.session.user.is_guest() {
        return Err(Refusal::new(Code::Forbidden, "guests may not buy for this concert; sign in"));
    }
    if definition.challenge && !caller.session.challenge_solved {
        return Err(Refusal::new(Code::ChallengeRequired, "solve a challenge first: GET /v1/challenge"));
    }
    let item = item(app, &view, user, &asked)?;
    if app.catalog.buyers.have(view.concert_id(), user) {
        within_limit(app, &view, user, &asked).await?;
    }
    let need = if asked.any_quantity { 1 } else { u64::from(asked.quantity) };
    if view.sold_out(&item.tiers, need) {
        let refusal = Refusal::new(Code::SoldOut, "nothing that you asked for is left, anywhere");
        return earlier(app, &view, user, &asked, refusal).await;
    }
    if app.catalog.waiting() >= app.config.intake.queue_max {
        let refusal = Refusal::overloaded("the region's queue is full");
        return earlier(app, &view, user, &asked, refusal).await;
    }
    let joined = put(app, &view, item).await?;
    placed(app, &view, joined).await
}

/// Whether this node takes anybody at all.
fn takes_joins(app: &App) -> Result<(), Refusal> {
    if !app.config.has(Role::Intake) {
        return Err(Refusal::overloaded("this node takes no reservations (role intake); ask another of the region"));
    }
    if app.draining.load(Ordering::Relaxed) {
        return Err(Refusal::overloaded("this node takes no new reservations at the moment"));
    }
    Ok(())
}

/// The sale window, by the database's clock; and whether this node takes anybody.
fn open(app: &App, view: &View) -> Result<(), Refusal> {
    takes_joins(app)?;
    match view.state(app.catalog.now_ms()) {
        ConcertState::Open => Ok(()),
        ConcertState::Announced => {
            let opens_at = view.parts().concert.definition.sale_opens_at;
            Err(Refusal::new(Code::SaleNotOpen, format!("the sale opens at {opens_at}")))
        }
        ConcertState::Closed => Err(Refusal::new(Code::SaleClosed, "the sale is over")),
        ConcertState::Cancelled => Err(Refusal::new(Code::SaleClosed, "the concert is cancelled")),
    }
}

/// The limit per person over all orders, as far as it is certain now: for who has bought before, and is not asking for
/// what they have already. The allocator decides for everybody.
async fn within_limit(app: &App, view: &View, user: UserHash, asked: &JoinRequest) -> Result<(), Refusal> {
    if find::earlier(&app.db, view.concert_id(), user, asked.request_id).await?.is_some() {
        return Ok(());
    }
    let most = u64::from(view.parts().concert.definition.max_per_person);
    let left = most.saturating_sub(find::owned(&app.db, view.concert_id(), user).await?);
    let need = if asked.any_quantity { 1 } else { u64::from(asked.quantity) };
    if need <= left {
        return Ok(());
    }
    let detail =
        format!("quantity: {} is over the limit per person over all orders; {left} are left to you", asked.quantity);
    Err(Refusal::new(Code::LimitExceeded, detail))
}

/// Who asks again for what they were given before gets that, also when nobody new is taken any more. The database is asked
/// for a few at a time: a crowd that is refused must not take it from those who are being served. Who then cannot be told
/// for certain is told to ask again.
async fn earlier(
    app: &Arc<App>,
    view: &View,
    user: UserHash,
    asked: &JoinRequest,
    refusal: Refusal,
) -> Result<Response, Refusal> {
    if matches!(refusal.code(), Code::SaleNotOpen) {
        return Err(refusal);
    }
    // The queue knows its own, undecided ones too. While it is away the database is asked alone.
    if let Ok(item) = item(app, view, user, asked) {
        match app.queue.find(view.queue(), item).await {
            Ok(Some(joined)) => return placed(app, view, joined).await,
            Err(error @ JoinError::Conflict) => return Err(error.into()),
            Ok(None) | Err(_) => {}
        }
    }
    let Ok(_place) = app.refusing.try_acquire() else {
        let known = refusal.code() == Code::Overloaded;
        return Err(if known { refusal } else { Refusal::overloaded("too many are being told no at once") });
    };
    match find::earlier(&app.db, view.concert_id(), user, asked.request_id).await? {
        Some(found) => {
            let id = found.id(app.config.region.clone(), view.parts().concert.concert.clone());
            let standing = standing::of(app, view, &id).await?;
            let text = found.id_text().map_or_else(|| id.sign(&app.keys), str::to_owned);
            Ok(write(app, view, &id, text, &standing, StatusCode::OK))
        }
        None => Err(refusal),
    }
}

/// What goes into the queue.
fn item(app: &App, view: &View, user: UserHash, asked: &JoinRequest) -> Result<JoinItem, Refusal> {
    let concert = &view.parts().concert;
    let definition = &concert.definition;
    let mut tiers = Tiers::new();
    for (index, tier) in asked.tiers.iter().enumerate() {
        let no = view.tier_no(tier);
        tiers.push(no.ok_or_else(|| Refusal::invalid(&format!("tiers[{index}]"), format!("no tier {tier} here")))?);
    }
    let over = |limit: &str, most: u16| {
        let detail = format!("quantity: {} is over the limit {limit}; {most} are left to you", asked.quantity);
        Err(Refusal::new(Code::LimitExceeded, detail))
    };
    if asked.quantity > definition.max_per_order {
        return over("per order", definition.max_per_order.min(definition.max_per_person));
    }
    if asked.quantity > definition.max_per_person {
        return over("per person", definition.max_per_person);
    }
    let identity = match (&asked.identity, definition.max_per_identity) {
        (_, None) => None,
        (None, Some(_)) => return Err(Refusal::invalid("identity", "this concert asks for one")),
        (Some(_), Some(most)) if asked.quantity > most => return over("per identity", most),
        (Some(identity), Some(_)) => Some(identity_hash(&app.keys, &concert.concert, identity)),
    };
    let quantity = u8::try_from(asked.quantity).map_err(|_| Refusal::invalid("quantity", "is too large"))?;
    Ok(JoinItem { user, request_id: asked.request_id, quantity, tiers, any_quantity: asked.any_quantity, identity })
}

/// Into the queue; once more when its shard had no generation yet.
async fn put(app: &App, view: &View, item: JoinItem) -> Result<Joined, Refusal> {
    match app.queue.join(view.queue(), item.clone()).await {
        Err(JoinError::NoGeneration { .. }) => {
            acts::ensure_generations(app, view).await?;
            Ok(app.queue.join(view.queue(), item).await?)
        }
        joined => Ok(joined?),
    }
}

async fn placed(app: &Arc<App>, view: &View, joined: Joined) -> Result<Response, Refusal> {
    let id = ReservationId {
        region: app.config.region.clone(),
        concert: view.parts().concert.concert.clone(),
        entry: joined.entry,
        arrival_ms: joined.arrival_ms,
        user: joined.item.user,
        quantity: joined.item.quantity,
        tiers: joined.item.tiers,
        any_quantity: joined.item.any_quantity,
        identity: joined.item.identity,
    };
    if joined.outcome == JoinOutcome::Fresh {
        app.catalog.note_joined();
        return Ok(write(app, view, &id, id.sign(&app.keys), &Standing::Queued, StatusCode::ACCEPTED));
    }
    let standing = standing::of(app, view, &id).await?;
    Ok(write(app, view, &id, id.sign(&app.keys), &standing, StatusCode::OK))
}

fn write(
    app: &App,
    view: &View,
    id: &ReservationId,
    reservation: String,
    standing: &Standing,
    status: StatusCode,
) -> Response {
    let queued = matches!(standing, Standing::Queued);
    let ahead = queued.then(|| view.ahead(id));
    let mut url = String::with_capacity(app.base.len() + reservation.len() + 17);
    url.push_str(&app.base);
    url.push_str("/v1/reservations/");
    url.push_str(&reservation);
    let now = standing.status();
    let answer = JoinAnswer {
        reservation,
        status: now,
        position: ahead.map(|ahead| ahead + 1),
        estimated_wait_ms: ahead.and_then(|ahead| view.wait_ms(ahead)),
        poll_after_ms: standing::poll_after_ms(view, now, ahead),
        region: app.config.region.clone(),
        url,
    };
    debug_assert!(status != StatusCode::ACCEPTED || answer.status == Status::Queued);
    json(status, &answer)
}

/// An answer that nobody may keep.
pub(crate) fn json<T: serde::Serialize>(status: StatusCode, answer: &T) -> Response {
    let mut buffer = Vec::with_capacity(768);
    if let Err(error) = serde_json::to_writer(&mut buffer, answer) {
        return Refusal::internal(error).into_response();
    }
    let mut response = Response::new(buffer.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
