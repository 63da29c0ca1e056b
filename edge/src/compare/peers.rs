//! Starts gdnsd and Knot.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::choice::{Client, rank};
use crate::geo::GeoError;
use crate::snapshot::Snapshot;

/// Why another server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It is not installed.
    #[error("{program} is not installed: apt-get install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// Files or processes.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// It ended, or does not answer; with what it said.
    #[error("{program} does not serve:\n{said}")]
    NotServing {
        /// The program.
        program: &'static str,
        /// The end of its log.
        said: String,
    },
    /// The geo database.
    #[error(transparent)]
    Geo(#[from] GeoError),
}

/// What a peer serves.
#[derive(Clone, Debug)]
pub struct PeerPlan<'a> {
    /// A folder of its own.
    pub folder: &'a Path,
    /// The zone's name, without the final dot.
    pub zone: &'a str,
    /// The zone file, in the peer's own dialect.
    pub zone_text: &'a str,
    /// Core that it may use; `None`: any.
    pub core: Option<usize>,
}

/// A running server.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Peer {
    /// Starts gdnsd. `datacenters` are names with their addresses for the resource `sale`; `nets` maps networks to them.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn gdnsd(plan: &PeerPlan<'_>, datacenters: &[(String, Vec<IpAddr>)], nets: &str) -> Result<Self, PeerError> {
        let address = free_address()?;
        let folder = plan.folder.display();
        let names = datacenters.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let mut map = String::new();
        for (name, addresses) in datacenters {
            let of = |v4: bool| {
                addresses.iter().filter(|a| a.is_ipv4() == v4).map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let v6 = of(false);
            let v6 = if v6.is_empty() { String::new() } else { format!("addrs_v6 => [ {v6} ], ") };
            let _ = writeln!(map, "        {name} => {{ addrs_v4 => [ {} ], {v6}service_types => up }}", of(true));
        }
        let config = format!(
            "options => {{ listen => {address}, udp_threads => 1, tcp_threads => 1, run_dir => {folder}/run, state_dir => {folder}/state }}
plugins => {{ geoip => {{
  maps => {{ all => {{ datacenters => [ {names} ], nets => sale.nets }} }},
  resources => {{ sale => {{ map => all, service_types => up, dcmap => {{
{map}  }} }} }}
}} }}
"
        );
        for (name, text) in
            [("config", config.as_str()), ("geoip/sale.nets", nets), (&format!("zones/{}", plan.zone), plan.zone_text)]
        {
            write(&plan.folder.join(name), text)?;
        }
        for name in ["run", "state"] {
            std::fs::create_dir_all(plan.folder.join(name)).map_err(|e| PeerError::Io(name.to_owned(), e))?;
        }
        let config_folder = plan.folder.display().to_string();
        start("gdnsd", "gdnsd", &["-c", &config_folder, "start"], plan, address)
    }

    /// Starts Knot with one UDP and one TCP worker. It has no geo map here: the zone's records are fixed.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn knot(plan: &PeerPlan<'_>) -> Result<Self, PeerError> {
        let address = free_address()?;
        let (folder, zone) = (plan.folder.display(), plan.zone);
        let config = format!(
            "server:
  rundir: {folder}
  listen: {}@{}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {folder}
template:
  - id: default
    storage: {folder}
    file: zone
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: {zone}
",
            address.ip(),
            address.port()
        );
        write(&plan.folder.join("knot.conf"), &config)?;
        write(&plan.folder.join("zone"), plan.zone_text)?;
        let file = plan.folder.join("knot.conf").display().to_string();
        start("knotd", "knot", &["-c", &file], plan, address)
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(path: &Path, text: &str) -> Result<(), PeerError> {
    let io = |e| PeerError::Io(path.display().to_string(), e);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    std::fs::write(path, text).map_err(io)
}

