//! A disk for tests: it loses what was not synced, tears pages, fills up, and draws all of it from a seed.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use quota_arbiter::store::{DiskStore, StoreError};
use redb::StorageBackend;

/// A small generator (SplitMix64): the same faults for the same seed.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// A disk that forgets.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What a power cut leaves.
    pub(crate) synced: Vec<u8>,
    /// What the process sees.
    pub(crate) seen: Vec<u8>,
    /// Since the last sync, in order.
    writes: Vec<Write>,
    /// Writes and syncs until the power goes.
    pub(crate) power_fails_in: Option<u64>,
    /// Writes until there is no room for another.
    pub(crate) full_in: Option<u64>,
    pub(crate) size_max_bytes: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum Write {
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
    pub(crate) fn cut(&mut self, dice: &mut Dice) {
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
pub(crate) struct Backend(pub(crate) Arc<Mutex<Disk>>);

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
        match &mut disk.full_in {
            Some(0) => return Err(io::Error::from(io::ErrorKind::StorageFull)),
            Some(left) => *left -= 1,
            None => {}
        }
        put(&mut disk.seen, offset, data);
        disk.writes.push(Write::Bytes(offset, data.to_vec()));
        Ok(())
    }
}

pub(crate) fn open(backend: &Backend) -> Result<DiskStore, StoreError> {
    DiskStore::open_backend(backend.clone())
}
