//! The measurement of `ops bench dns`: queries per CPU second of the server, beside gdnsd and Knot, in one run.
//!
//! Every server gets one core, the load another one; each is measured in turns with the others, so that a busy machine
//! slows all of them alike. CPU time is the kernel's own account of the server's threads.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::{Peer, PeerError, PeerPlan, blast, cpu_seconds, free_address, nets};
use crate::server::{StartError, check};

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchPlan {
    /// The program `edge`.
    pub program: PathBuf,
    /// A geo database with country codes.
    pub database: PathBuf,
    /// A folder to work in.
    pub folder: PathBuf,
    /// Length of each turn.
    pub turn: Duration,
    /// Turns of each server.
    pub turns: usize,
}

/// One measured figure; `ops bench` prints it as it is.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct BenchLine {
    /// `dns`.
    pub bench: &'static str,
    /// What was measured.
    pub name: String,
    /// The edge's figure.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The other server's figure in the same run.
    pub baseline: f64,
    /// `value / baseline`.
    pub ratio: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A server of others.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The edge's configuration.
    #[error(transparent)]
    Edge(#[from] StartError),
    /// Files, sockets, processes.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// The servers do not agree, so that their speed does not compare.
    #[error("{0}")]
    Differ(String),
    /// A server left queries without an answer.
    #[error("{0}")]
    Lost(String),
}

const ZONE: &str = "sale.test";
const REGIONS: [(&str, &str, &str); 3] =
    [("east", "192.0.2.1", "DE"), ("west", "192.0.2.2", "US"), ("south", "192.0.2.3", "JP")];

/// Measures. Takes about `turn × turns × 15`, and some seconds to start the servers.
///
/// # Errors
/// [`BenchError`]; a missing program is named with its Debian package.
pub fn run_bench(plan: &BenchPlan) -> Result<Vec<BenchLine>, BenchError> {
    let io = |e| BenchError::Io(plan.folder.display().to_string(), e);
    leave_the_servers_core()?;
    let edge_folder = plan.folder.join("edge");
    std::fs::create_dir_all(&edge_folder).map_err(io)?;
    let address = free_address()?;
    let config = edge_folder.join("edge.toml");
    std::fs::write(&config, edge_config(address, free_address()?, &plan.database)).map_err(io)?;
    let (_, snapshot) = check(&config)?;
    let (nets, count) = nets(&snapshot)?;
    let edge = EdgeProcess::start(&plan.program, &config, address)?;
    let zone = |dynamic: &str| {
        let soa = "@ 3600 SOA ns1 hostmaster 1 7200 900 1209600 60\n@ 3600 NS ns1\nns1 3600 A 192.0.2.53\n";
        format!("$TTL 3600\n{soa}@ 30 {dynamic}\n")
    };
    let (gdnsd_zone, knot_zone) = (zone("DYNA geoip!sale"), zone("A 192.0.2.1"));
    let (gdnsd_folder, knot_folder) = (plan.folder.join("gdnsd"), plan.folder.join("knot"));
    let datacenters = REGIONS.map(|(name, address, _)| (name.to_owned(), address.parse().into_iter().collect()));
    let gdnsd = Peer::gdnsd(&peer(&gdnsd_folder, &gdnsd_zone), &datacenters, &nets)?;
    let knot = Peer::knot(&peer(&knot_folder, &knot_zone))?;
    let networks: Vec<ipnet::IpNet> =
        snapshot.geo.networks().map_err(PeerError::from)?.into_iter().map(|(n, _)| n).collect();
    let queries = queries(&networks, 50_000);
    same_answers(edge.address, gdnsd.address, &queries[..2_000])?;

    let servers =
        [("edge", edge.address, edge.pid()), ("gdnsd", gdnsd.address, gdnsd.pid()), ("knot", knot.address, knot.pid())];
    let udp = in_turns(plan, &servers, |to| udp_turn(to, &queries, plan.turn))?;
    let mut measured = vec![("udp_client_subnet", udp)];
    let turns = Cell::new(0);
    for load in TCP {
        let turn = |to| {
            let mut tries = 0;
            loop {
                turns.set(turns.get() + 1);
                tries += 1;
                match tcp_turn(to, Ipv4Addr::from(SOURCES + turns.get()), plan, load) {
                    // On a busy machine Knot's queue of new connections overflows, and dnsperf counts who waits as lost.
                    Err(BenchError::Lost(_)) if tries < TRIES => {}
                    done => return done,
                }
            }
        };
        measured.push((load.name, in_turns(plan, &servers, turn)?));
    }
    let mut lines = Vec::new();
    for (kind, figures) in &measured {
        for (at, (name, ..)) in servers.iter().enumerate().skip(1) {
            lines.push(line(format!("{kind}_vs_{name}"), figures[0].per_cpu_s, "queries/cpu_s", figures[at].per_cpu_s));
        }
    }
    // The same load for all: half of what the edge completed when it was given as much as it could take.
    let half = (udp[0].per_s / 2.0) as u64;
    let mut latencies: [Vec<f64>; 3] = Default::default();
    for _ in 0..plan.turns.max(1) {
        for (at, (_, address, _)) in servers.iter().enumerate() {
            latencies[at].push(latency_ms(*address, &queries, plan.turn, half)?);
        }
    }
    let latencies = latencies.map(median);
    for (at, (name, _, pid)) in servers.iter().enumerate().skip(1) {
        lines.push(line(format!("latency_p99_half_load_vs_{name}"), latencies[0], "ms", latencies[at]));
        lines.push(line(format!("memory_vs_{name}"), memory_mib(edge.pid())?, "MiB", memory_mib(*pid)?));
    }
    lines.push(line("half_load".to_owned(), half as f64, "queries/s", udp[0].per_s));
    lines.push(line("networks".to_owned(), networks.len() as f64, "networks", count as f64));
    Ok(lines)
}

