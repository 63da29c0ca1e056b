//! Group commit's middle: a *group* is what one shard puts into one batch. Requests push their item and wait on the
//! group; the committer of the server that holds the shard takes groups, and completes each exactly once.
//!
//! Requests own nothing but their ticket; a request that goes away (its client hung up) leaves its item in. A group that
//! is dropped without an answer completes itself as `Unknown`, so nobody waits for ever.

use super::codec::{self, Odd, PlaceBytes};
use super::keys::ShardKeys;
use super::limits::GROUP_ITEMS_MAX;
use super::types::{JoinError, JoinItem, JoinOutcome, Joined};
use foldhash::HashSet;
use parking_lot::Mutex;
use region_api::Entry;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Bytes of a blob before its items: what this node has seen acknowledged 7, count 2.
const BLOB_HEAD: usize = 9;

/// Where one shard of one concert gathers its joins.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) shard: u16,
    pub(super) keys: ShardKeys,
    /// Highest place that this node knows to have been given out: generation << 40 | sequence.
    seen: AtomicU64,
    gathering: Mutex<VecDeque<Gathering>>,
}

#[derive(Debug)]
struct Gathering {
    group: Arc<Answer>,
    blob: Vec<u8>,
    users: HashSet<[u8; 16]>,
    count: u32,
}

/// What those who wait share: the answer, once it is there, and whom to wake.
#[derive(Debug, Default)]
pub(super) struct Answer {
    result: OnceLock<GroupResult>,
    wakers: Mutex<Vec<Waker>>,
}

/// How a group ended.
#[derive(Debug)]
pub(super) enum GroupResult {
    Stored { generation: u16, arrival_ms: u64, first_seq: u64, odd: Vec<(u32, Odd)> },
    Failed(JoinError),
}

/// What a push led to.
pub(super) enum Pushed {
    /// In; `first` when the shard had nothing waiting before: its server must be told.
    In { ticket: Ticket, first: bool },
    /// This user already has an item in an open group; push again when that one is answered.
    Twin(Ticket),
}

impl Shard {
    pub(super) fn new(concert_id: i32, shard: u16) -> Self {
        let keys = ShardKeys::new(concert_id, shard);
        Self { shard, keys, seen: AtomicU64::new(0), gathering: Mutex::default() }
    }

    /// Raises what this node knows to have been given out.
    pub(super) fn note_seen(&self, generation: u16, sequence: u64) {
        self.seen.fetch_max(u64::from(generation) << 40 | sequence, Ordering::Relaxed);
    }

    pub(super) fn push(&self, item: &JoinItem, waker: &Waker) -> Pushed {
        let mut gathering = self.gathering.lock();
        let twin = gathering.iter().rev().find(|open| open.users.contains(&item.user.0));
        if let Some(open) = twin {
            return Pushed::Twin(Ticket::new(&open.group, u32::MAX, waker));
        }
        let first = gathering.is_empty();
        if gathering.back().is_none_or(|open| open.count as usize >= GROUP_ITEMS_MAX) {
            gathering.push_back(Gathering::new());
        }
        // The queue is not empty: the line above saw to it.
        let Some(open) = gathering.back_mut() else { unreachable!() };
        let index = open.count;
        open.count += 1;
        open.users.insert(item.user.0);
        codec::put_item(&mut open.blob, item);
        Pushed::In { ticket: Ticket::new(&open.group, index, waker), first }
    }

    /// Takes the oldest group; also says whether there are more.
    pub(super) fn take(self: &Arc<Self>, in_flight: &Arc<AtomicUsize>) -> Option<(Group, bool)> {
        let mut gathering = self.gathering.lock();
        let mut open = gathering.pop_front()?;
        let seen = self.seen.load(Ordering::Relaxed);
        let mut head = Vec::with_capacity(BLOB_HEAD);
        codec::put_seen(&mut head, (seen >> 40) as u16, seen & Entry::SEQUENCE_MAX);
        head.extend_from_slice(&(open.count as u16).to_be_bytes());
        open.blob[..BLOB_HEAD].copy_from_slice(&head);
        let group = Group {
            shard: self.clone(),
            blob: open.blob,
            count: open.count,
            answer: open.group,
            in_flight: in_flight.clone(),
        };
        Some((group, !gathering.is_empty()))
    }