fn start(
    program: &'static str,
    package: &'static str,
    arguments: &[&str],
    plan: &PeerPlan<'_>,
    address: SocketAddr,
) -> Result<Peer, PeerError> {
    let log = plan.folder.join("log");
    let io = |e| PeerError::Io(log.display().to_string(), e);
    let file = std::fs::File::create(&log).map_err(io)?;
    let path = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"]
        .iter()
        .map(|d| PathBuf::from(d).join(program))
        .find(|p| p.exists());
    let path = path.ok_or(PeerError::Missing { program, package })?;
    let mut command = match plan.core {
        None => Command::new(path),
        Some(core) => {
            let mut pinned = Command::new("taskset");
            pinned.args(["-c", &core.to_string()]).arg(path);
            pinned
        }
    };
    let output = file.try_clone().map_err(io)?;
    let child = command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(file).spawn();
    let mut peer = Peer { child: child.map_err(|e| PeerError::Io(program.to_owned(), e))?, address };
    let begun = Instant::now();
    // Reading half a million networks takes a server some seconds.
    while begun.elapsed() < Duration::from_secs(60) {
        if !matches!(peer.child.try_wait(), Ok(None)) {
            break;
        }
        if answers(address, plan.zone) {
            return Ok(peer);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let from = said.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
    Err(PeerError::NotServing { program, said: said[from..].to_owned() })
}

/// True when a SOA query for the zone is answered.
fn answers(address: SocketAddr, zone: &str) -> bool {
    let mut query = vec![0x42, 0x42, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in zone.split('.') {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 6, 0, 1]);
    let ask = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.send_to(&query, address)?;
        let mut answer = [0; 512];
        let len = socket.recv(&mut answer)?;
        Ok(len > 12 && answer[7] > 0)
    };
    ask().unwrap_or(false)
}

/// A port of 127.0.0.1 that is free for UDP and TCP at this moment.
///
/// # Errors
/// [`PeerError::Io`].
pub fn free_port() -> Result<u16, PeerError> {
    free_port_of(Ipv4Addr::LOCALHOST)
}

/// An address and port for a server that takes its time to bind them: the address is this process's alone (a pid has at
/// most 22 bits, and 127.64.0.0/10 has as many free), so that nobody else is given the same port meanwhile.
///
/// # Errors
/// [`PeerError::Io`].
pub fn free_address() -> Result<SocketAddr, PeerError> {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low);
    Ok(SocketAddr::from((address, free_port_of(address)?)))
}

fn free_port_of(address: Ipv4Addr) -> Result<u16, PeerError> {
    let io = |e| PeerError::Io("loopback".to_owned(), e);
    for _ in 0..50 {
        let udp = UdpSocket::bind((address, 0)).map_err(io)?;
        let port = udp.local_addr().map_err(io)?.port();
        if std::net::TcpListener::bind((address, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io(std::io::Error::from(std::io::ErrorKind::AddrInUse)))
}

/// Every network of the snapshot's geo database with its regions in order, in the format of gdnsd's `nets` files; and how
/// many there are. Networks for which nothing is known are left out.
///
/// # Errors
/// [`PeerError::Geo`].
pub fn nets(snapshot: &Snapshot) -> Result<(String, usize), PeerError> {
    let mut text = String::new();
    let mut count = 0;
    for (network, _) in snapshot.geo.networks()? {
        let (address, prefix) = (network.addr(), network.prefix_len());
        // Networks that gdnsd keeps for IPv4 in IPv6 may not be named.
        let special = ["::/96", "::ffff:0:0/96", "2001::/32", "2002::/16"];
        let overlaps = |s: &str| s.parse::<ipnet::IpNet>().is_ok_and(|s| s.contains(&network) || network.contains(&s));
        if address.is_ipv6() && special.iter().any(|s| overlaps(s)) {
            continue;
        }
        let ranking = rank(&snapshot.policy, &snapshot.geo, Client { address, prefix });
        let names: Vec<&str> = ranking.entries.iter().map(|e| snapshot.policy.region(e.region).name.as_str()).collect();
        let _ = writeln!(text, "{address}/{prefix} => [ {} ]", names.join(", "));
        count += 1;
    }
    Ok((text, count))
}

/// CPU time that a process has used, in seconds.
///
/// # Errors
/// [`PeerError::Io`] when it is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64, PeerError> {
    let path = format!("/proc/{pid}/schedstat");
    let mut total = 0u64;
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| PeerError::Io(path.clone(), e))?;
    for task in tasks.flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total as f64 / 1e9)
}
