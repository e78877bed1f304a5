//! The ledger: what became of each line, on disk.
//!
//! Crash tests kill the server and then ask of its log: is everything in it that was answered OK? The ledger is the
//! list to ask with. It is one JSON object per line, `{"line", "what", "at_ms", "outcome", "status", "code",
//! "attempts"}`: `line` counts the lines sent from 0, `outcome` is `ok`, `refused`, `unknown` or `unsent`. Entries stand
//! in order of the answers, not of the lines. An entry is handed to the operating system before the next line is
//! sent, so it outlives the server, and this process too; it is not meant to outlive the machine.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::answer::Outcome;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Number of the line among those sent, from 0.
    pub line: u64,
    /// `callback`, `event` or `request`.
    pub what: String,
    /// The line's time as it was sent, ms.
    pub at_ms: i64,
    /// `ok`, `refused`, `unknown` (sent, no answer) or `unsent`.
    pub outcome: String,
    /// HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The answer's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How often the line was sent, or tried to be.
    pub attempts: u32,
}

impl LedgerEntry {
    pub(crate) fn new(line: u64, what: &str, at_ms: i64, outcome: &Outcome, attempts: u32) -> Self {
        let (name, status, code) = match outcome {
            Outcome::Ok { status, code } => ("ok", Some(*status), Some(code.to_string())),
            Outcome::Refused { status, code, .. } => ("refused", Some(*status), Some(code.clone())),
            Outcome::Unknown { .. } => ("unknown", None, None),
            Outcome::Unsent { .. } => ("unsent", None, None),
        };
        Self { line, what: what.to_owned(), at_ms, outcome: name.to_owned(), status, code, attempts }
    }

    /// Whether the line was answered OK.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }
}

/// Why a ledger cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// An IO error.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not an entry.
    #[error("{}:{line}: is not an entry of a ledger: {source}", file.display())]
    Entry {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Why.
        source: serde_json::Error,
    },
}

/// A ledger that is being written.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
    writer: BufWriter<File>,
    pending: bool,
}

impl Ledger {
    /// Makes a new ledger; a file of this name is emptied.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(file: impl AsRef<Path>) -> Result<Self, LedgerError> {
        let path = file.as_ref().to_path_buf();
        match File::create(&path) {
            Ok(opened) => Ok(Self { file: path, writer: BufWriter::new(opened), pending: false }),
            Err(source) => Err(LedgerError::Io { file: path, source }),
        }
    }

    pub(crate) fn write(&mut self, entry: &LedgerEntry) -> Result<(), LedgerError> {
        self.pending = true;
        let written = serde_json::to_writer(&mut self.writer, entry).map_err(io::Error::from);
        written.and_then(|()| self.writer.write_all(b"\n")).map_err(|source| self.error(source))
    }

    /// Hands everything to the operating system.
    pub(crate) fn flush(&mut self) -> Result<(), LedgerError> {
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        self.writer.flush().map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> LedgerError {
        LedgerError::Io { file: self.file.clone(), source }
    }
}

/// Reads a ledger. A last line without its line feed was being written when its process ended, and is left out.
///
/// # Errors
/// When the file cannot be read or a line is not an entry.
pub fn read_ledger(file: impl AsRef<Path>) -> Result<Vec<LedgerEntry>, LedgerError> {
    let file = file.as_ref();
    let io = |source| LedgerError::Io { file: file.to_path_buf(), source };
    let mut reader = BufReader::new(File::open(file).map_err(io)?);
    let mut entries = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        reader.read_until(b'\n', &mut text).map_err(io)?;
        if text.pop() != Some(b'\n') {
            break;
        }
        let entry = serde_json::from_slice(&text);
        entries.push(entry.map_err(|source| LedgerError::Entry { file: file.to_path_buf(), line, source })?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_and_a_torn_last_one_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger");
        let outcomes = [
            Outcome::Ok { status: 200, code: 1 },
            Outcome::Refused { status: 401, code: "401001".to_owned(), explanation: "x".to_owned() },
            Outcome::Unknown { why: "reset".to_owned() },
            Outcome::Unsent { why: "refused".to_owned() },
        ];
        let entries: Vec<_> =
            (0..).zip(&outcomes).map(|(line, outcome)| LedgerEntry::new(line, "callback", 5, outcome, 2)).collect();
        let mut ledger = Ledger::create(&file).unwrap();
        for entry in &entries {
            ledger.write(entry).unwrap();
        }
        ledger.flush().unwrap();
        assert_eq!(read_ledger(&file).unwrap(), entries);
        assert_eq!(entries.iter().map(LedgerEntry::is_ok).collect::<Vec<_>>(), [true, false, false, false]);

        let mut torn = std::fs::read(&file).unwrap();
        torn.truncate(torn.len() - 3);
        std::fs::write(&file, torn).unwrap();
        assert_eq!(read_ledger(&file).unwrap(), entries[..3]);
        std::fs::write(&file, "{}\n").unwrap();
        assert!(matches!(read_ledger(&file), Err(LedgerError::Entry { line: 1, .. })));
    }
}