    /// Items waiting to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.gathering.lock().iter().map(|open| open.count as usize).sum()
    }
}

impl Gathering {
    fn new() -> Self {
        let mut blob = Vec::with_capacity(2048);
        blob.resize(BLOB_HEAD, 0);
        Self { group: Arc::default(), blob, users: HashSet::default(), count: 0 }
    }
}

/// A group taken for sending. Completes as `Unknown` when dropped.
pub(super) struct Group {
    pub(super) shard: Arc<Shard>,
    pub(super) blob: Vec<u8>,
    pub(super) count: u32,
    answer: Arc<Answer>,
    in_flight: Arc<AtomicUsize>,
}

impl Group {
    /// Tells everybody who waits. Only the first call counts.
    pub(super) fn complete(&self, result: GroupResult) {
        if let GroupResult::Stored { generation, first_seq, odd, .. } = &result {
            let last = first_seq + u64::from(self.count) - odd.len() as u64 - 1;
            self.shard.note_seen(*generation, last);
        }
        if self.answer.result.set(result).is_ok() {
            self.in_flight.fetch_sub(self.count as usize, Ordering::Relaxed);
            let wakers = std::mem::take(&mut *self.answer.wakers.lock());
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn fail(&self, error: JoinError) {
        self.complete(GroupResult::Failed(error));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.answer.result.get().is_none() {
            self.fail(JoinError::Unknown("the request was dropped on its way".to_owned()));
        }
    }
}

/// One request's share in a group: resolves when the group is answered.
pub(super) struct Ticket {
    answer: Arc<Answer>,
    /// Among the items; a twin has none.
    index: u32,
    /// Among the wakers.
    slot: usize,
}

impl Future for Ticket {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.answer.result.get().is_some() {
            return Poll::Ready(());
        }
        let mut wakers = self.answer.wakers.lock();
        // Looked at again under the lock: whoever answers sets the result first and takes the wakers after.
        if self.answer.result.get().is_some() {
            return Poll::Ready(());
        }
        if let Some(waker) = wakers.get_mut(self.slot) {
            waker.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Ticket {
    fn new(answer: &Arc<Answer>, index: u32, waker: &Waker) -> Self {
        let mut wakers = answer.wakers.lock();
        wakers.push(waker.clone());
        Self { answer: answer.clone(), index, slot: wakers.len() - 1 }
    }

    /// What became of the item. Only after the ticket resolved.
    pub(super) fn redeem(&self, shard: u16, item: JoinItem) -> Result<Joined, JoinError> {
        let missing = || JoinError::Unknown("asked before the answer".to_owned());
        let (generation, arrival_ms, first_seq, odd) = match self.answer.result.get().ok_or_else(missing)? {
            GroupResult::Failed(error) => return Err(error.clone()),
            GroupResult::Stored { generation, arrival_ms, first_seq, odd } => {
                (*generation, *arrival_ms, *first_seq, odd)
            }
        };
        let unreadable = || JoinError::Unknown("a place out of range".to_owned());
        match odd.binary_search_by_key(&self.index, |(index, _)| *index) {
            Err(odd_before) => {
                let sequence = first_seq + u64::from(self.index) - odd_before as u64;
                let entry = Entry::new(shard, generation, sequence).ok_or_else(unreadable)?;
                Ok(Joined { entry, arrival_ms, item, outcome: JoinOutcome::Fresh })
            }
            Ok(at) => match &odd[at].1 {
                Odd::Repeat(place) => had_already(place, shard, item, JoinOutcome::Repeat),
                Odd::Final(place) => had_already(place, shard, item, JoinOutcome::Final),
                Odd::Conflict => Err(JoinError::Conflict),
                Odd::CoolDown(wait_ms) => Err(JoinError::CoolDown(Duration::from_millis(*wait_ms))),
            },
        }
    }
}

fn had_already(place: &PlaceBytes, shard: u16, item: JoinItem, outcome: JoinOutcome) -> Result<Joined, JoinError> {
    let unreadable = |error| JoinError::Unavailable(format!("{error}"));
    let place = place.decode(shard, item.user).map_err(unreadable)?;
    let (entry, arrival_ms) = (place.entry, place.arrival_ms);
    Ok(Joined { entry, arrival_ms, item: place.item_for(&item), outcome })
}
