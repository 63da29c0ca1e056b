//! Calls about one reservation: its status (hot), its cancellation, its reclaim, its events.
//!
//! Only its owner gets anything: who is not, `403`; an id that we did not sign, `404`. Another region's reservation is
//! passed on to its home.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use region_api::wire::{Reservation, Status};
use region_api::{Code, ReservationId, owns};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

use super::caller::{self, Caller};
use super::front::REQUEST_ID;
use super::join::json;
use super::problem::Refusal;
use super::segment::Segment;
use super::standing::{self, Standing};
use super::{acts, body, concerts};
use crate::app::App;
use crate::limits;
use crate::view::View;

/// A reservation of this region, its caller being its owner.
pub(crate) struct Mine {
    /// What its id says.
    pub(crate) id: ReservationId,
    /// Its concert.
    pub(crate) view: Arc<View>,
}

/// Where to find what an id names.
pub(crate) enum Whose {
    /// Here.
    Mine(Mine),
    /// In another region.
    Elsewhere(ReservationId),
}

/// Reads an id and checks that the caller owns it.
pub(crate) fn find(app: &App, caller: &Caller<'_>, text: &str) -> Result<Whose, Refusal> {
    let id = ReservationId::parse(text, &app.keys)?;
    if !owns(&app.keys, &caller.session.user, id.user) {
        return Err(Refusal::new(Code::Forbidden, "this reservation is somebody else's"));
    }
    if id.region != app.config.region {
        return Ok(Whose::Elsewhere(id));
    }
    // We signed it: there is such a concert, also where this node has not read it yet.
    let view = app.catalog.view(id.concert.as_str()).ok_or_else(concerts::not_read)?;
    Ok(Whose::Mine(Mine { id, view }))
}

/// `GET /v1/reservations/{id}`, past the router.
pub(crate) async fn status(app: &Arc<App>, text: &str, parts: &Parts, request_id: &HeaderValue) -> Response {
    poll(app, text, parts, request_id).await.unwrap_or_else(Refusal::into_response)
}

async fn poll(app: &Arc<App>, text: &str, parts: &Parts, request_id: &HeaderValue) -> Result<Response, Refusal> {
    let caller = caller::reader(app, &parts.headers)?;
    let Mine { id, view } = match find(app, &caller, text)? {
        Whose::Mine(mine) => mine,
        Whose::Elsewhere(id) => {
            app.gate.metrics.passed_on.increment(1);
            return app.peers.pass_on(&id.region, parts, request_id, Some(caller.token), Bytes::new()).await;
        }
    };
    if app.polls.too_many(view.concert_id(), id.entry) {
        return Err(too_many(app, &view, &id).await);
    }
    let mut standing = standing::of(app, &view, &id).await?;
    if matches!(standing, Standing::Lost) {
        acts::reclaim(app, &view, &id).await?;
        standing = standing::of_now(app, &view, &id).await?;
    }
    Ok(json(StatusCode::OK, &standing::show(&view, &id, text.to_owned(), &standing)))
}

/// Polled far too often: whoever still waits loses the place; a hold or a ticket is not taken away.
async fn too_many(app: &Arc<App>, view: &View, id: &ReservationId) -> Refusal {
    let wait = std::time::Duration::from_millis(sale::limits::POLL_WINDOW_MS);
    let refusal = |detail: &str| Refusal::new(Code::RateLimited, detail).retry(wait);
    match standing::of(app, view, id).await {
        Ok(Standing::Queued | Standing::Lost) => match acts::void(app, view, id).await {
            Ok(()) => {
                app.gate.metrics.voided.increment(1);
                refusal("polled far more often than poll_after_ms allows; the reservation was voided")
            }
            Err(error) => error,
        },
        Ok(_) => refusal("polled far more often than poll_after_ms allows"),
        Err(error) => error,
    }
}

/// The same through the router (other spellings of the path, `HEAD`).
pub(crate) async fn status_routed(State(app): State<Arc<App>>, Segment(id): Segment, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let request_id = request_id(&parts.headers);
    status(&app, &id, &parts, &request_id).await
}

pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    headers.get(REQUEST_ID).cloned().unwrap_or_else(|| HeaderValue::from_static("none"))
}

/// The owner of a reservation that is to be changed, or the answer of the region that it was passed on to.
pub(crate) async fn mine_or_pass_on(
    app: &App,
    text: &str,
    request: Request,
) -> Result<Result<Mine, Response>, Refusal> {
    let (parts, body) = request.into_parts();
    let caller = caller::writer(app, &parts.headers)?;
    // None of these calls has a body; what is sent is read so that the connection can go on.
    body::read(body, region_api::limits::BODY_MAX_BYTES).await?;
    match find(app, &caller, text)? {
        Whose::Mine(mine) => Ok(Ok(mine)),
        Whose::Elsewhere(id) => {
            let request_id = request_id(&parts.headers);
            let answer = app.peers.pass_on(&id.region, &parts, &request_id, Some(caller.token), Bytes::new());
            answer.await.map(Err)
        }
    }
}

