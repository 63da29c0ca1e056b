//! The configuration file of an arbiter: of a local cluster's, and of those that tests, benches and drills start.

use super::Arbiter;
use super::certificates::TlsFiles;
use anyhow::Result;
use region_api::RegionName;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::Path;

/// What an arbiter is told; whatever is left out here has the arbiter's own default.
#[derive(Debug, Clone, Copy)]
pub struct ArbiterConfig<'a> {
    /// Its raft id.
    pub id: u64,
    /// Its own folder for log and snapshots.
    pub data_dir: &'a Path,
    /// For regions, arbiters and operators' programs.
    pub machines: SocketAddr,
    /// For people.
    pub people: SocketAddr,
    /// Who it is.
    pub tls: &'a TlsFiles,
    /// Bearer token of people.
    pub operator_token_file: &'a Path,
    /// It is empty and waits to be added to a cluster that is there.
    pub join: bool,
    /// The first members, itself included; those of the cluster that it is to join.
    pub members: &'a [Arbiter],
    /// Regions that are known from the first start.
    pub regions: &'a [RegionName],
    /// How often regions report; the arbiter's default when absent.
    pub heartbeat_ms: Option<u64>,
}

#[derive(Serialize)]
struct File<'a> {
    id: u64,
    data_dir: &'a Path,
    machines: SocketAddr,
    people: SocketAddr,
    tls: &'a TlsFiles,
    operators: Operators<'a>,
    cluster: ClusterPart<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
}

#[derive(Serialize)]
struct Operators<'a> {
    token_file: &'a Path,
}

#[derive(Serialize)]
struct ClusterPart<'a> {
    join: bool,
    regions: Vec<&'a str>,
    members: Vec<Member<'a>>,
}

#[derive(Serialize)]
struct Member<'a> {
    id: u64,
    address: &'a str,
    people: &'a str,
}

impl<'a> Member<'a> {
    fn of(Arbiter { id, address, people, .. }: &'a Arbiter) -> Self {
        Self { id: *id, address, people }
    }
}

#[derive(Serialize)]
struct Policy {
    heartbeat_ms: u64,
}

impl ArbiterConfig<'_> {
    /// The file's text. Secrets are named by their files, so the text itself is none.
    pub fn text(&self) -> Result<String> {
        let file = File {
            id: self.id,
            data_dir: self.data_dir,
            machines: self.machines,
            people: self.people,
            tls: self.tls,
            operators: Operators { token_file: self.operator_token_file },
            cluster: ClusterPart {
                join: self.join,
                regions: self.regions.iter().map(RegionName::as_str).collect(),
                members: self.members.iter().map(Member::of).collect(),
            },
            policy: self.heartbeat_ms.map(|heartbeat_ms| Policy { heartbeat_ms }),
        };
        Ok(format!("# Written by `cargo ops`; changes are overwritten.\n{}", toml::to_string(&file)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::path::PathBuf;

    #[test]
    fn the_file_has_the_keys_that_an_arbiter_reads() {
        let at = |file: &str| PathBuf::from("tls").join(file);
        let tls = TlsFiles { ca_file: at("ca.pem"), certificate_file: at("a.pem"), key_file: at("a-key.pem") };
        let member = Arbiter {
            id: 1,
            address: "https://127.0.21.1:7400".into(),
            people: "https://127.0.21.1:9080".into(),
            data_dir: "data".into(),
        };
        let config = ArbiterConfig {
            id: 1,
            data_dir: Path::new("data"),
            machines: "127.0.21.1:7400".parse().unwrap(),
            people: "127.0.21.1:9080".parse().unwrap(),
            tls: &tls,
            operator_token_file: Path::new("token"),
            join: false,
            members: &[member],
            regions: &[RegionName::new("east").unwrap()],
            heartbeat_ms: None,
        };
        expect![[r#"
            # Written by `cargo ops`; changes are overwritten.
            id = 1
            data_dir = "data"
            machines = "127.0.21.1:7400"
            people = "127.0.21.1:9080"

            [tls]
            ca_file = "tls/ca.pem"
            certificate_file = "tls/a.pem"
            key_file = "tls/a-key.pem"

            [operators]
            token_file = "token"

            [cluster]
            join = false
            regions = ["east"]

            [[cluster.members]]
            id = 1
            address = "https://127.0.21.1:7400"
            people = "https://127.0.21.1:9080"
        "#]]
        .assert_eq(&config.text().unwrap());
    }
}
