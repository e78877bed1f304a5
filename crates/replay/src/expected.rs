//! The expected totals that lie beside a recording.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use barrage_simulator::Expected;
use flate2::read::MultiGzDecoder;

/// Largest expected file, bytes when unpacked.
const EXPECTED_BYTES_MAX: u64 = 1 << 30;

/// Why expected totals cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExpectedError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not hold expected totals.
    #[error("{}: does not hold expected totals: {source}", file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// Why, with line and column.
        source: serde_json::Error,
    },
}

/// Reads a file of expected totals, gzip or not.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn read_expected(file: impl AsRef<Path>) -> Result<Expected, ExpectedError> {
    let file = file.as_ref();
    let read = |source| ExpectedError::Read { file: file.to_path_buf(), source };
    let mut bytes = Vec::new();
    File::open(file).and_then(|file| file.take(EXPECTED_BYTES_MAX).read_to_end(&mut bytes)).map_err(read)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        MultiGzDecoder::new(bytes.as_slice()).take(EXPECTED_BYTES_MAX).read_to_end(&mut unpacked).map_err(read)?;
        bytes = unpacked;
    }
    Expected::from_json(&bytes).map_err(|source| ExpectedError::Form { file: file.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The form of the files that lie beside recorded rooms: none of the fields that only a simulated world knows.
    const RECORDED: &str = r#"{"callbacks":{"X":1},"first_ms":1,"last_ms":2,
        "lotteries":[{"room":"r","keyword":"k","start_ms":1,"end_ms":2,"count":1,"users":["u"]}],
        "rooms":{"r":{"attempts_by_type":{"text":2},"messages_by_type":{"text":1},"messages":1,"dropped":1,"likes":0,
        "likes_attempted":0,"gifts":{"messages":0,"count":0,"value":0},"distinct_joiners":1,"distinct_senders":1,
        "peak_online":1,"final_online":0}},
        "users":{"u":{"messages":1,"likes":0,"gift_value":0,"online_ms":7,"rooms":["r"]}}}"#;

    #[test]
    fn plain_and_gzip_files_are_read_and_others_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(RECORDED.as_bytes()).unwrap();
        for (name, bytes) in [("plain", RECORDED.as_bytes().to_vec()), ("gzip", encoder.finish().unwrap())] {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let expected = read_expected(&file).unwrap();
            let (room, user) = (&expected.rooms["r"], &expected.users["u"]);
            assert_eq!((room.dropped, user.online_ms, expected.lotteries[0].count), (1, 7, 1), "{name}");
        }
        let file = folder.path().join("other");
        std::fs::write(&file, "{}").unwrap();
        let message = read_expected(&file).unwrap_err().to_string();
        assert!(message.contains("other: does not hold expected totals"), "{message}");
        let message = read_expected(folder.path().join("absent")).unwrap_err().to_string();
        assert!(message.contains("absent: cannot be read"), "{message}");
    }
}
