//! What the sandbox provider knows: payment intents, refunds and idempotency keys, and how they may change.
//!
//! Pure: no I/O, no clock, no randomness; time and fresh ids come in as arguments. Every change comes out as the
//! [`Change`] that the shell writes to the record and tells to webhooks. Never lets a payment be kept twice or a
//! refund exceed what was paid: those are what the tests of a region lean on.

use super::errors::ApiError;
use super::limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Stripe's names for where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Nothing was paid yet, or the last attempt was declined.
    RequiresPaymentMethod,
    /// The bank takes its time.
    Processing,
    /// Paid.
    Succeeded,
    /// Cancelled by the seller.
    Canceled,
}

impl Status {
    /// As Stripe spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

/// One payment intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// `pi_…`
    pub(crate) id: String,
    /// What the buyer's browser proves itself with.
    pub(crate) client_secret: String,
    /// Minor units.
    pub(crate) amount: i64,
    /// ISO 4217, lower case as Stripe has it.
    pub(crate) currency: String,
    /// Where it stands.
    pub(crate) status: Status,
    /// Seconds since 1970.
    pub(crate) created_s: i64,
    /// What the seller attached.
    pub(crate) metadata: BTreeMap<String, String>,
    /// `ch_…`, once paid.
    pub(crate) charge: Option<String>,
    /// Seconds since 1970, once paid.
    pub(crate) succeeded_s: Option<i64>,
    /// Minor units given back.
    pub(crate) amount_refunded: i64,
    /// The buyer's bank took the money back.
    pub(crate) disputed: bool,
    /// The last attempt was declined.
    pub(crate) declined: bool,
}

impl Intent {
    /// Minor units that the seller still has of it.
    pub(crate) fn kept(&self) -> i64 {
        match self.status {
            Status::Succeeded if !self.disputed => self.amount - self.amount_refunded,
            _ => 0,
        }
    }
}

/// One refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refund {
    /// `re_…`
    pub(crate) id: String,
    /// Which payment.
    pub(crate) intent: String,
    /// Minor units.
    pub(crate) amount: i64,
    /// Seconds since 1970.
    pub(crate) created_s: i64,
    /// What the seller attached.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What an idempotency key was used for. Refused requests are not kept: repeating one is refused again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsedKey {
    /// Operation and parameters, hashed.
    pub(crate) fingerprint: u64,
    /// Id of the intent or refund that came of it.
    pub(crate) made: String,
}

/// Something that changed, as it is written to the record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// A payment intent as it is now.
    Intent(Intent),
    /// A new refund.
    Refund(Refund),
    /// A used idempotency key.
    Key(String, UsedKey),
}

/// What the outside is told by webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// `payment_intent.succeeded`
    Succeeded,
    /// `payment_intent.payment_failed`
    Failed,
    /// `payment_intent.processing`
    Processing,
    /// `payment_intent.canceled`
    Canceled,
    /// `charge.refunded`
    Refunded,
    /// `charge.dispute.created`
    Disputed,
}

/// Outcome of an operation: the changes to record and, where there is news, the event to tell.
#[derive(Debug)]
pub(crate) struct Done {
    /// The intent as it is now.
    pub(crate) intent: Intent,
    /// To be recorded, in this order, before anybody hears of it.
    pub(crate) changes: Vec<Change>,
    /// To be told.
    pub(crate) told: Option<Told>,
}

/// How a buyer pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// `pm_card_visa`: succeeds.
    Visa,
    /// `pm_card_visa_chargeDeclined`: declined.
    Declined,
    /// `pm_card_processing`: stays processing, then succeeds.
    Slow,
}

impl Method {
    /// From Stripe's test names.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "pm_card_visa" => Some(Self::Visa),
            "pm_card_visa_chargeDeclined" => Some(Self::Declined),
            "pm_card_processing" => Some(Self::Slow),
            _ => None,
        }
    }
}

/// A request to open a payment.
#[derive(Debug, Clone)]
pub(crate) struct NewIntent {
    /// Minor units, at least 1.
    pub(crate) amount: i64,
    /// ISO 4217, any case.
    pub(crate) currency: String,
    /// What the seller attaches.
    pub(crate) metadata: BTreeMap<String, String>,
    /// The client's idempotency key and the fingerprint of its request.
    pub(crate) key: Option<(String, u64)>,
}

