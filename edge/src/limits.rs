//! Every bound of the edge in one place, each with the reason for its value.
//!
//! This file must never hold anything but constants: what an operator may change is in `config`.

/// Largest answer over UDP, in bytes: what fits an IPv6 packet of 1,280 bytes without fragments (DNS flag day 2020).
pub const UDP_ANSWER_MAX_BYTES: usize = 1232;
/// What every resolver takes without EDNS, in bytes (RFC 1035 §4.2.1).
pub const UDP_ANSWER_PLAIN_BYTES: usize = 512;
/// Largest answer over TCP, in bytes: the length prefix has 16 bits.
pub const TCP_ANSWER_MAX_BYTES: usize = 65_535;
/// Largest query read, in bytes. A question of 255 octets with every option known is below 600; more is padding or mischief.
pub const QUERY_MAX_BYTES: usize = 4096;
/// Records looked through in one query: a sane one has an OPT and perhaps a TSIG. More is work without a use.
pub const QUERY_RECORDS_MAX: usize = 16;
/// Regions of one edge: shares and rankings are arrays of this size, and listings stay readable.
pub const REGIONS_MAX: usize = 64;
/// Static names in a zone. The edge serves one sale, not a hosting business.
pub const ZONE_NAMES_MAX: usize = 10_000;
/// Networks an operator may override: each costs a path in a binary trie, at most 128 nodes.
pub const OVERRIDES_MAX: usize = 100_000;
/// Aliases followed inside the zone: enough for a sane zone, an end for a loop.
pub const CNAME_DEPTH_MAX: usize = 8;
/// Datagrams taken from and given to the kernel in one call: 32 of them are some 100 µs of work, so no answer waits long.
pub const UDP_BATCH: usize = 32;
/// Receive buffer asked of the kernel for each UDP socket, in bytes: half a second of a burst while a thread is descheduled.
pub const UDP_RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Slots of the response-rate limiter, 8 bytes each: collisions make a limit stricter, so there are many.
pub const RATE_SLOTS: usize = 1 << 17;
/// Largest body that the admin port reads, in bytes: a report of load is under 300.
pub const ADMIN_BODY_MAX_BYTES: usize = 16 * 1024;
/// Largest answer read from a region's admin port, in bytes: its status lists every concert.
pub const STATUS_MAX_BYTES: usize = 4 << 20;
/// Distinct records kept from a geo database: a city file has some hundred thousand, a hostile file has no end.
pub const GEO_RECORDS_MAX: usize = 4_000_000;
