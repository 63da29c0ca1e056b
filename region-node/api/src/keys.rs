//! The key ring: secrets by purpose, a current one to sign with and older ones that still verify; and the keyed
//! hashes that stand for users and identity documents.
//!
//! Secrets never show in `Debug`, are wiped when dropped, and are compared in constant time only. Keys of purpose
//! `user` and `identity` must not be rotated while a sale is open: the hashes are what limits per person hang on.

use crate::limits;
use crate::names::{ConcertName, IdentityHash, UserHash};
use crate::session::UserId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

/// What a key is for. A key serves one purpose only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Signs reservation ids.
    Reservation,
    /// Signs session tokens, recovery tokens and challenges.
    Session,
    /// Hashes user ids.
    User,
    /// Hashes identity documents again.
    Identity,
}

impl Purpose {
    /// All of them, in the order of the file.
    pub const ALL: [Purpose; 4] = [Purpose::Reservation, Purpose::Session, Purpose::User, Purpose::Identity];

    /// As the file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Reservation => "reservation",
            Purpose::Session => "session",
            Purpose::User => "user",
            Purpose::Identity => "identity",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Number of a key within its purpose, 1..=255; part of everything signed with it.
pub type KeyId = u8;

/// Why a key ring was refused or a rotation did not happen. Never quotes a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// Not JSON, or not of this shape. Says where, never what stood there.
    #[error("the key ring is not JSON of the expected shape (line {line}, column {column})")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Not base64, or too short or too long.
    #[error("key {key} of {purpose}: a secret is base64 of 32 to 64 random bytes")]
    BadSecret {
        /// Its purpose.
        purpose: Purpose,
        /// Its number.
        key: KeyId,
    },
    /// No key of that number, or number 0.
    #[error("{purpose} has no key {key}")]
    NoSuchKey {
        /// The purpose.
        purpose: Purpose,
        /// The number.
        key: KeyId,
    },
    /// Two keys with one secret, also across purposes.
    #[error("key {key} of {purpose} repeats another key's secret")]
    Repeated {
        /// Its purpose.
        purpose: Purpose,
        /// Its number.
        key: KeyId,
    },
    /// No number left, or as many keys as there may be: retire one first.
    #[error("{purpose} has as many keys as it may have; retire one first")]
    Full {
        /// The purpose.
        purpose: Purpose,
    },
    /// The current key cannot be retired.
    #[error("key {key} of {purpose} is the current one")]
    Current {
        /// The purpose.
        purpose: Purpose,
        /// The number.
        key: KeyId,
    },
}

#[derive(Clone)]
struct Key {
    id: KeyId,
    secret: Zeroizing<Vec<u8>>,
    /// HMAC with the key already mixed in: signing clones this instead of hashing two blocks again.
    prepared: Hmac<Sha256>,
}

#[derive(Clone)]
struct Keys {
    current: KeyId,
    keys: Vec<Key>,
}

/// All secrets of a deployment's tokens; the same file in every region.
#[derive(Clone)]
pub struct KeyRing {
    purposes: [Keys; 4],
}

/// A secret as the file writes it, wiped when dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct SecretText(String);

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    current: KeyId,
    keys: BTreeMap<KeyId, SecretText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    reservation: KeysFile,
    session: KeysFile,
    user: KeysFile,
    identity: KeysFile,
}

impl KeyRing {
    /// A ring with key 1 for every purpose, in the order of [`Purpose::ALL`]; the secrets must be random.
    pub fn new(secrets: &[[u8; 32]; 4]) -> Result<KeyRing, KeyRingError> {
        let keys = |purpose: Purpose| {
            let key = Key::new(purpose, 1, Zeroizing::new(secrets[purpose as usize].to_vec()))?;
            Ok(Keys { current: 1, keys: vec![key] })
        };
        let [a, b, c, d] = Purpose::ALL;
        KeyRing { purposes: [keys(a)?, keys(b)?, keys(c)?, keys(d)?] }.checked()
    }

