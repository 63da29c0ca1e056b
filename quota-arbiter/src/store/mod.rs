//! Where a node's raft state is durable: its hard state, its log and its last snapshot. One batch is one transaction,
//! on disk when [`LogStore::persist`] returns. A store that fails has failed for good: the process ends, and the next
//! one reads what is there. A log that is damaged must be refused, never silently shortened: what was acknowledged may
//! be in the part that is missing.

mod disk;
mod history;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use thiserror::Error;

pub use disk::DiskStore;
pub use history::{History, Page};

/// What a store has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The last snapshot; its metadata say what members there were.
    pub snapshot: Snapshot,
    /// Index and term of the entry before the first one kept.
    pub before: (u64, u64),
    /// The log.
    pub entries: Vec<Entry>,
}

/// What has to be durable together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Entries to append, in place of whatever was at their indexes and after.
    pub entries: Vec<Entry>,
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// A snapshot from the leader, in place of the whole log.
    pub install: Option<Snapshot>,
    /// A snapshot made here, and the first index to keep.
    pub compact: Option<(Snapshot, u64)>,
    /// Whether it has to be on disk before anything follows from it. If not, it may wait for the next that has to.
    pub sync: bool,
}

/// A store of raft state.
pub trait LogStore {
    /// Everything that is stored; `None` in a store that was never written to.
    ///
    /// # Errors
    /// [`StoreError`], whose text says what to do.
    fn load(&mut self) -> Result<Option<Stored>, StoreError>;

    /// Writes a batch as a whole or not at all.
    ///
    /// # Errors
    /// [`StoreError`]; the process has to end then, since nobody knows what is on disk.
    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError>;
}

/// Why a store does not do what it should.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The disk refused.
    #[error(
        "the log could not be written or read: {0}. The arbiter ends here and has lost nothing that it acknowledged; make \
         room or repair the disk, then start it again"
    )]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is there is damaged.
    #[error(
        "the log is damaged: {0}. It is left as it is and not shortened, since what is missing may have been \
         acknowledged. Remove this node from the cluster, wipe its folder and add it again under a new id; if it is the \
         only one left, restore the arbiters from a backup"
    )]
    Damaged(String),
}

impl Stored {
    /// The state in which every first member of a new cluster begins: a snapshot at index 1 that names the members, so
    /// that none of them can begin differently.
    pub fn first(voters: Vec<u64>, state: Vec<u8>) -> Self {
        let metadata =
            SnapshotMetadata { conf_state: Some(ConfState { voters, ..ConfState::default() }), index: 1, term: 1 };
        Self {
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            snapshot: Snapshot { data: state, metadata: Some(metadata) },
            before: (1, 1),
            entries: Vec::new(),
        }
    }

    /// The batch that writes this state into an empty store.
    pub fn as_batch(&self) -> Batch {
        Batch {
            entries: self.entries.clone(),
            hard_state: self.hard_state.clone(),
            install: Some(self.snapshot.clone()),
            compact: None,
            sync: true,
        }
    }

    /// What a batch makes of this state.
    pub fn apply(&mut self, batch: &Batch) {
        if let Some(snapshot) = &batch.install {
            self.before = (snapshot.get_metadata().index, snapshot.get_metadata().term);
            self.entries.clear();
            self.snapshot = snapshot.clone();
        }
        if let Some(first) = batch.entries.first() {
            self.entries.truncate((first.index - self.before.0 - 1) as usize);
            self.entries.extend_from_slice(&batch.entries);
        }
        if let Some((snapshot, keep_from)) = &batch.compact {
            self.snapshot = snapshot.clone();
            let drop = keep_from.saturating_sub(self.before.0 + 1).min(self.entries.len() as u64) as usize;
            if let Some(last) = self.entries.drain(..drop).next_back() {
                self.before = (last.index, last.term);
            }
        }
        self.hard_state = batch.hard_state.clone();
    }
}
