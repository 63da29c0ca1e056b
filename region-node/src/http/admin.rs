//! The operators' interface of one region: status, books, drain; of a standalone region also its concerts.
//!
//! Every call needs the operator's bearer token, health and metrics included; with the reader's, which an edge has, the
//! region's state can be looked at and nothing else. Changes are written down with who made them, by the modules that
//! make them.

use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use quota_protocol::autonomy::Autonomy;
use region_api::wire::{
    AcceptBooks, ArbiterStatus, Concert, ConcertDefinition, ConcertList, ConcertStatus, IntakeStatus, LedgerCursor,
    NodeStatus, PoolStatus, QuotaColumns, ShardStatus,
};
use region_api::{Code, ConcertName, InvalidField, Timestamp};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::front::REQUEST_ID;
use super::join::json;
use super::problem::Refusal;
use super::segment::Segment;
use super::{acts, body, pay};
use crate::app::App;
use crate::db::concerts::{self, PutError};
use crate::db::find;
use crate::db::holder::Own;
use crate::metrics;
use crate::view::View;

/// Who the books say it was.
const WHO: &str = "operator";
/// Longest definition of a concert, bytes: 64 tiers with long titles.
const DEFINITION_MAX_BYTES: usize = 128 * 1024;

impl From<InvalidField> for Refusal {
    fn from(error: InvalidField) -> Self {
        Self::new(Code::InvalidRequest, error.to_string())
    }
}

impl From<PutError> for Refusal {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Invalid(field) => field.into(),
            PutError::TotalTooLow { .. } | PutError::Over => Self::new(Code::Conflict, error.to_string()),
            PutError::Db(error) => error.into(),
        }
    }
}

/// What a reader may have: how the region is, not what stands in its books.
const FOR_READERS: [&str; 4] = ["/v1/status", "/metrics", "/healthz", "/readyz"];

/// Whether these credentials open this route.
fn let_in(app: &App, request: &Request) -> Result<(), Refusal> {
    let refused = match pay::credentials(request.headers(), &[&app.operator_token]) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    let Some(reader) = &app.reader_token else { return Err(refused) };
    pay::credentials(request.headers(), &[reader])?;
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    if looks && FOR_READERS.contains(&request.uri().path()) {
        return Ok(());
    }
    Err(Refusal::new(Code::Forbidden, "these credentials are for looking at the region's state only"))
}

/// Lets in who may come in and nobody else; names every request and logs what failed, as the public door does.
pub(crate) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let request_id = app.gate.request_id(request.headers());
    let path = request.uri().path().to_owned();
    request.headers_mut().insert(REQUEST_ID, request_id.clone());
    let mut response = match let_in(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    if response.status().is_server_error() {
        app.gate.log(&mut response, &path, &request_id);
    }
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

fn name(concert: &str) -> Result<ConcertName, Refusal> {
    ConcertName::new(concert).map_err(|_| Refusal::not_found("concert"))
}

/// Concerts of a region under arbiters are theirs to define.
fn standalone(app: &App) -> Result<(), Refusal> {
    let Some(arbiter) = &app.config.arbiter else { return Ok(()) };
    let urls: Vec<&str> = arbiter.urls.iter().map(url::Url::as_str).collect();
    let detail = format!("this region sells what its arbiters define: ask one of {}", urls.join(", "));
    Err(Refusal::new(Code::Conflict, detail))
}

/// `PUT /v1/concerts/{concert}`
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Segment(concert): Segment,
    request: Request,
) -> Result<Response, Refusal> {
    let concert = ConcertName::new(&concert).map_err(|error| Refusal::invalid("concert", error))?;
    standalone(&app)?;
    let bytes = body::read(request.into_body(), DEFINITION_MAX_BYTES).await?;
    let mut definition: ConcertDefinition = region_api::body::parse(&bytes)?;
    definition.check_name(&concert)?;
    if definition.weights.is_some() {
        return Err(Refusal::invalid("weights", "a standalone region has nobody to share with"));
    }
    definition.concert = Some(concert.clone());
    acts::put(&app, &concert, &definition, WHO).await?;
    app.catalog.refresh_now().await;
    shown(&app, &concert)
}

