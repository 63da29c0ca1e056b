//! What was committed and lies before the log's beginning. Compaction leaves those entries where they are, so keeping
//! them costs nothing but their place; the oldest go when they take up more than they may.

use std::{ops::RangeInclusive, sync::Arc};

use raft::eraftpb::{Entry, Snapshot};
use redb::{ReadableDatabase as _, ReadableTable, Table};

use super::{
    StoreError,
    disk::{BASE, ENTRIES, Guarded, HISTORY, RECORDS, SNAPSHOT, decoded, disk, opened},
};

/// Where the history begins, how much it is, and which entry the state kept for replaying it ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) first: u64,
    pub(super) bytes: u64,
    /// 0: no other than the last snapshot.
    pub(super) base: u64,
}

impl Kept {
    pub(super) fn read(records: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Self, StoreError> {
        let Some(sealed) = records.get(HISTORY).map_err(disk)? else { return Ok(Self { first: 1, bytes: 0, base: 0 }) };
        match opened(sealed.value(), HISTORY)?.as_chunks::<8>() {
            // Written before a base was kept.
            ([first, bytes], []) => {
                Ok(Self { first: u64::from_be_bytes(*first), bytes: u64::from_be_bytes(*bytes), base: 0 })
            }
            ([first, bytes, base], []) => {
                let [first, bytes, base] = [first, bytes, base].map(|number| u64::from_be_bytes(*number));
                Ok(Self { first, bytes, base })
            }
            _ => Err(StoreError::Damaged("the history's extent is not three numbers".to_owned())),
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.first, self.bytes, self.base].map(u64::to_be_bytes).concat()
    }

    /// These entries are history from now on.
    pub(super) fn add(
        &mut self,
        entries: &Table<'_, u64, &'static [u8]>,
        indexes: RangeInclusive<u64>,
    ) -> Result<(), StoreError> {
        if indexes.is_empty() {
            return Ok(());
        }
        for item in entries.range(indexes).map_err(disk)? {
            self.bytes += item.map_err(disk)?.1.value().len() as u64;
        }
        Ok(())
    }

    /// The oldest go until the rest fits.
    pub(super) fn trim(&mut self, entries: &mut Table<'_, u64, &'static [u8]>, max: u64) -> Result<(), StoreError> {
        while self.bytes > max {
            let Some((index, length)) = oldest(entries)? else { break };
            entries.remove(index).map_err(disk)?;
            self.first = index + 1;
            self.bytes = self.bytes.saturating_sub(length);
        }
        Ok(())
    }
}

fn oldest(entries: &Table<'_, u64, &'static [u8]>) -> Result<Option<(u64, u64)>, StoreError> {
    let first = entries.first().map_err(disk)?;
    Ok(first.map(|(index, sealed)| (index.value(), sealed.value().len() as u64)))
}

/// Reads what was committed.
#[derive(Clone, Debug)]
pub struct History {
    database: Arc<Guarded>,
}

/// Some of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The first index that is still there.
    pub first_index: u64,
    /// Entries in order.
    pub entries: Vec<Entry>,
    /// Ask again after this one; `None` at the end.
    pub next_after: Option<u64>,
}

impl History {
    pub(super) fn new(database: Arc<Guarded>) -> Self {
        Self { database }
    }

    /// The oldest state that the entries still follow on, with the index of the last entry in it; `None` in an empty
    /// store.
    ///
    /// # Errors
    /// When the disk refuses, or what is there is damaged.
    pub fn base(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let transaction = self.database.get()?.begin_read().map_err(disk)?;
        let records = transaction.open_table(RECORDS).map_err(disk)?;
        let key = if Kept::read(&records)?.base > 0 { BASE } else { SNAPSHOT };
        let Some(sealed) = records.get(key).map_err(disk)? else { return Ok(None) };
        let snapshot = decoded::<Snapshot>(sealed.value(), key)?;
        Ok(Some((snapshot.get_metadata().index, snapshot.data)))
    }

    /// At most `most` entries after `after`, up to `applied`.
    ///
    /// # Errors
    /// When the disk refuses, or what is there is damaged.
    pub fn page(&self, after: u64, applied: u64, most: usize) -> Result<Page, StoreError> {
        let transaction = self.database.get()?.begin_read().map_err(disk)?;
        let records = transaction.open_table(RECORDS).map_err(disk)?;
        let entries = transaction.open_table(ENTRIES).map_err(disk)?;
        let first_index = Kept::read(&records)?.first;
        let mut page = Page { first_index, entries: Vec::new(), next_after: None };
        for item in entries.range(after.saturating_add(1)..=applied.max(after.saturating_add(1))).map_err(disk)? {
            let (index, sealed) = item.map_err(disk)?;
            if index.value() > applied {
                break;
            }
            if page.entries.len() >= most {
                page.next_after = page.entries.last().map(|entry: &Entry| entry.index);
                break;
            }
            page.entries.push(decoded(sealed.value(), &format!("entry {}", index.value()))?);
        }
        Ok(page)
    }
}
