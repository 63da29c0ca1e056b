//! The store as it is: real redb over storage that loses what was not synced, tears pages, fills up and rots. What was
//! persisted is there afterwards, or the store says that it is damaged; it never comes up with less.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod disk;

use disk::{Backend, Dice, Disk, open};
use quota_arbiter::store::{Batch, DiskStore, LogStore, StoreError, Stored};
use raft::eraftpb::{Entry, HardState, Snapshot};
use redb::Database;

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
fn a_store_that_was_never_finished_is_made_again_and_a_foreign_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    // The power went while it was being made.
    std::fs::write(folder.path().join("log.redb.unfinished"), b"half").unwrap();
    let first = Stored::first(vec![1], Vec::new());
    let mut store = DiskStore::open(&path).unwrap();
    assert!(store.load().unwrap().is_none());
    store.persist(&first.as_batch()).unwrap();
    drop(store);
    assert_eq!(DiskStore::open(&path).unwrap().load().unwrap(), Some(first));
    for foreign in [b"something else".to_vec(), vec![0; 10_000]] {
        std::fs::write(&path, foreign).unwrap();
        let error = DiskStore::open(&path).err().unwrap();
        assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    }
}

#[test]
fn a_disk_that_fills_up_at_any_moment_loses_nothing() {
    let mut full = 0;
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let backend = Backend::default();
        let mut store = open(&backend).unwrap();
        let batches = history(&mut dice);
        backend.0.lock().full_in = Some(dice.below(150));
        let (mut before, mut after) = (Stored::default(), Stored::default());
        for batch in &batches {
            before = after.clone();
            after.apply(batch);
            if let Err(error) = store.persist(batch) {
                assert!(error.to_string().contains("make room"), "seed {seed}: {error}");
                full += 1;
                break;
            }
            before = after.clone();
        }
        drop(store);
        backend.0.lock().full_in = None;
        let loaded = open(&backend).unwrap().load().unwrap().unwrap_or_default();
        assert!(loaded == before || loaded == after, "seed {seed}: {loaded:?}");
    }
    assert!(full > 50, "the disk filled up in only {full} of 200 runs");
}

/// A log of so many batches on a disk that is then damaged: what the store says; nothing where it lost nothing by it.
fn refusal(seed: u64, batches: u64, damage: impl FnOnce(&mut Disk, &mut Dice, u64)) -> Option<StoreError> {
    let mut dice = Dice(seed);
    let backend = Backend::default();
    let mut store = open(&backend).unwrap();
    let mut expected = Stored::first(vec![1, 2, 3], vec![5; 2_000]);
    store.persist(&expected.as_batch()).unwrap();
    for step in 0..batches {
        let batch = append(2 + 20 * step, 21 + 20 * step, 1);
        store.persist(&batch).unwrap();
        expected.apply(&batch);
    }
    drop(store);
    let nothing_left = {
        let mut disk = backend.0.lock();
        // Somewhere in what is really used: beyond, there are only zeros.
        let used = disk.seen.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        let at = dice.below(used);
        damage(&mut disk, &mut dice, at);
        disk.seen.is_empty()
    };
    match open(&backend).and_then(|mut store| store.load()) {
        Ok(Some(loaded)) => assert_eq!(loaded, expected, "seed {seed}: the log changed without a word"),
        // Nothing at all is left: that is a new disk, and nobody can tell.
        Ok(None) => assert!(nothing_left, "seed {seed}: the log was emptied without a word"),
        Err(error) => return Some(error),
    }
    None
}

#[test]
fn a_rotten_log_is_refused_and_not_shortened() {
    let rot = |disk: &mut Disk, dice: &mut Dice, at: u64| disk.seen[at as usize] ^= 1 << dice.below(8);
    let refusals: Vec<StoreError> = (0..300).filter_map(|seed| refusal(seed, 5, rot)).collect();
    for error in &refusals {
        assert!(matches!(error, StoreError::Damaged(_)), "{error:?}");
    }
    assert!(refusals.len() > 20, "{} of 300 refused", refusals.len());
}

#[test]
fn a_torn_log_is_refused_with_instructions_and_not_shortened() {
    const PAGE_SIZE_BYTES: u64 = 4_096;
    let tear = |disk: &mut Disk, dice: &mut Dice, at: u64| {
        let page = (at / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES) as usize;
        let end = (page + PAGE_SIZE_BYTES as usize).min(disk.seen.len());
        match dice.below(3) {
            // The end of the file is gone.
            0 => disk.seen.truncate(page),
            // A page was never written.
            1 => disk.seen[page..end].fill(0),
            // Only its first part was.
            _ => {
                let torn = page + dice.below((end - page) as u64) as usize;
                disk.seen[torn..end].fill(0);
            }
        }
    };
    let refusals: Vec<String> =
        (0..300).filter_map(|seed| refusal(seed, 20, tear)).map(|error| error.to_string()).collect();
    for text in &refusals {
        assert!(text.contains("start it again") || text.contains("add it again under a new id"), "{text}");
    }
    assert!(refusals.len() > 100, "{} of 300 refused", refusals.len());
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
