//! Requests that must be refused, with the field's name; and definitions of concerts.
#![allow(clippy::unwrap_used, reason = "test code")]

use expect_test::expect;
use proptest::prelude::*;
use region_api::body::{Checked, parse};
use region_api::wire::{AcceptBooks, ConcertDefinition, JoinRequest, SessionRequest, TicketCheckRequest};
use serde::de::DeserializeOwned;

fn refusal<T: DeserializeOwned + Checked>(json: &str) -> String {
    match parse::<T>(json.as_bytes()) {
        Ok(_) => format!("accepted {json}"),
        Err(error) => error.to_string(),
    }
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

#[test]
fn a_refusal_quotes_little_and_logs_show_no_secret() {
    let id = "\"request_id\":\"00000000-0000-0000-0000-000000000007\"";
    let long = "é".repeat(8_000);
    for body in [format!(r#"{{{id},"quantity":"{long}"}}"#), format!(r#"{{"{long}":1}}"#)] {
        let refused = refusal::<JoinRequest>(&body);
        assert!(refused.chars().count() < 700, "{} characters", refused.chars().count());
    }
    let request: JoinRequest =
        parse(format!(r#"{{{id},"quantity":1,"tiers":["A"],"identity":"document"}}"#).as_bytes()).unwrap();
    let session: SessionRequest = parse(br#"{"id_token":"header.payload.tag"}"#).unwrap();
    let check: TicketCheckRequest = parse(br#"{"code":"secretcode"}"#).unwrap();
    let shown = format!("{request:?} {session:?} {check:?}");
    for secret in ["document", "payload", "secretcode"] {
        assert!(!shown.contains(secret), "{shown}");
    }
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
    let json = serde_json::to_string_pretty(&definition()).unwrap();
    assert_eq!(serde_json::from_str::<ConcertDefinition>(&json).unwrap(), definition());
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
        }"#]]
    .assert_eq(&json);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

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
}
