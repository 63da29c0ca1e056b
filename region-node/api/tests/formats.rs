//! The formats, pinned: ids, tokens and codes outlive the program that made them. A change here breaks what people hold.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::ring;
use expect_test::expect;
use region_api::challenge::Challenge;
use region_api::session::Subject;
use region_api::{
    ConcertName, Entry, IdentityHash, KeyRing, Purpose, Recovery, RegionName, ReservationId, Session, TicketCode,
    TicketSigner, TierName, UserHash, UserId, identity_hash, user_hash,
};
use uuid::Uuid;

const NOW_MS: u64 = 1_700_000_000_123;

fn small() -> ReservationId {
    ReservationId {
        region: RegionName::new("east").unwrap(),
        concert: ConcertName::new("demo").unwrap(),
        entry: Entry::new(3, 1, 57).unwrap(),
        arrival_ms: NOW_MS,
        user: UserHash([0xa5; 16]),
        quantity: 2,
        tiers: [0, 1].into_iter().collect(),
        any_quantity: false,
        identity: None,
    }
}

fn largest() -> ReservationId {
    ReservationId {
        region: RegionName::new("r234567890123456").unwrap(),
        concert: ConcertName::new("c2345678901234567890123456789012").unwrap(),
        entry: Entry::new(Entry::SHARD_MAX, Entry::GENERATION_MAX, Entry::SEQUENCE_MAX).unwrap(),
        arrival_ms: ReservationId::ARRIVAL_MS_MAX,
        user: UserHash([0xff; 16]),
        quantity: 100,
        tiers: (56..64).collect(),
        any_quantity: true,
        identity: Some(IdentityHash([0x77; 16])),
    }
}

#[test]
fn golden_reservation_id() {
    expect!["EQEIAgRlYXN0BGRlbW8AMAEAAAAAOQGLz-Voe6WlpaWlpaWlpaWlpaWlpaUAAeBZR0SP2A1w9W8JOi4-Vz4"]
        .assert_eq(&small().sign(&ring()));
    assert_eq!(ReservationId::parse(&small().sign(&ring()), &ring()), Ok(small()));
}

#[test]
fn golden_largest_reservation_id_fits_its_bound() {
    let text = largest().sign(&ring());
    expect!["EQEjZBByMjM0NTY3ODkwMTIzNDU2IGMyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyf_______________________________________ODk6Ozw9Pj93d3d3d3d3d3d3d3d3d3d32XCFoyOwtu_65XjQYNhtww"].assert_eq(&text);
    assert!(text.len() <= ReservationId::TEXT_MAX, "{} > {}", text.len(), ReservationId::TEXT_MAX);
    assert_eq!(ReservationId::parse(&text, &ring()), Ok(largest()));
}

#[test]
fn golden_session_tokens() {
    let home = RegionName::new("west").unwrap();
    let guest = Session::begin(UserId::Guest([7; 16]), true, home.clone(), NOW_MS);
    expect!["EgEDAYvP5Wh7AYvQAN-7BHdlc3QHBwcHBwcHBwcHBwcHBwcHkpuhSViiDZpiKQ9pLQ04IA"].assert_eq(&guest.sign(&ring()));
    let subject = UserId::Subject(Subject::new("auth0|5f7c8ec7c33c6c004bbafe82").unwrap());
    let known = Session::begin(subject, false, home.clone(), NOW_MS);
    expect!["EgEAAYvP5Wh7AYvQAN-7BHdlc3QeYXV0aDB8NWY3YzhlYzdjMzNjNmMwMDRiYmFmZTgyVUmAc5Sa6SQm4IQG1kLXew"]
        .assert_eq(&known.sign(&ring()));
    let recovery = Recovery::begin([7; 16], home, NOW_MS);
    expect!["EwEBi8_laHsBk9vVKHsEd2VzdAcHBwcHBwcHBwcHBwcHBweeaqvyw1Hy-cGYGUj5n3D8"].assert_eq(&recovery.sign(&ring()));
}

#[test]
fn golden_challenge_nonce() {
    let challenge = Challenge { random: [9; 16], difficulty_bits: 16, expires_at_ms: NOW_MS };
    expect!["FAEJCQkJCQkJCQkJCQkJCQkJEAGLz-VoeyvwvuL-H-8GKQhfE8mCtCE"].assert_eq(&challenge.sign(&ring()));
}

#[test]
fn golden_ticket_code() {
    let code = TicketCode {
        ticket: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        concert: ConcertName::new("demo").unwrap(),
        tier: TierName::new("A").unwrap(),
        holder: [0xa5; 16],
    };
    expect!["FQGQAAAAAHAAgAAAAAAAAAGlpaWlpaWlpaWlpaWlpaWlBGRlbW8BQTUw-GfRGpA7A6ig4C1xUgY0-y2Xj9aDKZbC5p9Hz5Z-w0wjxvWE6GQ0TQnnbBZwNAMia_KsFMmYIb5zu7f5vw4"].assert_eq(&code.sign(&TicketSigner::from_seed(&[5; 32])));
}

#[test]
fn golden_hashes() {
    let subject = UserId::Subject(Subject::new("somebody").unwrap());
    let demo = ConcertName::new("demo").unwrap();
    let all = [
        user_hash(&ring(), &UserId::Guest([7; 16])).to_uuid(),
        user_hash(&ring(), &subject).to_uuid(),
        identity_hash(&ring(), &demo, "5e884898").to_uuid(),
    ];
    expect![[r#"
        [
            4766a324-8ffd-942f-4ff6-af1fd169cc70,
            7f50d721-8e56-1ca0-7d0e-d5ec440b93fa,
            010c072b-767d-6fb5-336e-23d848f6e4fd,
        ]
    "#]]
    .assert_debug_eq(&all);
}

#[test]
fn golden_key_ring_file() {
    let mut ring = ring();
    ring.rotate(Purpose::Session, &[5; 32], true).unwrap();
    expect![[r#"
        {
          "reservation": {
            "current": 1,
            "keys": {
              "1": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
            }
          },
          "session": {
            "current": 2,
            "keys": {
              "1": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
              "2": "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU="
            }
          },
          "user": {
            "current": 1,
            "keys": {
              "1": "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
            }
          },
          "identity": {
            "current": 1,
            "keys": {
              "1": "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ="
            }
          }
        }"#]]
    .assert_eq(&ring.to_json());
    let read = KeyRing::from_json(ring.to_json().as_bytes()).unwrap();
    assert_eq!(*read.to_json(), *ring.to_json());
}

#[test]
fn golden_ticket_keys() {
    let signer = TicketSigner::from_seed(&[5; 32]);
    expect![[r#"
        -----BEGIN PRIVATE KEY-----
        MFECAQEwBQYDK2VwBCIEIAUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUF
        gSEAbnoc3Smwt4/ROvTFWY/v9O8qlxZuPKby5Pv8zYBQW/E=
        -----END PRIVATE KEY-----
    "#]]
    .assert_eq(&signer.to_pem());
    expect![[r#"
        -----BEGIN PUBLIC KEY-----
        MCowBQYDK2VwAyEAbnoc3Smwt4/ROvTFWY/v9O8qlxZuPKby5Pv8zYBQW/E=
        -----END PUBLIC KEY-----
    "#]]
    .assert_eq(&signer.verifier().to_pem());
}
