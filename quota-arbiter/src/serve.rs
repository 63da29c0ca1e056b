//! Serves HTTP/1.1 over TLS on a listener: bounded connections, handshake and headers on time, a graceful end.
//!
//! A connection lasts no longer than what it began with: once the arbiter has other certificates, or the other side's has
//! expired, it is closed with its next answer, so that whoever is there has to show who it is again.
//!
//! One task accepts; each connection is a task of its own. What the other side's certificate says goes to the service
//! as [`Peer`]; what it may do with that is not decided here.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arbiter_api::Role;
use axum::{
    Extension, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header::CONNECTION};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use region_api::Code;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    http::{Refusal, name},
    limits::{CONNECTIONS_MAX, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, HEADER_SIZE_MAX_BYTES, HEADER_TIMEOUT},
    tls::{self, Certificates, Identity},
};

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// What the certificate says; `None` where none is asked for.
    pub role: Option<Result<Role, String>>,
}

/// What a connection began with.
#[derive(Clone)]
struct Life {
    certificates: Arc<Certificates>,
    began_with: Arc<Identity>,
    /// When the other side's certificate expires.
    until: Option<SystemTime>,
}

/// Which of the two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// A client certificate is asked for.
    Machines,
    /// None is.
    People,
}

impl Port {
    fn config(self, identity: &Identity) -> Arc<ServerConfig> {
        match self {
            Self::Machines => identity.machines.clone(),
            Self::People => identity.people.clone(),
        }
    }
}

/// Serves until `shutdown` fires and what is under way is answered.
pub async fn serve(
    listener: TcpListener,
    port: Port,
    certificates: Arc<Certificates>,
    router: Router,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_header_size(HEADER_SIZE_MAX_BYTES);
    loop {
        let (stream, address) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: no connection is lost by waiting for some to close.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics::counter!("boxoffice_arbiter_connections_refused_total").increment(1);
            continue;
        };
        let began_with = certificates.now();
        let (config, certificates) = (port.config(&began_with), certificates.clone());
        let (builder, router, watcher) = (builder.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            // Errors are the other side's: no certificate, a foreign one, an expired one, not TLS at all.
            match handshake(stream, config).await {
                Ok((stream, shown)) => {
                    let shown = shown.filter(|_| port == Port::Machines);
                    let until = shown.as_ref().and_then(|shown| shown.until);
                    let life = Life { certificates, began_with, until };
                    let service = service(router, Peer { address, role: shown.map(|shown| shown.role) }, life);
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = watcher.watch(connection).await {
                        tracing::debug!(%error, %address, "connection ended");
                    }
                }
                Err(error) => {
                    metrics::counter!("boxoffice_arbiter_handshakes_failed_total").increment(1);
                    tracing::info!(%error, %address, "refused a connection");
                }
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the drain time was up");
    }
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// What the other side's certificate says.
struct Shown {
    role: Result<Role, String>,
    until: Option<SystemTime>,
}

async fn handshake(stream: TcpStream, config: Arc<ServerConfig>) -> Result<(TlsStream, Option<Shown>), std::io::Error> {
    stream.set_nodelay(true)?;
    let accepting = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the handshake took too long"))??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let shown = certificate.map(|certificate| Shown {
        role: tls::role(certificate),
        until: tls::not_after(certificate).map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
    });
    Ok((stream, shown))
}

fn service(router: Router, peer: Peer, life: Life) -> TowerToHyperService<Router> {
    let ends = middleware::from_fn_with_state(life, ends);
    TowerToHyperService::new(router.layer(Extension(peer)).layer(ends).layer(middleware::from_fn(name)))
}

/// Closes a connection whose time is over, with its next answer; an expired certificate does nothing any more.
async fn ends(State(life): State<Life>, request: Request, next: Next) -> Response {
    let expired = life.until.is_some_and(|until| SystemTime::now() > until);
    let mut response = match expired {
        true => {
            tracing::warn!(path = request.uri().path(), "a connection outlived its certificate, and was refused");
            Refusal::new(Code::Unauthenticated, "your certificate has expired").into_response()
        }
        false => next.run(request).await,
    };
    if expired || !Arc::ptr_eq(&life.certificates.now(), &life.began_with) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
