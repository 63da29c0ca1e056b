//! What the tests share: fixed keys and generators of valid values.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "test code")]

use proptest::prelude::*;
use region_api::id::Tiers;
use region_api::session::Subject;
use region_api::{ConcertName, Entry, IdentityHash, KeyRing, RegionName, ReservationId, TierName, UserHash, UserId};

/// Key 1 for every purpose: bytes 1, 2, 3, 4, each 32 times.
pub(crate) fn ring() -> KeyRing {
    KeyRing::new(&[[1; 32], [2; 32], [3; 32], [4; 32]]).unwrap()
}

pub(crate) fn region() -> impl Strategy<Value = RegionName> {
    "[a-z0-9][a-z0-9-]{0,15}".prop_map(|name| RegionName::new(&name).unwrap())
}
pub(crate) fn concert() -> impl Strategy<Value = ConcertName> {
    "[a-z0-9][a-z0-9-]{0,31}".prop_map(|name| ConcertName::new(&name).unwrap())
}
pub(crate) fn tier() -> impl Strategy<Value = TierName> {
    "[A-Za-z0-9][A-Za-z0-9_-]{0,15}".prop_map(|name| TierName::new(&name).unwrap())
}
pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    (0..=Entry::SHARD_MAX, 0..=Entry::GENERATION_MAX, 0..=Entry::SEQUENCE_MAX)
        .prop_map(|(shard, generation, sequence)| Entry::new(shard, generation, sequence).unwrap())
}
pub(crate) fn tiers() -> impl Strategy<Value = Tiers> {
    Just((0u8..64).collect::<Vec<u8>>())
        .prop_shuffle()
        .prop_flat_map(|all| (1usize..=8).prop_map(move |most| Tiers::from_slice(&all[..most])))
}
pub(crate) fn user() -> impl Strategy<Value = UserId> {
    let subject = "[^\\p{Cc}]{1,60}".prop_map(|text| UserId::Subject(Subject::new(&text).unwrap()));
    prop_oneof![any::<[u8; 16]>().prop_map(UserId::Guest), subject]
}
pub(crate) fn id() -> impl Strategy<Value = ReservationId> {
    let places = (region(), concert(), entry(), 0..=ReservationId::ARRIVAL_MS_MAX, any::<[u8; 16]>());
    let wishes = (1u8..=100, tiers(), any::<bool>(), any::<Option<[u8; 16]>>());
    (places, wishes).prop_map(
        |((region, concert, entry, arrival_ms, user), (quantity, tiers, any_quantity, identity))| {
            let identity = identity.map(IdentityHash);
            ReservationId {
                region,
                concert,
                entry,
                arrival_ms,
                user: UserHash(user),
                quantity,
                tiers,
                any_quantity,
                identity,
            }
        },
    )
}
