//! HAProxy (Debian package `haproxy`, started here) with the configuration that the edge writes, in front of two nodes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use edge::config::RegionConfig;
use edge::haproxy::{HaproxyConfig, ServerState, check_with_haproxy, server_states, set_server_state};
use tokio_util::task::AbortOnDropHandle;

const MISSING: &str = "haproxy is not installed: apt-get install haproxy";

fn region(nodes: &[SocketAddr]) -> RegionConfig {
    let nodes: Vec<String> = nodes.iter().map(|n| format!("\"{n}\"")).collect();
    toml::from_str(&format!("name = 'east'\naddresses = ['127.0.0.1']\nnodes = [{}]", nodes.join(", "))).unwrap()
}

/// A node that counts what it gets; dropped, it is gone at once.
struct Node {
    address: SocketAddr,
    served: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
    server: Option<AbortOnDropHandle<()>>,
}

impl Node {
    async fn start() -> Self {
        let (served, ready) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
        let (count, is_ready) = (served.clone(), ready.clone());
        let readyz = move || {
            let ready = is_ready.load(Ordering::Relaxed);
            async move { if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE } }
        };
        let serve = move |request: Request| {
            count.fetch_add(1, Ordering::Relaxed);
            async move { request.uri().path().to_owned() }
        };
        let alive = get(|| async { "alive" });
        let router = Router::new().route("/readyz", get(readyz)).route("/healthz", alive).fallback(serve);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, served, ready, server: Some(AbortOnDropHandle::new(server)) }
    }
}

struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Setup {
    _haproxy: Haproxy,
    _folder: tempfile::TempDir,
    config: HaproxyConfig,
    url: String,
    client: reqwest::Client,
}

impl Setup {
    async fn start(nodes: &[&Node], change: impl Fn(&mut HaproxyConfig)) -> Self {
        Self::start_trusting(nodes, change, []).await
    }

