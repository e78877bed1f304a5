//! Recorded live rooms for tests.
//!
//! The recordings' terms forbid to ship them, so a machine has them or has not: the environment variable
//! `BARRAGE_RECORDINGS` names their folder. A test without them passes and says what it left out.
//!
//! This crate *is* where the files are found and opened. It does not know what their lines mean, and nothing but tests
//! depends on it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;

use flate2::read::GzDecoder;

/// Says that something was not tested: in the output of the test, and in the file that the environment variable
/// `BARRAGE_SKIPPED` names, which `scripts/test.sh` shows at the end.
///
/// # Panics
/// When that file cannot be written.
pub fn skipped(what: &str) {
    println!("SKIPPED: {what}");
    if let Some(file) = std::env::var_os("BARRAGE_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(file).expect("a file");
        file.write_all(format!("SKIPPED: {what}\n").as_bytes()).expect("written");
    }
}

/// One recorded evening: callbacks line by line, and totals that an independent program counted.
#[derive(Debug, Clone)]
pub struct Recording {
    folder: PathBuf,
    name: String,
}

#[expect(clippy::missing_panics_doc, reason = "it is for tests: what is not there or cannot be read panics")]
impl Recording {
    /// The recording of that name; `None` on a machine without recordings, which is told as `what` left out.
    #[must_use]
    pub fn find(name: &str, what: &str) -> Option<Self> {
        let named = std::env::var_os("BARRAGE_RECORDINGS").map(PathBuf::from);
        let Some(folder) = named.filter(|folder| folder.is_dir()) else {
            skipped(&format!("{what} of {name}: BARRAGE_RECORDINGS names no folder of recordings"));
            return None;
        };
        Some(Self { folder, name: name.to_owned() })
    }

    /// The file of its lines, compressed.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.jsonl.gz", self.name))
    }

    /// Its lines, each a JSON object.
    pub fn lines(&self) -> impl Iterator<Item = String> + use<> {
        let file = File::open(self.file()).expect("the recording");
        BufReader::new(GzDecoder::new(file)).lines().map(|line| line.expect("gzip and UTF-8"))
    }

    /// The totals expected of it, a JSON object.
    #[must_use]
    pub fn expected(&self) -> String {
        let file = File::open(self.folder.join(format!("{}.expected.json.gz", self.name)));
        let mut text = String::new();
        GzDecoder::new(file.expect("the expected totals beside the recording"))
            .read_to_string(&mut text)
            .expect("gzip");
        text
    }
}
