//! The operator's drains, kept in a file so that a restart does not send users to a region that was taken out.
//!
//! Must be on disk before anybody is told that the drain is done: written aside, synced, renamed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Why drains cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The file or its folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not ours, or damaged.
    #[error("{path}: {source}")]
    Json {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// Names of drained regions, and the file they are in.
#[derive(Debug)]
pub struct Drains {
    path: PathBuf,
    regions: BTreeSet<String>,
}

impl Drains {
    /// Reads what was kept; no file means no drain.
    ///
    /// # Errors
    /// [`DrainError`]: a damaged file is not passed over, since it may have held a drain.
    pub fn open(folder: &Path) -> Result<Self, DrainError> {
        Self::open_as(folder, "drained.json")
    }

    /// The same in a file of another name, for other things that are taken out and in.
    ///
    /// # Errors
    /// As [`Drains::open`].
    pub fn open_as(folder: &Path, file: &str) -> Result<Self, DrainError> {
        let path = folder.join(file);
        let io = |source| DrainError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let regions = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| DrainError::Json { path: path.clone(), source })?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeSet::new(),
            Err(e) => return Err(io(e)),
        };
        Ok(Self { path, regions })
    }

    /// True when the operator took the region out.
    pub fn contains(&self, region: &str) -> bool {
        self.regions.contains(region)
    }

    /// Takes a region out or in again, on disk first.
    ///
    /// # Errors
    /// [`DrainError`]: then nothing has changed.
    pub fn set(&mut self, region: &str, drained: bool) -> Result<(), DrainError> {
        let mut next = self.regions.clone();
        let changed = if drained { next.insert(region.to_owned()) } else { next.remove(region) };
        if !changed {
            return Ok(());
        }
        self.write(&next).map_err(|source| DrainError::Io { path: self.path.clone(), source })?;
        self.regions = next;
        Ok(())
    }

    fn write(&self, regions: &BTreeSet<String>) -> std::io::Result<()> {
        let aside = self.path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(regions)?)?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut drains = Drains::open(folder.path()).unwrap();
        drains.set("east", true).unwrap();
        drains.set("west", true).unwrap();
        drains.set("west", false).unwrap();
        let again = Drains::open(folder.path()).unwrap();
        assert!(again.contains("east") && !again.contains("west"));
        std::fs::write(folder.path().join("drained.json"), b"[\"ea").unwrap();
        assert!(matches!(Drains::open(folder.path()), Err(DrainError::Json { .. })));
    }
}
