//! Every bound of the sandbox provider, each with a reason.

use std::time::Duration;

/// Payments kept. About 700 bytes each with their idempotency key: a few hundred MB at the very most.
pub(crate) const PAYMENTS_MAX: usize = 500_000;
/// Events not delivered yet, held ones included. Past it new events are counted as dropped: the region must find such
/// payments by asking anyway.
pub(crate) const EVENTS_MAX: usize = 200_000;
/// Request bodies: forms of a handful of fields.
pub(crate) const BODY_SIZE_MAX_BYTES: usize = 64 * 1024;
/// Metadata pairs of one payment, as Stripe bounds them.
pub(crate) const METADATA_MAX: usize = 50;
/// Characters of one metadata value, as Stripe bounds them.
pub(crate) const METADATA_VALUE_MAX: usize = 500;
/// Idempotency keys, as Stripe bounds them.
pub(crate) const IDEMPOTENCY_KEY_MAX: usize = 255;
/// Requests in flight at once; more wait in the listener's backlog.
pub(crate) const IN_FLIGHT_MAX: usize = 1024;
/// Webhook deliveries in flight at once.
pub(crate) const DELIVERIES_IN_FLIGHT_MAX: usize = 32;
/// Rows of one page of `GET /control/payments`.
pub(crate) const PAGE_MAX: usize = 10_000;
/// How long one delivery may take before it counts as failed.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Copies of one event that can be asked for.
pub(crate) const COPIES_MAX: u32 = 20;
/// Longest delay or slowness that can be asked for.
pub(crate) const DELAY_MAX_MS: u64 = 600_000;
