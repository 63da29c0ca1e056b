//! Which region a network gets, and whether it is told why: by country, position, operator, override, weight.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fmt::Write;
use std::net::IpAddr;

use common::mmdb::{self, Value};
use common::{all_up, config, snapshot};
use edge::choice::{Client, Explanation, explain};
use edge::config::Config;
use edge::snapshot::Snapshot;
use expect_test::{Expect, expect};

fn where_is(snapshot: &Snapshot, network: &str) -> Explanation {
    let network: ipnet::IpNet = network.parse().unwrap();
    let client = Client { address: network.addr(), prefix: network.prefix_len() };
    let rules = &snapshot.rules;
    explain(&snapshot.policy, &snapshot.geo, &snapshot.live, snapshot.step_ms, client, |pick| rules.ttl_s(pick))
}

fn show(explanation: &Explanation) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let asn = explanation.asn.map_or(String::new(), |asn| format!(" AS{asn}"));
    let mut text = format!(
        "{} {}{asn} -> {} ttl {} scope {}\n",
        or_none(&explanation.country),
        or_none(&explanation.continent),
        explanation.region,
        explanation.ttl_s,
        explanation.scope
    );
    for step in &explanation.steps {
        let km = step.effective_km.map_or(String::new(), |km| format!(" {km} km"));
        let _ = writeln!(text, "  {}{km}: {}; {}; {}", step.region, step.why, step.state, step.verdict);
    }
    text
}

fn check(snapshot: &Snapshot, network: &str, expected: Expect) {
    expected.assert_eq(&show(&where_is(snapshot, network)));
}

#[test]
fn a_dozen_countries_get_the_nearest_region() {
    let here = snapshot(&config("", ""));
    for (network, country, region) in [
        ("193.99.144.0/24", "DE", "east"),
        ("62.4.0.0/24", "FR", "east"),
        ("193.0.0.0/24", "NL", "east"),
        ("151.1.0.0/24", "IT", "east"),
        ("212.58.224.0/24", "GB", "east"),
        ("196.25.1.0/24", "ZA", "east"),
        ("8.8.8.0/24", "US", "west"),
        ("206.47.0.0/24", "CA", "west"),
        ("200.160.0.0/24", "BR", "west"),
        ("133.11.0.0/24", "JP", "south"),
        ("1.128.0.0/24", "AU", "south"),
        ("168.126.63.0/24", "KR", "south"),
        ("2001:67c:2e8::/48", "NL", "east"),
        ("2001:2f8::/48", "JP", "south"),
    ] {
        let explanation = where_is(&here, network);
        assert_eq!((explanation.country.as_deref(), explanation.region.as_str()), (Some(country), region), "{network}");
    }
}

