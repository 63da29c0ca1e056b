//! What the sandbox can be told to do wrong, through its control interface.

use super::limits;
use serde::{Deserialize, Serialize};

/// Operations of the API that faults can be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Open a payment.
    Create,
    /// Ask about a payment.
    Retrieve,
    /// A buyer pays.
    Confirm,
    /// The seller cancels.
    Cancel,
    /// Money back, or asking about it.
    Refund,
}

/// Whether a cancelled payment is paid all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaidAfterCancel {
    /// It is not.
    #[default]
    Never,
    /// The cancel is answered with success, then the money arrives.
    CancelOk,
    /// The cancel is answered with an error, then the money arrives.
    CancelFails,
}

/// The faults in force; `PUT /control/faults` replaces them all, fields left out are as they should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Every webhook is this late, milliseconds.
    pub webhook_delay_ms: u64,
    /// And up to this much more, at random for each: so they overtake one another.
    pub webhook_jitter_ms: u64,
    /// How many times each is delivered.
    pub webhook_copies: u32,
    /// Share of events that are never delivered, 0..=1.
    pub webhook_drop: f64,
    /// Keep webhooks back until `POST /control/webhooks/release`.
    pub webhook_hold: bool,
    /// Share of calls answered with 500 and not done, 0..=1.
    pub fail_before: f64,
    /// Share of calls done and then answered with 500, 0..=1.
    pub fail_after: f64,
    /// Every call takes this much longer, milliseconds.
    pub slow_ms: u64,
    /// The operations that fail or are slow; empty: all.
    pub operations: Vec<Operation>,
    /// Payments that arrive after their cancellation.
    pub paid_after_cancel: PaidAfterCancel,
    /// That much after it, milliseconds.
    pub paid_after_cancel_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            webhook_delay_ms: 0,
            webhook_jitter_ms: 0,
            webhook_copies: 1,
            webhook_drop: 0.0,
            webhook_hold: false,
            fail_before: 0.0,
            fail_after: 0.0,
            slow_ms: 0,
            operations: Vec::new(),
            paid_after_cancel: PaidAfterCancel::Never,
            paid_after_cancel_ms: 0,
        }
    }
}

impl Faults {
    /// Says what is out of bounds, if anything.
    pub fn check(&self) -> Result<(), &'static str> {
        let share = |share: f64| (0.0..=1.0).contains(&share);
        if !(share(self.webhook_drop) && share(self.fail_before) && share(self.fail_after)) {
            return Err("webhook_drop, fail_before and fail_after are shares, 0 to 1");
        }
        if !(1..=limits::COPIES_MAX).contains(&self.webhook_copies) {
            return Err("webhook_copies is out of bounds");
        }
        let delays = [self.webhook_delay_ms, self.webhook_jitter_ms, self.slow_ms, self.paid_after_cancel_ms];
        if delays.iter().any(|delay| *delay > limits::DELAY_MAX_MS) {
            return Err("a delay is too long");
        }
        Ok(())
    }

    /// Whether failing and slowness concern this operation.
    pub fn concern(&self, operation: Operation) -> bool {
        self.operations.is_empty() || self.operations.contains(&operation)
    }
}