    async fn start_trusting<const N: usize>(
        nodes: &[&Node],
        change: impl Fn(&mut HaproxyConfig),
        trusted: [reqwest::Certificate; N],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = edge::compare::free_port().unwrap();
        let socket = folder.path().join("socket");
        let mut config =
            HaproxyConfig { port, slow_start_ms: 1_000, socket: Some(socket.clone()), ..HaproxyConfig::default() };
        change(&mut config);
        let region = region(&nodes.iter().map(|n| n.address).collect::<Vec<_>>());
        config.check(std::slice::from_ref(&region)).unwrap();
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config.write(&region).unwrap()).unwrap();
        check_with_haproxy(&file).unwrap_or_else(|e| panic!("{e} ({MISSING})"));
        let child =
            Command::new("haproxy").arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).stdout(Stdio::null()).spawn();
        let haproxy = Haproxy(child.unwrap_or_else(|_| panic!("{MISSING}")));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().no_proxy().tls_certs_only(trusted).pool_max_idle_per_host(0).build().unwrap();
        let scheme = if config.certificate.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}");
        let setup = Self { _haproxy: haproxy, _folder: folder, config, url, client };
        setup.until("HAProxy answers", || setup.client.get(&setup.url).send(), |r| r.is_ok()).await;
        setup
    }

    async fn get(&self, path: &str) -> u16 {
        self.client.get(format!("{}{path}", self.url)).send().await.map_or(0, |r| r.status().as_u16())
    }

    async fn until<T, F: Future<Output = T>>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> F,
        holds: impl Fn(&T) -> bool,
    ) {
        let begun = Instant::now();
        while !holds(&ask().await) {
            assert!(begun.elapsed() < Duration::from_secs(15), "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// States of a node in all groups.
    fn states(&self, node: usize) -> Vec<String> {
        let all = server_states(self.config.socket.as_deref().unwrap()).unwrap();
        all.into_iter().filter(|(_, server, _)| *server == format!("node{node}")).map(|(_, _, state)| state).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_under_load_costs_nothing_and_the_admin_paths_stay_shut() {
    let (first, mut second) = (Node::start().await, Node::start().await);
    let setup = Setup::start(&[&first, &second], |_| {}).await;
    for path in ["/metrics", "/v1/status", "/v1/ledger", "/v1/drain", "/v1/resume"] {
        assert_eq!(setup.get(path).await, 404, "{path}");
    }
    let mut bad = 0;
    for i in 0..400 {
        if i == 200 {
            assert!(
                first.served.load(Ordering::Relaxed) > 50 && second.served.load(Ordering::Relaxed) > 50,
                "both are used"
            );
            second.server = None;
        }
        bad += u32::from(setup.get("/v1/concerts").await != 200);
    }
    assert_eq!(bad, 0, "a connection refused is tried again at the other node");
    setup.until("noticed", || async { setup.states(2) }, |s| s.iter().all(|s| s.starts_with("DOWN"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_of_a_reservation_go_to_one_node_and_move_when_it_is_not_ready() {
    let (first, second) = (Node::start().await, Node::start().await);
    let setup = Setup::start(&[&first, &second], |_| {}).await;
    setup
        .until("both up", || async { [setup.states(1), setup.states(2)].concat() }, |s| s.iter().all(|s| s == "UP"))
        .await;
    let served = || [first.served.load(Ordering::Relaxed), second.served.load(Ordering::Relaxed)];
    let mut used = [0u64, 0];
    for reservation in 0..20 {
        let before = served();
        for suffix in ["", "/events", "/payment"] {
            assert_eq!(setup.get(&format!("/v1/reservations/r{reservation}{suffix}")).await, 200);
        }
        let after = served();
        let counts = [after[0] - before[0], after[1] - before[1]];
        assert!(counts == [3, 0] || counts == [0, 3], "{counts:?}");
        used[usize::from(counts[1] == 3)] += 1;
    }
    assert!(used[0] > 2 && used[1] > 2, "{used:?}");
    // Not ready for joins: they go elsewhere, while people with a reservation are still served where they are known.
    first.ready.store(false, Ordering::Relaxed);
    let of_joins = || async { setup.states(1) };
    setup.until("out", of_joins, |s| s.iter().filter(|s| s.starts_with("DOWN")).count() == 1).await;
    let before = served();
    for reservation in 0..20 {
        assert_eq!(setup.get(&format!("/v1/reservations/r{reservation}")).await, 200);
        assert_eq!(setup.get("/v1/concerts").await, 200);
    }
    let polls = used[0];
    assert_eq!(served()[0] - before[0], polls, "its reservations, and nothing else");
    second.ready.store(false, Ordering::Relaxed);
    setup.until("both out", || async { setup.states(2) }, |s| s.iter().any(|s| s.starts_with("DOWN"))).await;
    assert_eq!(setup.get("/v1/concerts").await, 200, "nobody is ready: a living one says what is missing");
    set_server_state(setup.config.socket.as_ref().unwrap(), 1, ServerState::Drain).unwrap();
    let before = served();
    for reservation in 0..20 {
        assert_eq!(setup.get(&format!("/v1/reservations/r{reservation}")).await, 200);
    }
    assert_eq!(served()[0], before[0], "drained, it gets nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_states_are_set_over_the_socket_and_limits_hold() {
    let (first, second) = (Node::start().await, Node::start().await);
    let setup = Setup::start(&[&first, &second], |c| c.client_requests_per_10s = 60).await;
    let socket = setup.config.socket.clone().unwrap();
    set_server_state(&socket, 1, ServerState::Drain).unwrap();
    assert!(setup.states(1).iter().all(|s| s.starts_with("DRAIN")), "{:?}", setup.states(1));
    let before = first.served.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(setup.get("/").await, 200);
    }
    assert_eq!(first.served.load(Ordering::Relaxed), before, "a drained node gets nothing");
    set_server_state(&socket, 1, ServerState::Ready).unwrap();
    assert!(set_server_state(&socket, 9, ServerState::Ready).is_err(), "no such node");
    let mut refused = 0;
    for _ in 0..80 {
        refused += u32::from(setup.get("/").await == 429);
    }
    assert!(refused > 10, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_the_front_door_speaks_tls_only() {
    let node = Node::start().await;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sale.pem");
    std::fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    let trusted = [reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()];
    let setup = Setup::start_trusting(&[&node], |c| c.certificate = Some(file.clone()), trusted).await;
    setup.until("it serves", || setup.get("/v1/concerts"), |status| *status == 200).await;
    let plain = setup.url.replace("https:", "http:");
    assert!(setup.client.get(plain).send().await.is_err(), "nothing is said without TLS");
    let strangers = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    assert!(strangers.get(&setup.url).send().await.is_err(), "the certificate is the one configured");
}

#[test]
fn what_cannot_be_written_is_refused() {
    let config = HaproxyConfig::default();
    assert!(config.write(&region(&[])).unwrap_err().to_string().contains("no nodes"));
    let own = region(&[SocketAddr::from(([127, 0, 0, 1], config.port))]);
    assert!(config.check(&[own]).unwrap_err().to_string().contains("own address"));
    let spaced = HaproxyConfig { certificate: Some("/tmp/a b\nglobal".into()), ..config };
    assert!(spaced.check(&[]).is_err(), "a path must not become a line of its own");
}

/// The configuration for IPVS that the documentation gives is sound to keepalived's own parser.
#[test]
fn the_keepalived_example_is_sound() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/keepalived.example.conf");
    let run = Command::new("keepalived").args(["--config-test", "-f", file]).output();
    let run = run.unwrap_or_else(|_| panic!("keepalived is not installed: apt-get install keepalived"));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && !said.contains("Unknown keyword"),
        "{said}{}",
        String::from_utf8_lossy(&run.stdout)
    );
}
