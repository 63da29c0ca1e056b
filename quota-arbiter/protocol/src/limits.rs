//! Every bound of the protocol, each with the reason for it.

/// The largest counter: 2^53 - 1, so that a counter survives any JSON reader and fits SQL's `bigint` with room to spare.
pub const TICKETS_MAX: u64 = (1 << 53) - 1;

/// Bytes of a name (region, concert, tier). Names are held inline, so that keys are plain copies; 40 characters are
/// more than an operator wants to type.
pub const NAME_SIZE_MAX_BYTES: usize = 40;

/// Pools in one report or answer: a region that carries more concerts than this sends several.
pub const POOLS_PER_MESSAGE_MAX: usize = 10_000;

/// Quantities at a queue's head that a report carries: enough to see what a near-empty pool could still be cut into.
pub const HEAD_QUANTITIES_MAX: usize = 32;

/// Bytes of an operator's note on how a database was fenced: a sentence or two, since it is kept for ever.
pub const FENCE_NOTE_SIZE_MAX_BYTES: usize = 1_000;

/// The largest counter that anybody may report: far beyond any sale, and so far below [`TICKETS_MAX`] that no sum over
/// columns or over thousands of regions leaves its bounds.
pub const REPORTED_TICKETS_MAX: u64 = 1 << 40;

/// The largest epoch that anybody may report: a registration a millisecond for thirty years, and room above it to count on.
pub const REPORTED_EPOCH_MAX: u64 = 1 << 40;
