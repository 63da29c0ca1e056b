//! HAProxy in front of a region's nodes: its configuration; what it is told over its own socket is in `socket`.
//!
//! What is written never opens a node's admin port and never passes a path of the admin interface on. It is checked with
//! `haproxy -c` by the tests and by whoever puts it in place (`check_with_haproxy`).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::config::RegionConfig;

mod socket;

pub use socket::{Held, Server, ServerState, held, reload, server_states, servers, set_server_state, tell};

/// What an operator may say about HAProxy.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HaproxyConfig {
    /// Port of the front door on each of the region's addresses.
    pub port: u16,
    /// Certificate and key in one PEM file; without it the front door speaks plain HTTP.
    pub certificate: Option<PathBuf>,
    /// Connections at once, over all clients.
    pub connections_max: u32,
    /// Requests at once that a node gets; more wait in HAProxy's queue.
    pub node_requests_max: u32,
    /// A request waits at most so long in the queue, in milliseconds; then `503`.
    pub queue_ms: u32,
    /// Requests of one client address in 10 s; more get `429`. Whole networks share addresses, so this is not small.
    pub client_requests_per_10s: u32,
    /// Connections at once of one client address.
    pub client_connections_max: u32,
    /// A node that comes back gets its full part only after so long, in milliseconds.
    pub slow_start_ms: u32,
    /// HAProxy's own socket, for server states.
    pub socket: Option<PathBuf>,
    /// The region whose HAProxy on this machine the running edge keeps in step: its file and its servers' states.
    pub region: Option<String>,
    /// HAProxy's file, which the running edge writes whenever the region's nodes or a setting here change.
    pub file: Option<PathBuf>,
    /// Socket of HAProxy's master process (`haproxy -W -S …`), which is told to read the file again.
    pub master_socket: Option<PathBuf>,
}

impl Default for HaproxyConfig {
    fn default() -> Self {
        Self {
            port: 8080,
            certificate: None,
            connections_max: 100_000,
            node_requests_max: 4_000,
            queue_ms: 2_000,
            client_requests_per_10s: 2_000,
            client_connections_max: 1_000,
            slow_start_ms: 20_000,
            socket: None,
            region: None,
            file: None,
            master_socket: None,
        }
    }
}

/// Why no configuration can be written, or HAProxy refused something.
#[derive(Debug, thiserror::Error)]
pub enum HaproxyError {
    /// A value that would not be what it seems in HAProxy's file.
    #[error("{0}")]
    Value(String),
    /// No region of that name has nodes.
    #[error("region {0:?} has no nodes configured")]
    NoNodes(String),
    /// HAProxy cannot be started, or its socket reached.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// HAProxy said no.
    #[error("haproxy refused: {0}")]
    Refused(String),
}

/// Groups that every node stands in: for joins and pages, for calls about a reservation, for joins when nobody is ready.
const GROUPS: [&str; 3] = ["nodes", "reservations", "living"];

impl HaproxyConfig {
    /// Checks what `Snapshot::build` must refuse.
    ///
    /// # Errors
    /// [`HaproxyError::Value`].
    pub fn check(&self, regions: &[RegionConfig]) -> Result<(), HaproxyError> {
        let paths = [&self.certificate, &self.socket, &self.file, &self.master_socket].into_iter().flatten();
        for path in paths {
            let text = path.to_string_lossy();
            if text.chars().any(|c| c.is_whitespace() || c.is_control() || "\"'\\#".contains(c)) {
                return Err(HaproxyError::Value(format!("{text:?}: a path here has no spaces, quotes or '#'")));
            }
        }
        if self.port == 0 || self.connections_max == 0 || self.node_requests_max == 0 {
            return Err(HaproxyError::Value("port, connections_max and node_requests_max are above 0".to_owned()));
        }
        if let Some(name) = &self.region {
            let nodes = regions.iter().find(|r| r.name == *name).map(|r| r.nodes.len());
            if nodes.unwrap_or(0) == 0 {
                return Err(HaproxyError::NoNodes(name.clone()));
            }
        }
        for region in regions {
            let own_door = |node: &&SocketAddr| node.port() == self.port && region.addresses.contains(&node.ip());
            if let Some(node) = region.nodes.iter().find(own_door) {
                return Err(HaproxyError::Value(format!("node {node} of {} is HAProxy's own address", region.name)));
            }
        }
        Ok(())
    }

