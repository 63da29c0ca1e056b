//! Serves HTTP/1.1 over TLS on a listener: bounded connections, handshake and headers on time, a graceful end.
//!
//! One task accepts; each connection is a task of its own. What the other side's certificate says goes to the service
//! as [`Peer`]; what it may do with that is not decided here.

use std::{net::SocketAddr, sync::Arc};

use arbiter_api::Role;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
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
        let config = port.config(&certificates.now());
        let (builder, router, watcher) = (builder.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            // Errors are the other side's: no certificate, a foreign one, an expired one, not TLS at all.
            match handshake(stream, config).await {
                Ok((stream, role)) => {
                    let service = service(router, Peer { address, role: role.filter(|_| port == Port::Machines) });
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

async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(TlsStream, Option<Result<Role, String>>), std::io::Error> {
    stream.set_nodelay(true)?;
    let accepting = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the handshake took too long"))??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let role = certificate.map(tls::role);
    Ok((stream, role))
}

fn service(router: Router, peer: Peer) -> TowerToHyperService<Router> {
    TowerToHyperService::new(router.layer(Extension(peer)))
}
