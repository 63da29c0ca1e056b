//! Every bound of the wire formats, each with the reason for it. Nothing else in this crate spells a bound out.

/// Tickets in one order, as any concert may allow. Fits one byte of an id; nobody sells coach parties by this road.
pub const QUANTITY_MAX: u16 = 100;
/// Tickets of one person over all orders, as any concert may allow.
pub const PER_PERSON_MAX: u16 = 1_000;
/// Tiers that one request may name: an order of preference longer than this is no preference.
pub const TIERS_PER_REQUEST_MAX: usize = 8;
/// Tiers of one concert: tier numbers are 0..=63 for ever, so that a set of tiers fits a 64-bit word.
pub const TIERS_PER_CONCERT_MAX: usize = 64;
/// Tickets of one tier: far beyond any stadium, far below what the counters could overflow at.
pub const TIER_TOTAL_MAX: u64 = 10_000_000;
/// Price of one ticket in minor units: times [`QUANTITY_MAX`] it still fits what payment providers take.
pub const PRICE_MINOR_MAX: i64 = 99_999_999;
/// Titles and venues, in bytes of UTF-8: a line on a page.
pub const TITLE_MAX_BYTES: usize = 200;
/// Logical queue shards of a concert; the entry number has room for 2,048.
pub const SHARDS_MAX: u16 = 1_024;
/// Shortest hold: below this nobody can pay in time.
pub const HOLD_MS_MIN: u64 = 1_000;
/// Longest hold: a day.
pub const HOLD_MS_MAX: u64 = 86_400_000;
/// Hold when the definition names none: ten minutes.
pub const HOLD_MS_DEFAULT: u64 = 600_000;
/// Tickets per order and per person when the definition names none.
pub const PER_ORDER_DEFAULT: u16 = 4;
/// Regions that `weights` may name.
pub const WEIGHTS_MAX: usize = 64;
/// Largest weight of a region: sums stay far from overflow.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// The client's hash of an identity document, in bytes: SHA-512 in hexadecimal is 128.
pub const IDENTITY_MAX_BYTES: usize = 128;
/// A JWT's `sub`, in bytes: OpenID Connect allows 255.
pub const SUBJECT_MAX_BYTES: usize = 255;
/// A JWT as a whole, in bytes: identity providers stay below 8 KiB, the body below 16.
pub const ID_TOKEN_MAX_BYTES: usize = 12_288;
/// A solution of a challenge, in bytes: a decimal counter is 20 at most.
pub const SOLUTION_MAX_BYTES: usize = 64;
/// Leading zero bits that a challenge may ask for: 2^32 hashes are a minute on one core.
pub const DIFFICULTY_BITS_MAX: u8 = 32;
/// A request body, in bytes.
pub const BODY_MAX_BYTES: usize = 16 * 1024;
/// What a refusal quotes of somebody's body, in characters: enough to find the place, too little to be a log's burden.
pub const QUOTE_MAX_CHARS: usize = 300;
/// What an operator may write as a reason, in bytes.
pub const REASON_MAX_BYTES: usize = 1_000;

/// A session lives half an hour; a sale's page renews it long before.
pub const SESSION_MS: u64 = 30 * 60 * 1_000;
/// For so long after its end a session may still be renewed: a phone that slept over night.
pub const SESSION_RENEW_MS: u64 = 24 * 60 * 60 * 1_000;
/// A guest's recovery token: from the sale to the concert's door can be a year.
pub const RECOVERY_MS: u64 = 400 * 24 * 60 * 60 * 1_000;

/// Rows of one page of the books: a few hundred kilobytes of JSON.
pub const LEDGER_PAGE_ROWS_MAX: usize = 1_000;

/// Secrets of the key ring, in bytes: no shorter than the hash's output, no longer than its block.
pub const SECRET_MIN_BYTES: usize = 32;
/// See [`SECRET_MIN_BYTES`].
pub const SECRET_MAX_BYTES: usize = 64;
/// Keys of one purpose: the current one and those that still verify.
pub const KEYS_PER_PURPOSE_MAX: usize = 16;
