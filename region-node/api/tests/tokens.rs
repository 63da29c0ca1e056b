//! Ids, tokens, nonces and ticket codes: what was signed comes back, anything else is refused, nothing ever panics.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{concert, id, region, ring, tier, user};
use proptest::prelude::*;
use region_api::challenge::{Challenge, ChallengeError, solves};
use region_api::session::Subject;
use region_api::{
    CodeError, IdError, KeyRing, Purpose, Recovery, RegionName, ReservationId, SealError, Session, TicketCode,
    TicketSigner, TicketVerifier, TokenError, UserId, Verified,
};
use uuid::Uuid;

const NOW_MS: u64 = 1_700_000_000_000;
const HALF_AN_HOUR_MS: u64 = 1_800_000;
const A_DAY_MS: u64 = 86_400_000;

fn session() -> Session {
    Session::begin(UserId::Guest([7; 16]), false, RegionName::new("east").unwrap(), NOW_MS)
}
fn signer() -> TicketSigner {
    TicketSigner::from_seed(&[5; 32])
}
fn other_ring() -> KeyRing {
    KeyRing::new(&[[11; 32], [12; 32], [13; 32], [14; 32]]).unwrap()
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}
/// Signs by hand with the ring's key for reservations or sessions, whatever the contents.
fn signed(mut bytes: Vec<u8>) -> String {
    use base64::Engine as _;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let secret = if bytes.first() == Some(&0x11) { [1u8; 32] } else { [2u8; 32] };
    let mac = Hmac::<sha2::Sha256>::new_from_slice(&secret).unwrap().chain_update(&bytes);
    bytes.extend(&mac.finalize().into_bytes()[..16]);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Every change of one character, every cut, every addition: all refused.
fn every_mutation(text: &str, mut refused: impl FnMut(&str) -> bool) {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ ";
    for at in 0..text.len() {
        for &other in ALPHABET.iter().filter(|&&other| other != text.as_bytes()[at]) {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = other;
            let changed = String::from_utf8(changed).unwrap();
            assert!(refused(&changed), "believed {changed} for {text}");
        }
        assert!(refused(&text[..at]), "believed the first {at} characters of {text}");
        assert!(refused(&text[at + 1..]), "believed {text} from {at}");
    }
    for &more in ALPHABET {
        let more = char::from(more);
        assert!(refused(&format!("{text}{more}")) && refused(&format!("{more}{text}")), "believed an addition");
    }
    assert!(refused(&text.repeat(2)) && refused(&text.repeat(40)), "believed a repetition");
}

#[test]
fn every_mutation_of_a_text_is_refused() {
    let ring = ring();
    let small = ReservationId {
        region: RegionName::new("east").unwrap(),
        concert: region_api::ConcertName::new("demo").unwrap(),
        entry: region_api::Entry::new(3, 1, 57).unwrap(),
        arrival_ms: NOW_MS,
        user: region_api::UserHash([1; 16]),
        quantity: 2,
        tiers: [0, 1].into_iter().collect(),
        any_quantity: false,
        identity: None,
    };
    every_mutation(&small.sign(&ring), |text| ReservationId::parse(text, &ring).is_err());
    every_mutation(&session().sign(&ring), |text| Session::verify(text, &ring, NOW_MS).is_err());
    let recovery = Recovery::begin([7; 16], RegionName::new("east").unwrap(), NOW_MS).sign(&ring);
    every_mutation(&recovery, |text| Recovery::verify(text, &ring, NOW_MS).is_err());
    let nonce = Challenge { random: [1; 16], difficulty_bits: 0, expires_at_ms: NOW_MS + 1 }.sign(&ring);
    every_mutation(&nonce, |text| Challenge::check(text, "", &ring, NOW_MS).is_err());
    let keys = [signer().verifier()];
    let code = TicketCode {
        ticket: Uuid::from_u128(1),
        concert: region_api::ConcertName::new("demo").unwrap(),
        tier: region_api::TierName::new("A").unwrap(),
        holder: [1; 16],
    };
    every_mutation(&code.sign(&signer()), |text| TicketCode::verify(text, &keys).is_err());
}

#[test]
fn no_kind_of_text_passes_for_another() {
    let ring = ring();
    let unknown = SealError::UnknownVersion;
    let session = session().sign(&ring);
    assert_eq!(Recovery::verify(&session, &ring, NOW_MS), Err(TokenError::Seal(unknown)));
    assert_eq!(ReservationId::parse(&session, &ring), Err(IdError::Seal(unknown)));
    let recovery = Recovery::begin([7; 16], RegionName::new("east").unwrap(), NOW_MS).sign(&ring);
    assert_eq!(Session::verify(&recovery, &ring, NOW_MS), Err(TokenError::Seal(unknown)));
    let nonce = Challenge { random: [1; 16], difficulty_bits: 0, expires_at_ms: NOW_MS + 1 }.sign(&ring);
    assert_eq!(Session::verify(&nonce, &ring, NOW_MS), Err(TokenError::Seal(unknown)));
    // Longer than any nonce, so refused before its head is looked at.
    assert_eq!(Challenge::check(&recovery, "", &ring, NOW_MS), Err(ChallengeError::Seal(SealError::Malformed)));
}

#[test]
fn another_rings_texts_are_forged() {
    let text = session().sign(&ring());
    assert_eq!(Session::verify(&text, &other_ring(), NOW_MS), Err(TokenError::Seal(SealError::Forged)));
    let code_key = TicketSigner::from_seed(&[6; 32]).verifier();
    let code = TicketCode {
        ticket: Uuid::from_u128(1),
        concert: region_api::ConcertName::new("demo").unwrap(),
        tier: region_api::TierName::new("A").unwrap(),
        holder: [1; 16],
    };
    let text = code.sign(&signer());
    assert_eq!(TicketCode::verify(&text, std::slice::from_ref(&code_key)), Err(CodeError::Forged));
    assert_eq!(TicketCode::verify(&text, &[]), Err(CodeError::Forged));
    assert_eq!(TicketCode::verify(&text, &[code_key, signer().verifier()]), Ok(code));
}

#[test]
fn rotation_keeps_older_texts_until_their_key_is_retired() {
    let mut ring = ring();
    let old = session().sign(&ring);
    assert_eq!(ring.rotate(Purpose::Session, &[9; 32], true), Ok(2));
    let new = session().sign(&ring);
    assert_ne!(old, new);
    for text in [&old, &new] {
        assert_eq!(Session::verify(text, &ring, NOW_MS), Ok(Verified::Fresh(session())));
    }
    ring.retire(Purpose::Session, 1).unwrap();
    assert_eq!(Session::verify(&old, &ring, NOW_MS), Err(TokenError::Seal(SealError::UnknownKey)));
    assert_eq!(Session::verify(&new, &ring, NOW_MS), Ok(Verified::Fresh(session())));
}

#[test]
fn a_region_that_knows_a_key_already_verifies_before_it_signs_with_it() {
    let (mut first, mut second) = (ring(), ring());
    second.rotate(Purpose::Session, &[9; 32], false).unwrap();
    first.rotate(Purpose::Session, &[9; 32], true).unwrap();
    assert_eq!(second.current(Purpose::Session), 1);
    assert!(Session::verify(&session().sign(&first), &second, NOW_MS).is_ok());
    second.activate(Purpose::Session, 2).unwrap();
    assert_eq!(session().sign(&first), session().sign(&second));
}

#[test]
fn a_session_is_fresh_half_an_hour_and_renewable_a_day() {
    let ring = ring();
    let text = session().sign(&ring);
    let at = |later_ms| Session::verify(&text, &ring, NOW_MS + later_ms);
    assert_eq!(at(0), Ok(Verified::Fresh(session())));
    assert_eq!(at(HALF_AN_HOUR_MS - 1), Ok(Verified::Fresh(session())));
    assert_eq!(at(HALF_AN_HOUR_MS), Ok(Verified::Renewable(session())));
    assert_eq!(at(HALF_AN_HOUR_MS + A_DAY_MS), Ok(Verified::Renewable(session())));
    assert_eq!(at(HALF_AN_HOUR_MS + A_DAY_MS + 1), Err(TokenError::Expired));
    // A clock that was set back must not lock anybody out.
    assert_eq!(Session::verify(&text, &ring, 0), Ok(Verified::Fresh(session())));
    let renewed = session().renewed(NOW_MS + A_DAY_MS);
    assert_eq!((&renewed.user, &renewed.home), (&session().user, &session().home));
    assert_eq!(renewed.expires_at_ms, NOW_MS + A_DAY_MS + HALF_AN_HOUR_MS);
}

#[test]
fn a_recovery_token_ends() {
    let ring = ring();
    let recovery = Recovery::begin([7; 16], RegionName::new("east").unwrap(), NOW_MS);
    let text = recovery.sign(&ring);
    assert_eq!(Recovery::verify(&text, &ring, recovery.expires_at_ms - 1), Ok(recovery.clone()));
    assert_eq!(Recovery::verify(&text, &ring, recovery.expires_at_ms), Err(TokenError::Expired));
}

#[test]
fn a_challenge_is_solved_by_work_in_time() {
    let ring = ring();
    let challenge = Challenge { random: [1; 16], difficulty_bits: 10, expires_at_ms: NOW_MS + 1 };
    let nonce = challenge.sign(&ring);
    let solution = (0u32..).map(|n| n.to_string()).find(|solution| solves(&nonce, solution, 10)).unwrap();
    assert_eq!(Challenge::check(&nonce, &solution, &ring, NOW_MS), Ok(challenge));
    assert_eq!(Challenge::check(&nonce, &solution, &ring, NOW_MS + 1), Err(ChallengeError::Expired));
    let wrong = (0u32..).map(|n| n.to_string()).find(|solution| !solves(&nonce, solution, 10)).unwrap();
    assert_eq!(Challenge::check(&nonce, &wrong, &ring, NOW_MS), Err(ChallengeError::Wrong));
    assert_eq!(Challenge::check(&nonce, &"1".repeat(65), &ring, NOW_MS), Err(ChallengeError::TooLong));
}

#[test]
fn leading_zero_bits_are_counted_over_bytes() {
    let hash_bits = |solution: &str| (0u8..=255).take_while(|&bits| solves("nonce", solution, bits)).last().unwrap();
    let by_hand = |solution: &str| {
        use sha2::{Digest as _, Sha256};
        let bits = Sha256::digest(format!("nonce:{solution}"));
        let text: String = bits.iter().map(|byte| format!("{byte:08b}")).collect();
        text.find('1').unwrap() as u8
    };
    for solution in 0..5_000 {
        let solution = solution.to_string();
        assert_eq!(hash_bits(&solution), by_hand(&solution), "{solution}");
    }
}

#[test]
#[should_panic(expected = "out of bounds")]
fn an_id_that_could_not_be_parsed_is_never_signed() {
    let id = ReservationId {
        region: RegionName::new("east").unwrap(),
        concert: region_api::ConcertName::new("demo").unwrap(),
        entry: region_api::Entry::new(0, 1, 1).unwrap(),
        arrival_ms: 0,
        user: region_api::UserHash([0; 16]),
        quantity: 1,
        tiers: [3, 3].into_iter().collect(),
        any_quantity: false,
        identity: None,
    };
    let _ = id.sign(&ring());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn ids_round_trip(id in id()) {
        let text = id.sign(&ring());
        prop_assert!(text.len() <= ReservationId::TEXT_MAX);
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "safe in an address");
        prop_assert_eq!(ReservationId::parse(&text, &ring()), Ok(id));
    }

    #[test]
    fn sessions_round_trip(user in user(), home in region(), solved: bool, now_ms in 0u64..1 << 46) {
        let session = Session::begin(user, solved, home, now_ms);
        prop_assert_eq!(Session::verify(&session.sign(&ring()), &ring(), now_ms), Ok(Verified::Fresh(session)));
    }

    #[test]
    fn recovery_tokens_round_trip(guest: [u8; 16], home in region(), now_ms in 0u64..1 << 46) {
        let recovery = Recovery::begin(guest, home, now_ms);
        prop_assert_eq!(Recovery::verify(&recovery.sign(&ring()), &ring(), now_ms), Ok(recovery));
    }

    #[test]
    fn ticket_codes_round_trip(ticket: u128, concert in concert(), tier in tier(), holder: [u8; 16]) {
        let code = TicketCode { ticket: Uuid::from_u128(ticket), concert, tier, holder };
        let text = code.sign(&signer());
        prop_assert!(text.len() <= TicketCode::TEXT_MAX);
        prop_assert_eq!(TicketCode::verify(&text, &[signer().verifier()]), Ok(code));
    }

    /// One bit anywhere in the bytes, not only in the text.
    #[test]
    fn a_flipped_bit_is_refused(id in id(), at: prop::sample::Index, bit in 0u8..8) {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let mut bytes = URL_SAFE_NO_PAD.decode(id.sign(&ring())).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(ReservationId::parse(&URL_SAFE_NO_PAD.encode(bytes), &ring()).is_err());
    }

    #[test]
    fn subjects_are_bounded(text in "\\PC{0,300}") {
        let fits = (1..=255).contains(&text.len());
        prop_assert_eq!(Subject::new(&text).is_ok(), fits);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever is sent, every parser answers with an error, never a panic.
    #[test]
    fn arbitrary_text_is_refused(text in "\\PC{0,400}") {
        let ring = ring();
        prop_assert!(ReservationId::parse(&text, &ring).is_err());
        prop_assert!(Session::verify(&text, &ring, NOW_MS).is_err());
        prop_assert!(Recovery::verify(&text, &ring, NOW_MS).is_err());
        prop_assert!(Challenge::check(&text, &text, &ring, NOW_MS).is_err());
        prop_assert!(TicketCode::verify(&text, &[signer().verifier()]).is_err());
    }

    /// The same with bytes that decode and have the right head, so that the parsers get further.
    #[test]
    fn arbitrary_bytes_with_the_right_head_are_refused(kind in 0x10u8..0x18, rest in prop::collection::vec(any::<u8>(), 0..320)) {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let mut bytes = vec![kind, 1];
        bytes.extend(rest);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let ring = ring();
        prop_assert!(ReservationId::parse(&text, &ring).is_err());
        prop_assert!(Session::verify(&text, &ring, NOW_MS).is_err());
        prop_assert!(Recovery::verify(&text, &ring, NOW_MS).is_err());
        prop_assert!(Challenge::check(&text, "1", &ring, NOW_MS).is_err());
        prop_assert!(TicketCode::verify(&text, &[signer().verifier()]).is_err());
    }

    /// Bodies that somebody with our key signed, but which are not ours, are read without a panic.
    #[test]
    fn arbitrary_signed_bytes_never_panic(kind in 0x11u8..0x15, rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![kind, 1];
        bytes.extend(rest);
        let (text, ring) = (signed(bytes), ring());
        let _ = ReservationId::parse(&text, &ring);
        let _ = Session::verify(&text, &ring, NOW_MS);
        let _ = Recovery::verify(&text, &ring, NOW_MS);
        let _ = Challenge::check(&text, "1", &ring, NOW_MS);
    }

    /// Near misses, signed with our key: what is believed is in bounds and has exactly this one text.
    #[test]
    fn a_signed_near_miss_is_refused_or_has_one_text(
        id in id(), user in user(), home in region(), at: prop::sample::Index, to: u8, cut in 0usize..3,
    ) {
        let near = |text: &str| {
            let mut bytes = decode(text);
            bytes.truncate(bytes.len() - 16 - cut);
            let at = at.index(bytes.len());
            bytes[at] = to;
            signed(bytes)
        };
        let ring = ring();
        let text = near(&id.sign(&ring));
        if let Ok(believed) = ReservationId::parse(&text, &ring) {
            prop_assert_eq!(believed.sign(&ring), text);
        }
        let text = near(&Session::begin(user, false, home, NOW_MS).sign(&ring));
        if let Ok(Verified::Fresh(believed) | Verified::Renewable(believed)) = Session::verify(&text, &ring, NOW_MS) {
            prop_assert_eq!(believed.sign(&ring), text);
        }
    }

    #[test]
    fn arbitrary_key_files_are_refused(json in prop::collection::vec(any::<u8>(), 0..200), pem in "\\PC{0,200}") {
        prop_assert!(KeyRing::from_json(&json).is_err());
        prop_assert!(TicketSigner::from_pem(&pem).is_err());
        prop_assert!(TicketVerifier::from_pem(&pem).is_err());
    }
}
