//! Which crate may know which, and what may be built in at all.

use super::{no_breaches, root};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    allow_registry: Vec<String>,
}

fn metadata() -> Metadata {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo's metadata is as documented")
}

fn deny() -> Deny {
    toml::from_str(&std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml")).expect("deny.toml is TOML")
}

/// Crates of ours that a crate may name, outside its tests. Whoever is not here may name nobody.
const MAY_NAME: [(&str, &[&str]); 7] = [
    ("edge", &["region-api"]),
    ("arbiter-api", &["region-api", "quota-protocol"]),
    ("region-node", &["region-api", "sale", "quota-protocol", "arbiter-api"]),
    ("quota-arbiter", &["quota-protocol", "region-api", "arbiter-api"]),
    ("quota-simulator", &["quota-protocol", "quota-arbiter"]),
    ("ops", &["region-api", "sale", "quota-protocol", "arbiter-api"]),
    ("tests", &["region-api", "sale", "quota-protocol", "arbiter-api", "region-node", "quota-arbiter", "edge", "ops"]),
];

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let mut breaches = Vec::new();
    for package in metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id)) {
        let may = MAY_NAME.iter().find(|(name, _)| *name == package.name).map_or(&[][..], |(_, may)| may);
        let named =
            package.dependencies.iter().filter(|dependency| dependency.path.is_some() && dependency.kind.is_none());
        for dependency in named.filter(|dependency| !may.contains(&dependency.name.as_str())) {
            breaches.push(format!("{} depends on {}", package.name, dependency.name));
        }
    }
    no_breaches("a crate names one that it must not know (see ARCHITECTURE.md):", &breaches);
}

/// Everything that a crate is built with, its tests aside: the names of the packages.
fn built_with(metadata: &Metadata, crate_name: &str) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let ours = |package: &&Package| package.name == crate_name && metadata.workspace_members.contains(&package.id);
    let start = metadata.packages.iter().find(ours).unwrap_or_else(|| panic!("no crate {crate_name}"));
    let (mut seen, mut open) = (BTreeSet::new(), vec![start.id.as_str()]);
    while let Some(id) = open.pop() {
        let edges = nodes[id].deps.iter();
        let built = edges.filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev")));
        open.extend(built.map(|edge| edge.pkg.as_str()).filter(|id| seen.insert(*id)));
    }
    seen.into_iter().map(|id| names[id].to_owned()).collect()
}

#[test]
fn pure_crates_are_built_without_a_runtime_or_io() {
    let metadata = metadata();
    let mut breaches = Vec::new();
    for pure in ["quota-protocol", "sale", "region-api", "arbiter-api"] {
        let with = built_with(&metadata, pure);
        for impure in ["tokio", "mio", "socket2", "hyper", "axum", "reqwest", "redis", "tokio-postgres", "async-io"] {
            if with.contains(impure) {
                breaches.push(format!("{pure} is built with {impure}"));
            }
        }
    }
    no_breaches("a pure crate does I/O; pass what it needs as an argument:", &breaches);
    assert!(built_with(&metadata, "region-node").contains("tokio"), "the rule looks at the right graph");
}

#[test]
fn ops_builds_without_raft_and_protoc() {
    let with = built_with(&metadata(), "ops");
    let breaches: Vec<String> = ["raft", "raft-proto", "protobuf-build", "prost-build"]
        .iter()
        .filter(|name| with.contains(**name))
        .map(|name| (*name).to_owned())
        .collect();
    no_breaches("`cargo ops up` must not need protoc; ops is built with:", &breaches);
}

/// Whether an SPDX expression can be met with the allowed licences. Knows AND, OR, WITH, brackets and the old `/`.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(last) if word == "WITH" || last.ends_with(" WITH") => *last = format!("{last} {word}"),
            _ => words.push(word.to_owned()),
        }
    }
    let mut rest = &words[..];
    let value = either(&mut rest, allow);
    value && rest.is_empty()
}

fn either(words: &mut &[String], allow: &BTreeSet<String>) -> bool {
    let mut value = both(words, allow);
    while words.first().is_some_and(|word| word == "OR") {
        *words = &words[1..];
        value |= both(words, allow);
    }
    value
}

fn both(words: &mut &[String], allow: &BTreeSet<String>) -> bool {
    let mut value = single(words, allow);
    while words.first().is_some_and(|word| word == "AND") {
        *words = &words[1..];
        value &= single(words, allow);
    }
    value
}

fn single(words: &mut &[String], allow: &BTreeSet<String>) -> bool {
    let Some((word, rest)) = words.split_first() else { return false };
    *words = rest;
    if word != "(" {
        return allow.contains(word);
    }
    let value = either(words, allow);
    let closed = words.first().is_some_and(|word| word == ")");
    *words = words.get(1..).unwrap_or_default();
    value && closed
}

#[test]
fn a_licence_expression_is_read_right() {
    let allow: BTreeSet<String> = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for good in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "(MIT OR X) AND Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(allowed(good, &allow), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND X", "MIT WITH X", "", "(MIT", "MIT MIT"] {
        assert!(!allowed(bad, &allow), "{bad}");
    }
}

#[test]
fn licences_sources_and_bans_are_as_deny_toml_says() {
    let (metadata, deny) = (metadata(), deny());
    let mut breaches = Vec::new();
    for package in &metadata.packages {
        let name = format!("{} {}", package.name, package.version);
        let Some(source) = &package.source else {
            if !metadata.workspace_members.contains(&package.id) {
                breaches.push(format!("{name} comes from a path outside the workspace"));
            }
            continue;
        };
        let registry = source.strip_prefix("registry+").or_else(|| source.strip_prefix("sparse+"));
        if !registry.is_some_and(|registry| deny.sources.allow_registry.iter().any(|known| known == registry)) {
            breaches.push(format!("{name} comes from {source}"));
        }
        if !package.license.as_ref().is_some_and(|license| allowed(license, &deny.licenses.allow)) {
            breaches.push(format!("{name} has the licence {:?}", package.license));
        }
        if let Some(ban) = deny.bans.deny.iter().find(|ban| ban.name == package.name) {
            breaches.push(format!("{name} is banned: {}", ban.reason));
        }
    }
    no_breaches("deny.toml does not allow:", &breaches);
}
