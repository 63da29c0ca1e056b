//! The bytes that pass between this node and the queue's functions. Pure; see the head of `functions.lua` for the
//! formats. What Redis says is never trusted to be well-formed: reading fails with [`QueueError::Corrupt`].

use super::limits::TIERS_MAX;
use super::types::{JoinItem, QueueEntry, QueueError, Sample, Settle, SettleOutcome, ShardState};
use region_api::{Entry, IdentityHash, UserHash};
use sale::allocate::Tiers;
use uuid::Uuid;

const FLAG_ANY: u8 = 1;
const FLAG_IDENTITY: u8 = 2;
/// An item whose identity follows its tail.
const LENGTH_IDENTITY: u8 = 128;
/// Where an item's tail has its flags.
const TAIL_FLAGS: usize = 17;
/// Bytes of a place before the item's tail.
const PLACE_HEAD: usize = 14;
/// Kinds from this one on are final.
const PLACE_FINAL: u8 = 128;
/// Bytes after the tail of a place that is final.
const PLACE_NOT_BEFORE: usize = 6;

/// Appends an item. Panics when it names more tiers than there is room for: the shell checks that before.
pub(super) fn put_item(out: &mut Vec<u8>, item: &JoinItem) {
    assert!(item.tiers.len() <= TIERS_MAX, "checked before");
    let (identity, flag) = match &item.identity {
        Some(identity) => (Some(identity.0), FLAG_IDENTITY),
        None => (None, 0),
    };
    let tail_len = 18 + item.tiers.len() as u8 + if identity.is_some() { 4 } else { 0 };
    let mut fixed = [0u8; 35];
    fixed[0] = tail_len | if identity.is_some() { LENGTH_IDENTITY } else { 0 };
    fixed[1..17].copy_from_slice(&item.user.0);
    fixed[17..33].copy_from_slice(item.request_id.as_bytes());
    fixed[33] = item.quantity;
    fixed[34] = flag | u8::from(item.any_quantity);
    out.extend_from_slice(&fixed);
    out.extend_from_slice(&item.tiers);
    if let Some(identity) = identity {
        // Already a keyed hash: any four of its bytes tell two documents apart well enough to say "conflict".
        out.extend_from_slice(&identity[..4]);
        out.extend_from_slice(&identity);
    }
}

/// Reads big-endian numbers and slices off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], QueueError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(QueueError::Corrupt("too short"))?;
        self.0 = rest;
        Ok(taken)
    }
    fn number(&mut self, len: usize) -> Result<u64, QueueError> {
        Ok(self.take(len)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }
    fn byte(&mut self) -> Result<u8, QueueError> {
        Ok(self.number(1)? as u8)
    }
    fn sixteen(&mut self) -> Result<[u8; 16], QueueError> {
        self.take(16)?.try_into().map_err(|_| QueueError::Corrupt("too short"))
    }
    fn generation(&mut self) -> Result<u16, QueueError> {
        Ok(self.number(2)? as u16)
    }
    /// Request id, quantity, flags, tiers.
    fn tail(&mut self, user: UserHash, len: usize) -> Result<JoinItem, QueueError> {
        let mut tail = Reader(self.take(len)?);
        let request_id = Uuid::from_bytes(tail.sixteen()?);
        let quantity = tail.byte()?;
        let flags = tail.byte()?;
        let tiers = match flags & FLAG_IDENTITY {
            0 => tail.0,
            _ => tail.0.split_at_checked(tail.0.len().wrapping_sub(4)).ok_or(QueueError::Corrupt("no identity"))?.0,
        };
        if quantity == 0 || tiers.len() > TIERS_MAX {
            return Err(QueueError::Corrupt("an item's quantity or tiers"));
        }
        let any_quantity = flags & FLAG_ANY != 0;
        Ok(JoinItem { user, request_id, quantity, tiers: Tiers::from_slice(tiers), any_quantity, identity: None })
    }
    fn item(&mut self) -> Result<JoinItem, QueueError> {
        let length = self.byte()?;
        let user = UserHash(self.sixteen()?);
        let mut item = self.tail(user, usize::from(length & !LENGTH_IDENTITY))?;
        if length & LENGTH_IDENTITY != 0 {
            item.identity = Some(IdentityHash(self.sixteen()?));
        }
        Ok(item)
    }
}