    /// Reads the file: `{"reservation":{"current":1,"keys":{"1":"<base64>"}},"session":…,"user":…,"identity":…}`.
    pub fn from_json(json: &[u8]) -> Result<KeyRing, KeyRingError> {
        let file: RingFile = serde_json::from_slice(json)
            .map_err(|error| KeyRingError::Malformed { line: error.line(), column: error.column() })?;
        let keys = |purpose: Purpose, file: KeysFile| {
            let keys = file.keys.iter().map(|(&id, text)| {
                let bad = KeyRingError::BadSecret { purpose, key: id };
                Key::new(purpose, id, Zeroizing::new(STANDARD.decode(&text.0).map_err(|_| bad)?))
            });
            let keys = Keys { current: file.current, keys: keys.collect::<Result<_, _>>()? };
            match keys.find(keys.current) {
                None => Err(KeyRingError::NoSuchKey { purpose, key: keys.current }),
                Some(_) if keys.keys.len() > limits::KEYS_PER_PURPOSE_MAX => Err(KeyRingError::Full { purpose }),
                Some(_) => Ok(keys),
            }
        };
        let purposes = [
            keys(Purpose::Reservation, file.reservation)?,
            keys(Purpose::Session, file.session)?,
            keys(Purpose::User, file.user)?,
            keys(Purpose::Identity, file.identity)?,
        ];
        KeyRing { purposes }.checked()
    }

    /// Writes the file. The text is wiped when dropped; whoever writes it to disk makes it readable by its owner only.
    pub fn to_json(&self) -> Zeroizing<String> {
        let file = |purpose: Purpose| {
            let keys = &self.purposes[purpose as usize];
            let texts = keys.keys.iter().map(|key| (key.id, SecretText(STANDARD.encode(&*key.secret))));
            KeysFile { current: keys.current, keys: texts.collect() }
        };
        let [a, b, c, d] = Purpose::ALL;
        let file = RingFile { reservation: file(a), session: file(b), user: file(c), identity: file(d) };
        Zeroizing::new(serde_json::to_string_pretty(&file).expect("a map of texts is always JSON"))
    }

    /// Adds a key and signs with it from now on; the older ones go on verifying. Every region must know the new key
    /// before the first one signs with it: add with `rotate(…, false)` everywhere, then with `activate`.
    pub fn rotate(&mut self, purpose: Purpose, secret: &[u8; 32], activate: bool) -> Result<KeyId, KeyRingError> {
        let keys = &self.purposes[purpose as usize];
        let highest = keys.keys.iter().map(|key| key.id).max().unwrap_or(0);
        let id = highest.checked_add(1).ok_or(KeyRingError::Full { purpose })?;
        if keys.keys.len() >= limits::KEYS_PER_PURPOSE_MAX {
            return Err(KeyRingError::Full { purpose });
        }
        let key = Key::new(purpose, id, Zeroizing::new(secret.to_vec()))?;
        let mut changed = self.clone();
        changed.purposes[purpose as usize].keys.push(key);
        if activate {
            changed.purposes[purpose as usize].current = id;
        }
        *self = changed.checked()?;
        Ok(id)
    }

    /// Signs with that key from now on.
    pub fn activate(&mut self, purpose: Purpose, key: KeyId) -> Result<(), KeyRingError> {
        let keys = &mut self.purposes[purpose as usize];
        keys.find(key).ok_or(KeyRingError::NoSuchKey { purpose, key })?;
        keys.current = key;
        Ok(())
    }

    /// Forgets an older key: what was signed with it is refused from now on.
    pub fn retire(&mut self, purpose: Purpose, key: KeyId) -> Result<(), KeyRingError> {
        let keys = &mut self.purposes[purpose as usize];
        keys.find(key).ok_or(KeyRingError::NoSuchKey { purpose, key })?;
        if keys.current == key {
            return Err(KeyRingError::Current { purpose, key });
        }
        keys.keys.retain(|kept| kept.id != key);
        Ok(())
    }

    /// Number of the key that signs.
    pub fn current(&self, purpose: Purpose) -> KeyId {
        self.purposes[purpose as usize].current
    }

    /// HMAC of `message` under that key; `None` when there is no such key.
    pub(crate) fn tag(&self, purpose: Purpose, key: KeyId, message: &[u8]) -> Option<[u8; 32]> {
        Some(self.mac(purpose, key)?.chain_update(message).finalize().into_bytes().into())
    }

