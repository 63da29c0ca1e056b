//! A copy of the whole state in one file, and a cluster begun again from one. A restored cluster is another incarnation:
//! it grants nothing until every region has registered and said what it has (QUOTA, step 10), because it has forgotten
//! what was granted after the copy was made.

use std::collections::BTreeMap;

use arbiter_api::Meta;
use quota_protocol::{Incarnation, RegionId};
use raft::eraftpb::EntryType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    command::{Address, UnknownEntry},
    raft::Machine as _,
    state::{BadSnapshot, NotRestored, State},
    store::Stored,
};

/// The version of the file's form.
const VERSION: u32 = 1;

/// A backup file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    version: u32,
    /// From where and when; absent in a copy made of a folder.
    meta: Option<Meta>,
    /// Of `snapshot`, in hexadecimal.
    sha256: String,
    snapshot: String,
}

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// Not a backup.
    #[error("this is no backup of arbiters: {0}")]
    Format(#[from] serde_json::Error),
    /// From a later program.
    #[error("a backup of version {0}; this program knows version {VERSION}: use the newer program")]
    Version(u32),
    /// Cut short or changed.
    #[error("the backup does not match its digest: it was cut short or changed. Take another copy of it")]
    Damaged,
    /// The state in it.
    #[error(transparent)]
    Snapshot(#[from] BadSnapshot),
    /// A log entry behind the snapshot.
    #[error(transparent)]
    Entry(#[from] UnknownEntry),
    /// The recovery.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
}

fn digest(snapshot: &str) -> String {
    Sha256::digest(snapshot).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Backup {
    /// A copy of a running arbiter's state.
    pub fn of(meta: Meta, state: &State) -> Self {
        Self::new(Some(meta), state)
    }

    fn new(meta: Option<Meta>, state: &State) -> Self {
        let snapshot = String::from_utf8_lossy(&state.snapshot()).into_owned();
        Self { version: VERSION, meta, sha256: digest(&snapshot), snapshot }
    }

    /// A copy of what an arbiter that does not run has committed.
    ///
    /// # Errors
    /// When its log is not understood.
    pub fn of_stored(stored: &Stored) -> Result<Self, BackupError> {
        let mut state = State::default();
        let taken = stored.snapshot.get_metadata().index;
        if taken > 0 {
            state.restore(&stored.snapshot.data)?;
        }
        let committed = stored.entries.iter().filter(|entry| {
            let normal = entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty();
            normal && entry.index > taken && entry.index <= stored.hard_state.commit
        });
        for entry in committed {
            state.apply(&entry.data)?;
        }
        Ok(Self::new(None, &state))
    }

    /// Reads a backup file.
    ///
    /// # Errors
    /// When it is none, or damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version > VERSION {
            return Err(BackupError::Version(version));
        }
        let backup: Self = serde_json::from_slice(bytes)?;
        if digest(&backup.snapshot) == backup.sha256 { Ok(backup) } else { Err(BackupError::Damaged) }
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serialising plain data into memory cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What a cluster of one arbiter begins with: frozen, under a new incarnation, waiting for every region. `last` is the
    /// last incarnation that is known of; `chance` is drawn anew each time (see [`State::restored`]).
    ///
    /// # Errors
    /// When the state is not understood or the recovery does not begin.
    pub fn restore(
        &self,
        (id, address): (u64, Address),
        (last, chance): (Incarnation, u32),
        regions: &[RegionId],
    ) -> Result<Stored, BackupError> {
        let mut state = State::restored(self.snapshot.as_bytes(), last, chance, regions.to_vec())?;
        state.begin_again(BTreeMap::from([(id, address)]));
        Ok(Stored::first(vec![id], state.snapshot()))
    }
}

#[cfg(test)]
mod tests {
    use region_api::Timestamp;

    use super::*;

    fn meta() -> Meta {
        Meta { node: 1, term: 1, index: 1, as_of: Timestamp::from_ms(0) }
    }

    #[test]
    fn a_backup_is_restored_frozen_and_under_a_new_incarnation() {
        let bytes = Backup::of(meta(), &State::default()).to_bytes();
        let backup = Backup::read(&bytes).unwrap();
        let address = Address { address: "https://a".to_owned(), people: "https://b".to_owned() };
        let east: RegionId = "east".parse().unwrap();
        let stored = backup.restore((4, address), (Incarnation::default(), 7), &[east]).unwrap();
        let mut state = State::default();
        state.restore(&stored.snapshot.data).unwrap();
        assert!(state.issuer().recovering().unwrap().contains(&east));
        assert_eq!(state.members().keys().copied().collect::<Vec<_>>(), [4]);
        assert!(state.issuer().incarnation() > Incarnation::default());
    }

    #[test]
    fn a_changed_backup_is_refused() {
        let text = String::from_utf8(Backup::of(meta(), &State::default()).to_bytes()).unwrap();
        let changed = text.replace("concerts_version\\\":0", "concerts_version\\\":1");
        assert_ne!(text, changed);
        assert!(matches!(Backup::read(changed.as_bytes()), Err(BackupError::Damaged)));
        assert!(matches!(Backup::read(&text.as_bytes()[..text.len() / 2]), Err(BackupError::Format(_))));
        assert!(matches!(Backup::read(br#"{"version":9}"#), Err(BackupError::Version(9))));
    }
}