fn shown(app: &App, concert: &ConcertName) -> Result<Response, Refusal> {
    let view = app.catalog.view(concert.as_str());
    let view = view.ok_or_else(|| Refusal::unavailable("stored, but it cannot be read back yet", "catalog"))?;
    let concert: Concert = view.concert(app.catalog.now_ms());
    Ok(json(StatusCode::OK, &concert))
}

/// `GET /v1/concerts`
pub(crate) async fn list(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let mut concerts = super::concerts::all(&app)?;
    concerts.sort_by(|a, b| a.concert.cmp(&b.concert));
    Ok(json(StatusCode::OK, &ConcertList { concerts }))
}

/// `POST /v1/concerts/{concert}/close`
pub(crate) async fn close(State(app): State<Arc<App>>, Segment(concert): Segment) -> Result<Response, Refusal> {
    let concert = name(&concert)?;
    standalone(&app)?;
    concerts::close(&app.db, &concert, WHO).await?;
    app.catalog.refresh_now().await;
    shown(&app, &concert)
}

/// `POST /v1/concerts/{concert}/accept-books`
pub(crate) async fn accept_books(
    State(app): State<Arc<App>>,
    Segment(concert): Segment,
    request: Request,
) -> Result<Response, Refusal> {
    let concert = name(&concert)?;
    let bytes = body::read(request.into_body(), region_api::limits::BODY_MAX_BYTES).await?;
    let asked: AcceptBooks = region_api::body::parse(&bytes)?;
    let book = acts::accept_books(&app, &concert, &format!("{WHO}: {}", asked.reason)).await?;
    app.catalog.refresh_now().await;
    Ok(json(StatusCode::OK, &serde_json::json!({ "concert": concert, "book": book })))
}

/// Which page of the books.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageOf {
    concert: String,
    after: Option<String>,
}

/// `GET /v1/ledger?concert=&after=`
pub(crate) async fn ledger(
    State(app): State<Arc<App>>,
    page: Result<Query<PageOf>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(page) = page.map_err(|error| Refusal::invalid("query", error.body_text()))?;
    let concert = name(&page.concert)?;
    let after = match page.after.as_deref() {
        None | Some("") => LedgerCursor::start(),
        Some(text) => text.parse().map_err(|error| Refusal::new(Code::InvalidRequest, format!("{error}")))?,
    };
    Ok(json(StatusCode::OK, &acts::ledger(&app, &concert, &after).await?))
}

/// `POST /v1/drain`
pub(crate) async fn drain(State(app): State<Arc<App>>) -> Response {
    set_draining(&app, true)
}

/// `POST /v1/resume`
pub(crate) async fn resume(State(app): State<Arc<App>>) -> Response {
    set_draining(&app, false)
}

fn set_draining(app: &App, draining: bool) -> Response {
    if app.draining.swap(draining, Ordering::Relaxed) != draining {
        tracing::info!(draining, "told by an operator");
    }
    json(StatusCode::OK, &serde_json::json!({ "draining": draining }))
}

/// `GET /metrics`
pub(crate) async fn measured(State(app): State<Arc<App>>) -> Response {
    app.gate.metrics.inflight.set(app.gate.inflight() as f64);
    for (concert, view) in app.catalog.views().iter() {
        ::metrics::gauge!("boxoffice_queue_waiting_reservations", "concert" => concert.to_string())
            .set(view.waiting() as f64);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render()).into_response()
}

