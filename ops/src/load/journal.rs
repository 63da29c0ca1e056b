//! The crowd's own record: every `202`, and how it ended as the buyer saw it. `verify` holds it against the books.
//!
//! One JSON object a line, appended before the buyer acts on the answer, so that a record that is cut off lacks at most
//! what nobody acted on.

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Record {
    /// A join was answered `202`.
    Accepted {
        /// Concert name.
        concert: String,
        /// Signed reservation id.
        reservation: String,
        /// User id as the session answer gave it.
        user: String,
        /// Client's id of the intent.
        request_id: String,
        /// Tickets asked for.
        quantity: u8,
    },
    /// A reservation was seen in a final state, or still waiting when the crowd went home.
    Ended {
        /// Signed reservation id.
        reservation: String,
        /// The state as polled.
        status: String,
        /// Tickets that the buyer holds, if sold.
        tickets: Vec<String>,
    },
    /// The provider took a payment.
    Paid {
        /// Signed reservation id.
        reservation: String,
        /// The provider's id of the payment.
        intent: String,
    },
}

impl Record {
    /// The reservation that it is about.
    pub fn reservation(&self) -> &str {
        match self {
            Self::Accepted { reservation, .. } | Self::Ended { reservation, .. } | Self::Paid { reservation, .. } => {
                reservation
            }
        }
    }
}

/// Appends records to a file; shared by all buyers.
pub struct Journal {
    file: Mutex<BufWriter<File>>,
}

impl Journal {
    /// Creates the file; refuses to write over one.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(path)
            .with_context(|| format!("creating the crowd's record {}", path.display()))?;
        Ok(Self { file: Mutex::new(BufWriter::new(file)) })
    }

    /// Appends one record.
    pub fn note(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.lock().write_all(&line).context("writing the crowd's record")
    }

    /// Writes out what is buffered.
    pub fn flush(&self) -> Result<()> {
        self.file.lock().flush().context("writing the crowd's record")
    }
}

/// Reads a whole record. A last line without its end is left out: nobody acted on it.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let file = File::open(path).with_context(|| format!("opening the crowd's record {}", path.display()))?;
    let mut reader = BufReader::new(file);
    let mut records = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        let read = reader.read_line(&mut line)?;
        if read == 0 || !line.ends_with('\n') {
            return Ok(records);
        }
        let record = serde_json::from_str(&line)
            .with_context(|| format!("line {} of {} is not a record", records.len() + 1, path.display()))?;
        records.push(record);
    }
}
