//! A dozen countries and more: everybody is sent to the nearest region, is served there, and is sent elsewhere when it dies.

use hickory_proto::rr::RecordType;
use ops::dns;
use ops::load::homes::{HOMES, Home};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::world::*;

/// Which region every country of [`HOMES`] belongs to, by any atlas.
const BELONGS: [(&str, &[&str]); 3] = [
    ("east", &["DE", "FR", "GB", "IT", "ES", "PL", "SE", "TR", "MA", "NG", "IN", "JP"]),
    ("west", &["US", "CA", "MX", "VE", "CO"]),
    ("south", &["ZA", "PE", "AR", "BR", "CL", "UY", "PY"]),
];

fn belongs(home: &Home) -> &'static str {
    BELONGS.iter().find(|(_, countries)| countries.contains(&home.country)).map(|(region, _)| *region).unwrap()
}

fn home(country: &str) -> &'static Home {
    HOMES.iter().find(|home| home.country == country).unwrap()
}

impl World {
    /// The address that an edge gives to a network, and what it says about how far that holds.
    async fn ask(&self, edge: usize, home: &Home) -> dns::Answer {
        let server = self.edges[edge].edge.dns;
        dns::addresses(server, ZONE, RecordType::A, Some(home.network())).await.unwrap()
    }