/// Core that the servers have to themselves, in turns.
const SERVERS_CORE: usize = 0;

/// Moves this process, and the load that it starts, to another core than the servers'.
fn leave_the_servers_core() -> Result<(), BenchError> {
    let wrong = |e: nix::Error| BenchError::Io("a second core for the load".to_owned(), e.into());
    let mut other = nix::sched::CpuSet::new();
    other.set(SERVERS_CORE + 1).map_err(wrong)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &other).map_err(wrong)
}

fn peer<'a>(folder: &'a Path, zone_text: &'a str) -> PeerPlan<'a> {
    PeerPlan { folder, zone: ZONE, zone_text, core: Some(SERVERS_CORE) }
}

fn line(name: String, value: f64, unit: &'static str, baseline: f64) -> BenchLine {
    BenchLine { bench: "dns", name, value, unit, baseline, ratio: if baseline > 0.0 { value / baseline } else { 0.0 } }
}

fn edge_config(address: SocketAddr, admin: SocketAddr, database: &Path) -> String {
    let regions: String = REGIONS
        .iter()
        .map(|(name, address, country)| {
            format!("[[region]]\nname = '{name}'\naddresses = ['{address}']\ncountry = '{country}'\n")
        })
        .collect();
    format!(
        "listen = ['{address}']\nadmin = '{admin}'\nstate_folder = 'state'\nudp_threads = 1\n[zone]\nname = '{ZONE}'\n\
         nameservers = [{{ name = 'ns1.{ZONE}', addresses = ['192.0.2.53'] }}]\ncontact = 'hostmaster.{ZONE}'\n\
         [answers.rate]\nresponses_per_s = 0\nerrors_per_s = 0\n[geo]\ndatabases = [{database:?}]\n{regions}"
    )
}

/// The edge as a process of its own, on one core.
struct EdgeProcess {
    child: std::process::Child,
    address: SocketAddr,
}

