//! A running edge in this process, and regions that can be told to be ill.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use edge::server::Edge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// A region's readiness and status, and the switch for them.
pub(crate) struct FakeRegion {
    pub(crate) address: SocketAddr,
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) status: Arc<parking_lot::Mutex<String>>,
    pub(crate) asked: Arc<AtomicU64>,
    _server: tokio_util::task::AbortOnDropHandle<()>,
}

impl FakeRegion {
    pub(crate) async fn start() -> Self {
        let ready = Arc::new(AtomicBool::new(true));
        let status = Arc::new(parking_lot::Mutex::new("{}".to_owned()));
        let asked = Arc::new(AtomicU64::new(0));
        let (r, s, a) = (ready.clone(), status.clone(), asked.clone());
        let readyz = move || {
            a.fetch_add(1, Ordering::Relaxed);
            let ready = r.load(Ordering::Relaxed);
            async move { if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE } }
        };
        let status_text = move || {
            let text = s.lock().clone();
            async move { text }
        };
        let router = Router::new().route("/readyz", get(readyz)).route("/v1/status", get(status_text));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, ready, status, asked, _server: tokio_util::task::AbortOnDropHandle::new(server) }
    }
}

/// Writes a configuration to a folder of its own, with quick checks.
pub(crate) struct Setup {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) regions: Vec<FakeRegion>,
}

impl Setup {
    pub(crate) async fn new(tail: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut regions = Vec::new();
        for _ in 0..3 {
            regions.push(FakeRegion::start().await);
        }
        let setup = Self { path: folder.path().join("edge.toml"), folder, regions };
        setup.write(tail);
        setup
    }

    /// Writes the configuration again, with another tail.
    pub(crate) fn write(&self, tail: &str) {
        let database = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/country.mmdb");
        let mut text = super::CONFIG.replace("state_folder", "udp_threads = 2\nstate_folder");
        for (name, region) in ["east", "west", "south"].into_iter().zip(&self.regions) {
            let urls = format!(
                "name = \"{name}\"\nready_url = \"http://{0}/readyz\"\nstatus_url = \"http://{0}/v1/status\"",
                region.address
            );
            text = text.replace(&format!("name = \"{name}\""), &urls);
        }
        let health = "[health]\ninterval_ms = 20\ntimeout_ms = 500\nup_after = 20\ndown_after = 10";
        text = format!("{text}\n{tail}\n{health}\n[geo]\ndatabases = [{database:?}]\n");
        std::fs::write(&self.path, text).unwrap();
    }

    pub(crate) async fn start(&self) -> Edge {
        Edge::start(&self.path, None).await.unwrap()
    }
}

/// One query over UDP; `None` when no answer comes within half a second.
pub(crate) async fn udp(to: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(packet, to).await.unwrap();
    let mut answer = vec![0; 4096];
    let len = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut answer)).await.ok()?.unwrap();
    answer.truncate(len);
    Some(answer)
}

/// One query over a TCP connection; `None` when the server closes it.
pub(crate) async fn tcp(stream: &mut TcpStream, packet: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(packet.len()).unwrap();
    stream.write_all(&[&len.to_be_bytes()[..], packet].concat()).await.ok()?;
    read_frame(stream).await
}

pub(crate) async fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let len = stream.read_u16().await.ok()?;
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.unwrap()
}