/// `GET /v1/status`
pub(crate) async fn status(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let mut concerts = Vec::new();
    let views: Vec<Arc<View>> = app.catalog.views().values().cloned().collect();
    for view in views {
        concerts.push(concert_status(&app, &view).await?);
    }
    concerts.sort_by(|a, b| a.concert.cmp(&b.concert));
    let missing = app.missing();
    let own = app.books.standing.own();
    let roles = app.config.roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
    Ok(json(
        StatusCode::OK,
        &NodeStatus {
            region: app.config.region.clone(),
            node: format!("{} pid {}", app.config.public.listen, std::process::id()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles,
            allocating: app.allocator.is_active(),
            draining: app.draining.load(Ordering::Relaxed),
            ready: missing.is_empty(),
            missing,
            identity: Some(app.identity),
            last_arbiter_contact: own.as_ref().and_then(|own| own.last_contact_ms).map(Timestamp::from_ms),
            arbiter: arbiter(&app, own.as_ref()),
            intake: intake(&app),
            concerts,
            as_of: Timestamp::from_ms(app.catalog.now_ms()),
        },
    ))
}

/// What the region can take.
fn intake(app: &App) -> IntakeStatus {
    IntakeStatus {
        queue: app.catalog.waiting(),
        queue_max: app.config.intake.queue_max,
        capacity_per_s: app.config.intake.capacity_per_s,
        refused: app.refused_joins.load(Ordering::Relaxed),
    }
}

/// How a region stands with its arbiters.
fn arbiter(app: &App, own: Option<&Own>) -> Option<ArbiterStatus> {
    let standing = &app.books.standing;
    let autonomy = standing.autonomy()?;
    let link = standing.link();
    let registration = own.and_then(|own| own.stored.registration);
    Some(ArbiterStatus {
        connected: link.connected,
        leader_url: link.leader_url,
        last_contact: own.and_then(|own| own.last_contact_ms).map(Timestamp::from_ms),
        incarnation: own.map_or(0, |own| own.stored.incarnation.get()),
        epoch: registration.map_or(0, |registration| registration.epoch.get()),
        identity: own.map(|own| own.stored.identity.to_string()),
        registered: standing.is_registered(),
        autonomy_left_ms: match autonomy {
            Autonomy::Sells { for_ms } => for_ms,
            Autonomy::Ended => 0,
        },
        holding: standing.may_hold(),
        halted: own.and_then(|own| own.halted_text.clone()),
    })
}

async fn concert_status(app: &App, view: &View) -> Result<ConcertStatus, Refusal> {
    let parts = view.parts();
    let (row, snapshot) = (&parts.concert, &parts.snapshot);
    let lost = |shard: u16| {
        let of_shard = snapshot.generations.iter().filter(move |g| g.shard == shard && g.survived_seq.is_some());
        of_shard.map(|generation| generation.generation).collect()
    };
    let shards = parts.shards.iter().enumerate().map(|(no, shard)| ShardStatus {
        shard: no as u16,
        generation: shard.generation,
        cursor_seq: shard.cursor_seq,
        tail_seq: shard.tail_seq,
        lost_generations: lost(no as u16),
    });
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut pools = Vec::new();
    for (tier_no, epoch, registered_as) in find::registrations(&app.db, row.concert_id).await? {
        let Some((tier, _)) = view.tier(tier_no) else { continue };
        let stock = view.stock(tier_no);
        pools.push(PoolStatus {
            tier: tier.clone(),
            epoch,
            registered_as,
            columns: QuotaColumns {
                granted: signed(stock.granted),
                returned: signed(stock.returned),
                held_in: signed(stock.held_in),
                released: signed(stock.released),
                sold: signed(stock.sold),
                refunded: signed(stock.refunded),
            },
            unfolded: signed(stock.unfolded),
            held: signed(stock.held()),
            available: signed(stock.available()),
        });
    }
    Ok(ConcertStatus {
        concert: row.concert.clone(),
        state: view.state(app.catalog.now_ms()),
        version: signed(row.version),
        book: signed(snapshot.book),
        halted: snapshot.halted.clone(),
        queued: view.waiting(),
        waiting: snapshot.waiting.count,
        shards: shards.collect(),
        pools,
    })
}