impl EdgeProcess {
    fn start(program: &Path, config: &Path, address: SocketAddr) -> Result<Self, BenchError> {
        let io = |e| BenchError::Io(program.display().to_string(), e);
        let mut command = Command::new("taskset");
        command.args(["-c", &SERVERS_CORE.to_string()]).arg(program).args(["serve", "--config"]).arg(config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(io)?;
        let edge = Self { child, address };
        let begun = std::time::Instant::now();
        let probe = queries(&["193.99.144.0/24".parse().unwrap_or_default()], 1);
        while blast(address, &probe, Duration::from_millis(20), 1, |_| {}, None).map_or(0, |r| r.answered) == 0 {
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(BenchError::Differ("the edge does not answer".to_owned()));
            }
        }
        Ok(edge)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for EdgeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Queries for the sale's name, each with the /24 or /48 of another network of the database, in a fixed, mixed order.
fn queries(networks: &[ipnet::IpNet], count: usize) -> Vec<Vec<u8>> {
    let one = |i: usize| {
        let network = networks[i.wrapping_mul(7_919) % networks.len()];
        let mut packet =
            b"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x04sale\x04test\x00\x00\x01\x00\x01".to_vec();
        let (family, prefix, octets) = match network.addr() {
            std::net::IpAddr::V4(a) => (1u8, 24u8, a.octets()[..3].to_vec()),
            std::net::IpAddr::V6(a) => (2, 48, a.octets()[..6].to_vec()),
        };
        packet.extend([
            0,
            0,
            41,
            4,
            0xd0,
            0,
            0,
            0,
            0,
            0,
            8 + octets.len() as u8,
            0,
            8,
            0,
            4 + octets.len() as u8,
            0,
            family,
            prefix,
            0,
        ]);
        packet.extend(octets);
        packet
    };
    (0..count).map(one).collect()
}

/// Both servers must say the same, or one of them does less work.
fn same_answers(edge: SocketAddr, gdnsd: SocketAddr, queries: &[Vec<u8>]) -> Result<(), BenchError> {
    let io = |e| BenchError::Io("loopback".to_owned(), e);
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).map_err(io)?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(io)?;
    let address = |to: SocketAddr, query: &[u8]| -> std::io::Result<Vec<u8>> {
        let mut answer = [0; 512];
        socket.send_to(query, to)?;
        let (len, _) = socket.recv_from(&mut answer)?;
        // Header, question, then the record: its data are the four octets after twelve.
        Ok(answer[..len].get(27 + 12..27 + 16).unwrap_or_default().to_vec())
    };
    let mut differ = 0;
    for query in queries {
        let (ours, theirs) = (address(edge, query).map_err(io)?, address(gdnsd, query).map_err(io)?);
        differ += usize::from(ours != theirs || ours.is_empty());
    }
    if differ == 0 {
        Ok(())
    } else {
        Err(BenchError::Differ(format!("{differ} of {} answers differ from gdnsd's", queries.len())))
    }
}

type Server<'a> = (&'a str, SocketAddr, u32);

/// What a server did in its turns: medians.
#[derive(Clone, Copy, Debug)]
struct Figure {
    /// Completed queries per second of its CPU time.
    per_cpu_s: f64,
    /// Completed queries per second.
    per_s: f64,
}