fn entry(shard: u16, generation: u16, sequence: u64) -> Result<Entry, QueueError> {
    Entry::new(shard, generation, sequence).ok_or(QueueError::Corrupt("a place out of range"))
}

/// A place that a user has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) entry: Entry,
    pub(super) arrival_ms: u64,
    pub(super) item: JoinItem,
    /// Of its identity nothing but the first bytes is kept.
    identity_head: Option<[u8; 4]>,
}

impl Place {
    /// What the place is for, as its owner asks for it again: with the identity that they name, if it is that one.
    pub(super) fn item_for(self, asked: &JoinItem) -> JoinItem {
        let same = |identity: &IdentityHash| self.identity_head.is_some_and(|head| identity.0.starts_with(&head));
        JoinItem { identity: asked.identity.filter(same), ..self.item }
    }
}

/// Reads a user's place as it is stored: whether it is final, the place, and whether it is for this very item. (The
/// function's `judge` compares in the same way.)
pub(super) fn stored_place(bytes: &[u8], shard: u16, item: &JoinItem) -> Result<(bool, Place, bool), QueueError> {
    let is_final = *bytes.first().ok_or(QueueError::Corrupt("an empty place"))? >= PLACE_FINAL;
    let end = bytes.len().checked_sub(if is_final { PLACE_NOT_BEFORE } else { 0 });
    let bytes = end.and_then(|end| bytes.get(..end)).ok_or(QueueError::Corrupt("too short"))?;
    let place = PlaceBytes(bytes.to_vec()).decode(shard, item.user)?;
    let mut wanted = Vec::with_capacity(80);
    put_item(&mut wanted, item);
    let tail_len = usize::from(wanted[0] & !LENGTH_IDENTITY);
    let same = bytes.get(PLACE_HEAD..) == wanted.get(17..17 + tail_len);
    Ok((is_final, place, same))
}

/// What the function says about an item that did not get a fresh place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Odd {
    Repeat(PlaceBytes),
    Final(PlaceBytes),
    Conflict,
    /// Milliseconds to wait.
    CoolDown(u64),
}

/// A place still in bytes: each waiting request decodes its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlaceBytes(Vec<u8>);

impl PlaceBytes {
    pub(super) fn decode(&self, shard: u16, user: UserHash) -> Result<Place, QueueError> {
        let mut reader = Reader(&self.0);
        reader.byte()?;
        let generation = reader.generation()?;
        let arrival_ms = reader.number(6)?;
        let sequence = reader.number(5)?;
        let tail = reader.0;
        let item = reader.tail(user, tail.len())?;
        let has_identity = tail.get(TAIL_FLAGS).is_some_and(|flags| flags & FLAG_IDENTITY != 0);
        let identity_head = tail.last_chunk().copied().filter(|_| has_identity);
        Ok(Place { entry: entry(shard, generation, sequence)?, arrival_ms, item, identity_head })
    }
}

/// The function's answer about one shard's part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ShardAnswer {
    NoGeneration,
    Behind,
    Done {
        generation: u16,
        arrival_ms: u64,
        /// Sequence number of the first fresh item.
        first_seq: u64,
        /// Index within the part, in rising order, of those that are not fresh.
        odd: Vec<(u32, Odd)>,
    },
}

pub(super) fn shard_answer(bytes: &[u8]) -> Result<ShardAnswer, QueueError> {
    let mut reader = Reader(bytes);
    match reader.byte()? {
        0 => {}
        1 => return Ok(ShardAnswer::NoGeneration),
        2 => return Ok(ShardAnswer::Behind),
        _ => return Err(QueueError::Corrupt("an answer's kind")),
    }
    let generation = reader.generation()?;
    let arrival_ms = reader.number(6)?;
    let first_seq = reader.number(5)?;
    let count = reader.number(2)?;
    let mut odd = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let index = reader.number(2)? as u32;
        let code = reader.byte()?;
        let length = reader.byte()?;
        let payload = reader.take(usize::from(length))?;
        let what = match code {
            1 if payload.len() >= PLACE_HEAD => Odd::Repeat(PlaceBytes(payload.to_vec())),
            2 if payload.len() >= PLACE_HEAD => Odd::Final(PlaceBytes(payload.to_vec())),
            3 => Odd::Conflict,
            4 => Odd::CoolDown(Reader(payload).number(6)?),
            _ => return Err(QueueError::Corrupt("an answer's code")),
        };
        odd.push((index, what));
    }
    Ok(ShardAnswer::Done { generation, arrival_ms, first_seq, odd })
}

