//! The queue's bounds, each with the reason for its value.

use std::time::Duration;

/// Most items of one shard in one call: Lua can pass about 7,900 values to a command, and a place takes two.
pub(super) const GROUP_ITEMS_MAX: usize = 2_000;

/// A batch of so many says that joins are many, and the next one waits a little to become larger. Lower (32 was
/// tried), 250 clients that each wait for their answer would halve their own rate: 65,000 joins/s became 32,000.
pub(super) const BUSY_ITEMS: usize = 500;

/// A place names at most so many tiers; the function's length byte and the 48-byte allocation class stand on it.
pub(super) const TIERS_MAX: usize = 8;

/// Longest wait for an answer of Redis: an fsync on a busy disk fits in, a person's patience does too.
pub(super) const RESPONSE_MAX: Duration = Duration::from_millis(1_000);

/// Longest wait for replicas; below `RESPONSE_MAX`, so that Redis says how many rather than nobody.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(700);

/// Longest wait for a connection, handshake included.
pub(super) const CONNECT_MAX: Duration = Duration::from_millis(1_000);

/// First and longest pause between attempts to connect.
pub(super) const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How long a call follows a moving slot before it gives up.
pub(super) const REDIRECT_MAX: Duration = Duration::from_millis(1_000);

/// Pause between two attempts while a slot moves.
pub(super) const REDIRECT_PAUSE: Duration = Duration::from_millis(10);

/// How often the map of a cluster is read again though nothing asked for it.
pub(super) const MAP_REFRESH: Duration = Duration::from_secs(5);

/// Places settled in one call: two values each, see `GROUP_ITEMS_MAX`.
pub(super) const SETTLE_ITEMS_MAX: usize = 2_000;

/// Holds that may lapse before the next join has to wait.
pub const LAPSES_MAX: u32 = 2;

/// The wait after that: long enough that hoarding with one account gets slow, short enough for an honest mishap.
pub const LAPSE_COOL_DOWN: Duration = Duration::from_secs(300);

/// The wait after a reservation was voided for too many polls.
pub const VOID_COOL_DOWN: Duration = Duration::from_secs(60);