    async fn region_of(&self, edge: usize, country: &str) -> &'static str {
        self.at(self.ask(edge, home(country)).await.addresses[0]).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_sent_to_the_nearest_region_served_there_and_sent_elsewhere_when_it_dies() {
    let mut world = World::start().await;
    everybody_is_sent_to_the_nearest(&world).await;
    who_is_sent_there_joins_there(&world).await;
    the_edges_know_load_and_stock(&world).await;
    operators_ask_and_drain(&world).await;
    a_crowd_finds_its_regions(&world).await;
    a_dead_region_is_not_named(&mut world).await;
}

async fn everybody_is_sent_to_the_nearest(world: &World) {
    for home in &HOMES {
        let (first, second) = (world.ask(0, home).await, world.ask(1, home).await);
        assert_eq!(world.at(first.addresses[0]), Some(belongs(home)), "{home:?}");
        assert_eq!((first.addresses.len(), &first.addresses), (1, &second.addresses), "both name servers say the same");
        assert!(
            first.scope.is_some_and(|bits| bits > 0),
            "{home:?}: decided by the client's network, not the resolver's"
        );
        assert!((2..=30).contains(&first.ttl_s), "{first:?}");
        // These regions have no IPv6 addresses: that is no data, at once, and not an error that a browser waits for.
        let server = world.edges[0].edge.dns;
        let none = dns::addresses(server, ZONE, RecordType::AAAA, Some(home.network())).await.unwrap();
        assert_eq!(none.addresses, [] as [IpAddr; 0], "{home:?}");
    }
    let (code, said, _) = world.ops(&["edge", "explain", "8.8.8.0/24"]).await;
    assert_eq!((code, said["country"].as_str(), said["region"].as_str()), (0, Some("US"), Some("west")), "{said}");
    assert_eq!(said["steps"][0]["verdict"], "chosen");
}

async fn who_is_sent_there_joins_there(world: &World) {
    for country in ["DE", "US", "BR"] {
        let address = world.ask(0, home(country)).await.addresses[0];
        let (region, ..) = world.joins((address, 8080).into(), "demo").await.unwrap();
        assert_eq!(region, belongs(home(country)));
    }
}

async fn the_edges_know_load_and_stock(world: &World) {
    let known = || async {
        let (code, said, _) = world.ops(&["edge", "status"]).await;
        let edges = said["edges"].as_array().cloned().unwrap_or_default();
        let regions = edges.iter().flat_map(|edge| edge["regions"].as_array().cloned().unwrap_or_default());
        // Of 2 × 150 tickets one is held for the person who joined just now.
        let right = regions.filter(|region| region["state"] == "up" && region["report"]["stock"] == 2 * TICKETS - 1);
        code == 0 && right.count() == 6
    };
    until("both edges know what every region has left", Duration::from_secs(10), known).await;
}

async fn operators_ask_and_drain(world: &World) {
    let (code, said, _) = world.ops(&["edge", "drain", "west"]).await;
    assert_eq!((code, &said["edges"]), (0, &json!(["edge-1", "edge-2"])));
    for edge in [0, 1] {
        assert_eq!(world.region_of(edge, "US").await, "east", "in force when the answer came");
    }
    let (_, said, _) = world.ops(&["edge", "explain", "8.8.8.8"]).await;
    assert!(said["steps"][0]["state"].as_str().unwrap().contains("drained"), "{said}");
    assert_eq!(world.ops(&["edge", "resume", "west"]).await.0, 0);
    assert_eq!(world.region_of(0, "US").await, "west");
    let (code, _, said) = world.ops(&["edge", "drain", "nowhere"]).await;
    assert!(code == 2 && said.contains("east, west, south"), "{code} {said}");
    assert_eq!(world.ops(&["edge", "explain", "here"]).await.0, 2);
    // An edge is told of nothing that acts on a region: whoever takes its machine can look at the regions, no more.
    let told = std::fs::read_to_string(world.edges[0].edge.folder.join("edge.toml")).unwrap();
    assert!(told.contains("reader-token") && !told.contains("operator-token"), "{told}");
    let (code, said, _) = world.ops(&["status"]).await;
    assert_eq!((code, said["edges"].as_array().map(Vec::len)), (0, Some(2)), "{said}");
}

async fn a_crowd_finds_its_regions(world: &World) {
    let crowd = ["load", "--concert", "demo", "--users", "90", "--via", "dns", "--over", "2s", "--poll-every", "700ms"];
    let (code, report, said) = world.ops(&[&crowd[..], &["--until", "60s", "--seed", "5"]].concat()).await;
    assert_eq!(
        (code, report["errors"].as_u64(), report["books"].as_str()),
        (0, Some(0), Some("ok")),
        "{report} {said}"
    );
    let found = &report["via_dns"];
    assert_eq!((found["nearest"].as_u64(), found["misplaced"].as_u64()), (Some(90), Some(0)), "{found}");
    assert_eq!(found["wandered"].as_u64(), Some(18), "served all the same: {found}");
    assert!(report["sold"].as_u64() > Some(40), "{report}");
    for (country, regions) in found["countries"].as_object().unwrap() {
        let regions: Vec<&String> = regions.as_object().unwrap().keys().collect();
        assert_eq!(regions, [belongs(home(country))], "{country}");
    }
}

async fn a_dead_region_is_not_named(world: &mut World) {
    let west = world.ask(0, home("US")).await.addresses[0];
    let (_, place, session) = world.joins((west, 8080).into(), "demo").await.unwrap();
    world.regions[1].nodes[0].kill();
    // Ten bad checks: not at the first one, and not long after the tenth.
    let moved = || async { world.region_of(0, "US").await == "east" };
    let took = until("users of the dead region are sent elsewhere", CHECK_EVERY * 60, moved).await;
    assert!(took > CHECK_EVERY * 8, "a region is not given up at the first bad check: {took:?}");
    assert!(took <= CHECK_EVERY * 11, "the damping time is ten checks; this is more than one on top: {took:?}");
    assert_eq!(world.region_of(0, "DE").await, "east");
    assert_eq!(world.region_of(0, "BR").await, "south");
    let east = world.ask(0, home("CA")).await.addresses[0];
    assert_eq!(world.joins((east, 8080).into(), "demo").await.unwrap().0, "east", "whoever is sent there is served");
    let base = SocketAddr::new(east, 8080);
    let http = world.regions[0].http().clone();
    let poll = || async {
        let request = http.get(format!("http://{base}/v1/reservations/{place}")).bearer_auth(&session);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(poll().await, 503, "a place of the dead region cannot be asked for");
    world.regions[1].nodes[0].start_again(&[]).unwrap();
    world.regions[1].ready().await.unwrap();
    let back = || async { world.region_of(0, "US").await == "west" };
    let took = until("users come back", CHECK_EVERY * 120, back).await;
    assert!(took > CHECK_EVERY * 10, "not at the first good check: {took:?}");
    assert_eq!(poll().await, 200, "passed on to its home");
}
