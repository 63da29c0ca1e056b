//! The store on disk: redb. Each record carries its own digest, because a page may rot long after it was written, and
//! the first and last index are recorded, so that a log with a hole or a missing end is noticed.

use std::{panic::AssertUnwindSafe, path::Path, sync::Arc};

use prost::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable as _, ReadableTableMetadata, StorageBackend, TableDefinition,
};
use sha2::{Digest, Sha256};

use super::{
    Batch, LogStore, StoreError, Stored,
    history::{History, Kept},
};
use crate::limits::HISTORY_SIZE_DEFAULT_BYTES;

pub(super) const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
pub(super) const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

const HARD_STATE: &str = "hard_state";
pub(super) const SNAPSHOT: &str = "snapshot";
/// The state that the history follows on, where that is not the last snapshot.
pub(super) const BASE: &str = "base";
/// Before-index, before-term, last index: what the log has to reach from and to.
pub(super) const EXTENT: &str = "extent";
/// First index and bytes of the entries before the log's beginning that are kept for whoever asks what was committed.
pub(super) const HISTORY: &str = "history";
/// In every store from its first moment: one without it has lost more than can be told.
const FORMAT: &str = "format";
const FORMAT_VERSION: &[u8] = b"1";
const DIGEST_SIZE_BYTES: usize = 8;

type Records<'a> = redb::Table<'a, &'static str, &'static [u8]>;

/// A database whose end is no panic: redb writes down its free pages then, and asserts on damage that nobody has come
/// across before.
#[derive(Debug)]
pub(super) struct Guarded(Option<Database>);

impl Guarded {
    pub(super) fn get(&self) -> Result<&Database, StoreError> {
        self.0.as_ref().ok_or_else(|| StoreError::Damaged("the database is closed".to_owned()))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let database = self.0.take();
        if std::panic::catch_unwind(AssertUnwindSafe(move || drop(database))).is_err() {
            tracing::error!("the database could not be closed in order; what was persisted is there all the same");
        }
    }
}

/// A redb database with a node's raft state.
pub struct DiskStore {
    database: Arc<Guarded>,
    extent: Option<[u64; 3]>,
    /// Written with the next batch that has to be on disk.
    waiting: Option<HardState>,
    history_size_max_bytes: u64,
}

pub(super) fn disk(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Disk(Box::new(error))
}

