//! A region with an IPv6 address: the edge names it to who asks for one, and it leads there.

use hickory_proto::rr::RecordType;
use ops::dns;
use ops::stage::{EdgeNode, EdgeSpec, Spec, Stage};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use tokio::net::{TcpListener, TcpStream};

use super::world::{ZONE, told_of};

/// Passes connections on to a region, whose node has one address only; `::1` is all that loopback has of IPv6.
async fn ipv6_door(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let door = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    door
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_an_ipv6_address_is_led_to_the_region_by_it() {
    let stage = Stage::start(Spec::default()).await.unwrap();
    let tier = json!({"tier": "A", "price": {"amount": 4500, "currency": "EUR"}, "total": 10});
    stage.define("demo", json!({"tiers": [tier]})).await.unwrap();
    let door = ipv6_door(stage.public()).await;
    let mut region = told_of(&stage, [50.1, 8.7]);
    region.addresses.push(door.ip());
    let (name, regions, secrets) = ("edge-1", [region], stage.secrets());
    let spec = EdgeSpec { name, zone: ZONE, regions: &regions, secrets, check_every_ms: 100, more: "" };
    let edge = EdgeNode::start(&spec).await.unwrap();
    let ask = async |kind| {
        let client: (IpAddr, u8) = ("2a00:1450:4001::".parse().unwrap(), 48);
        dns::addresses(edge.edge.dns, ZONE, kind, Some(client)).await.unwrap()
    };
    let answer = ask(RecordType::AAAA).await;
    assert_eq!(answer.addresses, [IpAddr::from(Ipv6Addr::LOCALHOST)]);
    assert!(answer.scope.is_some() && answer.ttl_s >= 2, "{answer:?}");
    assert_eq!(ask(RecordType::A).await.addresses, [stage.public().ip()], "and the other one to who asks for that");
    let base = format!("http://{}", SocketAddr::new(answer.addresses[0], door.port()));
    let post = async |path: &str, session: &str, body: Value| -> Value {
        let request = stage.http().post(format!("{base}{path}")).bearer_auth(session).json(&body);
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    };
    let session = post("/v1/session", "", json!({})).await["session"].as_str().unwrap().to_owned();
    let wish = json!({"request_id": uuid::Uuid::new_v4(), "quantity": 1, "tiers": ["A"]});
    assert_eq!(post("/v1/concerts/demo/reservations", &session, wish).await["region"], "east");
}