#[test]
fn every_step_says_why() {
    let mut config = config("", "");
    config.choice.countries.insert("FR".to_owned(), vec!["west".to_owned()]);
    config.choice.continents.insert("OC".to_owned(), vec!["west".to_owned(), "south".to_owned()]);
    config.choice.overrides = toml_overrides("network = '212.58.224.0/20'\nregions = ['south', 'west']");
    config.regions[2].bias = 0.5;
    let mut here = snapshot(&config);
    check(
        &here,
        "193.99.144.0/24",
        expect![[r#"
        DE EU -> east ttl 10 scope 21
          east 0 km: by distance; up; chosen
          south 4570 km: by distance times 0.5; up; not needed
          west 7588 km: by distance; up; not needed
    "#]],
    );
    check(
        &here,
        "62.4.0.0/24",
        expect![[r#"
        FR EU -> west ttl 10 scope 19
          west 7354 km: configured for country FR; up; chosen
          east 669 km: by distance; up; not needed
          south 4890 km: by distance times 0.5; up; not needed
    "#]],
    );
    check(
        &here,
        "1.128.0.0/24",
        expect![[r#"
        AU OC -> west ttl 10 scope 11
          west 14674 km: configured for continent OC; up; chosen
          south 3831 km: configured for continent OC; up; not needed
          east 15947 km: by distance; up; not needed
    "#]],
    );
    check(
        &here,
        "212.58.224.0/24",
        expect![[r#"
        GB EU -> south ttl 10 scope 20
          south 4736 km: configured for network 212.58.224.0/20; up; chosen
          west 6828 km: configured for network 212.58.224.0/20; up; not needed
          east 808 km: by distance; up; not needed
    "#]],
    );
    check(
        &here,
        "10.0.0.0/8",
        expect![[r#"
        - - -> east ttl 10 scope 8
          east: no place known, by weight 1 among equally near ones; up; chosen
          west: no place known, by weight 1 among equally near ones; up; not needed
          south: no place known, by weight 1 among equally near ones; up; not needed
    "#]],
    );
    let mut live = all_up(3);
    live[0].healthy = false;
    live[0].state = "down, 3 of 20 good checks".to_owned();
    live[1].drained = true;
    here.live = live;
    check(
        &here,
        "193.99.144.0/24",
        expect![[r#"
        DE EU -> south ttl 10 scope 21
          east 0 km: by distance; down, 3 of 20 good checks; passed over: not usable
          south 4570 km: by distance times 0.5; up; chosen
          west 7588 km: by distance; up, drained by the operator; passed over: not usable
    "#]],
    );
}

fn toml_overrides(text: &str) -> Vec<edge::config::OverrideConfig> {
    vec![toml::from_str(text).unwrap()]
}

/// Databases of the test's own: one by city, one by operator.
fn with_databases(folder: &std::path::Path) -> Config {
    let city = |lat, lon| {
        Value::Map(vec![
            ("country", Value::Map(vec![("iso_code", Value::Text("US"))])),
            ("location", Value::Map(vec![("latitude", Value::Double(lat)), ("longitude", Value::Double(lon))])),
        ])
    };
    mmdb::write(
        &folder.join("city.mmdb"),
        &[
            ("198.51.100.0/25", city(40.7, -74.0)),
            ("198.51.100.128/25", city(34.0, -118.2)),
            ("2001:db8::/32", city(34.0, -118.2)),
        ],
    );
    let operator = |asn| Value::Map(vec![("autonomous_system_number", Value::Number(asn))]);
    mmdb::write(&folder.join("asn.mmdb"), &[("198.51.100.192/26", operator(64501))]);
    let mut config = config("", "");
    config.geo.databases = vec![folder.join("city.mmdb"), folder.join("asn.mmdb")];
    config.regions[0].position = Some([38.9, -77.5]);
    config.regions[1].position = Some([37.4, -122.1]);
    config.regions[2].asns = vec![64501];
    config
}

#[test]
fn coordinates_decide_within_a_country_and_the_same_operator_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let here = snapshot(&with_databases(folder.path()));
    check(
        &here,
        "198.51.100.0/26",
        expect![[r#"
        US NA -> east ttl 10 scope 25
          east 360 km: by distance; up; chosen
          west 4118 km: by distance; up; not needed
          south 10933 km: by distance; up; not needed
    "#]],
    );
    check(
        &here,
        "198.51.100.128/26",
        expect![[r#"
        US NA -> west ttl 10 scope 26
          west 517 km: by distance; up; chosen
          east 3650 km: by distance; up; not needed
          south 8960 km: by distance; up; not needed
    "#]],
    );
    check(
        &here,
        "198.51.100.192/26",
        expect![[r#"
        US NA AS64501 -> south ttl 10 scope 26
          south 8960 km: same operator, AS64501; up; chosen
          west 517 km: by distance; up; not needed
          east 3650 km: by distance; up; not needed
    "#]],
    );
    check(
        &here,
        "2001:db8:1::/48",
        expect![[r#"
        US NA -> west ttl 10 scope 32
          west 517 km: by distance; up; chosen
          east 3650 km: by distance; up; not needed
          south 8960 km: by distance; up; not needed
    "#]],
    );
}

#[test]
fn weights_decide_among_equals_and_a_network_stays_where_it_is() {
    let mut config = config("", "");
    for region in &mut config.regions {
        region.country = Some("DE".to_owned());
    }
    config.regions[1].weight = 3;
    config.regions[2].weight = 0;
    let here = snapshot(&config);
    let pick = |snapshot: &Snapshot, i: u32| {
        let [_, _, b, c] = i.to_be_bytes();
        let explanation = where_is(snapshot, &format!("84.{}.{c}.77/32", 128 + b));
        assert_eq!(explanation.scope, 24, "the hash is of the /24, so the answer holds for it and no more");
        explanation.region
    };
    let picks: Vec<String> = (0..4000).map(|i| pick(&here, i)).collect();
    let west = picks.iter().filter(|r| *r == "west").count();
    assert!((2880..3120).contains(&west), "three quarters: {west}");
    assert!(!picks.contains(&"south".to_owned()), "weight 0");
    // Another weight for one region moves only users from it or to it.
    config.regions[2].weight = 2;
    let more = snapshot(&config);
    let moved_elsewhere = (0..4000).filter(|i| {
        let now = pick(&more, *i);
        now != picks[*i as usize] && now != "south"
    });
    assert_eq!(moved_elsewhere.count(), 0);
}

#[test]
fn the_same_seed_gives_the_same_choice_everywhere() {
    let address: IpAddr = "84.128.3.4".parse().unwrap();
    let mut config = config("", "");
    config.regions.iter_mut().for_each(|r| r.country = Some("DE".to_owned()));
    let region = |config: &Config| where_is(&snapshot(config), &format!("{address}/32")).region;
    assert_eq!(region(&config), region(&config));
    let others = (0..20u64).filter(|seed| {
        let mut other = config.clone();
        other.choice.sticky_seed = *seed;
        region(&other) != region(&config)
    });
    assert!(others.count() > 5, "another seed spreads otherwise");
}

#[test]
fn mistakes_in_regions_and_preferences_are_named() {
    type Change = fn(&mut Config);
    let broken: [(&str, Change); 6] = [
        ("there is no region \"nowhere\"", |c| {
            c.choice.countries.insert("DE".to_owned(), vec!["nowhere".to_owned()]);
        }),
        ("\"D1\" is no country", |c| {
            c.choice.countries.insert("D1".to_owned(), vec![]);
        }),
        ("region \"east\": configured twice", |c| c.regions[1].name = "east".to_owned()),
        ("bias is from", |c| c.regions[1].bias = 0.0),
        ("needs 1 to 16 addresses", |c| c.regions[1].addresses.clear()),
        ("0 regions", |c| c.regions.clear()),
    ];
    for (says, change) in broken {
        let mut config = config("", "");
        change(&mut config);
        let error = Snapshot::build(&config, all_up(3), 5_000, [0; 16]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn the_example_is_a_sound_configuration_and_so_are_its_defaults() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("edge.example.toml");
    let (as_written, snapshot) = edge::server::check(&path).unwrap();
    assert_eq!((as_written.regions.len(), where_is(&snapshot, "41.0.0.0/24").region.as_str()), (2, "east"));
    // Every default that the file shows is the default: with the marks taken away, nothing changes.
    let file = std::fs::read_to_string(&path).unwrap();
    let shown: Vec<&str> = file.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    let optional = [
        "admin_token_file",
        "nsid",
        "chaos_version",
        "cookie_secret_file",
        "exempt",
        "ca_file",
        "certificate",
        "socket",
        "region = ",
        "file",
        "master_socket",
        "status_token_file",
        "capacity_per_s",
        "asns",
        "nodes",
        "Configuration of",
    ];
    let text = shown
        .into_iter()
        .filter(|line| !optional.iter().any(|key| line.starts_with(key)))
        .collect::<Vec<_>>()
        .join("\n");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), text).unwrap();
    let mut uncommented = Config::load(&folder.path().join("edge.toml")).unwrap();
    uncommented.state_folder = as_written.state_folder.clone();
    uncommented.geo = as_written.geo.clone();
    assert_eq!(serde_json::to_value(&uncommented).unwrap(), serde_json::to_value(&as_written).unwrap());
}