    /// Whether `tag` begins the HMAC of `message`, in constant time; `None` when there is no such key.
    pub(crate) fn verify(&self, purpose: Purpose, key: KeyId, message: &[u8], tag: &[u8; 16]) -> Option<bool> {
        Some(self.mac(purpose, key)?.chain_update(message).verify_truncated_left(tag).is_ok())
    }

    fn mac(&self, purpose: Purpose, key: KeyId) -> Option<Hmac<Sha256>> {
        self.purposes[purpose as usize].find(key).map(|key| key.prepared.clone())
    }

    /// No secret twice, whatever the purpose: a tag of one must never be one of another.
    fn checked(self) -> Result<KeyRing, KeyRingError> {
        let all = Purpose::ALL.into_iter().flat_map(|purpose| self.keys(purpose).map(move |key| (purpose, key)));
        let all: Vec<_> = all.collect();
        for (index, (purpose, key)) in all.iter().enumerate() {
            if all[..index].iter().any(|(_, other)| bool::from(other.secret.ct_eq(&key.secret))) {
                return Err(KeyRingError::Repeated { purpose: *purpose, key: key.id });
            }
        }
        drop(all);
        Ok(self)
    }

    fn keys(&self, purpose: Purpose) -> impl Iterator<Item = &Key> {
        self.purposes[purpose as usize].keys.iter()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for purpose in Purpose::ALL {
            let ids: Vec<KeyId> = self.keys(purpose).map(|key| key.id).collect();
            map.entry(&purpose, &format_args!("current {}, keys {ids:?}", self.current(purpose)));
        }
        map.finish()
    }
}

impl Keys {
    fn find(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl Key {
    fn new(purpose: Purpose, id: KeyId, secret: Zeroizing<Vec<u8>>) -> Result<Key, KeyRingError> {
        if id == 0 {
            return Err(KeyRingError::NoSuchKey { purpose, key: id });
        }
        let bad = || KeyRingError::BadSecret { purpose, key: id };
        if !(limits::SECRET_MIN_BYTES..=limits::SECRET_MAX_BYTES).contains(&secret.len()) {
            return Err(bad());
        }
        let prepared = Hmac::new_from_slice(&secret).map_err(|_| bad())?;
        Ok(Key { id, secret, prepared })
    }
}

/// What stands for a user inside ids, queues and databases: cannot be turned back into the user's id without the key.
pub fn user_hash(ring: &KeyRing, user: &UserId) -> UserHash {
    UserHash(user_hash_with(ring, ring.current(Purpose::User), user).expect("the current key exists"))
}

/// Whether that hash is this user's, under any key of the ring (so ids made before a rotation still find their owner).
/// In constant time per key.
pub fn owns(ring: &KeyRing, user: &UserId, hash: UserHash) -> bool {
    ring.keys(Purpose::User)
        .any(|key| user_hash_with(ring, key.id, user).is_some_and(|candidate| bool::from(candidate.ct_eq(&hash.0))))
}

fn user_hash_with(ring: &KeyRing, key: KeyId, user: &UserId) -> Option<[u8; 16]> {
    let (kind, id): (u8, &[u8]) = match user {
        UserId::Guest(id) => (0, id),
        UserId::Subject(subject) => (1, subject.as_str().as_bytes()),
    };
    let mac = ring.mac(Purpose::User, key)?.chain_update([kind]).chain_update(id);
    Some(first_half(&mac.finalize().into_bytes().into()))
}

/// What stands for an identity document within one concert: the client's hash, hashed again with the server's secret,
/// so that neither a leak of the database nor two concerts side by side give documents away.
pub fn identity_hash(ring: &KeyRing, concert: &ConcertName, identity: &str) -> IdentityHash {
    let mac = ring.mac(Purpose::Identity, ring.current(Purpose::Identity)).expect("the current key exists");
    let mac = mac.chain_update(concert.as_str()).chain_update([0]).chain_update(identity);
    IdentityHash(first_half(&mac.finalize().into_bytes().into()))
}

fn first_half(tag: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&tag[..16]);
    half
}
