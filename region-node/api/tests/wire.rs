//! Bodies, pinned as the contract writes them; names, instants, entries, cursors.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use region_api::wire::reservation::{Chance, JoinAnswer, JoinRequest, Reason, Reservation, Status};
use region_api::wire::{
    Availability, BookKind, BookRows, Concert, ConcertState, LedgerCursor, Payment, ProviderName, QueueInfo, Ticket,
    TicketStatus, Tier, books,
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

    #[test]
    fn money_never_overflows(amount: i64, quantity: u16) {
        let product = i128::from(amount) * i128::from(quantity);
        let expected = i64::try_from(product).ok().map(euros);
        prop_assert_eq!(euros(amount).times(quantity), expected);
    }
}