impl DiskStore {
    /// Opens the store in this file, or makes one.
    ///
    /// # Errors
    /// When the disk refuses, or what is there is damaged.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            Self::create(path)?;
        }
        Self::guarded(|| Database::open(path))
    }

    /// Makes an empty store beside its place and moves it there when it is whole: a power cut while it is being made
    /// must not leave something that looks like a damaged log.
    fn create(path: &Path) -> Result<(), StoreError> {
        let (mut unfinished, folder) = (path.to_owned(), path.parent().unwrap_or(Path::new("")));
        unfinished.add_extension("unfinished");
        if unfinished.exists() {
            std::fs::remove_file(&unfinished).map_err(disk)?;
        }
        drop(Self::guarded(|| Database::create(&unfinished))?.begin()?);
        std::fs::rename(&unfinished, path).map_err(disk)?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk)
    }

    /// Opens the store in any storage, or makes one: for tests, which bring storage that fails.
    ///
    /// # Errors
    /// As [`DiskStore::open`].
    pub fn open_backend(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let new = backend.len().map_err(disk)? == 0;
        let store = Self::guarded(|| Database::builder().create_with_backend(backend))?;
        if new { store.begin() } else { Ok(store) }
    }

    /// Makes the tables, so that a store that has none is known to be damaged and not taken for a new one.
    fn begin(self) -> Result<Self, StoreError> {
        let transaction = self.database.get()?.begin_write().map_err(disk)?;
        {
            transaction.open_table(ENTRIES).map_err(disk)?;
            let mut records = transaction.open_table(RECORDS).map_err(disk)?;
            records.insert(FORMAT, sealed(FORMAT_VERSION).as_slice()).map_err(disk)?;
        }
        transaction.commit().map_err(disk)?;
        Ok(self)
    }

    /// Keeps so many bytes of committed commands behind the last snapshot.
    #[must_use]
    pub fn keeping(mut self, history_size_max_bytes: u64) -> Self {
        self.history_size_max_bytes = history_size_max_bytes;
        self
    }

    /// To read what was committed, from any thread.
    pub fn history(&self) -> History {
        History::new(self.database.clone())
    }

    fn guarded(open: impl FnOnce() -> Result<Database, redb::DatabaseError>) -> Result<Self, StoreError> {
        let database = no_panic(|| open().map_err(reading))?;
        let (database, history_size_max_bytes) = (Arc::new(Guarded(Some(database))), HISTORY_SIZE_DEFAULT_BYTES);
        Ok(Self { database, extent: None, waiting: None, history_size_max_bytes })
    }

    fn write(&self, batch: &Batch, extent: [u64; 3]) -> Result<(), StoreError> {
        let mut transaction = self.database.get()?.begin_write().map_err(disk)?;
        transaction.set_durability(Durability::Immediate).map_err(disk)?;
        // Both copies of the root are never in doubt at once, at the price of a second sync.
        transaction.set_two_phase_commit(true);
        {
            let mut entries = transaction.open_table(ENTRIES).map_err(disk)?;
            let mut records = transaction.open_table(RECORDS).map_err(disk)?;
            let mut history = Kept::read(&records)?;
            let before = self.extent.unwrap_or_default()[0];
            if let Some(snapshot) = &batch.install {
                // What lies between the old log and the snapshot is not here: a history with a hole would mislead.
                entries.retain(|_, _| false).map_err(disk)?;
                put(&mut records, SNAPSHOT, &snapshot.encode_to_vec())?;
                records.remove(BASE).map_err(disk)?;
                history = Kept { first: extent[0] + 1, bytes: 0, base: 0 };
            }
            if let Some(first) = batch.entries.first() {
                entries.retain_in(first.index.., |_, _| false).map_err(disk)?;
            }
            for entry in &batch.entries {
                entries.insert(entry.index, sealed(&entry.encode_to_vec()).as_slice()).map_err(disk)?;
            }
            if let Some((snapshot, _)) = &batch.compact {
                if history.base == 0 {
                    history.base = keep_as_base(&mut records)?;
                }
                put(&mut records, SNAPSHOT, &snapshot.encode_to_vec())?;
                // They stay where they are, and are the history from now on.
                history.add(&entries, before + 1..=extent[0])?;
                history.trim(&mut entries, self.history_size_max_bytes)?;
                if history.first > history.base + 1 {
                    records.remove(BASE).map_err(disk)?;
                    history.base = 0;
                }
            }
            put(&mut records, HISTORY, &history.to_bytes())?;
            put(&mut records, HARD_STATE, &batch.hard_state.encode_to_vec())?;
            put(&mut records, EXTENT, &extent.map(u64::to_be_bytes).concat())?;
        }
        transaction.commit().map_err(disk)
    }

    /// Where the log begins and ends after this batch.
    fn extent_after(&self, batch: &Batch) -> Result<[u64; 3], StoreError> {
        let [mut before, mut term, mut last] = self.extent.unwrap_or_default();
        if let Some(snapshot) = &batch.install {
            (before, term, last) =
                (snapshot.get_metadata().index, snapshot.get_metadata().term, snapshot.get_metadata().index);
        }
        if let Some(entry) = batch.entries.last() {
            last = entry.index;
        }
        if let Some((_, keep_from)) = batch.compact
            && keep_from > before + 1
        {
            before = (keep_from - 1).min(last);
            term = self.term_at(before, batch)?;
        }
        Ok([before, term, last])
    }

    fn term_at(&self, index: u64, batch: &Batch) -> Result<u64, StoreError> {
        if let Some(entry) = batch.entries.iter().find(|entry| entry.index == index) {
            return Ok(entry.term);
        }
        let transaction = self.database.get()?.begin_read().map_err(disk)?;
        let entries = transaction.open_table(ENTRIES).map_err(disk)?;
        let sealed = entries.get(index).map_err(disk)?;
        let sealed = sealed.ok_or_else(|| StoreError::Damaged(format!("entry {index} is missing")))?;
        Ok(decoded::<Entry>(sealed.value(), &format!("entry {index}"))?.term)
    }
}

fn put(records: &mut Records<'_>, key: &str, value: &[u8]) -> Result<(), StoreError> {
    records.insert(key, sealed(value).as_slice()).map(|_| ()).map_err(disk)
}

/// The last snapshot, before another takes its place: the history follows on it. Says which entry it ends with.
fn keep_as_base(records: &mut Records<'_>) -> Result<u64, StoreError> {
    let Some(sealed) = records.get(SNAPSHOT).map_err(disk)?.map(|sealed| sealed.value().to_vec()) else { return Ok(0) };
    let snapshot = decoded::<Snapshot>(&sealed, SNAPSHOT)?;
    records.insert(BASE, sealed.as_slice()).map_err(disk)?;
    Ok(snapshot.get_metadata().index)
}

impl LogStore for DiskStore {
    fn load(&mut self) -> Result<Option<Stored>, StoreError> {
        no_panic(|| self.read_all())
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        // Only the commit moved: raft can learn it again, so it waits for company.
        if !batch.sync && batch.entries.is_empty() && batch.install.is_none() && batch.compact.is_none() {
            self.waiting = Some(batch.hard_state.clone());
            return Ok(());
        }
        let extent = self.extent_after(batch)?;
        self.write(batch, extent)?;
        self.extent = Some(extent);
        self.waiting = None;
        Ok(())
    }
}

