//! Requests, concerts and snapshots of the replicated state.

use quota_protocol::{Command, Tickets};

use super::*;
use crate::command::Order;

fn entry(state: &mut State, work: Work) -> Applied {
    state.apply(&LogEntry::new(5, work).encode().unwrap()).unwrap()
}

fn order(state: &mut State, id: u128, order: Order) -> Done {
    entry(state, Work::Request(Request { id: RequestId(id), who: "ann".to_owned(), order })).done
}

fn create(total: u32) -> Order {
    Order::Quota(Command::CreatePool { pool: "demo/A".parse().unwrap(), total: Tickets::from_u32(total) })
}

fn concert(title: &str, tiers: &[(&str, u64)]) -> Order {
    let tiers = tiers.iter().map(
        |(tier, total)| serde_json::json!({"tier": tier, "price": {"amount": 100, "currency": "EUR"}, "total": total}),
    );
    let definition = serde_json::json!({
        "title": title, "sale_opens_at": "2030-01-01T00:00:00Z", "tiers": tiers.collect::<Vec<_>>(),
        "weights": {"east": 3},
    });
    let definition = Box::new(serde_json::from_value(definition).unwrap());
    Order::PutConcert { concert: "demo".parse().unwrap(), definition }
}

fn told(done: Done) -> Told {
    match done {
        Done::Request(effect) => effect.told(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_is_done_once_and_answered_again() {
    let mut state = State::default();
    assert_eq!(order(&mut state, 1, create(10)), Done::Request(Effect::Quota(Outcome::Done)));
    let Done::Repeated(before) = order(&mut state, 1, create(10)) else { panic!("done twice") };
    assert!(before.told.changed && before.who == "ann");
    assert_eq!(order(&mut state, 1, create(99)), Done::OtherContent);
    assert_eq!(told(order(&mut state, 2, create(99))).refused, Some(Code::Conflict));
}

#[test]
fn requests_are_forgotten_in_their_order_and_survive_a_snapshot() {
    let mut state = State::default();
    for id in 0..REQUESTS_REMEMBERED_MAX as u128 + 1 {
        order(&mut state, id, create(10));
    }
    order(&mut state, 5_000, concert("A night", &[("A", 10), ("B", 5)]));
    assert!(state.answered(&RequestId(0)).is_none());
    assert!(state.answered(&RequestId(2)).is_some());
    let mut other = State::default();
    other.restore(&state.snapshot()).unwrap();
    assert_eq!(other, state);
    assert!(matches!(other.restore(br#"{"version":9}"#), Err(BadSnapshot::Version(9))));
    assert_eq!(other, state);
}

#[test]
fn a_concert_is_put_as_a_whole_or_not_at_all() {
    let mut state = State::default();
    assert!(told(order(&mut state, 1, concert("A night", &[("A", 10), ("B", 5)]))).changed);
    assert_eq!(state.concerts_version(), 1);
    assert!(!told(order(&mut state, 2, concert("A night", &[("A", 10), ("B", 5)]))).changed);
    assert_eq!(state.concerts_version(), 1);
    // Nine of B's five cannot be sold: A's growth must not stay either.
    let region: RegionId = "east".parse().unwrap();
    let register = serde_json::json!({"quota": [{"register": {"region": "east", "incarnation": 0, "epoch_as_read": 0,
        "identity": "1:1:00000000000000000000000000000001", "database": null}}]});
    entry(&mut state, serde_json::from_value(register).unwrap());
    let to_east = Order::Move {
        pool: "demo/B".parse().unwrap(),
        from: arbiter_api::Place::Pool,
        to: arbiter_api::Place::Region(region),
        tickets: Tickets::from_u32(4),
    };
    assert!(told(order(&mut state, 3, to_east)).changed);
    let shrunk = told(order(&mut state, 4, concert("A night", &[("A", 20), ("B", 1)])));
    assert_eq!(shrunk.refused, Some(Code::Conflict), "{shrunk:?}");
    assert_eq!(state.issuer().pools()[&"demo/A".parse().unwrap()].total, Tickets::from_u32(10));
    assert!(told(order(&mut state, 5, concert("A night", &[("A", 20), ("B", 4)]))).changed);
    assert_eq!(state.issuer().pools()[&"demo/A".parse().unwrap()].total, Tickets::from_u32(20));
    assert_eq!(state.weight(&"demo".parse().unwrap(), &region), 3);
    assert_eq!(state.weight(&"demo".parse().unwrap(), &"west".parse().unwrap()), 1);
    let removed = told(order(&mut state, 6, concert("A night", &[("A", 20)])));
    assert_eq!(removed.refused, Some(Code::InvalidRequest));
}

#[test]
fn a_total_is_the_same_in_the_pool_and_in_the_definition() {
    let mut state = State::default();
    order(&mut state, 1, concert("A night", &[("A", 10)]));
    let pool = "demo/A".parse().unwrap();
    let total = |from, to| {
        Order::Quota(Command::SetTotal { pool, from: Tickets::from_u32(from), to: Tickets::new(to).unwrap() })
    };
    assert!(told(order(&mut state, 2, total(10, 12))).changed);
    assert_eq!(state.concerts()[&pool.concert].definition.tiers[0].total, 12);
    assert_eq!(told(order(&mut state, 3, total(10, 13))).refused, Some(Code::Conflict));
    // Sums of counters stay in bounds whatever anybody asks for.
    assert_eq!(told(order(&mut state, 4, total(12, (1 << 53) - 1))).refused, Some(Code::InvalidRequest));
    assert_eq!(state.concerts()[&pool.concert].definition.tiers[0].total, 12);
}

#[test]
fn closing_is_done_once_and_stays() {
    let mut state = State::default();
    let close = || Order::CloseConcert { concert: "demo".parse().unwrap() };
    assert_eq!(told(order(&mut state, 1, close())).refused, Some(Code::NotFound));
    order(&mut state, 2, concert("A night", &[("A", 10)]));
    assert!(told(order(&mut state, 3, close())).changed);
    assert!(!told(order(&mut state, 4, close())).changed);
    order(&mut state, 5, concert("Another night", &[("A", 10)]));
    assert_eq!(state.concerts()[&"demo".parse().unwrap()].closed_at, Some(Timestamp::from_ms(5)));
}

#[test]
fn no_region_is_called_pool_and_a_cluster_is_founded_once() {
    let mut state = State::default();
    let founding = |region: &str| {
        let address = Address { address: "https://a".to_owned(), people: "https://b".to_owned() };
        Founding { members: [(1, address)].into(), regions: vec![region.parse().unwrap(), POOL.parse().unwrap()] }
    };
    entry(&mut state, Work::Found(founding("east")));
    entry(&mut state, Work::Found(founding("west")));
    let regions = state.issuer().regions().keys().map(RegionId::as_str).collect::<Vec<_>>();
    assert_eq!(regions, ["east"]);
    let add = Order::Quota(Command::AddRegion { region: POOL.parse().unwrap() });
    assert_eq!(told(order(&mut state, 1, add)).refused, Some(Code::NotFound));
}

#[test]
fn a_backup_comes_up_frozen_whoever_counts_and_unlike_any_other_life() {
    let backup = State::default().snapshot();
    let regions = || vec!["east".parse().unwrap()];
    let first = State::restored(&backup, Incarnation::default(), 7, regions()).unwrap();
    assert!(first.issuer().recovering().is_some());
    // The same backup again, by somebody who knows of no other restore.
    let again = State::restored(&backup, Incarnation::default(), 8, regions()).unwrap();
    assert_ne!(again.issuer().incarnation(), first.issuer().incarnation());
    // A backup of the life that was just begun, by somebody who remembers less than it does.
    let later = State::restored(&first.snapshot(), Incarnation::default(), 1, regions()).unwrap();
    assert!(later.issuer().incarnation() > first.issuer().incarnation());
    let refused = State::restored(b"{}", Incarnation::default(), 1, regions());
    assert!(matches!(refused, Err(NotRestored::Backup(BadSnapshot::Format(_)))));
}
