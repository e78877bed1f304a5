//! Recordings: files of JSON lines, gzip or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::line::{Line, LineError};

/// Longest line, bytes: sixteen times what a server accepts as a body. A longer one is not a recording and would only
/// cost memory.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Buffer of the file and of what is unpacked from it, bytes.
const BUFFER_BYTES: usize = 1 << 16;

/// Why a recording cannot be played (on). Each names the file and, where there is one, the line.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be opened.
    #[error("{}: cannot be opened: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has no lines.
    #[error("{}: is empty; a recording has one JSON object per line", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read on: an IO error, or gzip that is damaged or cut off.
    #[error("{}:{line}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The line that was being read, from 1.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// A line is longer than any callback.
    #[error("{}:{line}: is longer than {LINE_BYTES_MAX} bytes; this is not a recording", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// A line is not a line of a recording.
    #[error("{}:{line}: {source}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Why.
        source: LineError,
    },
    /// A line is earlier than the one before it.
    #[error("{}:{line}: its at_ms {at_ms} is before {previous_ms}, the line before; lines must be in order", file.display())]
    OutOfOrder {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Its time.
        at_ms: i64,
        /// The time of the line before.
        previous_ms: i64,
    },
}

/// A recording that is being read: an iterator over its lines, with the memory of one line.
pub struct Recording {
    file: PathBuf,
    reader: Box<dyn BufRead + Send>,
    /// Number of the line read last.
    number: u64,
    buffer: Vec<u8>,
    first: Option<Line>,
    first_ms: i64,
    previous_ms: i64,
    failed: bool,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Recording")
            .field("file", &self.file)
            .field("line", &self.number)
            .finish_non_exhaustive()
    }
}

impl Recording {
    /// Opens a recording and reads its first line. Whether it is gzip is told by its first bytes, not by its name.
    ///
    /// # Errors
    /// When the file cannot be opened or its first line is not a line of a recording.
    pub fn open(file: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let path = file.as_ref().to_path_buf();
        let open = |source| RecordingError::Open { file: path.clone(), source };
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, File::open(&path).map_err(open)?);
        let gzip = reader.fill_buf().map_err(open)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead + Send> = if gzip {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(reader)))
        } else {
            Box::new(reader)
        };
        Self::read(path, reader)
    }

    /// Reads a recording from elsewhere; `file` is its name in errors.
    ///
    /// # Errors
    /// When its first line is not a line of a recording.
    pub fn read(file: PathBuf, reader: Box<dyn BufRead + Send>) -> Result<Self, RecordingError> {
        let mut recording = Self {
            file,
            reader,
            number: 0,
            buffer: Vec::new(),
            first: None,
            first_ms: 0,
            previous_ms: i64::MIN,
            failed: false,
        };
        let first = recording.next_line()?.ok_or_else(|| RecordingError::Empty { file: recording.file.clone() })?;
        recording.first_ms = first.at_ms;
        recording.first = Some(first);
        Ok(recording)
    }

    /// `at_ms` of the first line.
    #[must_use]
    pub fn first_ms(&self) -> i64 {
        self.first_ms
    }

    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn next_line(&mut self) -> Result<Option<Line>, RecordingError> {
        loop {
            self.number += 1;
            self.buffer.clear();
            let mut limited = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            let read = limited.read_until(b'\n', &mut self.buffer);
            let file = || self.file.clone();
            let line = self.number;
            read.map_err(|source| RecordingError::Read { file: file(), line, source })?;
            if self.buffer.is_empty() {
                return Ok(None);
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(RecordingError::TooLong { file: file(), line });
            }
            let text = self.buffer.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let parsed = Line::parse(text).map_err(|source| RecordingError::Line { file: file(), line, source })?;
            let (at_ms, previous_ms) = (parsed.at_ms, self.previous_ms);
            if at_ms < previous_ms {
                return Err(RecordingError::OutOfOrder { file: file(), line, at_ms, previous_ms });
            }
            self.previous_ms = at_ms;
            return Ok(Some(parsed));
        }
    }
}

impl Iterator for Recording {
    type Item = Result<Line, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        if self.failed {
            return None;
        }
        let next = self.next_line().transpose();
        self.failed = matches!(next, None | Some(Err(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LINES: &str = "{\"at_ms\":1,\"event\":{}}\n\n{\"at_ms\":1,\"event\":{}}\r\n{\"at_ms\":3,\"event\":{}}";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn times(recording: Recording) -> Vec<i64> {
        recording.map(|line| line.unwrap().at_ms).collect()
    }

    #[test]
    fn plain_and_gzip_files_give_the_same_lines() {
        let folder = tempfile::tempdir().unwrap();
        let two_members = [gzip(&LINES.as_bytes()[..30]), gzip(&LINES.as_bytes()[30..])].concat();
        for (name, bytes) in
            [("plain", LINES.as_bytes().to_vec()), ("gzip", gzip(LINES.as_bytes())), ("members", two_members)]
        {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let recording = Recording::open(&file).unwrap();
            assert_eq!((recording.first_ms(), times(recording)), (1, vec![1, 1, 3]), "{name}");
        }
    }

    #[test]
    fn errors_name_file_and_line_and_nothing_follows_them() {
        let folder = tempfile::tempdir().unwrap();
        let cut = gzip("{\"at_ms\":1,\"event\":{}}\n".repeat(50).as_bytes());
        let cases: [(&str, Vec<u8>, &str); 6] = [
            ("empty", Vec::new(), "is empty"),
            ("blank", b"\n\n".to_vec(), "is empty"),
            ("text", b"hello\n".to_vec(), ":1: it is not a line"),
            ("second", b"{\"at_ms\":5,\"event\":{}}\n\n{\"at_ms\":5}".to_vec(), ":3: it must hold"),
            (
                "order",
                b"{\"at_ms\":5,\"event\":{}}\n{\"at_ms\":4,\"event\":{}}".to_vec(),
                ":2: its at_ms 4 is before 5",
            ),
            ("cut", cut[..cut.len() - 12].to_vec(), "cannot be read"),
        ];
        for (name, bytes, expected) in cases {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let error = match Recording::open(&file) {
                Err(error) => error,
                Ok(mut recording) => {
                    let error = recording.by_ref().find_map(Result::err).expect(name);
                    assert!(recording.next().is_none(), "{name}");
                    error
                }
            };
            let message = error.to_string();
            assert!(message.contains(expected) && message.contains(name), "{name}: {message}");
        }
        let message = Recording::open(folder.path().join("absent")).unwrap_err().to_string();
        assert!(message.contains("absent: cannot be opened"), "{message}");
    }

    #[test]
    fn a_line_without_end_does_not_fill_memory() {
        let endless = BufReader::new(io::repeat(b'x'));
        let error = Recording::read(PathBuf::from("endless"), Box::new(endless)).unwrap_err();
        assert!(matches!(error, RecordingError::TooLong { line: 1, .. }), "{error}");
    }
}