fn in_turns(
    plan: &BenchPlan,
    servers: &[Server<'_>; 3],
    turn: impl Fn(SocketAddr) -> Result<u64, BenchError>,
) -> Result<[Figure; 3], BenchError> {
    let mut figures: [(Vec<f64>, Vec<f64>); 3] = Default::default();
    for _ in 0..plan.turns.max(1) {
        for (at, (_, address, pid)) in servers.iter().enumerate() {
            let (before, begun) = (cpu_seconds(*pid)?, std::time::Instant::now());
            let completed = turn(*address)? as f64;
            figures[at].0.push(completed / (cpu_seconds(*pid)? - before).max(1e-9));
            figures[at].1.push(completed / begun.elapsed().as_secs_f64().max(1e-9));
        }
    }
    Ok(figures.map(|(per_cpu_s, per_s)| Figure { per_cpu_s: median(per_cpu_s), per_s: median(per_s) }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn udp_turn(to: SocketAddr, queries: &[Vec<u8>], length: Duration) -> Result<u64, BenchError> {
    let result = blast(to, queries, length, 400, |_| {}, None).map_err(|e| BenchError::Io("load".to_owned(), e))?;
    Ok(result.answered)
}

/// A way of asking over TCP. What a query costs depends on how many come together: with several in one segment a server
/// may answer them with one call of the system (the edge does; gdnsd makes one for each), so there is not one figure.
#[derive(Clone, Copy, Debug)]
struct TcpLoad {
    /// As the figures call it.
    name: &'static str,
    connections: u32,
    /// Queries under way, over all connections.
    under_way: u32,
    /// Queries after which a connection is closed and another one opened.
    per_connection: Option<u32>,
}

const TCP: [TcpLoad; 3] = [
    // What resolvers do that keep connections open: the next query when the last one is answered.
    TcpLoad { name: "tcp", connections: 50, under_way: 50, per_connection: None },
    // What most resolvers do: a connection for a few queries, after a truncated answer.
    TcpLoad { name: "tcp_10_a_connection", connections: 50, under_way: 50, per_connection: Some(10) },
    // Fifty queries under way on each connection: the best case for gathering.
    TcpLoad { name: "tcp_pipelined", connections: 8, under_way: 400, per_connection: None },
];

/// Addresses from which dnsperf asks over TCP, a turn each: ports of closed connections stay taken for a minute, and there
/// are 28,000 of them for an address.
const SOURCES: u32 = u32::from_be_bytes([127, 72, 0, 0]);
/// So often a turn over TCP is begun again in which queries were lost.
const TRIES: u32 = 3;
/// How long a turn may take that opens connections all the time: as many as there are ports for.
const OPENING_MAX: Duration = Duration::from_secs(2);

/// dnsperf over TCP.
fn tcp_turn(to: SocketAddr, from: Ipv4Addr, plan: &BenchPlan, load: TcpLoad) -> Result<u64, BenchError> {
    let io = |e| BenchError::Io("dnsperf (Debian package dnsperf)".to_owned(), e);
    let file = plan.folder.join("queries");
    std::fs::write(&file, format!("{ZONE} A\n")).map_err(io)?;
    let turn = if load.per_connection.is_some() { plan.turn.min(OPENING_MAX) } else { plan.turn };
    let seconds = turn.as_secs().max(1).to_string();
    let mut command = Command::new("dnsperf");
    command.args([
        "-m",
        "tcp",
        "-s",
        &to.ip().to_string(),
        "-p",
        &to.port().to_string(),
        "-a",
        &from.to_string(),
        "-c",
        &load.connections.to_string(),
        "-T",
        "1",
        "-q",
        &load.under_way.to_string(),
        "-l",
        &seconds,
    ]);
    if let Some(queries) = load.per_connection {
        command.args(["-O", &format!("num-queries-per-conn={queries}")]);
    }
    let output = command.args(["-E", "8:00011800c16390", "-d"]).arg(&file).output().map_err(io)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = |what: &str| {
        let found = |line: &str| line.trim().strip_prefix(what)?.split_whitespace().next()?.parse::<u64>().ok();
        text.lines().find_map(found)
    };
    match (figure("Queries completed:"), figure("Queries lost:")) {
        (Some(completed), Some(lost)) if lost * 1_000 <= completed => Ok(completed),
        (Some(_), Some(_)) => Err(BenchError::Lost(format!("{to} loses queries over TCP ({}): {text}", load.name))),
        _ => {
            let (status, said) = (output.status, String::from_utf8_lossy(&output.stderr));
            Err(BenchError::Differ(format!("dnsperf came to no figures ({status}): {text}{said}")))
        }
    }
}

/// The 99th percentile at a load, in milliseconds.
fn latency_ms(to: SocketAddr, queries: &[Vec<u8>], length: Duration, per_s: u64) -> Result<f64, BenchError> {
    let mut times = Vec::new();
    let io = |e| BenchError::Io("load".to_owned(), e);
    blast(to, queries, length, 400, |took| times.push(took.as_secs_f64() * 1000.0), Some(per_s)).map_err(io)?;
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() * 99 / 100).copied().unwrap_or(0.0))
}

fn memory_mib(pid: u32) -> Result<f64, BenchError> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| BenchError::Io("proc".to_owned(), e))?;
    let kib = text.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.unwrap_or(0.0) / 1024.0)
}
