//! The key ring: its file, rotation, what it never shows, and the hashes made with it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{ring, user};
use proptest::prelude::*;
use region_api::session::Subject;
use region_api::{
    ConcertName, KeyRing, KeyRingError, Purpose, TicketSigner, TicketVerifier, UserId, identity_hash, owns, user_hash,
};

fn file(reservation: &str) -> String {
    let other = |byte: u8| format!(r#"{{"current":1,"keys":{{"1":"{}"}}}}"#, secret(byte));
    format!(r#"{{"reservation":{reservation},"session":{},"user":{},"identity":{}}}"#, other(2), other(3), other(4))
}
fn secret(byte: u8) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode([byte; 32])
}
fn refusal(reservation: &str) -> KeyRingError {
    KeyRing::from_json(file(reservation).as_bytes()).unwrap_err()
}

#[test]
fn a_file_is_read_and_bad_ones_are_refused() {
    let good = format!(r#"{{"current":7,"keys":{{"1":"{}","7":"{}"}}}}"#, secret(1), secret(9));
    let ring = KeyRing::from_json(file(&good).as_bytes()).unwrap();
    assert_eq!(ring.current(Purpose::Reservation), 7);
    let purpose = Purpose::Reservation;
    let no_current = format!(r#"{{"current":2,"keys":{{"1":"{}"}}}}"#, secret(1));
    assert_eq!(refusal(&no_current), KeyRingError::NoSuchKey { purpose, key: 2 });
    let key_0 = format!(r#"{{"current":0,"keys":{{"0":"{}"}}}}"#, secret(1));
    assert_eq!(refusal(&key_0), KeyRingError::NoSuchKey { purpose, key: 0 });
    assert_eq!(refusal(r#"{"current":1,"keys":{}}"#), KeyRingError::NoSuchKey { purpose, key: 1 });
    assert_eq!(refusal(r#"{"current":1,"keys":{"1":"AAAA"}}"#), KeyRingError::BadSecret { purpose, key: 1 });
    assert_eq!(refusal(r#"{"current":1,"keys":{"1":"not base64"}}"#), KeyRingError::BadSecret { purpose, key: 1 });
    let shared = format!(r#"{{"current":1,"keys":{{"1":"{}"}}}}"#, secret(3));
    assert_eq!(refusal(&shared), KeyRingError::Repeated { purpose: Purpose::User, key: 1 });
    for malformed in ["{}", "[]", r#"{"current":1,"keys":{},"more":1}"#, r#"{"current":256,"keys":{}}"#, "{"] {
        assert!(matches!(refusal(malformed), KeyRingError::Malformed { .. }), "{malformed}");
    }
}

#[test]
fn no_error_and_no_debug_shows_a_secret() {
    let ring = ring();
    assert_eq!(
        format!("{ring:?}"),
        "{Reservation: current 1, keys [1], Session: current 1, keys [1], User: current 1, keys [1], \
         Identity: current 1, keys [1]}"
    );
    let half_right = format!(r#"{{"current":1,"keys":{{"1":"{}!"}}}}"#, secret(1));
    let malformed = format!(r#"{{"current":"{}","keys":{{}}}}"#, secret(1));
    for error in [refusal(&half_right), refusal(&malformed)] {
        assert!(!format!("{error} {error:?}").contains(&secret(1)[..8]), "{error}");
    }
    let signer = TicketSigner::from_seed(&[5; 32]);
    assert_eq!(format!("{signer:?}"), "TicketSigner(…)");
    let user = UserId::Subject(Subject::new("somebody").unwrap());
    assert_eq!(format!("{user:?} {:?}", UserId::Guest([7; 16])), "UserId(subject) UserId(guest)");
}

#[test]
fn rotation_is_bounded_and_the_current_key_stays() {
    let mut ring = ring();
    let purpose = Purpose::User;
    assert_eq!(ring.retire(purpose, 1), Err(KeyRingError::Current { purpose, key: 1 }));
    assert_eq!(ring.retire(purpose, 2), Err(KeyRingError::NoSuchKey { purpose, key: 2 }));
    assert_eq!(ring.activate(purpose, 2), Err(KeyRingError::NoSuchKey { purpose, key: 2 }));
    assert_eq!(ring.rotate(purpose, &[3; 32], true), Err(KeyRingError::Repeated { purpose, key: 2 }));
    assert_eq!(ring.current(purpose), 1, "a refused rotation changes nothing");
    for key in 2..=16 {
        assert_eq!(ring.rotate(purpose, &[key + 100; 32], true), Ok(key));
    }
    assert_eq!(ring.rotate(purpose, &[200; 32], true), Err(KeyRingError::Full { purpose }));
    ring.retire(purpose, 1).unwrap();
    assert_eq!(ring.rotate(purpose, &[200; 32], true), Ok(17), "a retired number is not given out again");
}

#[test]
fn an_owner_is_known_after_a_rotation_too() {
    let mut ring = ring();
    let user = UserId::Guest([7; 16]);
    let before = user_hash(&ring, &user);
    ring.rotate(Purpose::User, &[77; 32], true).unwrap();
    let after = user_hash(&ring, &user);
    assert_ne!(before, after);
    assert!(owns(&ring, &user, before) && owns(&ring, &user, after));
    assert!(!owns(&ring, &UserId::Guest([8; 16]), before));
    ring.retire(Purpose::User, 1).unwrap();
    assert!(!owns(&ring, &user, before));
}

#[test]
fn a_guest_is_nobody_elses_subject() {
    let ring = ring();
    let guest = UserId::Guest(*b"0123456789abcdef");
    let subject = UserId::Subject(Subject::new("0123456789abcdef").unwrap());
    assert_ne!(user_hash(&ring, &guest), user_hash(&ring, &subject));
}

#[test]
fn an_identity_is_another_one_at_another_concert() {
    let ring = ring();
    let hash = |concert: &str, identity: &str| identity_hash(&ring, &ConcertName::new(concert).unwrap(), identity);
    assert_eq!(hash("demo", "x"), hash("demo", "x"));
    assert_ne!(hash("demo", "x"), hash("other", "x"));
    assert_ne!(hash("demo", "x"), hash("demo", "y"));
    // The name ends where it ends: "ab" + "c" is not "a" + "bc".
    assert_ne!(hash("ab", "c"), hash("a", "bc"));
}

#[test]
fn ticket_keys_round_trip_through_pem() {
    let signer = TicketSigner::from_seed(&[5; 32]);
    let again = TicketSigner::from_pem(&signer.to_pem()).unwrap();
    assert_eq!(again.verifier(), signer.verifier());
    assert_eq!(TicketVerifier::from_pem(&signer.verifier().to_pem()), Ok(signer.verifier()));
    assert!(TicketVerifier::from_pem(&signer.to_pem()).is_err(), "a private key is not a public one");
    assert!(TicketSigner::from_pem(&signer.verifier().to_pem()).is_err());
    // As `openssl genpkey -algorithm ed25519` writes it: version 1, without the public half.
    let openssl = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUF\n-----END PRIVATE KEY-----\n";
    assert_eq!(TicketSigner::from_pem(openssl).unwrap().verifier(), signer.verifier());
}

proptest! {
    #[test]
    fn different_users_have_different_hashes(one in user(), other in user()) {
        let ring = ring();
        prop_assert_eq!(one == other, user_hash(&ring, &one) == user_hash(&ring, &other));
        prop_assert!(owns(&ring, &one, user_hash(&ring, &one)));
    }
}
