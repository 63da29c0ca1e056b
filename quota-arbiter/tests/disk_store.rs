//! The store as it is: real redb over storage that loses what was not synced, tears pages, fills up and rots. What was
//! persisted is there afterwards, or the store says that it is damaged; it never comes up with less.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use quota_arbiter::store::{Batch, DiskStore, LogStore, StoreError, Stored};
use raft::eraftpb::{Entry, HardState, Snapshot};
use redb::{Database, StorageBackend};

/// A small generator (SplitMix64): the same faults for the same seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// A disk that forgets.
#[derive(Debug, Default)]
struct Disk {
    /// What a power cut leaves.
    synced: Vec<u8>,
    /// What the process sees.
    seen: Vec<u8>,
    /// Since the last sync, in order.
    writes: Vec<Write>,
    /// Writes and syncs until the power goes.
    power_fails_in: Option<u64>,
    size_max_bytes: Option<u64>,
}

#[derive(Debug)]
enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

impl Disk {
    fn event(&mut self) -> io::Result<()> {
        match &mut self.power_fails_in {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The power goes: of what was not synced, any part may have reached the disk, in any order, and pages may be torn.
    fn cut(&mut self, dice: &mut Dice) {
        let mut left = std::mem::take(&mut self.synced);
        for write in self.writes.drain(..) {
            match (write, dice.below(3)) {
                (_, 0) => {}
                (Write::Length(length), _) => left.resize(length as usize, 0),
                (Write::Bytes(at, bytes), torn) => {
                    let reached = if torn == 1 { bytes.len() } else { dice.below(bytes.len() as u64 + 1) as usize };
                    put(&mut left, at, &bytes[..reached]);
                }
            }
        }
        self.seen = left.clone();
        self.synced = left;
        self.power_fails_in = None;
    }
}

fn put(to: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let (from, end) = (at as usize, at as usize + bytes.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    to[from..end].copy_from_slice(bytes);
}

#[derive(Clone, Debug, Default)]
struct Backend(Arc<Mutex<Disk>>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock();
        let bytes = disk.seen.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.event()?;
        if disk.size_max_bytes.is_some_and(|most| len > most) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        disk.seen.resize(len as usize, 0);
        disk.writes.push(Write::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.event()?;
        disk.synced = disk.seen.clone();
        disk.writes.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.event()?;
        put(&mut disk.seen, offset, data);
        disk.writes.push(Write::Bytes(offset, data.to_vec()));
        Ok(())
    }
}

fn open(backend: &Backend) -> Result<DiskStore, StoreError> {
    DiskStore::open_backend(backend.clone())
}

fn entries(from: u64, to: u64, term: u64, size_bytes: usize) -> Vec<Entry> {
    let data = |index: u64| vec![index as u8; size_bytes];
    (from..=to).map(|index| Entry { term, index, data: data(index), ..Entry::default() }).collect()
}

fn append(from: u64, to: u64, term: u64) -> Batch {
    let hard_state = HardState { term, vote: 1, commit: from - 1 };
    Batch { entries: entries(from, to, term, 100), hard_state, sync: true, ..Batch::default() }
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    let mut snapshot = Stored::first(vec![1, 2, 3], vec![7; 300]).snapshot;
    if let Some(metadata) = &mut snapshot.metadata {
        (metadata.index, metadata.term) = (index, term);
    }
    snapshot
}

/// A history of batches such as a node writes.
fn history(dice: &mut Dice) -> Vec<Batch> {
    let mut stored = Stored::first(vec![1, 2, 3], b"state".to_vec());
    let mut batches = vec![stored.as_batch()];
    let mut term = 1;
    for _ in 0..dice.below(25) + 5 {
        let last = stored.before.0 + stored.entries.len() as u64;
        let commit = stored.hard_state.commit;
        let mut batch = match dice.below(10) {
            0 => {
                let mut snapshot = Batch { install: Some(snapshot(last + 5, term)), ..append(2, 1, term) };
                snapshot.hard_state.commit = last + 5;
                snapshot
            }
            1 if commit > stored.before.0 + 1 => {
                let keep_from = stored.before.0 + 1 + dice.below(commit - stored.before.0);
                Batch { compact: Some((snapshot(commit, term), keep_from)), ..append(2, 1, term) }
            }
            2 if last > commit => {
                term += 1;
                append(commit + 1 + dice.below(last - commit), last + 1, term)
            }
            _ => append(last + 1, last + 1 + dice.below(20), term),
        };
        let reach = batch.entries.last().map_or(last, |entry| entry.index);
        if batch.install.is_none() {
            let first = batch.entries.first().map_or(last + 1, |entry| entry.index);
            batch.hard_state.commit = commit.max(first.min(reach) - 1);
        }
        batch.hard_state.term = term;
        batch.sync = true;
        stored.apply(&batch);
        batches.push(batch);
    }
    batches
}

#[test]
fn what_is_written_is_read() {
    for seed in 0..50 {
        let backend = Backend::default();
        let mut expected = Stored::default();
        let mut store = open(&backend).unwrap();
        assert!(store.load().unwrap().is_none());
        for batch in history(&mut Dice(seed)) {
            store.persist(&batch).unwrap();
            expected.apply(&batch);
            if seed % 5 == 0 {
                drop(store);
                store = open(&backend).unwrap();
            }
            let loaded = store.load().unwrap().unwrap();
            assert_eq!(loaded.before.0, expected.before.0, "seed {seed}");
            assert_eq!(loaded, expected, "seed {seed}");
        }
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_whole_batches() {
    let mut cuts = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let backend = Backend::default();
        let mut store = open(&backend).unwrap();
        let batches = history(&mut dice);
        let (mut before, mut after) = (Stored::default(), Stored::default());
        backend.0.lock().power_fails_in = Some(dice.below(300));
        let mut failed = false;
        for batch in &batches {
            before = after.clone();
            after.apply(batch);
            if store.persist(batch).is_err() {
                failed = true;
                break;
            }
        }
        if !failed {
            before = after.clone();
        }
        cuts += u64::from(failed);
        backend.0.lock().power_fails_in = Some(0);
        drop(store);
        backend.0.lock().cut(&mut dice);
        let mut store = open(&backend).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let loaded = store.load().unwrap_or_else(|error| panic!("seed {seed}: {error}")).unwrap_or_default();
        // What was persisted is there; what was under way is there as a whole or not at all.
        assert!(loaded == before || loaded == after, "seed {seed}: {loaded:?}");
        // And the store goes on from there.
        let last = loaded.before.0 + loaded.entries.len() as u64;
        let mut batch = append(last + 1, last + 3, 99);
        batch.hard_state.commit = loaded.hard_state.commit;
        store.persist(&batch).unwrap();
    }
    assert!(cuts > 100, "the power went in only {cuts} of 400 runs");
}

#[test]
fn a_full_disk_is_said_plainly_and_loses_nothing() {
    let backend = Backend::default();
    let mut store = open(&backend).unwrap();
    let mut expected = Stored::first(vec![1], Vec::new());
    store.persist(&expected.as_batch()).unwrap();
    let size = backend.0.lock().seen.len() as u64;
    backend.0.lock().size_max_bytes = Some(size + 4 * 1024 * 1024);
    let mut last = 1;
    let error = loop {
        let mut batch = append(last + 1, last + 10, 1);
        batch.entries = entries(last + 1, last + 10, 1, 50_000);
        match store.persist(&batch) {
            Ok(()) => expected.apply(&batch),
            Err(error) => break error,
        }
        last += 10;
        assert!(last < 10_000, "the disk never filled up");
    };
    assert!(last > 20, "something fitted before");
    let text = error.to_string();
    assert!(text.contains("make room") && text.contains("lost nothing"), "{text}");
    drop(store);
    backend.0.lock().size_max_bytes = None;
    let mut store = open(&backend).unwrap();
    assert_eq!(store.load().unwrap().unwrap(), expected);
}

#[test]
fn a_rotten_log_is_refused_and_not_shortened() {
    let (mut refused, mut harmless) = (0, 0);
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let backend = Backend::default();
        let mut store = open(&backend).unwrap();
        let mut expected = Stored::first(vec![1, 2, 3], vec![5; 2_000]);
        store.persist(&expected.as_batch()).unwrap();
        for step in 0..5 {
            let batch = append(2 + 20 * step, 21 + 20 * step, 1);
            store.persist(&batch).unwrap();
            expected.apply(&batch);
        }
        drop(store);
        {
            let mut disk = backend.0.lock();
            // Somewhere in what is really used: beyond, there are only zeros.
            let used = disk.seen.iter().rposition(|byte| *byte != 0).unwrap() as u64;
            let at = dice.below(used) as usize;
            disk.seen[at] ^= 1 << dice.below(8);
        }
        match open(&backend).and_then(|mut store| store.load()) {
            Ok(loaded) => {
                assert_eq!(loaded.unwrap_or_default(), expected, "seed {seed}: rot changed the log without a word");
                harmless += 1;
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged(_)), "seed {seed}: {error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_log_with_a_hole_is_refused_with_instructions() {
    use redb::{ReadableTable, TableDefinition};
    const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
    for gone in [5_u64, 10] {
        let backend = Backend::default();
        let mut store = open(&backend).unwrap();
        store.persist(&Stored::first(vec![1], Vec::new()).as_batch()).unwrap();
        store.persist(&append(2, 10, 1)).unwrap();
        drop(store);
        let database = Database::builder().create_with_backend(backend.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(ENTRIES).unwrap();
            assert!(table.first().unwrap().is_some());
            table.remove(gone).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        let error = open(&backend).unwrap().load().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Damaged(_)), "{text}");
        assert!(text.contains("not shortened") && text.contains("add it again under a new id"), "{text}");
    }
}
