//! A small arbiter: the protocol's real issuer behind HTTPS, without raft. It can be told to drop, double and delay
//! what it hears and says, to be away, and to grant and ask as a test wants. A second address sends everybody to the first.

use arbiter_api::{ConcertOrder, Meta, PoolStock, RegisterReply, SyncBody, SyncReply};
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use parking_lot::Mutex;
use quota_protocol::command::{CommandRefused, Outcome};
use quota_protocol::holder::HaltReason;
use quota_protocol::invariant::{invariant_agreement, invariant_conservation};
use quota_protocol::message::Report;
use quota_protocol::sold_out::{self, Stock};
use quota_protocol::wire::{RegisterAnswer, RegisterRequest, SyncAnswer};
use quota_protocol::{Command, Counters, Issuer, PoolId, RegionId, Tickets};
use region_api::Timestamp;
use region_api::wire::ConcertDefinition;
use reqwest::StatusCode;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Authority;

#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) issuer: Issuer,
    pub(crate) asks: BTreeMap<PoolId, Tickets>,
    pub(crate) reports: BTreeMap<RegionId, Report>,
    /// Answers nobody.
    pub(crate) away: bool,
    /// Of a hundred, how many exchanges lose their way in, lose their way out, are heard twice, come late.
    pub(crate) faults: [u32; 4],
    pub(crate) heard: u64,
    pub(crate) registered: u64,
    concerts: Vec<ConcertOrder>,
    concerts_version: u64,
}

#[derive(Clone)]
pub(crate) struct TestArbiter {
    pub(crate) inside: Arc<Mutex<Inside>>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) urls: Vec<String>,
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

pub(crate) fn pool(tier: &str) -> PoolId {
    format!("demo/{tier}").parse().unwrap()
}

pub(crate) fn east() -> RegionId {
    "east".parse().unwrap()
}

pub(crate) fn tickets(number: u64) -> Tickets {
    Tickets::new(number).unwrap()
}

impl TestArbiter {
    pub(crate) async fn start() -> Self {
        let authority = Arc::new(Authority::new());
        let inside = Arc::new(Mutex::new(Inside::default()));
        inside.lock().issuer.apply(&Command::AddRegion { region: east() });
        let mut arbiter = Self { inside, authority, urls: Vec::new() };
        let routes = Router::new()
            .route("/v1/regions/{region}/sync", post(sync))
            .route("/v1/regions/{region}/register", post(register))
            .with_state(arbiter.clone());
        let leader = arbiter.listen(routes).await;
        let to = leader.clone();
        let elsewhere = Router::new().fallback(move |request: axum::extract::Request| {
            let to = format!("{to}{}", request.uri().path());
            async move { (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response() }
        });
        let follower = arbiter.listen(elsewhere).await;
        // Who does not lead is asked first, after one that is not there at all.
        arbiter.urls = vec!["https://127.0.0.1:1/".to_owned(), format!("{follower}/"), format!("{leader}/")];
        arbiter
    }

    async fn listen(&self, routes: Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Tls { listener, acceptor: TlsAcceptor::from(self.authority.server()) };
        tokio::spawn(async move { axum::serve(tls, routes).await });
        format!("https://{address}")
    }

    /// Defines the concert `demo`.
    pub(crate) fn define(&self, definition: &ConcertDefinition) {
        let mut inside = self.inside.lock();
        for tier in &definition.tiers {
            let (pool, total) = (pool(tier.tier.as_str()), tickets(tier.total));
            inside.issuer.apply(&Command::CreatePool { pool, total });
        }
        let order = ConcertOrder { concert: "demo".parse().unwrap(), definition: definition.clone(), closed_at: None };
        inside.concerts = vec![order];
        inside.concerts_version += 1;
    }

    pub(crate) fn close(&self) {
        let mut inside = self.inside.lock();
        inside.concerts[0].closed_at = Some(Timestamp::from_ms(2_000));
        inside.concerts_version += 1;
    }

    /// Grants `more` tickets of a tier to the region, if the pool has them.
    pub(crate) fn grant(&self, tier: &str, more: u64) {
        let mut inside = self.inside.lock();
        let granted = inside.issuer.slice(&east(), &pool(tier)).granted + tickets(more);
        let epoch = inside.issuer.view(&east()).epoch;
        let outcome = inside.issuer.apply(&Command::GrantUpTo { region: east(), epoch, pool: pool(tier), granted });
        assert!(matches!(outcome, Outcome::Granted(_) | Outcome::Ignored(_)), "{outcome:?}");
    }

    /// Asks for `more` tickets back.
    pub(crate) fn ask_back(&self, tier: &str, more: u64) {
        let mut inside = self.inside.lock();
        let returned = inside.issuer.slice(&east(), &pool(tier)).accepted;
        inside.asks.insert(pool(tier), returned + tickets(more));
    }

    pub(crate) fn away(&self, away: bool) {
        self.inside.lock().away = away;
    }

    /// P, G, R, and the floor.
    pub(crate) fn pool(&self, tier: &str) -> (u64, u64, u64, Counters) {
        let inside = self.inside.lock();
        let slice = inside.issuer.slice(&east(), &pool(tier));
        (inside.issuer.pools()[&pool(tier)].pool.get(), slice.granted.get(), slice.accepted.get(), slice.floor)
    }

    /// What must hold at any time between the issuer and the region's rows.
    pub(crate) fn audit(&self, rows: &BTreeMap<PoolId, quota_protocol::holder::Row>) {
        let inside = self.inside.lock();
        for (id, pool) in inside.issuer.pools() {
            assert_eq!(invariant_conservation(&inside.issuer, pool), Ok(()));
            let row = rows.get(id).map(|row| row.counters).unwrap_or_default();
            assert_eq!(invariant_agreement(&inside.issuer.slice(&east(), id), &row), Ok(()));
        }
    }
}

impl Inside {
    fn take(&mut self, body: &SyncBody) {
        self.heard += 1;
        let Ok(Some(report)) = body.sync.clone().report() else { return };
        let (mut commands, heard) = self.issuer.read_report(&report);
        commands.push(Command::RaiseFloors { heard });
        for command in commands {
            self.issuer.apply(&command);
        }
        self.reports.insert(report.region, report);
    }

