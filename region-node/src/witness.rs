//! The node's own witness of the book numbers: one small file per concert, durable before it counts.
//!
//! A book number is written down outside the database so that an older copy of the database is found out. Numbers only
//! go up. Must never: report a number as written before it is on disk.

use crate::books::{Books, backoff};
use foldhash::HashMap;
use parking_lot::Mutex;
use region_api::ConcertName;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Numbers are written at most this often: each costs two fsyncs beside those of the servers.
const EVERY: Duration = Duration::from_millis(50);

/// The witness file of a concert cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("witness file {}: {problem}", .path.display())]
pub struct WitnessError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// Highest book numbers seen by this node, and their files.
#[derive(Debug)]
pub struct Witness {
    folder: PathBuf,
    highest: Mutex<HashMap<i32, Seen>>,
    changed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    book: u64,
    news: bool,
}

impl Witness {
    /// Makes the folder if it is missing.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, WitnessError> {
        std::fs::create_dir_all(&folder)
            .map_err(|error| WitnessError { path: folder.clone(), problem: error.to_string() })?;
        Ok(Self { folder, highest: Mutex::default(), changed: Notify::new() })
    }

    /// The highest number that this node knows of, written or not.
    pub(crate) fn highest(&self, concert_id: i32) -> u64 {
        self.highest.lock().get(&concert_id).map_or(0, |seen| seen.book)
    }

    pub(crate) fn note(&self, concert_id: i32, book: u64) {
        let mut all = self.highest.lock();
        let seen = all.entry(concert_id).or_default();
        if book > seen.book {
            *seen = Seen { book, news: true };
            self.changed.notify_one();
        }
    }

    /// A write failed: it is news again.
    pub(crate) fn note_again(&self, concert_id: i32) {
        if let Some(seen) = self.highest.lock().get_mut(&concert_id) {
            seen.news = true;
        }
        self.changed.notify_one();
    }

    pub(crate) fn take_news(&self) -> Vec<(i32, u64)> {
        let mut all = self.highest.lock();
        let mut news = Vec::new();
        for (concert_id, seen) in all.iter_mut() {
            if std::mem::take(&mut seen.news) {
                news.push((*concert_id, seen.book));
            }
        }
        news
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn path(&self, concert: &ConcertName) -> PathBuf {
        self.folder.join(concert.as_str())
    }

    /// The number in the file; 0 when there is none.
    pub(crate) fn read(&self, concert: &ConcertName) -> Result<u64, WitnessError> {
        let path = self.path(concert);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            other => other.map_err(|error| WitnessError { path: path.clone(), problem: error.to_string() })?,
        };
        text.trim().parse().map_err(|_| WitnessError { path, problem: format!("not a number: {text:?}") })
    }

    /// Writes the number, unless the file has a higher one; on disk when it returns.
    pub(crate) async fn write(&self, concert: &ConcertName, book: u64) -> Result<(), WitnessError> {
        if self.read(concert)? >= book {
            return Ok(());
        }
        let (folder, path) = (self.folder.clone(), self.path(concert));
        let failed = path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&folder, &path, book)).await;
        let problem = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(WitnessError { path: failed, problem })
    }
}

/// New file, fsync, rename, fsync of the folder: after a crash there is the old number or the new one.
fn replace(folder: &Path, path: &Path, book: u64) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    writeln!(file, "{book}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(folder)?.sync_all()
}

/// Writes what is noted to the state folder and to Redis, until shutdown; then once more.
pub async fn run(books: Arc<Books>, shutdown: CancellationToken) {
    let mut failures = 0;
    loop {
        tokio::select! {
            () = books.news() => {}
            () = shutdown.cancelled() => break,
        }
        match books.write_witnesses().await {
            Ok(_) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, "a book number could not be witnessed; trying again");
            }
        }
        let pause = if failures == 0 { EVERY } else { backoff(failures) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
    }
    if let Err(error) = books.write_witnesses().await {
        tracing::warn!(%error, "the last book numbers were not witnessed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_witness_only_goes_up_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let demo = ConcertName::new("demo").unwrap();
        let witness = Witness::open(folder.path().join("books")).unwrap();
        assert_eq!(witness.read(&demo).unwrap(), 0);
        witness.write(&demo, 7).await.unwrap();
        witness.write(&demo, 5).await.unwrap();
        assert_eq!(Witness::open(folder.path().join("books")).unwrap().read(&demo).unwrap(), 7);
        std::fs::write(folder.path().join("books/demo"), "rubbish").unwrap();
        assert!(witness.read(&demo).is_err(), "an unreadable witness is not the same as none");
    }

    #[test]
    fn news_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let witness = Witness::open(folder.path().to_path_buf()).unwrap();
        witness.note(1, 4);
        witness.note(1, 3);
        assert_eq!(witness.take_news(), [(1, 4)]);
        assert!(witness.take_news().is_empty());
        assert_eq!(witness.highest(1), 4);
    }
}