/// `None`: the shard has no generation.
pub(super) fn shard_state(shard: u16, bytes: &[u8]) -> Result<Option<ShardState>, QueueError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader(bytes);
    Ok(Some(ShardState {
        shard,
        generation: reader.generation()?,
        head_seq: reader.number(5)?,
        tail_seq: reader.number(5)?,
        tail_arrival_ms: reader.number(6)?,
    }))
}

/// Reads one stream entry's items beyond `after_seq`, at most until `out` holds `most`.
pub(super) fn stream_entry(
    out: &mut Vec<QueueEntry>,
    (shard, generation): (u16, u16),
    last: u64,
    value: &[u8],
    after_seq: u64,
    most: usize,
) -> Result<(), QueueError> {
    let mut reader = Reader(value);
    let arrival_ms = reader.number(6)?;
    let count = reader.number(2)?;
    let before = last.checked_sub(count).ok_or(QueueError::Corrupt("a stream entry's count"))?;
    for sequence in before + 1..=last {
        let item = reader.item()?;
        if sequence > after_seq && out.len() < most {
            out.push(QueueEntry { entry: entry(shard, generation, sequence)?, arrival_ms, item });
        }
    }
    Ok(())
}

pub(super) fn sample(bytes: &[u8]) -> Result<Sample, QueueError> {
    let mut reader = Reader(bytes);
    let arrival_ms = reader.number(6)?;
    Ok(Sample { arrival_ms, generation: reader.generation()?, sequence: reader.number(5)? })
}

pub(super) fn put_settle(out: &mut Vec<u8>, settle: &Settle) {
    out.extend_from_slice(&settle.user.0);
    put_seen(out, settle.entry.generation(), settle.entry.sequence());
    out.push(match settle.outcome {
        SettleOutcome::Done => 0,
        SettleOutcome::Lapsed => 1,
        SettleOutcome::Voided => 2,
    });
}

/// A generation and a sequence number, 7 bytes.
pub(super) fn put_seen(out: &mut Vec<u8>, generation: u16, sequence: u64) {
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes()[3..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        pub(in crate::queue) fn any_item()(
            user: [u8; 16], request: [u8; 16], quantity in 1u8..=100, tiers in prop::collection::vec(0u8..64, 1..=8),
            any_quantity: bool, identity in prop::option::of(any::<[u8; 16]>()),
        ) -> JoinItem {
            JoinItem {
                user: UserHash(user), request_id: Uuid::from_bytes(request), quantity,
                tiers: Tiers::from_vec(tiers), any_quantity, identity: identity.map(IdentityHash),
            }
        }
    }

    proptest! {
        #[test]
        fn items_come_back_as_they_went(items in prop::collection::vec(any_item(), 1..20), skip in 0u64..25) {
            let mut value = vec![0, 0, 0, 0, 1, 2, 0, items.len() as u8];
            items.iter().for_each(|item| put_item(&mut value, item));
            let (mut out, last) = (Vec::new(), 100 + items.len() as u64);
            stream_entry(&mut out, (3, 2), last, &value, 100 + skip, 1000).unwrap();
            prop_assert_eq!(out.len(), items.len().saturating_sub(skip as usize));
            for (k, got) in out.iter().enumerate() {
                prop_assert_eq!(&got.item, &items[skip as usize + k]);
                prop_assert_eq!(got.entry, Entry::new(3, 2, 101 + skip + k as u64).unwrap());
                prop_assert_eq!(got.arrival_ms, 258);
            }
        }

        #[test]
        fn rubbish_is_an_error_or_a_value_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = shard_answer(&bytes);
            let _ = shard_state(1, &bytes);
            let _ = sample(&bytes);
            let _ = stream_entry(&mut Vec::new(), (1, 1), 1 << 30, &bytes, 0, 10);
            let _ = PlaceBytes(bytes.clone()).decode(1, UserHash([0; 16]));
            let item = JoinItem {
                user: UserHash([0; 16]), request_id: Uuid::nil(), quantity: 1, tiers: Tiers::new(),
                any_quantity: false, identity: None,
            };
            let _ = stored_place(&bytes, 1, &item);
        }
    }
}