    fn reply(&self, known: u64) -> SyncReply {
        let asked = |pool: &PoolId| self.asks.get(pool).copied().unwrap_or_default();
        let stock = |pool: &PoolId| match sold_out::stock(&self.issuer, pool) {
            Some(Stock::MayCome { at_most }) => PoolStock { unsold_at_most: at_most, sold_out: false },
            _ => PoolStock { unsold_at_most: Tickets::ZERO, sold_out: true },
        };
        SyncReply {
            meta: meta(),
            sync: SyncAnswer::new(&self.issuer.view(&east()), self.issuer.answer(&east(), asked)),
            heartbeat_ms: 100,
            stock: self.issuer.pools().keys().map(|pool| (*pool, stock(pool))).collect(),
            concerts_version: self.concerts_version,
            concerts: (known != self.concerts_version).then(|| self.concerts.clone()),
        }
    }

    fn has_news(&self, body: &SyncBody) -> bool {
        let reported = |pool: &PoolId| body.sync.pools.iter().find(|row| row.pool == *pool).map(|row| row.counters);
        let higher = self.issuer.pools().keys().any(|pool| {
            let row = reported(pool).unwrap_or_default();
            self.issuer.slice(&east(), pool).granted > row.granted
                || self.asks.get(pool).is_some_and(|asked| *asked > row.returned && !row.available().is_zero())
        });
        higher || self.concerts_version != body.concerts_version
    }
}

fn meta() -> Meta {
    Meta { node: 1, term: 1, index: 1, as_of: Timestamp::from_ms(1_000) }
}

fn lost() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "lost").into_response()
}

fn happens(of_a_hundred: u32) -> bool {
    rand::random::<u32>() % 100 < of_a_hundred
}

async fn sync(Shared(arbiter): Shared<TestArbiter>, Json(body): Json<SyncBody>) -> Response {
    let [lost_in, lost_out, twice, late] = arbiter.inside.lock().faults;
    if arbiter.inside.lock().away || happens(lost_in) {
        return lost();
    }
    if happens(late) {
        tokio::time::sleep(Duration::from_millis(rand::random::<u64>() % 60)).await;
    }
    // An answer that was made before the report was heard is as good as one that was overtaken.
    let early = arbiter.inside.lock().reply(body.concerts_version);
    for _ in 0..=u32::from(happens(twice)) {
        arbiter.inside.lock().take(&body);
    }
    let until = Instant::now() + Duration::from_millis(if body.look { 0 } else { body.wait_ms });
    while Instant::now() < until && !arbiter.inside.lock().has_news(&body) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if arbiter.inside.lock().away || happens(lost_out) {
        return lost();
    }
    let reply = if happens(late) { early } else { arbiter.inside.lock().reply(body.concerts_version) };
    Json(reply).into_response()
}

async fn register(Shared(arbiter): Shared<TestArbiter>, Json(body): Json<RegisterRequest>) -> Response {
    let [lost_in, lost_out, ..] = arbiter.inside.lock().faults;
    if arbiter.inside.lock().away || happens(lost_in) {
        return lost();
    }
    let register = body.register().unwrap();
    let answer = {
        let mut inside = arbiter.inside.lock();
        let registered = inside.issuer.registration(&register.region, &register.identity);
        match registered.filter(|registered| registered.epoch == register.epoch_as_read.next()) {
            Some(registered) => RegisterAnswer::Registered(registered),
            None => match inside.issuer.apply(&Command::Register(register)) {
                Outcome::Registered(registered) => {
                    inside.registered += 1;
                    RegisterAnswer::Registered(registered)
                }
                Outcome::Refused(CommandRefused::Register(reason)) => {
                    RegisterAnswer::Refused(HaltReason::Refused(reason))
                }
                _ => RegisterAnswer::ReadAgain,
            },
        }
    };
    if happens(lost_out) {
        return lost();
    }
    Json(RegisterReply { meta: meta(), answer }).into_response()
}
