//! How intents, refunds, charges and events look on the wire, and how forms are read: Stripe's shapes, as far as used.

use super::account::{Intent, Refund, Status, Told};
use super::errors::ApiError;
use super::limits;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A payment intent. `checkout` (our addition: Stripe's own pages are elsewhere) is where a buyer can pay.
pub(crate) fn intent(intent: &Intent, checkout: Option<String>) -> Value {
    let received = if intent.status == Status::Succeeded { intent.amount } else { 0 };
    let error = intent.declined.then(|| {
        json!({"type": "card_error", "code": "card_declined", "decline_code": "generic_decline",
               "message": "Your card was declined."})
    });
    json!({
        "id": intent.id, "object": "payment_intent", "amount": intent.amount, "amount_received": received,
        "currency": intent.currency, "status": intent.status.as_str(), "client_secret": intent.client_secret,
        "created": intent.created_s, "metadata": intent.metadata, "capture_method": "automatic",
        "payment_method_types": ["card"], "last_payment_error": error, "livemode": false,
        "latest_charge": intent.charge.as_ref().map(|_| charge(intent)), "checkout_url": checkout,
    })
}

/// The charge of a paid intent; always expanded.
fn charge(intent: &Intent) -> Value {
    json!({
        "id": intent.charge, "object": "charge", "amount": intent.amount, "amount_refunded": intent.amount_refunded,
        "currency": intent.currency, "payment_intent": intent.id, "paid": true, "disputed": intent.disputed,
        "refunded": intent.amount_refunded >= intent.amount, "metadata": intent.metadata, "livemode": false,
    })
}

/// A refund.
pub(crate) fn refund(refund: &Refund, currency: &str) -> Value {
    json!({
        "id": refund.id, "object": "refund", "amount": refund.amount, "currency": currency,
        "payment_intent": refund.intent, "created": refund.created_s, "status": "succeeded",
        "metadata": refund.metadata,
    })
}

/// An event about an intent as it is now.
pub(crate) fn event(id: &str, now_s: i64, told: Told, about: &Intent) -> Value {
    let (kind, object) = match told {
        Told::Succeeded => ("payment_intent.succeeded", intent(about, None)),
        Told::Failed => ("payment_intent.payment_failed", intent(about, None)),
        Told::Processing => ("payment_intent.processing", intent(about, None)),
        Told::Canceled => ("payment_intent.canceled", intent(about, None)),
        Told::Refunded => ("charge.refunded", charge(about)),
        Told::Disputed => (
            "charge.dispute.created",
            json!({"id": id.replacen("evt", "dp", 1), "object": "dispute", "amount": about.amount,
                   "currency": about.currency, "charge": about.charge, "payment_intent": about.id,
                   "status": "needs_response", "reason": "general", "livemode": false}),
        ),
    };
    json!({"id": id, "object": "event", "type": kind, "created": now_s, "livemode": false,
           "api_version": "2024-06-20", "data": {"object": object}})
}

/// A form's fields, each read once; what is left over is an error.
pub(crate) struct Form(BTreeMap<String, String>);

impl Form {
    /// Reads a form body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let pairs: Vec<(String, String)> =
            serde_urlencoded::from_bytes(body).map_err(|_| ApiError::invalid("body", "The form cannot be read."))?;
        Ok(Self(pairs.into_iter().collect()))
    }

    /// Operation and fields, hashed: what an idempotency key stands for.
    pub(crate) fn fingerprint(&self, operation: &str) -> u64 {
        // Its keys are fixed: the same in every process, as the record needs.
        let mut hasher = DefaultHasher::new();
        (operation, &self.0).hash(&mut hasher);
        hasher.finish()
    }

    /// Takes a field.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Takes a field that must be there.
    pub(crate) fn need(&mut self, name: &'static str) -> Result<String, ApiError> {
        self.take(name).ok_or_else(|| ApiError::invalid(name, "Missing required param."))
    }

    /// Takes a whole number.
    pub(crate) fn number(&mut self, name: &'static str) -> Result<Option<i64>, ApiError> {
        let parse = |text: String| text.parse().map_err(|_| ApiError::invalid(name, "Invalid integer."));
        self.take(name).map(parse).transpose()
    }

    /// Takes `metadata[…]`.
    pub(crate) fn metadata(&mut self) -> Result<BTreeMap<String, String>, ApiError> {
        let mut metadata = BTreeMap::new();
        let mut rest = BTreeMap::new();
        for (name, value) in std::mem::take(&mut self.0) {
            match name.strip_prefix("metadata[").and_then(|name| name.strip_suffix(']')) {
                Some(key) => metadata.insert(key.to_owned(), value),
                None => rest.insert(name, value),
            };
        }
        self.0 = rest;
        let fits = metadata.iter().all(|(key, value)| key.len() <= 40 && value.len() <= limits::METADATA_VALUE_MAX);
        if metadata.len() > limits::METADATA_MAX || !fits {
            return Err(ApiError::invalid("metadata", "Too many keys, or a value is too long."));
        }
        Ok(metadata)
    }

    /// Refuses what nobody took, except fields that Stripe has and the sandbox needs nothing of.
    pub(crate) fn finish(mut self, ignored: &[&str]) -> Result<(), ApiError> {
        self.0.retain(|name, _| !ignored.iter().any(|prefix| name.starts_with(prefix)));
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::unknown_parameter(name)),
        }
    }
}
