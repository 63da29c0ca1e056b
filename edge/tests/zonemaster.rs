//! Zonemaster (Debian package `zonemaster-cli`) finds nothing to say against a zone that the edge serves, in a network
//! namespace of its own with a root and a parent zone made for it (Debian package `knot`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Where the servers of this small internet listen. Zonemaster does not take private or documentation addresses for
/// those of name servers; nothing of this leaves the namespace.
const ROOT: [(&str, &str); 2] = [("198.41.0.4", "2001:503:ba3e::2:30"), ("199.9.14.201", "2801:1b8:10::b")];
const PARENT: [(&str, &str); 2] = [("192.33.4.12", "2001:500:2::c"), ("199.7.91.13", "2001:500:2d::d")];
const EDGES: [(&str, &str); 2] = [("185.49.141.10", "2a04:b900::10"), ("45.90.5.20", "2a07:a8c0::20")];

/// The name below which an address has its name, and that name itself.
fn reverse(address: &str) -> String {
    match address.parse().unwrap() {
        std::net::IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        std::net::IpAddr::V6(a) => {
            let nibbles = a.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa."
        }
    }
}

/// Name servers of a zone as records: who they are and where.
fn nameservers(zone: &str, names: [&str; 2], addresses: [(&str, &str); 2]) -> String {
    let mut text = String::new();
    for (name, (v4, v6)) in names.into_iter().zip(addresses) {
        let _ = writeln!(text, "{zone} 3600 NS {name}\n{name} 3600 A {v4}\n{name} 3600 AAAA {v6}");
    }
    text
}

fn write_internet(folder: &Path) {
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    let soa = |zone: &str| format!("{zone} 86400 SOA a.nic.example. hostmaster.example. 1 14400 3600 1209600 3600\n");
    let roots = nameservers(".", ["a.root.example.", "b.root.example."], ROOT);
    let parents = nameservers("example.", ["a.nic.example.", "b.nic.example."], PARENT);
    let edges = nameservers("tickets.example.", ["ns1.tickets.example.", "ns2.tickets.example."], EDGES);
    let mut reverses = String::new();
    for (name, (v4, v6)) in ["ns1", "ns2"].into_iter().zip(EDGES) {
        for address in [v4, v6] {
            let _ = writeln!(reverses, "{} 3600 PTR {name}.tickets.example.", reverse(address));
        }
    }
    write("hints", roots.clone());
    write("root.zone", format!("{}{roots}{parents}{reverses}", soa(".")));
    let addresses_of_roots: String = roots.lines().filter(|l| !l.contains(" NS ")).map(|l| format!("{l}\n")).collect();
    write("example.zone", format!("{}{parents}{edges}{addresses_of_roots}", soa("example.")));
    let of_knot: Vec<&str> = ROOT.iter().chain(&PARENT).flat_map(|(v4, v6)| [*v4, *v6]).collect();
    let listen = of_knot.iter().map(|address| format!("{address}@53")).collect::<Vec<_>>().join(", ");
    let here = folder.display();
    write(
        "knot.conf",
        format!(
            "server:\n  rundir: {here}\n  listen: [{listen}]\ndatabase:\n  storage: {here}\ntemplate:\n  - id: default\n    \
             storage: {here}\n    zonefile-sync: -1\n    journal-content: none\nzone:\n  - domain: .\n    file: root.zone\n  \
             - domain: example.\n    file: example.zone\n"
        ),
    );
    let of_edges = EDGES.iter().flat_map(|(v4, v6)| [*v4, *v6]);
    write("addresses", of_knot.into_iter().chain(of_edges).collect::<Vec<_>>().join("\n"));
    write("edge.toml", edge_config());
}

fn edge_config() -> String {
    let database = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/country.mmdb");
    let listen: Vec<String> = EDGES.iter().flat_map(|(v4, v6)| [format!("{v4}:53"), format!("[{v6}]:53")]).collect();
    let [(first4, first6), (second4, second6)] = EDGES;
    format!(
        r#"
listen = {listen:?}
admin = "127.0.0.1:9080"
state_folder = "state"
[zone]
name = "tickets.example"
contact = "hostmaster.tickets.example"
times_s = [14400, 3600, 1209600]
negative_ttl_s = 300
nameservers = [
    {{ name = "ns1.tickets.example", addresses = ["{first4}", "{first6}"] }},
    {{ name = "ns2.tickets.example", addresses = ["{second4}", "{second6}"] }},
]
https = {{ alpn = ["h2", "http/1.1"] }}
[[zone.record]]
name = "@"
type = "MX"
data = "10 mail.tickets.example."
[[zone.record]]
name = "mail"
type = "A"
data = "185.49.141.77"
[geo]
databases = [{database:?}]
[[region]]
name = "east"
addresses = ["185.49.142.1", "2a04:b900::80"]
country = "DE"
[[region]]
name = "west"
addresses = ["45.90.6.1"]
country = "US"
"#
    )
}

#[test]
fn zonemaster_has_nothing_to_say_against_the_zone() {
    let folder = tempfile::tempdir().unwrap();
    write_internet(folder.path());
    let mut command = Command::new("unshare");
    // As root of a namespace of its own, whoever we are; its processes end with the first of them.
    command.args(["--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--", "sh"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zonemaster/run.sh"));
    let run = command.arg(folder.path()).arg(env!("CARGO_BIN_EXE_edge")).output().unwrap();
    let (said, beside) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(
        run.status.success(),
        "it did not run (needs the packages zonemaster-cli, knot and iproute2, and a kernel that gives namespaces to \
         whoever asks): {}\n{beside}{said}",
        run.status
    );
    let bad = |line: &&str| ["WARNING", "ERROR", "CRITICAL"].iter().any(|level| line.trim_start().starts_with(level));
    let complaints: Vec<&str> = said.lines().filter(bad).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    for expected in ["are confirmed to be authoritative", "support EDNS0", "is not a recursor", "AXFR not available"] {
        assert!(said.contains(expected), "Zonemaster did not look at everything ({expected}): {said}");
    }
}