impl DiskStore {
    fn read_all(&mut self) -> Result<Option<Stored>, StoreError> {
        let transaction = self.database.get()?.begin_read().map_err(reading)?;
        let entries = transaction.open_table(ENTRIES).map_err(reading)?;
        let records = transaction.open_table(RECORDS).map_err(reading)?;
        let record = |key: &str| -> Result<Vec<u8>, StoreError> {
            let sealed = records.get(key).map_err(reading)?;
            let sealed = sealed.ok_or_else(|| StoreError::Damaged(format!("the {key} is missing")))?;
            Ok(opened(sealed.value(), key)?.to_vec())
        };
        if record(FORMAT)? != FORMAT_VERSION {
            return Err(StoreError::Damaged("it is of another format than this program's".to_owned()));
        }
        if records.len().map_err(reading)? == 1 && entries.is_empty().map_err(reading)? {
            return Ok(None);
        }
        let extent = record(EXTENT)?;
        let (numbers, rest) = extent.as_chunks::<8>();
        let [before, term, last] = match numbers {
            [before, term, last] if rest.is_empty() => [before, term, last].map(|number| u64::from_be_bytes(*number)),
            _ => return Err(StoreError::Damaged("the extent is not three numbers".to_owned())),
        };
        let hard_state = decode::<HardState>(&record(HARD_STATE)?, HARD_STATE)?;
        let snapshot = if before > 0 || records.get(SNAPSHOT).map_err(reading)?.is_some() {
            decode::<Snapshot>(&record(SNAPSHOT)?, SNAPSHOT)?
        } else {
            Snapshot::default()
        };
        let mut log = Vec::new();
        for item in entries.range(before + 1..).map_err(reading)? {
            let (index, sealed) = item.map_err(reading)?;
            let name = format!("entry {}", index.value());
            let entry = decoded::<Entry>(sealed.value(), &name)?;
            let expected = before + 1 + log.len() as u64;
            if entry.index != expected || index.value() != expected {
                return Err(StoreError::Damaged(format!("entry {expected} is missing, {} follows", index.value())));
            }
            log.push(entry);
        }
        let reached = before + log.len() as u64;
        if reached != last {
            return Err(StoreError::Damaged(format!("the log ends at {reached} and should reach {last}")));
        }
        if hard_state.commit > last.max(snapshot.get_metadata().index) {
            return Err(StoreError::Damaged(format!("{} are committed, the log ends at {last}", hard_state.commit)));
        }
        self.extent = Some([before, term, last]);
        Ok(Some(Stored { hard_state, snapshot, before: (before, term), entries: log }))
    }
}

impl Drop for DiskStore {
    /// An orderly end writes the last commit, which saves the next start a question.
    fn drop(&mut self) {
        if let (Some(hard_state), Some(extent)) = (self.waiting.take(), self.extent)
            && let Err(error) = self.write(&Batch { hard_state, ..Batch::default() }, extent)
        {
            tracing::debug!(%error, "the last commit was not written; it will be learned again");
        }
    }
}

/// redb asserts on some damage of its own pages. An end with instructions is better than one with a backtrace.
fn no_panic<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(StoreError::Damaged("the database's own pages are damaged (see the message before this one)".to_owned()))
    })
}

/// A value with its digest before it.
pub(super) fn sealed(value: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(value);
    [&digest[..DIGEST_SIZE_BYTES], value].concat()
}

pub(super) fn opened<'a>(sealed: &'a [u8], name: &str) -> Result<&'a [u8], StoreError> {
    let (digest, value) = sealed
        .split_at_checked(DIGEST_SIZE_BYTES)
        .ok_or_else(|| StoreError::Damaged(format!("the record of {name} is cut short")))?;
    if Sha256::digest(value)[..DIGEST_SIZE_BYTES] != *digest {
        return Err(StoreError::Damaged(format!("the record of {name} does not match its digest")));
    }
    Ok(value)
}

fn decode<T: prost::Message + Default>(value: &[u8], name: &str) -> Result<T, StoreError> {
    T::decode(value).map_err(|error| StoreError::Damaged(format!("the record of {name}: {error}")))
}

pub(super) fn decoded<T: prost::Message + Default>(sealed: &[u8], name: &str) -> Result<T, StoreError> {
    decode(opened(sealed, name)?, name)
}

/// What went wrong while reading: the disk, or what is on it.
fn reading(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        // Not a database, or one that ends too early.
        redb::Error::Io(error)
            if matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Damaged(error.to_string())
        }
        error @ (redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseAlreadyOpen) => disk(error),
        damage => StoreError::Damaged(damage.to_string()),
    }
}
