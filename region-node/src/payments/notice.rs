//! What a webhook says, as far as a region cares: read strictly, kept without what it does not need (names, addresses
//! and cards of buyers are never stored).
//!
//! Pure. Never panics, whatever the bytes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happened at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Paid.
    Succeeded,
    /// An attempt was declined; another may follow.
    Failed,
    /// The bank takes its time.
    Processing,
    /// The intent was cancelled.
    Cancelled,
    /// The whole payment went back to the buyer.
    Refunded,
    /// The buyer's bank took the money back.
    Disputed,
}

impl Kind {
    fn parse(kind: &str) -> Option<Self> {
        Some(match kind {
            "payment_intent.succeeded" => Self::Succeeded,
            "payment_intent.payment_failed" => Self::Failed,
            "payment_intent.processing" => Self::Processing,
            "payment_intent.canceled" => Self::Cancelled,
            "charge.refunded" => Self::Refunded,
            "charge.dispute.created" => Self::Disputed,
            _ => return None,
        })
    }
}

/// Which reservation a payment says that it is for: what we attached when we opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The region's name.
    pub region: String,
    /// The concert's name.
    pub concert: String,
    /// The reservation's number in that concert and region.
    pub entry: i64,
}

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// `evt_…`
    pub event: String,
    /// What happened.
    pub kind: Kind,
    /// `pi_…`
    pub intent: String,
    /// Minor units that it is about.
    pub amount: i64,
    /// ISO 4217, upper case.
    pub currency: String,
    /// Whose it is, where the event says so (disputes do not).
    pub attached: Option<Attached>,
}

/// The body is no event that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a readable event: {0}")]
pub struct Malformed(pub &'static str);

/// Longest id taken: Stripe promises 255.
const ID_BYTES_MAX: usize = 255;

fn id(value: Option<&Value>, what: &'static str) -> Result<String, Malformed> {
    let text = value.and_then(Value::as_str).ok_or(Malformed(what))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(Malformed(what)) }
}

/// Reads a body. `None`: an event of a kind that means nothing here, partial refunds included.
pub fn parse(body: &[u8]) -> Result<Option<Notice>, Malformed> {
    let event: Value = serde_json::from_slice(body).map_err(|_| Malformed("no JSON"))?;
    let name = event.get("type").and_then(Value::as_str).ok_or(Malformed("type"))?;
    let event_id = id(event.get("id"), "id")?;
    let Some(kind) = Kind::parse(name) else { return Ok(None) };
    let object = event.pointer("/data/object").ok_or(Malformed("data.object"))?;
    if kind == Kind::Refunded && object.get("refunded") != Some(&Value::Bool(true)) {
        return Ok(None);
    }
    let (intent, amount) = match kind {
        // A charge that belongs to no intent is not ours.
        Kind::Refunded | Kind::Disputed if object.get("payment_intent").is_none_or(Value::is_null) => return Ok(None),
        Kind::Refunded | Kind::Disputed => ("payment_intent", "amount"),
        Kind::Succeeded => ("id", "amount_received"),
        Kind::Failed | Kind::Processing | Kind::Cancelled => ("id", "amount"),
    };
    let amount = object.get(amount).and_then(Value::as_i64).filter(|amount| *amount >= 0).ok_or(Malformed("amount"))?;
    let currency = object.get("currency").and_then(Value::as_str).ok_or(Malformed("currency"))?;
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(Malformed("currency"));
    }
    Ok(Some(Notice {
        event: event_id,
        kind,
        intent: id(object.get(intent), "intent")?,
        amount,
        currency: currency.to_ascii_uppercase(),
        attached: attached(object.get("metadata")),
    }))
}

/// What we attached; anything else in there is somebody else's business.
fn attached(metadata: Option<&Value>) -> Option<Attached> {
    let text = |name: &str| metadata?.get(name)?.as_str();
    let region = region_api::RegionName::new(text("region")?).ok()?;
    let concert = region_api::ConcertName::new(text("concert")?).ok()?;
    let entry = text("entry")?.parse().ok().filter(|entry| *entry >= 0)?;
    Some(Attached { region: region.to_string(), concert: concert.to_string(), entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn event(kind: &str, object: Value) -> Vec<u8> {
        json!({"id": "evt_1", "type": kind, "data": {"object": object}}).to_string().into_bytes()
    }

    #[test]
    fn a_success_is_read_with_what_we_attached() {
        let body = event(
            "payment_intent.succeeded",
            json!({"id": "pi_1", "amount": 500, "amount_received": 500, "currency": "eur",
                   "metadata": {"region": "east", "concert": "demo", "entry": "7"}}),
        );
        let attached = Some(Attached { region: "east".into(), concert: "demo".into(), entry: 7 });
        let notice = parse(&body).unwrap().unwrap();
        assert_eq!((notice.kind, notice.amount, notice.currency.as_str()), (Kind::Succeeded, 500, "EUR"));
        assert_eq!((notice.intent.as_str(), notice.attached), ("pi_1", attached));
    }

    #[test]
    fn only_whole_refunds_count_and_strange_events_are_let_pass() {
        let charge = |refunded: bool| json!({"id": "ch_1", "payment_intent": "pi_1", "amount": 5, "currency": "eur", "refunded": refunded});
        assert_eq!(parse(&event("charge.refunded", charge(true))).unwrap().unwrap().intent, "pi_1");
        assert_eq!(parse(&event("charge.refunded", charge(false))), Ok(None));
        assert_eq!(parse(&event("customer.created", json!({}))), Ok(None));
        let dispute = json!({"id": "dp_1", "payment_intent": null, "amount": 5, "currency": "eur"});
        assert_eq!(parse(&event("charge.dispute.created", dispute)), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let ok = json!({"id": "pi_1", "amount_received": 5, "currency": "eur"});
        for (field, value) in [
            ("id", json!("pi_\u{0}")),
            ("id", json!("")),
            ("id", json!(7)),
            ("amount_received", json!(-1)),
            ("amount_received", json!("5")),
            ("currency", json!("euro")),
            ("currency", Value::Null),
        ] {
            let mut object = ok.clone();
            object[field] = value;
            assert!(parse(&event("payment_intent.succeeded", object)).is_err(), "{field}");
        }
        for body in [&b""[..], b"[]", b"{}", b"{\"type\":\"x\"}", b"null", &[0xff]] {
            assert!(parse(body).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = parse(&body);
        }

        #[test]
        fn no_shape_makes_it_panic(kind in "[a-z_.]{0,30}|payment_intent.succeeded|charge.refunded", a in ".{0,20}", n: i64) {
            let _ = parse(&event(&kind, json!({"id": a, "payment_intent": a, "amount": n, "currency": a, "metadata": {"entry": a}})));
        }
    }
}
