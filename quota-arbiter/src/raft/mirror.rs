//! The log in memory: everything since the last snapshot, as raft-rs wants to read it. It holds only what is durable: it
//! is changed after the store has said so, never before.

use std::cell::Cell;

use raft::{
    Error, GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
    util::limit_size,
};

use crate::store::Stored;

pub(super) struct Mirror {
    pub(super) hard_state: HardState,
    pub(super) snapshot: Snapshot,
    /// The entry before the first that is kept.
    before: (u64, u64),
    entries: Vec<Entry>,
    /// A follower needs a newer snapshot than there is.
    pub(super) snapshot_wanted: Cell<bool>,
    pub(super) size_bytes: u64,
}

impl Mirror {
    pub(super) fn new(stored: Stored) -> Self {
        let Stored { hard_state, snapshot, before, entries } = stored;
        let size_bytes = entries.iter().map(size_bytes).sum();
        Self { hard_state, snapshot, before, entries, snapshot_wanted: Cell::new(false), size_bytes }
    }

    fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    /// A snapshot from the leader takes the place of the whole log.
    pub(super) fn install(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.get_metadata();
        self.before = (metadata.index, metadata.term);
        self.entries.clear();
        self.size_bytes = 0;
        self.snapshot = snapshot;
    }

    /// A snapshot made here; entries before `keep_from` are dropped.
    pub(super) fn compact(&mut self, snapshot: Snapshot, keep_from: u64) {
        self.snapshot = snapshot;
        let drop = keep_from.saturating_sub(self.before.0 + 1).min(self.entries.len() as u64);
        if let Some(last) = self.entries.drain(..drop as usize).next_back() {
            self.before = (last.index, last.term);
        }
        self.size_bytes = self.entries.iter().map(size_bytes).sum();
    }

    pub(super) fn append(&mut self, new: &[Entry]) {
        let Some(first) = new.first() else { return };
        assert!(first.index > self.before.0, "entry {} was compacted away", first.index);
        assert!(first.index <= self.last() + 1, "entry {} leaves a gap after {}", first.index, self.last());
        let keep = (first.index - self.before.0 - 1) as usize;
        for dropped in self.entries.drain(keep..) {
            self.size_bytes -= size_bytes(&dropped);
        }
        self.size_bytes += new.iter().map(size_bytes).sum::<u64>();
        self.entries.extend_from_slice(new);
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        self.snapshot.get_metadata().get_conf_state()
    }
}

fn size_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 24) as u64
}

impl Storage for Mirror {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state().clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let at = |index: u64| (index - self.before.0 - 1) as usize;
        let mut entries = self.entries[at(low)..at(high)].to_vec();
        limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        let metadata = self.snapshot.get_metadata();
        if index == metadata.index {
            return Ok(metadata.term);
        }
        if index < self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.before.0 - 1) as usize);
        entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let metadata = self.snapshot.get_metadata();
        let conf = metadata.get_conf_state();
        let knows = conf.voters.contains(&to) || conf.learners.contains(&to);
        // A member that the snapshot does not know would refuse it, and one below the log's start would not help it.
        if metadata.index < request_index || metadata.index < self.before.0 || !knows {
            self.snapshot_wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.snapshot.clone())
    }
}
