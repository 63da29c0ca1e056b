//! Installing what is missing, after saying so.

use crate::local::{postgres, redis};
use crate::output;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that something here needs, and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    package: &'static str,
    what_for: &'static str,
    present: fn() -> bool,
}

/// The regions' database.
pub const POSTGRESQL: Need = Need {
    package: "postgresql-15",
    what_for: "the regions' databases",
    present: || postgres::program("postgres").is_ok(),
};
/// The regions' queue.
pub const REDIS: Need =
    Need { package: "redis-server", what_for: "the regions' queues", present: || redis::program().is_ok() };
/// Compiles the arbiter's raft messages.
pub const PROTOC: Need =
    Need { package: "protobuf-compiler", what_for: "building the quota arbiter", present: || on_path("protoc") };

const GDNSD: Need =
    Need { package: "gdnsd", what_for: "the edge's answers compared with another server's", present: || sbin("gdnsd") };
const DNSPERF: Need = Need { package: "dnsperf", what_for: "DNS queries in numbers", present: || on_path("dnsperf") };

const KNOT: Need =
    Need { package: "knot", what_for: "zones around the edge's, and its speed", present: || sbin("knotd") };

/// What `bench dns` measures with and against.
pub const FOR_BENCH_DNS: [Need; 3] = [GDNSD, DNSPERF, KNOT];

/// What tests compare with, or run programs under.
pub const FOR_TESTS: [Need; 9] = [
    GDNSD,
    DNSPERF,
    KNOT,
    Need {
        package: "zonemaster-cli",
        what_for: "the edge's zone looked at by others",
        present: || on_path("zonemaster-cli"),
    },
    Need { package: "iproute2", what_for: "a network of a test's own", present: || sbin("ip") },
    Need { package: "haproxy", what_for: "the edge's HAProxy configuration", present: || sbin("haproxy") },
    Need { package: "keepalived", what_for: "the example configuration for L4", present: || sbin("keepalived") },
    Need { package: "faketime", what_for: "nodes whose clock is wrong", present: || on_path("faketime") },
    Need { package: "python3-venv", what_for: "fuzzing the described interface", present: venv },
];

/// Makes sure that all are there; installs what is missing through apt, or says which command does.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !on_path("apt-get") {
        bail!("these are missing: {}. Install PostgreSQL 15 or later, Redis 7 or later, protoc", packages.join(", "));
    }
    for need in &missing {
        output::note(format_args!(
            "  installing the package {} ({}); its service will not be started",
            need.package, need.what_for
        ));
    }
    let root = nix::unistd::geteuid().is_root();
    if !root && !on_path("sudo") {
        bail!("installing needs root: run `{by_hand}` as root, then this command again");
    }
    let mut command = Command::new(if root { "sh" } else { "sudo" });
    if !root {
        command.arg("sh");
    }
    command.args(["-c", include_str!("install.sh"), "install"]).args(&packages);
    // apt's own words go to standard error: standard output is for results.
    let status = command.stdin(Stdio::inherit()).stdout(std::io::stderr()).status()?;
    let still: Vec<&str> = missing.iter().filter(|need| !(need.present)()).map(|need| need.package).collect();
    if !status.success() || !still.is_empty() {
        bail!("installing did not work ({status}): run `{by_hand}` as root, then this command again");
    }
    Ok(())
}

/// Whether a program is on the path.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| is_program(&folder.join(program)))
}

/// The same where only root's path leads.
fn sbin(program: &str) -> bool {
    on_path(program) || ["/usr/sbin", "/sbin"].iter().any(|folder| is_program(&Path::new(folder).join(program)))
}

/// Whether Python can make environments of its own.
fn venv() -> bool {
    let ensurepip = Command::new("python3").args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    ensurepip.is_ok_and(|status| status.success())
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}
