//! Bodies, pinned as the contract writes them, and requests that must be refused with the field's name.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use region_api::body::{Checked, parse};
use region_api::wire::reservation::{Chance, JoinAnswer, JoinRequest, Reason, Reservation, Status};
use region_api::wire::{
    AcceptBooks, Availability, BookKind, BookRows, Concert, ConcertDefinition, ConcertState, LedgerCursor, Payment,
    ProviderName, QueueInfo, SessionRequest, Ticket, TicketCheckRequest, TicketStatus, Tier, books,
};
use region_api::{Code, Money, Problem, RegionName, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::MAX;

fn pinned<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, expected: Expect) {
    let json = serde_json::to_string_pretty(value).unwrap();
    expected.assert_eq(&json);
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value);
}
fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(1_700_000_000_000 + ms)
}
fn euros(amount: i64) -> Money {
    Money { amount, currency: "EUR".parse().unwrap() }
}
fn refusal<T: DeserializeOwned + Checked>(json: &str) -> String {
    match parse::<T>(json.as_bytes()) {
        Ok(_) => format!("accepted {json}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn golden_concert() {
    let tier = Tier {
        tier: "A".parse().unwrap(),
        title: "Stalls".into(),
        price: euros(12_000),
        availability: Availability::NoneHere,
    };
    let concert = Concert {
        concert: "demo".parse().unwrap(),
        title: "Demo".into(),
        venue: "Hall".into(),
        starts_at: Some(at(86_400_000)),
        sale_opens_at: at(0),
        sale_closes_at: None,
        state: ConcertState::Open,
        hold_ms: 600_000,
        max_per_order: 4,
        max_per_person: 4,
        max_per_identity: None,
        guests: true,
        challenge: false,
        tiers: vec![tier],
        queue: QueueInfo { waiting: 1_234, estimated_wait_ms: Some(8_000) },
        as_of: at(5),
        region: "east".parse().unwrap(),
    };
    pinned(
        &concert,
        expect![[r#"
        {
          "concert": "demo",
          "title": "Demo",
          "venue": "Hall",
          "starts_at": "2023-11-15T22:13:20.000Z",
          "sale_opens_at": "2023-11-14T22:13:20.000Z",
          "sale_closes_at": null,
          "state": "open",
          "hold_ms": 600000,
          "max_per_order": 4,
          "max_per_person": 4,
          "max_per_identity": null,
          "guests": true,
          "challenge": false,
          "tiers": [
            {
              "tier": "A",
              "title": "Stalls",
              "price": {
                "amount": 12000,
                "currency": "EUR"
              },
              "availability": "none_here"
            }
          ],
          "queue": {
            "waiting": 1234,
            "estimated_wait_ms": 8000
          },
          "as_of": "2023-11-14T22:13:20.005Z",
          "region": "east"
        }"#]],
    );
}

#[test]
fn golden_join() {
    let request = JoinRequest {
        request_id: Uuid::from_u128(7),
        quantity: 2,
        tiers: ["A", "B"].map(|name| name.parse().unwrap()).into_iter().collect(),
        any_quantity: false,
        identity: None,
    };
    pinned(
        &request,
        expect![[r#"
        {
          "request_id": "00000000-0000-0000-0000-000000000007",
          "quantity": 2,
          "tiers": [
            "A",
            "B"
          ],
          "any_quantity": false
        }"#]],
    );
    let answer = JoinAnswer {
        reservation: "EQ".into(),
        status: Status::Queued,
        position: Some(57),
        estimated_wait_ms: Some(4_000),
        poll_after_ms: Some(5_000),
        region: "east".parse().unwrap(),
        url: "http://127.0.11.1:8080/v1/reservations/EQ".into(),
    };
    pinned(
        &answer,
        expect![[r#"
        {
          "reservation": "EQ",
          "status": "queued",
          "position": 57,
          "estimated_wait_ms": 4000,
          "poll_after_ms": 5000,
          "region": "east",
          "url": "http://127.0.11.1:8080/v1/reservations/EQ"
        }"#]],
    );
}

fn reservation() -> Reservation {
    Reservation {
        reservation: "EQ".into(),
        concert: "demo".parse().unwrap(),
        status: Status::Queued,
        reason: None,
        position: Some(57),
        estimated_wait_ms: None,
        chance: Some(Chance::Likely),
        poll_after_ms: Some(5_000),
        tier: None,
        quantity: 2,
        amount: None,
        hold_expires_at: None,
        tickets: vec![],
        region: "east".parse().unwrap(),
        as_of: at(0),
    }
}

#[test]
fn golden_reservation() {
    pinned(
        &reservation(),
        expect![[r#"
        {
          "reservation": "EQ",
          "concert": "demo",
          "status": "queued",
          "reason": null,
          "position": 57,
          "estimated_wait_ms": null,
          "chance": "likely",
          "poll_after_ms": 5000,
          "tier": null,
          "quantity": 2,
          "amount": null,
          "hold_expires_at": null,
          "tickets": [],
          "region": "east",
          "as_of": "2023-11-14T22:13:20.000Z"
        }"#]],
    );
    let sold = Reservation {
        status: Status::Sold,
        reason: Some(Reason::LatePayment),
        position: None,
        chance: None,
        poll_after_ms: None,
        tier: Some("A".parse().unwrap()),
        amount: Some(euros(24_000)),
        tickets: vec![Uuid::from_u128(1), Uuid::from_u128(2)],
        ..reservation()
    };
    pinned(
        &sold,
        expect![[r#"
        {
          "reservation": "EQ",
          "concert": "demo",
          "status": "sold",
          "reason": "late_payment",
          "position": null,
          "estimated_wait_ms": null,
          "chance": null,
          "poll_after_ms": null,
          "tier": "A",
          "quantity": 2,
          "amount": {
            "amount": 24000,
            "currency": "EUR"
          },
          "hold_expires_at": null,
          "tickets": [
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-000000000002"
          ],
          "region": "east",
          "as_of": "2023-11-14T22:13:20.000Z"
        }"#]],
    );
}

#[test]
fn golden_payment_and_ticket() {
    let payment = Payment {
        provider: ProviderName::Sandbox,
        intent: "pi_1".into(),
        client_secret: "pi_1_secret_2".into(),
        checkout_url: None,
        expires_at: at(0),
    };
    pinned(
        &payment,
        expect![[r#"
        {
          "provider": "sandbox",
          "intent": "pi_1",
          "client_secret": "pi_1_secret_2",
          "checkout_url": null,
          "expires_at": "2023-11-14T22:13:20.000Z"
        }"#]],
    );
    assert!(!format!("{payment:?}").contains("secret_2"));
    let ticket = Ticket {
        ticket: Uuid::from_u128(1),
        concert: "demo".parse().unwrap(),
        tier: "A".parse().unwrap(),
        reservation: "EQ".into(),
        status: TicketStatus::Valid,
        code: "FQ".into(),
    };
    pinned(
        &ticket,
        expect![[r#"
        {
          "ticket": "00000000-0000-0000-0000-000000000001",
          "concert": "demo",
          "tier": "A",
          "reservation": "EQ",
          "status": "valid",
          "code": "FQ"
        }"#]],
    );
}

#[test]
fn golden_problem() {
    let problem = Problem::new(Code::Overloaded, "too many requests in flight").retry_after_ms(1_001);
    pinned(
        &problem,
        expect![[r#"
        {
          "type": "urn:boxoffice:problem:overloaded",
          "title": "Too busy at the moment",
          "status": 503,
          "detail": "too many requests in flight",
          "code": "overloaded",
          "side_effects": "none",
          "retry_after_ms": 1001
        }"#]],
    );
    assert_eq!(problem.retry_after_seconds(), Some(2));
    let unknown = Problem::new(Code::Unavailable, "the queue did not confirm").unknown_side_effects();
    pinned(
        &unknown,
        expect![[r#"
        {
          "type": "urn:boxoffice:problem:unavailable",
          "title": "A server that this needs is away",
          "status": 503,
          "detail": "the queue did not confirm",
          "code": "unavailable",
          "side_effects": "unknown"
        }"#]],
    );
}

/// The contract's table: code, status.
#[test]
fn every_code_has_the_contracts_status() {
    let table: Vec<String> = Code::ALL
        .iter()
        .map(|code| {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert_eq!(code.type_uri(), format!("urn:boxoffice:problem:{code}"));
            assert!(!code.title().is_empty());
            format!("{code} {}", code.status())
        })
        .collect();
    let contract = [
        "invalid_request 400",
        "unauthenticated 401",
        "challenge_required 401",
        "forbidden 403",
        "not_found 404",
        "method_not_allowed 405",
        "conflict 409",
        "sale_not_open 409",
        "sale_closed 409",
        "sold_out 409",
        "limit_exceeded 422",
        "too_large 413",
        "rate_limited 429",
        "overloaded 503",
        "unavailable 503",
        "internal 500",
    ];
    assert_eq!(table, contract);
}

#[test]
fn words_of_the_contract() {
    fn words<T: Serialize>(all: &[T]) -> String {
        all.iter().map(|one| serde_json::to_string(one).unwrap().replace('"', "")).collect::<Vec<_>>().join("|")
    }
    use Availability::{Few, NoneHere, Plenty, SoldOut};
    assert_eq!(words(&[Plenty, Few, NoneHere, SoldOut]), "plenty|few|none_here|sold_out");
    use ConcertState::{Announced, Cancelled, Closed, Open};
    assert_eq!(words(&[Announced, Open, Closed, Cancelled]), "announced|open|closed|cancelled");
    let statuses = [
        Status::Queued,
        Status::Held,
        Status::Sold,
        Status::Rejected,
        Status::Expired,
        Status::Cancelled,
        Status::Voided,
        Status::Refunded,
    ];
    assert_eq!(words(&statuses), "queued|held|sold|rejected|expired|cancelled|voided|refunded");
    let reasons = [Reason::SoldOut, Reason::Limit, Reason::SaleClosed, Reason::TooManyPolls, Reason::LatePayment];
    assert_eq!(words(&reasons), "sold_out|limit|sale_closed|too_many_polls|late_payment");
    assert!(reasons.iter().all(|reason| reason.as_str().parse() == Ok(*reason)));
    assert_eq!(words(&[Chance::Likely, Chance::Unlikely, Chance::Slight]), "likely|unlikely|slight");
    assert_eq!(words(&[TicketStatus::Valid, TicketStatus::Void, TicketStatus::Used]), "valid|void|used");
    let kinds = BookKind::ALL.map(BookKind::as_str).join("|");
    assert_eq!(words(&BookKind::ALL), kinds);
}

#[test]
fn a_join_out_of_bounds_is_refused_by_name() {
    let id = "\"request_id\":\"00000000-0000-0000-0000-000000000007\"";
    let join = |rest: &str| refusal::<JoinRequest>(&format!("{{{id},{rest}}}"));
    for (rest, names) in [
        (r#""quantity":0,"tiers":["A"]"#, "quantity: must be 1 to 100"),
        (r#""quantity":101,"tiers":["A"]"#, "quantity: must be 1 to 100"),
        (r#""quantity":70000,"tiers":["A"]"#, "quantity: invalid value: integer `70000`, expected u16"),
        (r#""quantity":-1,"tiers":["A"]"#, "quantity: invalid value: integer `-1`, expected u16"),
        (r#""quantity":2.5,"tiers":["A"]"#, "quantity: invalid type: floating point `2.5`, expected u16"),
        (r#""quantity":"2","tiers":["A"]"#, "quantity: invalid type: string \"2\", expected u16"),
        (r#""quantity":null,"tiers":["A"]"#, "quantity: invalid type: null, expected u16"),
        (r#""quantity":2,"tiers":[]"#, "tiers: must be 1 to 8"),
        (r#""quantity":2,"tiers":["A","B","C","D","E","F","G","H","I"]"#, "tiers: must be 1 to 8"),
        (r#""quantity":2,"tiers":["A","B","A"]"#, "tiers[2]: A is named twice"),
        (r#""quantity":2,"tiers":["A","-"]"#, "tiers[1]: a tier must match"),
        (r#""quantity":2,"tiers":"A""#, "tiers: invalid type: string"),
        (r#""quantity":2,"tiers":["A"],"any_quantity":1"#, "any_quantity: invalid type: integer"),
        (r#""quantity":2,"tiers":["A"],"identity":"""#, "identity: must be 1 to 128"),
        (r#""quantity":2,"tiers":["A"],"identity":"a b""#, "identity: must be 1 to 128"),
        (r#""quantity":2,"tiers":["A"],"more":1"#, "unknown field `more`"),
        (r#""quantity":2"#, "missing field `tiers`"),
        (r#""tiers":["A"]"#, "missing field `quantity`"),
        (r#""quantity":2,"quantity":2,"tiers":["A"]"#, "duplicate field `quantity`"),
    ] {
        assert!(join(rest).contains(names), "{rest}: {}", join(rest));
    }
    let bad_id = refusal::<JoinRequest>(r#"{"request_id":"7","quantity":2,"tiers":["A"]}"#);
    assert!(bad_id.starts_with("request_id: "), "{bad_id}");
    for not_json in ["", "{", "nonsense", "{\"quantity\":}", "\u{0}"] {
        assert!(refusal::<JoinRequest>(not_json).starts_with("not JSON"), "{not_json}");
    }
    // What serde derives would take an array in the order of the fields.
    let array = r#"["00000000-0000-0000-0000-000000000007",2,["A"],false]"#;
    for wrong in [array, "[]", "1", "null", "\"x\""] {
        assert!(refusal::<JoinRequest>(wrong).starts_with("body: "), "{wrong}: {}", refusal::<JoinRequest>(wrong));
    }
    let trailing = refusal::<JoinRequest>(&format!("{{{id},\"quantity\":2,\"tiers\":[\"A\"]}} x"));
    assert!(trailing.starts_with("not JSON"), "{trailing}");
}

#[test]
fn other_requests_out_of_bounds_are_refused_by_name() {
    assert_eq!(refusal::<SessionRequest>("{}"), "accepted {}");
    assert!(refusal::<SessionRequest>(r#"{"user":"x"}"#).contains("unknown field `user`"));
    let long = format!(r#"{{"id_token":"{}"}}"#, "x".repeat(12_289));
    assert!(refusal::<SessionRequest>(&long).starts_with("id_token: longer than"));
    let long = format!(r#"{{"challenge":{{"nonce":"n","solution":"{}"}}}}"#, "x".repeat(65));
    assert!(refusal::<SessionRequest>(&long).starts_with("challenge.solution: longer than"));
    let nested = refusal::<SessionRequest>(r#"{"challenge":{"nonce":1,"solution":"x"}}"#);
    assert!(nested.starts_with("challenge.nonce: invalid type"), "{nested}");
    let array = refusal::<SessionRequest>(r#"{"challenge":["n","s"]}"#);
    assert!(array.starts_with("challenge: invalid type: sequence"), "{array}");
    assert!(refusal::<SessionRequest>(r#"{"challenge":null}"#).starts_with("accepted"));
    assert!(refusal::<TicketCheckRequest>(r#"{"code":""}"#).starts_with("code: "));
    assert!(refusal::<TicketCheckRequest>(&format!(r#"{{"code":"{}"}}"#, "x".repeat(500))).starts_with("code: "));
    assert!(refusal::<AcceptBooks>(r#"{"reason":" "}"#).starts_with("reason: "));
}

const DEFINITION: &str = r#"{"title":"Demo","sale_opens_at":"2026-01-01T10:00:00Z",
    "tiers":[{"tier":"A","price":{"amount":12000,"currency":"EUR"},"total":1000}]}"#;

fn definition() -> ConcertDefinition {
    parse(DEFINITION.as_bytes()).unwrap()
}
fn changed(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut json: serde_json::Value = serde_json::from_str(DEFINITION).unwrap();
    change(&mut json);
    json.to_string()
}

#[test]
fn golden_definition_with_defaults() {
    pinned(
        &definition(),
        expect![[r#"
        {
          "title": "Demo",
          "venue": "",
          "starts_at": null,
          "sale_opens_at": "2026-01-01T10:00:00.000Z",
          "sale_closes_at": null,
          "hold_ms": 600000,
          "max_per_order": 4,
          "max_per_person": 4,
          "guests": true,
          "challenge": false,
          "tiers": [
            {
              "tier": "A",
              "title": "",
              "price": {
                "amount": 12000,
                "currency": "EUR"
              },
              "total": 1000
            }
          ]
        }"#]],
    );
    assert_eq!(definition().tiers[0].title(), "A");
}

#[test]
fn a_definition_out_of_bounds_is_refused_by_name() {
    use serde_json::json;
    type Change = fn(&mut serde_json::Value);
    let table: [(&str, Change); 28] = [
        ("title: must not be empty", |json| json["title"] = json!(" ")),
        ("title: longer than 200", |json| json["title"] = json!("x".repeat(201))),
        ("venue: must not contain", |json| json["venue"] = json!("a\nb")),
        ("sale_opens_at: an instant must be", |json| json["sale_opens_at"] = json!("tomorrow")),
        ("sale_closes_at: must be after", |json| json["sale_closes_at"] = json!("2026-01-01T10:00:00Z")),
        ("hold_ms: must be 1000 to 86400000", |json| json["hold_ms"] = json!(999)),
        ("hold_ms: must be 1000 to 86400000", |json| json["hold_ms"] = json!(86_400_001)),
        ("max_per_order: must be 1 to 100", |json| json["max_per_order"] = json!(0)),
        ("max_per_order: must be 1 to 100", |json| json["max_per_order"] = json!(101)),
        ("max_per_person: must be 1 to 1000", |json| json["max_per_person"] = json!(0)),
        ("max_per_identity: must be 1 to 1000", |json| json["max_per_identity"] = json!(0)),
        ("waitlist_factor: must be", |json| json["waitlist_factor"] = json!(0.9)),
        ("shards: must be 1 to 1024", |json| json["shards"] = json!(1_025)),
        ("tiers[0].price: invalid type: seq", |json| json["tiers"][0]["price"] = json!([12_000, "EUR"])),
        ("tiers[0]: invalid type: seq", |json| {
            json["tiers"] = json!([["A", "A", {"amount": 1, "currency": "EUR"}, 1]])
        }),
        ("tiers: must be 1 to 64", |json| json["tiers"] = json!([])),
        ("tiers[1].tier: A is defined twice", |json| {
            let first = json["tiers"][0].clone();
            json["tiers"].as_array_mut().unwrap().push(first);
        }),
        ("tiers[0].tier: a tier must match", |json| json["tiers"][0]["tier"] = json!("A B")),
        ("tiers[0].title: longer", |json| json["tiers"][0]["title"] = json!("x".repeat(201))),
        ("tiers[0].price.amount: must be", |json| json["tiers"][0]["price"]["amount"] = json!(-1)),
        ("tiers[0].price.amount: must be", |json| json["tiers"][0]["price"]["amount"] = json!(100_000_000)),
        ("tiers[0].price.currency: a currency", |json| json["tiers"][0]["price"]["currency"] = json!("eur")),
        ("tiers[0].total: must be 0 to 10000000", |json| json["tiers"][0]["total"] = json!(10_000_001)),
        ("tiers[0].total: invalid value", |json| json["tiers"][0]["total"] = json!(-1)),
        ("tiers[0].seats: unknown field `seats`", |json| json["tiers"][0]["seats"] = json!(1)),
        ("weights: must name 1 to 64", |json| json["weights"] = json!({})),
        ("weights: must not all be 0", |json| json["weights"] = json!({"east": 0})),
        ("weights.east: must be 0 to 1000000", |json| json["weights"] = json!({"east": 1_000_001})),
    ];
    for (expected, change) in table {
        let found = refusal::<ConcertDefinition>(&changed(change));
        assert!(found.starts_with(expected), "expected {expected}, got {found}");
    }
    let bad_region = refusal::<ConcertDefinition>(&changed(|json| json["weights"] = json!({"East": 1})));
    assert!(bad_region.contains("a region must match"), "{bad_region}");
}

#[test]
fn tiers_and_shards_of_a_concert_stay() {
    let before = definition();
    let renamed = ConcertDefinition { title: "Other".into(), ..before.clone() };
    assert_eq!(renamed.check_change(&before), Ok(()));
    let mut more = before.clone();
    more.tiers[0].total = 0;
    more.tiers[0].price.amount = 1;
    more.tiers.push(region_api::wire::TierDefinition { tier: "B".parse().unwrap(), ..more.tiers[0].clone() });
    assert_eq!(more.check_change(&before), Ok(()));
    assert_eq!(before.check_change(&more).unwrap_err().field, "tiers");
    let mut swapped = more.clone();
    swapped.tiers.swap(0, 1);
    assert_eq!(swapped.check_change(&more).unwrap_err().field, "tiers[0].tier");
    let mut dollars = before.clone();
    dollars.tiers[0].price.currency = "USD".parse().unwrap();
    assert_eq!(dollars.check_change(&before).unwrap_err().field, "tiers[0].price.currency");
    let shards = |shards| ConcertDefinition { shards, ..before.clone() };
    assert_eq!(shards(Some(9)).check_change(&shards(Some(8))).unwrap_err().field, "shards");
    assert_eq!(shards(None).check_change(&shards(Some(8))), Ok(()));
    let named = ConcertDefinition { concert: Some("demo".parse().unwrap()), ..before };
    assert_eq!(named.check_name(&"demo".parse().unwrap()), Ok(()));
    assert_eq!(named.check_name(&"other".parse().unwrap()).unwrap_err().field, "concert");
}

#[test]
fn a_walk_through_the_books_visits_every_kind_and_every_row() {
    // A database of seven folds; pages of three.
    let folds: Vec<books::FoldRow> =
        (1..=7).map(|ledger_id| books::FoldRow { ledger_id: ledger_id * 10, book: ledger_id }).collect();
    let page = |cursor: &LedgerCursor| {
        if cursor.kind != BookKind::Fold {
            return match cursor.kind {
                BookKind::Ledger => BookRows::Ledger(vec![]),
                BookKind::Unfolded => BookRows::Unfolded(vec![]),
                BookKind::Reservation => BookRows::Reservation(vec![]),
                BookKind::Waiting => BookRows::Waiting(vec![]),
                BookKind::RejectedRange => BookRows::RejectedRange(vec![]),
                BookKind::Payment => BookRows::Payment(vec![]),
                BookKind::Refund => BookRows::Refund(vec![]),
                BookKind::Ticket => BookRows::Ticket(vec![]),
                BookKind::Fold => unreachable!(),
            };
        }
        let after = cursor.number().unwrap().unwrap_or(i64::MIN);
        BookRows::Fold(folds.iter().filter(|row| row.ledger_id > after).take(3).cloned().collect())
    };
    let (mut cursor, mut kinds, mut seen) = (Some(LedgerCursor::start()), Vec::new(), Vec::new());
    while let Some(at) = cursor {
        let at: LedgerCursor = at.to_string().parse().unwrap();
        let rows = page(&at);
        kinds.push(rows.kind());
        cursor = rows.next(3);
        if let BookRows::Fold(rows) = rows {
            seen.extend(rows);
        }
    }
    assert_eq!(seen, folds);
    kinds.dedup();
    assert_eq!(kinds, BookKind::ALL);
}

#[test]
fn cursors_are_read_strictly() {
    let cursor: LedgerCursor = "rejected_range:3.1.77.12".parse().unwrap();
    assert_eq!(cursor.numbers(), Ok(Some([3, 1, 77, 12])));
    assert!(cursor.numbers::<3>().is_err() && cursor.number().is_err());
    assert_eq!("reservation:".parse::<LedgerCursor>().unwrap().number(), Ok(None));
    assert_eq!("waiting:".parse::<LedgerCursor>().unwrap().numbers::<2>(), Ok(None));
    for bad in ["", "reservation", "nothing:1", "ledger:\n", "payment:é"] {
        assert!(bad.parse::<LedgerCursor>().is_err(), "{bad}");
    }
    assert!(format!("payment:{}", "x".repeat(129)).parse::<LedgerCursor>().is_err());
}

#[test]
fn golden_instants() {
    assert_eq!(Timestamp::from_ms(0).to_string(), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(1).to_string(), "2023-11-14T22:13:20.001Z");
    assert_eq!(NOW.to_string(), "9999-12-31T23:59:59.999Z");
    assert_eq!(Timestamp::from_ms(u64::MAX), Timestamp::MAX);
    let read = |text: &str| text.parse::<Timestamp>().map(|at| at.to_string());
    assert_eq!(read("2023-11-14T23:13:20.0019+01:00"), Ok("2023-11-14T22:13:20.001Z".into()));
    assert_eq!(read("2023-11-14T22:13:20Z"), Ok("2023-11-14T22:13:20.000Z".into()));
    for bad in ["", "2023-11-14", "2023-11-14T22:13:20", "1969-12-31T23:59:59.999Z", "2023-13-01T00:00:00Z"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn schemas_name_their_bounds() {
    use utoipa::{PartialSchema as _, ToSchema as _};
    let schema = serde_json::to_value(JoinRequest::schema()).unwrap();
    assert_eq!(schema["additionalProperties"], serde_json::json!(false));
    assert_eq!(schema["required"], serde_json::json!(["request_id", "quantity", "tiers"]));
    assert_eq!(schema["properties"]["quantity"]["maximum"], serde_json::json!(100));
    assert_eq!(schema["properties"]["tiers"]["maxItems"], serde_json::json!(8));
    assert_eq!(RegionName::name(), "RegionName");
    let region = serde_json::to_value(RegionName::schema()).unwrap();
    assert_eq!(region["pattern"], serde_json::json!("^[a-z0-9][a-z0-9-]{0,15}$"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn names_round_trip_and_order_as_text(one in common::concert(), other in common::concert()) {
        let json = serde_json::to_string(&one).unwrap();
        prop_assert_eq!(&json, &format!("\"{one}\""));
        prop_assert_eq!(serde_json::from_str::<region_api::ConcertName>(&json).unwrap(), one.clone());
        prop_assert_eq!(one.cmp(&other), one.as_str().cmp(other.as_str()));
        let set = std::collections::HashSet::from([one.clone()]);
        prop_assert!(set.contains(one.as_str()), "a map by name can be asked with text");
    }

    #[test]
    fn names_are_exactly_their_pattern(text in "[a-zA-Z0-9_é -]{0,35}") {
        let inner = |most: usize, upper: bool, underscore: bool| {
            let ok = |(index, c): (usize, char)| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || (upper && c.is_ascii_uppercase())
                    || (index > 0 && (c == '-' || (underscore && c == '_')))
            };
            !text.is_empty() && text.len() <= most && text.chars().enumerate().all(ok)
        };
        prop_assert_eq!(RegionName::new(&text).is_ok(), inner(16, false, false));
        prop_assert_eq!(region_api::ConcertName::new(&text).is_ok(), inner(32, false, false));
        prop_assert_eq!(region_api::TierName::new(&text).is_ok(), inner(16, true, true));
    }

    #[test]
    fn instants_round_trip(ms in 0u64..=Timestamp::MAX.ms()) {
        let at = Timestamp::from_ms(ms);
        prop_assert_eq!(at.to_string().parse::<Timestamp>(), Ok(at));
        prop_assert_eq!(Timestamp::from_datetime(at.to_datetime()), at);
        prop_assert_eq!(at.to_string().len(), 24);
    }

    #[test]
    fn arbitrary_instants_never_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<Timestamp>();
    }

    #[test]
    fn entries_round_trip(entry in common::entry()) {
        let again = region_api::Entry::new(entry.shard(), entry.generation(), entry.sequence());
        prop_assert_eq!(again, Some(entry));
        prop_assert_eq!(region_api::Entry::from_i64(entry.to_i64()), Some(entry));
        prop_assert!(entry.to_i64() >= 0);
    }

    /// Bodies of every kind: arbitrary bytes and arbitrary JSON are refused or in bounds, never a panic.
    #[test]
    fn arbitrary_bodies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), json in "[\\[\\]{}:,\"a-z0-9._-]{0,80}") {
        for body in [bytes.as_slice(), json.as_bytes()] {
            let _ = parse::<JoinRequest>(body);
            let _ = parse::<SessionRequest>(body);
            let _ = parse::<ConcertDefinition>(body);
            let _ = parse::<TicketCheckRequest>(body);
            let _ = parse::<AcceptBooks>(body);
        }
    }

    #[test]
    fn money_never_overflows(amount: i64, quantity: u16) {
        let product = i128::from(amount) * i128::from(quantity);
        let expected = i64::try_from(product).ok().map(euros);
        prop_assert_eq!(euros(amount).times(quantity), expected);
    }
}
