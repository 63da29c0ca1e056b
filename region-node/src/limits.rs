//! Every bound of a region node, each with why it is what it is. Nothing here is computed. Bounds of what is sent and
//! signed are in `region_api::limits`.

use std::time::Duration;

/// Longest webhook body, bytes: Stripe's events with expanded objects are larger than what users send.
pub const WEBHOOK_MAX_BYTES: usize = 256 * 1024;
/// A body must be here this long after its headers: a phone on a bad line needs a second, an attacker gets no more.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers must be complete, or the next request on an idle connection begun, this soon: what a slow sender holds is
/// one connection for as long.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of request line and headers: two cookies, a bearer token and what browsers add fit four times.
pub const HEADER_MAX_BYTES: usize = 16 * 1024;
/// Headers of a request: hyper's own default, which it keeps on the stack; any other number costs an allocation.
pub const HEADERS_MAX: usize = 100;
/// Open connections per listener: each costs about 10 KiB, so this many about 650 MiB.
pub const CONNECTIONS_MAX: usize = 65_536;
/// Connections that wait to be accepted: when a crowd comes, whoever finds no room here tries again a second later. The
/// kernel's `net.core.somaxconn` (4,096 by default) bounds it too.
pub const BACKLOG: u32 = 16_384;
/// Requests being answered at once, of all kinds: beyond it a request waits longer than its sender does.
pub const INFLIGHT_MAX: usize = 30_000;
/// Event streams per node: each is a task and a timer for as long as somebody watches.
pub const STREAMS_MAX: usize = 10_000;
/// Requests being passed on to other regions at once: a slow peer must not eat the node.
pub const FORWARDS_MAX: usize = 2_000;
/// A peer that has not answered by then counts as down.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a draining node waits for requests under way.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// What a refused client is told to wait when the node is full.
pub const OVERLOAD_RETRY: Duration = Duration::from_secs(2);
/// A challenge must be solved within this; also how long its nonce is remembered as used.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(300);
/// Zero bits of a challenge: about a million hashes, a second of a phone.
pub const CHALLENGE_BITS: u8 = 18;
/// The identity provider's keys are fetched again after this.
pub const JWKS_FRESH: Duration = Duration::from_secs(600);
/// A token with an unknown key id makes us fetch keys again, but not more often than this.
pub const JWKS_RETRY: Duration = Duration::from_secs(15);
/// How often a node reads the catalog and the stock anew.
pub const CATALOG_REFRESH: Duration = Duration::from_secs(1);
/// A node that has not heard its database for this long says so in `/readyz`; intake goes on all the same.
pub const CATALOG_STALE: Duration = Duration::from_secs(10);
/// Status look-ups gather for this long before one query answers them all.
pub const STATUS_GATHER: Duration = Duration::from_millis(2);
/// Status look-ups in one query.
pub const STATUS_BATCH_MAX: usize = 1_000;
/// Status look-ups that may wait; more are refused.
pub const STATUS_QUEUE_MAX: usize = 20_000;
/// A row read for one poll serves the next ones for this long.
pub const STATUS_FRESH: Duration = Duration::from_millis(900);
/// Cached rows per node (about 200 bytes each).
pub const STATUS_CACHE_MAX: usize = 500_000;
/// People per concert who may wait in SQL for a tier or a quantity that is not there, beyond as many as there are unsold
/// tickets (each takes one at least): they are a row per tier there, and would be served only after all before them gave
/// up. Whoever is one too many is told that it is sold out.
pub const WAITING_MAX: u64 = 100_000;
/// Reservations of a region that may wait to be decided, where the configuration says nothing: 200 bytes of Redis each, so
/// two gigabytes.
pub const QUEUE_MAX: u64 = 10_000_000;
/// Buyers that a node remembers, 24 bytes each; beyond it only the allocator knows the limit per person.
pub const BUYERS_MAX: usize = 1_000_000;
/// Tickets read in one query for that: a fraction of a second of the database's time at the first start.
pub const BUYERS_READ_MAX: u32 = 50_000;
/// Such queries in one refresh of the catalog: what is left is read with the next.
pub const BUYERS_READS_MAX: u32 = 8;
/// Longest `x-request-id` taken over from a client, bytes.
pub const REQUEST_ID_MAX_BYTES: usize = 64;
/// An event stream looks for a change this often: a poll's price without a poll's overhead.
pub const EVENTS_CADENCE: Duration = Duration::from_secs(1);
/// A stream without news says that it is alive this often, for proxies.
pub const EVENTS_KEEPALIVE: Duration = Duration::from_secs(15);
/// A stream ends after this long; browsers come back by themselves.
pub const EVENTS_LIFE: Duration = Duration::from_secs(30 * 60);
/// Connections to the operators' interface: a handful of people and a scraper.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;
/// Queue entries read at once when an operator asks what they want.
pub const WISHES_PAGE: usize = 1_000;
/// Queue entries read in all for that: some seconds of Redis's time, in a thousand turns.
pub const WISHES_READ_MAX: usize = 1_000_000;