/// `DELETE /v1/reservations/{id}`
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Segment(text): Segment,
    request: Request,
) -> Result<Response, Refusal> {
    let Mine { id, view } = match mine_or_pass_on(&app, &text, request).await? {
        Ok(mine) => mine,
        Err(answer) => return Ok(answer),
    };
    // Who was told no with a whole range has no row yet; a cancellation must not make that undone.
    if let Standing::Rejected(_) = standing::of(&app, &view, &id).await? {
        return Err(Refusal::new(Code::Conflict, "a rejected reservation cannot be cancelled"));
    }
    acts::cancel(&app, &view, &id).await?;
    let standing = standing::of_now(&app, &view, &id).await?;
    match standing.status() {
        Status::Cancelled => Ok(json(StatusCode::OK, &standing::show(&view, &id, text, &standing))),
        other => {
            let detail = format!("a reservation that is {} cannot be cancelled", name(other));
            Err(Refusal::new(Code::Conflict, detail))
        }
    }
}

fn name(status: Status) -> String {
    serde_json::to_value(status).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// `POST /v1/reservations/{id}/reclaim`
pub(crate) async fn reclaim(
    State(app): State<Arc<App>>,
    Segment(text): Segment,
    request: Request,
) -> Result<Response, Refusal> {
    let Mine { id, view } = match mine_or_pass_on(&app, &text, request).await? {
        Ok(mine) => mine,
        Err(answer) => return Ok(answer),
    };
    let mut standing = standing::of(&app, &view, &id).await?;
    if matches!(standing, Standing::Lost) {
        acts::reclaim(&app, &view, &id).await?;
        standing = standing::of_now(&app, &view, &id).await?;
    }
    Ok(json(StatusCode::OK, &standing::show(&view, &id, text, &standing)))
}

/// `GET /v1/reservations/{id}/events`
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    Segment(text): Segment,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let caller = caller::reader(&app, &parts.headers)?;
    let Mine { id, view } = match find(&app, &caller, &text)? {
        Whose::Mine(mine) => mine,
        Whose::Elsewhere(id) => {
            let request_id = request_id(&parts.headers);
            return app.peers.pass_on(&id.region, &parts, &request_id, Some(caller.token), Bytes::new()).await;
        }
    };
    // Opening a stream over and over is polling by another name.
    if app.polls.too_many(view.concert_id(), id.entry) {
        return Err(too_many(&app, &view, &id).await);
    }
    let place = app.streams.clone().try_acquire_owned().map_err(|_| Refusal::overloaded("too many event streams"))?;
    let now = Instant::now();
    let watch = Watch { app, id, text, last: None, opened: now, spoke: now, done: false, _place: place };
    let chunks = futures::stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), watch))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would make news old.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Somebody watching a reservation.
struct Watch {
    app: Arc<App>,
    id: ReservationId,
    text: String,
    last: Option<Reservation>,
    opened: Instant,
    spoke: Instant,
    done: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// The next piece of the stream: a change, or a sign of life. `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.done || self.opened.elapsed() > limits::EVENTS_LIFE || self.app.shutdown.is_cancelled() {
                return None;
            }
            if self.last.is_some() {
                tokio::select! {
                    () = tokio::time::sleep(limits::EVENTS_CADENCE) => {}
                    () = self.app.shutdown.cancelled() => return None,
                }
            }
            let shown = self.look().await?;
            if self.last.as_ref().is_none_or(|last| differs(last, &shown)) {
                let data = serde_json::to_string(&shown).ok()?;
                self.done = shown.status.is_final();
                self.last = Some(shown);
                self.spoke = Instant::now();
                return Some(Bytes::from(format!("event: reservation\ndata: {data}\n\n")));
            }
            if self.spoke.elapsed() > limits::EVENTS_KEEPALIVE {
                self.spoke = Instant::now();
                return Some(Bytes::from_static(b": alive\n\n"));
            }
        }
    }

    /// Where it stands now; as before while the database is away. `None` when its concert is gone.
    async fn look(&self) -> Option<Reservation> {
        let view = self.app.catalog.view(self.id.concert.as_str())?;
        match standing::of(&self.app, &view, &self.id).await {
            Ok(standing) => Some(standing::show(&view, &self.id, self.text.clone(), &standing)),
            Err(_) => self.last.clone(),
        }
    }
}

/// Whether something changed that a person would see: not merely the time that the answer is from.
fn differs(before: &Reservation, now: &Reservation) -> bool {
    let mut same_time = now.clone();
    same_time.as_of = before.as_of;
    same_time != *before
}
