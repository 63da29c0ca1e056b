//! The `Stripe-Signature` header: who may speak for the payment provider.
//!
//! Pure: the time comes in. A header that is not believed must change nothing anywhere; every comparison takes the
//! same time for every wrong signature.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// How old, or how far ahead, a signature may be, seconds: what Stripe's own libraries take.
pub const TOLERANCE_S: i64 = 300;
/// A header has a time and one signature per secret in use; two while rotating.
const HEADER_BYTES_MAX: usize = 1024;

/// Why a webhook was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No time, no `v1`, or too long.
    #[error("the signature header cannot be read")]
    Malformed,
    /// Signed too long ago, or in the future.
    #[error("the signature is too old or from the future")]
    Stale,
    /// None of the signatures was made with one of our secrets over this body.
    #[error("the signature does not fit the body")]
    Wrong,
}

/// Checks that one of `secrets` signed this body within the tolerance around `now_s` (seconds since 1970). Several
/// secrets, and several signatures in the header, are what a rotation looks like from either side.
pub fn verify(secrets: &[Zeroizing<String>], header: &str, body: &[u8], now_s: i64) -> Result<(), SignatureError> {
    if header.len() > HEADER_BYTES_MAX {
        return Err(SignatureError::Malformed);
    }
    let mut time = None;
    let mut given: Vec<[u8; 32]> = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", text)) if time.is_none() => time = Some((text, text.parse::<i64>().ok())),
            Some(("v1", hex)) => given.extend(unhex(hex)),
            // Other schemes, such as `v0` of test events, are not ours to judge.
            _ => {}
        }
    }
    let Some((text, Some(signed_s))) = time else { return Err(SignatureError::Malformed) };
    if given.is_empty() {
        return Err(SignatureError::Malformed);
    }
    let mut fits = subtle::Choice::from(0);
    for secret in secrets {
        let expected = sign(secret, text, body);
        for signature in &given {
            fits |= expected.ct_eq(signature);
        }
    }
    if !bool::from(fits) {
        return Err(SignatureError::Wrong);
    }
    let age_s = now_s.checked_sub(signed_s).and_then(i64::checked_abs);
    if age_s.is_none_or(|age_s| age_s > TOLERANCE_S) {
        return Err(SignatureError::Stale);
    }
    Ok(())
}

/// HMAC-SHA256 of `time.body`.
fn sign(secret: &str, time: &str, body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of every length");
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().into()
}

fn unhex(hex: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &[u8] = br#"{"id":"evt"}"#;
    /// printf '12345.{"id":"evt"}' | openssl dgst -sha256 -hmac whsec_test
    const V1: &str = "855315825e238523793596e15e01e30ea52325c0896858878a8a4c120dbaf1e5";

    fn secrets(secrets: &[&str]) -> Vec<Zeroizing<String>> {
        secrets.iter().map(|secret| Zeroizing::new((*secret).to_owned())).collect()
    }

    #[test]
    fn what_the_provider_signed_is_believed_for_a_while() {
        let ours = secrets(&["whsec_test"]);
        let header = format!("t=12345,v1={V1}");
        assert_eq!(verify(&ours, &header, BODY, 12345), Ok(()));
        assert_eq!(verify(&ours, &header, BODY, 12345 + TOLERANCE_S), Ok(()));
        assert_eq!(verify(&ours, &header, BODY, 12345 + TOLERANCE_S + 1), Err(SignatureError::Stale));
        assert_eq!(verify(&ours, &header, BODY, 12345 - TOLERANCE_S - 1), Err(SignatureError::Stale));
        assert_eq!(verify(&ours, &header, BODY, i64::MIN), Err(SignatureError::Stale));
    }

    #[test]
    fn secrets_can_be_rotated_from_either_side() {
        let header = format!("t=12345,v1={},v0=old,v1={V1}", "0".repeat(64));
        assert_eq!(verify(&secrets(&["next", "whsec_test"]), &header, BODY, 12345), Ok(()));
        assert_eq!(verify(&secrets(&["next"]), &header, BODY, 12345), Err(SignatureError::Wrong));
        assert_eq!(verify(&[], &header, BODY, 12345), Err(SignatureError::Wrong));
    }

    #[test]
    fn broken_headers_are_refused() {
        let ours = secrets(&["whsec_test"]);
        let cut = &V1[..63];
        for header in ["", "t=12345", &format!("v1={V1}"), &format!("t=x,v1={V1}"), &format!("t=12345,v1={cut}")] {
            assert_eq!(verify(&ours, header, BODY, 12345), Err(SignatureError::Malformed), "{header}");
        }
        // The time that counts is the one that was signed, not one put in front or behind.
        let header = format!("t=12999,t=12345,v1={V1}");
        assert_eq!(verify(&ours, &header, BODY, 12345), Err(SignatureError::Wrong));
    }

    proptest! {
        #[test]
        fn nothing_else_is_believed(header in ".{0,300}", body: Vec<u8>, now_s: i64) {
            prop_assert!(verify(&secrets(&["whsec_test"]), &header, &body, now_s).is_err());
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0..BODY.len(), flip in 1u8..) {
            let mut body = BODY.to_vec();
            body[at] ^= flip;
            let header = format!("t=12345,v1={V1}");
            prop_assert_eq!(verify(&secrets(&["whsec_test"]), &header, &body, 12345), Err(SignatureError::Wrong));
        }

        #[test]
        fn signatures_of_any_shape_never_panic(t: i64, hex in "[0-9a-fA-F]{60,68}", now_s: i64) {
            let header = format!("t={t},v1={hex}");
            prop_assert!(verify(&secrets(&["s"]), &header, BODY, now_s).is_err());
        }
    }
}
