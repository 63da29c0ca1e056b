//! Every bound of the sale's rules, each with the reason for it.

/// Tickets in one order, as any concert may allow.
pub const QUANTITY_MAX: u16 = 100;
/// Tiers of one concert.
pub const TIERS_MAX: usize = 64;

/// Lapsed holds that are forgiven: the second one brings a cool-down.
pub const LAPSES_MAX: u8 = 2;
/// Lapses beyond this are not counted: a bounded field of a queue's record.
pub const LAPSES_COUNTED_MAX: u8 = 15;
/// Cool-down after lapsed holds: long enough that hoarding gets slow, short enough for an honest mishap.
pub const LAPSE_COOL_DOWN_MS: u64 = 300_000;
/// Cool-down after a void: polling faster must not pay.
pub const VOID_COOL_DOWN_MS: u64 = 60_000;
/// Polls of one reservation by its owner within [`POLL_WINDOW_MS`]; one more voids it.
pub const POLLS_MAX: u32 = 20;
/// See [`POLLS_MAX`].
pub const POLL_WINDOW_MS: u64 = 10_000;

/// Pause between polls near the head: a turn should be noticed while its hold is young.
pub const POLL_MS_MIN: u64 = 5_000;
/// Pause between polls far back: a million people then poll 33,000 times a second.
pub const POLL_MS_MAX: u64 = 30_000;
/// From this position on the pause is the longest: even at 5,000 decisions a second it is 10 s away.
pub const POLL_FAR_POSITION: u64 = 50_000;

/// Half-life of the moving rate of decisions: long enough to bridge a pause of a batch, short enough to follow a spike.
pub const RATE_HALF_LIFE_MS: u64 = 10_000;
/// Longest estimate of a wait; beyond a day nobody knows.
pub const WAIT_MS_MAX: u64 = 86_400_000;
