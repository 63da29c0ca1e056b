//! The record: one line of JSON for everything that happened, in a file that is read back at the next start.
//!
//! A line is handed to the kernel before anybody hears of what it says, so that it survives the death of this process
//! (not of the machine: the sandbox moves no money). A torn last line is what was never answered, and is dropped.

use super::account::{Account, Change};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// Something changed.
    Change(Change),
    /// An event has to be told.
    Event {
        /// `evt_…`
        id: String,
        /// What is sent.
        body: String,
    },
    /// It was told, or dropped on purpose.
    Told(String),
}

/// What was read back.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// Payments, refunds, keys.
    pub(crate) account: Account,
    /// Events not told yet, oldest first.
    pub(crate) events: Vec<(String, String)>,
}

/// The open file; without a path nothing is kept.
#[derive(Debug)]
pub(crate) struct Record {
    file: Option<File>,
}

impl Record {
    /// Reads what is there, writes it anew without what no longer matters, and opens it for more.
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<(Self, Replayed)> {
        let Some(path) = path else { return Ok((Self { file: None }, Replayed::default())) };
        let replayed = read(path)?;
        compact(path, &replayed)?;
        let file = OpenOptions::new().append(true).open(path).with_context(|| format!("open {}", path.display()))?;
        Ok((Self { file: Some(file) }, replayed))
    }

    /// Adds lines, all or (when the process dies meanwhile) a beginning of them.
    pub(crate) fn add(&mut self, lines: &[Line]) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        file.write_all(&text)
    }
}

fn read(path: &Path) -> anyhow::Result<Replayed> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Replayed::default()),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let mut account = Account::default();
    let mut events = BTreeMap::new();
    let mut order: u64 = 0;
    let mut places = std::collections::HashMap::new();
    let mut lines = BufReader::new(file).split(b'\n').peekable();
    while let Some(line) = lines.next() {
        let line = line.with_context(|| format!("read {}", path.display()))?;
        match serde_json::from_slice(&line) {
            Ok(Line::Change(change)) => account.replay(change),
            Ok(Line::Event { id, body }) => {
                order += 1;
                places.insert(id.clone(), order);
                events.insert(order, (id, body));
            }
            Ok(Line::Told(id)) => {
                if let Some(place) = places.remove(&id) {
                    events.remove(&place);
                }
            }
            // Only the very last line can be torn.
            Err(_) if lines.peek().is_none() => break,
            Err(error) => return Err(error).with_context(|| format!("{} is damaged", path.display())),
        }
    }
    Ok(Replayed { account, events: events.into_values().collect() })
}

fn compact(path: &Path, replayed: &Replayed) -> anyhow::Result<()> {
    let mut fresh = PathBuf::from(path);
    fresh.set_extension("new");
    let mut file = BufWriter::new(File::create(&fresh).with_context(|| format!("create {}", fresh.display()))?);
    let changes = replayed.account.changes().map(Line::Change);
    let events = replayed.events.iter().map(|(id, body)| Line::Event { id: id.clone(), body: body.clone() });
    for line in changes.chain(events) {
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    std::fs::rename(&fresh, path).with_context(|| format!("replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::account::NewIntent;

    fn opened() -> Vec<Line> {
        let mut account = Account::default();
        let new = NewIntent { amount: 5, currency: "eur".into(), metadata: BTreeMap::new(), key: None };
        let (done, _) = account.create(1, "pi_1".into(), "s".into(), new).unwrap();
        done.changes.into_iter().map(Line::Change).collect()
    }

    #[test]
    fn what_was_written_is_read_back_and_a_torn_end_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let (mut record, _) = Record::open(Some(&path)).unwrap();
        record.add(&opened()).unwrap();
        for id in ["evt_1", "evt_2", "evt_3"] {
            record.add(&[Line::Event { id: id.into(), body: "{}".into() }]).unwrap();
        }
        record.add(&[Line::Told("evt_2".into())]).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"told\":\"evt").unwrap();
        for _ in 0..2 {
            let (_, back) = Record::open(Some(&path)).unwrap();
            let ids: Vec<_> = back.events.iter().map(|(id, _)| id.as_str()).collect();
            assert_eq!(ids, ["evt_1", "evt_3"]);
            assert_eq!(back.account.intent("pi_1").unwrap().amount, 5);
        }
    }

    #[test]
    fn damage_in_the_middle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        std::fs::write(&path, "{\"told\":\"a\"}\nrubbish\n{\"told\":\"b\"}\n").unwrap();
        assert!(Record::open(Some(&path)).unwrap_err().to_string().contains("is damaged"));
    }
}