    /// HAProxy's whole configuration for a region.
    ///
    /// # Errors
    /// [`HaproxyError::NoNodes`].
    pub fn write(&self, region: &RegionConfig) -> Result<String, HaproxyError> {
        if region.nodes.is_empty() {
            return Err(HaproxyError::NoNodes(region.name.clone()));
        }
        let mut text = String::new();
        self.write_front(&mut text, region);
        // Joins and pages: to whoever is ready and has the fewest requests; where none is, to one that lives, which says
        // what is missing. Polls and payments of a reservation: always to one node, which counts them, and which need not
        // be ready for joins (with Redis down, people must still be able to pay).
        let groups = [
            (GROUPS[0], "balance leastconn", "/readyz"),
            (GROUPS[1], "balance hash path,field(4,/)\n    hash-type consistent", "/healthz"),
            (GROUPS[2], "balance leastconn", "/healthz"),
        ];
        for (name, balance, check) in groups {
            self.write_back(&mut text, (name, balance, check), region);
        }
        Ok(text)
    }

    fn write_front(&self, text: &mut String, region: &RegionConfig) {
        let Self { connections_max, client_requests_per_10s, client_connections_max, queue_ms, .. } = self;
        let tls = self.certificate.as_ref();
        let tls =
            tls.map_or(String::new(), |p| format!(" ssl crt {} alpn h2,http/1.1 ssl-min-ver TLSv1.2", p.display()));
        let socket = self.socket.as_ref();
        let socket =
            socket.map_or(String::new(), |p| format!("    stats socket {} mode 600 level admin\n", p.display()));
        let binds: String =
            region.addresses.iter().map(|a| format!("    bind {}{tls}\n", SocketAddr::new(*a, self.port))).collect();
        let _ = write!(
            text,
            "# Front door of region {name}. Written by edge; changes by hand are lost.
global
    maxconn {connections_max}
    # With what the system grants rather than not at all.
    no strict-limits
{socket}
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 60s
    timeout queue {queue_ms}ms
    timeout http-request 5s
    timeout http-keep-alive 30s
    option redispatch 1
    retries 2
    retry-on conn-failure empty-response
    option forwardfor

frontend public
{binds}    stick-table type ipv6 size 1m expire 30s store http_req_rate(10s),conn_cur
    http-request track-sc0 src
    http-request deny deny_status 429 hdr retry-after 10 if {{ sc_http_req_rate(0) gt {client_requests_per_10s} }}
    http-request deny deny_status 429 hdr retry-after 10 if {{ sc_conn_cur(0) gt {client_connections_max} }}
    # The operators' interface has a port of its own, which nothing here leads to; its paths are no one's business either.
    http-request deny deny_status 404 if {{ path -m reg ^/(metrics|v1/(status|ledger|drain|resume))/?$ }}
    # A join must not be sent twice by anybody but its sender, whose request_id makes that harmless.
    http-request disable-l7-retry if METH_POST
    http-request del-header x-forwarded-for
    use_backend reservations if {{ path_beg /v1/reservations/ }}
    use_backend living if {{ nbsrv(nodes) eq 0 }}
    default_backend nodes
",
            name = region.name,
        );
    }

    fn write_back(&self, text: &mut String, (name, balance, check): (&str, &str, &str), region: &RegionConfig) {
        let Self { node_requests_max, slow_start_ms, .. } = self;
        let _ = write!(
            text,
            "
backend {name}
    {balance}
    option httpchk
    http-check send meth GET uri {check} hdr host {region}
    http-check expect status 200
    default-server check inter 1s fastinter 250ms downinter 1s fall 3 rise 2 slowstart {slow_start_ms}ms maxconn {node_requests_max} on-marked-down shutdown-sessions
",
            region = region.name,
        );
        for (at, node) in region.nodes.iter().enumerate() {
            let _ = writeln!(text, "    server node{} {node}", at + 1);
        }
    }
}

/// Asks HAProxy itself whether a configuration is sound.
///
/// # Errors
/// [`HaproxyError::Io`] when it cannot be started, [`HaproxyError::Refused`] with its words.
pub fn check_with_haproxy(file: &Path) -> Result<(), HaproxyError> {
    let run = Command::new("haproxy").arg("-c").arg("-f").arg(file).output();
    let run = run.map_err(|e| HaproxyError::Io("haproxy (Debian package haproxy)".to_owned(), e))?;
    if run.status.success() {
        Ok(())
    } else {
        Err(HaproxyError::Refused(String::from_utf8_lossy(&run.stderr).into_owned()))
    }
}