/// A request to give money back.
#[derive(Debug, Clone)]
pub(crate) struct NewRefund {
    /// Which payment.
    pub(crate) intent: String,
    /// Minor units; `None`: all that is left.
    pub(crate) amount: Option<i64>,
    /// What the seller attaches.
    pub(crate) metadata: BTreeMap<String, String>,
    /// The client's idempotency key and the fingerprint of its request.
    pub(crate) key: Option<(String, u64)>,
}

/// Everything the provider knows.
#[derive(Debug, Default)]
pub(crate) struct Account {
    intents: HashMap<String, Intent>,
    /// Ids in order of creation, for paging.
    order: Vec<String>,
    refunds: HashMap<String, Refund>,
    keys: HashMap<String, UsedKey>,
}

impl Account {
    /// Takes a recorded change back in.
    pub(crate) fn replay(&mut self, change: Change) {
        match change {
            Change::Intent(intent) => {
                if !self.intents.contains_key(&intent.id) {
                    self.order.push(intent.id.clone());
                }
                self.intents.insert(intent.id.clone(), intent);
            }
            Change::Refund(refund) => {
                self.refunds.insert(refund.id.clone(), refund);
            }
            Change::Key(key, used) => {
                self.keys.insert(key, used);
            }
        }
    }

    /// Everything, as the shortest list of changes that makes it.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Change> {
        let intents = self.order.iter().filter_map(|id| self.intents.get(id)).cloned().map(Change::Intent);
        let refunds = self.refunds.values().cloned().map(Change::Refund);
        let keys = self.keys.iter().map(|(key, used)| Change::Key(key.clone(), used.clone()));
        intents.chain(refunds).chain(keys)
    }

    /// One payment.
    pub(crate) fn intent(&self, id: &str) -> Result<&Intent, ApiError> {
        self.intents.get(id).ok_or_else(|| ApiError::missing("payment_intent", id))
    }

    /// One refund.
    pub(crate) fn refund(&self, id: &str) -> Result<&Refund, ApiError> {
        self.refunds.get(id).ok_or_else(|| ApiError::missing("refund", id))
    }

    /// Payments in order of creation, from the `skip`th.
    pub(crate) fn page(&self, skip: usize, most: usize) -> impl Iterator<Item = &Intent> {
        self.order.iter().skip(skip).take(most).filter_map(|id| self.intents.get(id))
    }

    /// All refunds.
    pub(crate) fn refunds(&self) -> impl Iterator<Item = &Refund> {
        self.refunds.values()
    }

    /// Payments that the bank still works on.
    pub(crate) fn processing(&self) -> impl Iterator<Item = &Intent> {
        self.intents.values().filter(|intent| intent.status == Status::Processing)
    }

    /// What an idempotency key made before, if it was used: `Err` where it was used for something else.
    fn used(&self, key: &Option<(String, u64)>) -> Result<Option<&str>, ApiError> {
        let Some((key, fingerprint)) = key else { return Ok(None) };
        match self.keys.get(key) {
            None => Ok(None),
            Some(used) if used.fingerprint == *fingerprint => Ok(Some(&used.made)),
            Some(_) => Err(ApiError::key_reused(key)),
        }
    }

    /// Opens a payment, or finds the one that this idempotency key opened before (second value: true).
    pub(crate) fn create(
        &mut self,
        now_s: i64,
        id: String,
        secret: String,
        new: NewIntent,
    ) -> Result<(Done, bool), ApiError> {
        if let Some(made) = self.used(&new.key)? {
            let intent = self.intent(made)?;
            // A replayed answer is the first answer: the intent as it was made.
            let first = Intent {
                status: Status::RequiresPaymentMethod,
                charge: None,
                succeeded_s: None,
                amount_refunded: 0,
                disputed: false,
                declined: false,
                ..intent.clone()
            };
            return Ok((Done { intent: first, changes: Vec::new(), told: None }, true));
        }
        if new.amount < 1 {
            return Err(ApiError::invalid("amount", "This value must be greater than or equal to 1."));
        }
        if self.intents.len() >= limits::PAYMENTS_MAX {
            return Err(ApiError::full());
        }
        let intent = Intent {
            id,
            client_secret: secret,
            amount: new.amount,
            currency: new.currency.to_ascii_lowercase(),
            status: Status::RequiresPaymentMethod,
            created_s: now_s,
            metadata: new.metadata,
            charge: None,
            succeeded_s: None,
            amount_refunded: 0,
            disputed: false,
            declined: false,
        };
        let mut changes = vec![Change::Intent(intent.clone())];
        changes.extend(
            new.key.map(|(key, fingerprint)| Change::Key(key, UsedKey { fingerprint, made: intent.id.clone() })),
        );
        Ok((self.change(intent, changes, None), false))
    }

    /// A buyer pays. A declined card leaves the payment open (`told` says so).
    pub(crate) fn confirm(&mut self, now_s: i64, id: &str, charge: String, method: Method) -> Result<Done, ApiError> {
        let mut intent = self.intent(id)?.clone();
        if intent.status != Status::RequiresPaymentMethod {
            return Err(ApiError::unexpected_state("confirm", &intent));
        }
        match method {
            Method::Visa => return Ok(self.paid(now_s, intent, charge)),
            Method::Declined => intent.declined = true,
            Method::Slow => {
                intent.declined = false;
                intent.status = Status::Processing;
            }
        }
        let told = if intent.declined { Told::Failed } else { Told::Processing };
        let changes = vec![Change::Intent(intent.clone())];
        Ok(self.change(intent, changes, Some(told)))
    }

    /// The money arrives, whatever the payment's state: what a bank does on a bad day. A paid one stays as it is.
    pub(crate) fn succeed(&mut self, now_s: i64, id: &str, charge: String) -> Result<Done, ApiError> {
        let intent = self.intent(id)?.clone();
        if intent.status == Status::Succeeded {
            return Ok(Done { intent, changes: Vec::new(), told: None });
        }
        Ok(self.paid(now_s, intent, charge))
    }

    /// A payment that the bank works on fails after all; anything else is left alone.
    pub(crate) fn fail(&mut self, id: &str) -> Result<Done, ApiError> {
        let mut intent = self.intent(id)?.clone();
        if intent.status != Status::Processing {
            return Err(ApiError::unexpected_state("fail", &intent));
        }
        intent.status = Status::RequiresPaymentMethod;
        intent.declined = true;
        let changes = vec![Change::Intent(intent.clone())];
        Ok(self.change(intent, changes, Some(Told::Failed)))
    }

    /// The seller cancels: only what is not paid and not in the bank's hands.
    pub(crate) fn cancel(&mut self, id: &str) -> Result<Done, ApiError> {
        let mut intent = self.intent(id)?.clone();
        if intent.status != Status::RequiresPaymentMethod {
            return Err(ApiError::unexpected_state("cancel", &intent));
        }
        intent.status = Status::Canceled;
        let changes = vec![Change::Intent(intent.clone())];
        Ok(self.change(intent, changes, Some(Told::Canceled)))
    }

    /// Money back, or the refund that this idempotency key made before (last value: true).
    pub(crate) fn give_back(
        &mut self,
        now_s: i64,
        id: String,
        new: NewRefund,
    ) -> Result<(Refund, Done, bool), ApiError> {
        if let Some(made) = self.used(&new.key)? {
            let refund = self.refund(made)?.clone();
            let intent = self.intent(&refund.intent)?.clone();
            return Ok((refund, Done { intent, changes: Vec::new(), told: None }, true));
        }
        let mut intent = self.intent(&new.intent)?.clone();
        let left = intent.amount - intent.amount_refunded;
        if intent.status != Status::Succeeded {
            return Err(ApiError::unexpected_state("refund", &intent));
        }
        if intent.disputed {
            return Err(ApiError::charge("charge_disputed", "This charge has been charged back."));
        }
        let amount = new.amount.unwrap_or(left);
        if left == 0 {
            return Err(ApiError::charge("charge_already_refunded", "This charge has already been refunded."));
        }
        if amount < 1 || amount > left {
            return Err(ApiError::invalid("amount", "Refund amount is not between 1 and what is left of the charge."));
        }
        intent.amount_refunded += amount;
        let refund = Refund { id, intent: new.intent, amount, created_s: now_s, metadata: new.metadata };
        let mut changes = vec![Change::Intent(intent.clone()), Change::Refund(refund.clone())];
        changes.extend(
            new.key.map(|(key, fingerprint)| Change::Key(key, UsedKey { fingerprint, made: refund.id.clone() })),
        );
        let done = self.change(intent, changes, Some(Told::Refunded));
        Ok((refund, done, false))
    }

    /// The buyer's bank takes the money back.
    pub(crate) fn dispute(&mut self, id: &str) -> Result<Done, ApiError> {
        let mut intent = self.intent(id)?.clone();
        if intent.status != Status::Succeeded || intent.disputed {
            return Err(ApiError::unexpected_state("dispute", &intent));
        }
        intent.disputed = true;
        let changes = vec![Change::Intent(intent.clone())];
        Ok(self.change(intent, changes, Some(Told::Disputed)))
    }

    fn paid(&mut self, now_s: i64, mut intent: Intent, charge: String) -> Done {
        intent.status = Status::Succeeded;
        intent.charge = Some(charge);
        intent.succeeded_s = Some(now_s);
        intent.declined = false;
        let changes = vec![Change::Intent(intent.clone())];
        self.change(intent, changes, Some(Told::Succeeded))
    }

    fn change(&mut self, intent: Intent, changes: Vec<Change>, told: Option<Told>) -> Done {
        for change in &changes {
            self.replay(change.clone());
        }
        Done { intent, changes, told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(amount: i64, key: Option<(&str, u64)>) -> NewIntent {
        NewIntent { amount, currency: "EUR".into(), metadata: BTreeMap::new(), key: key.map(|(k, f)| (k.into(), f)) }
    }

    fn opened() -> Account {
        let mut account = Account::default();
        account.create(7, "pi_1".into(), "s".into(), new(500, Some(("k", 1)))).unwrap();
        account
    }

    fn refund(key: Option<(&str, u64)>) -> NewRefund {
        NewRefund {
            intent: "pi_1".into(),
            amount: None,
            metadata: BTreeMap::new(),
            key: key.map(|(k, f)| (k.into(), f)),
        }
    }

    #[test]
    fn an_idempotency_key_gives_the_first_answer_again() {
        let mut account = opened();
        account.confirm(8, "pi_1", "ch_1".into(), Method::Visa).unwrap();
        let (again, repeat) = account.create(9, "pi_2".into(), "s".into(), new(500, Some(("k", 1)))).unwrap();
        assert!(repeat);
        assert_eq!((again.intent.id.as_str(), again.intent.status), ("pi_1", Status::RequiresPaymentMethod));
        let other = account.create(9, "pi_2".into(), "s".into(), new(600, Some(("k", 2)))).unwrap_err();
        assert_eq!((other.status, other.kind), (400, "idempotency_error"));
        assert_eq!(account.page(0, 10).count(), 1);
    }

    #[test]
    fn money_goes_back_at_most_once() {
        let mut account = opened();
        assert_eq!(
            account.give_back(8, "re_0".into(), refund(None)).unwrap_err().code,
            Some("payment_intent_unexpected_state")
        );
        account.confirm(8, "pi_1", "ch_1".into(), Method::Visa).unwrap();
        let (first, _, repeat) = account.give_back(9, "re_1".into(), refund(Some(("r", 3)))).unwrap();
        assert!(!repeat && first.amount == 500);
        let (again, _, repeat) = account.give_back(9, "re_2".into(), refund(Some(("r", 3)))).unwrap();
        assert!(repeat && again == first);
        assert_eq!(
            account.give_back(9, "re_3".into(), refund(None)).unwrap_err().code,
            Some("charge_already_refunded")
        );
        assert_eq!(account.intent("pi_1").unwrap().kept(), 0);
    }

    #[test]
    fn only_an_open_payment_can_be_cancelled_and_a_bad_day_pays_it_all_the_same() {
        let mut account = opened();
        account.confirm(8, "pi_1", "ch_1".into(), Method::Slow).unwrap();
        let refused = account.cancel("pi_1").unwrap_err();
        assert_eq!(refused.code, Some("payment_intent_unexpected_state"));
        account.fail("pi_1").unwrap();
        account.cancel("pi_1").unwrap();
        assert!(account.confirm(9, "pi_1", "ch_1".into(), Method::Visa).is_err());
        assert_eq!(account.succeed(9, "pi_1", "ch_1".into()).unwrap().told, Some(Told::Succeeded));
        assert_eq!(account.succeed(9, "pi_1", "ch_2".into()).unwrap().told, None);
        assert_eq!(account.intent("pi_1").unwrap().kept(), 500);
        account.dispute("pi_1").unwrap();
        assert_eq!(account.intent("pi_1").unwrap().kept(), 0);
    }

    #[test]
    fn a_replayed_record_is_the_same_account() {
        let mut account = opened();
        account.confirm(8, "pi_1", "ch_1".into(), Method::Visa).unwrap();
        account.give_back(9, "re_1".into(), refund(Some(("r", 3)))).unwrap();
        let mut copy = Account::default();
        account.changes().for_each(|change| copy.replay(change));
        assert_eq!(copy.intent("pi_1").unwrap(), account.intent("pi_1").unwrap());
        assert!(copy.give_back(9, "re_2".into(), refund(Some(("r", 3)))).unwrap().2);
    }
}
