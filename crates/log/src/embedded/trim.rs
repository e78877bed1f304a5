//! Giving up segments that a verified snapshot covers.
//!
//! What is given up is written down first, in `trim.json`, and removed then: after a crash in between, the next opening
//! finishes the removal. Nothing in the file is a guess: it holds the header of the first segment that is kept, so that a
//! missing segment is still told from one that was given up.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::embedded::format::SegmentHeader;
use crate::embedded::meta::{self, Meta};
use crate::embedded::segment;
use crate::error::OpenError;

const TRIM_FILE: &str = "trim.json";
const FORMAT: u32 = 1;

/// Where the log begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    /// The first segment that is kept.
    pub(crate) segment: u64,
    /// Number of the last group before it.
    pub(crate) group: u64,
    /// First offset of every partition.
    pub(crate) base: Box<[u64]>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TrimFile {
    format: u32,
    uuid: String,
    first_segment: u64,
    group_before: u64,
    start_offsets: Box<[u64]>,
}

impl Start {
    fn path(dir: &Path) -> PathBuf {
        dir.join(TRIM_FILE)
    }

    /// Where a log begins that was never trimmed.
    fn of_all(meta: &Meta) -> Self {
        Self { segment: 0, group: 0, base: vec![0; meta.shape.total()].into() }
    }

    pub(crate) fn read(dir: &Path, meta: &Meta) -> Result<Self, OpenError> {
        let path = Self::path(dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::of_all(meta)),
            Err(error) => return Err(OpenError::io("read", &path)(error)),
        };
        let wrong = |reason: String| OpenError::Meta { path: path.clone(), reason };
        let file: TrimFile = serde_json::from_slice(&text).map_err(|error| {
            wrong(format!("it does not tell where the log begins: {error}. Put it back from a copy"))
        })?;
        if file.format != FORMAT || file.uuid != format!("{:032x}", meta.uuid) {
            return Err(wrong("it belongs to another log or another version".to_owned()));
        }
        if file.start_offsets.len() != meta.shape.total() {
            return Err(wrong(format!("it has {} start offsets", file.start_offsets.len())));
        }
        Ok(Self { segment: file.first_segment, group: file.group_before, base: file.start_offsets })
    }

    /// Durable when it returns.
    pub(crate) fn write(&self, dir: &Path, meta: &Meta) -> io::Result<()> {
        let file = TrimFile {
            format: FORMAT,
            uuid: format!("{:032x}", meta.uuid),
            first_segment: self.segment,
            group_before: self.group,
            start_offsets: self.base.clone(),
        };
        let mut text = serde_json::to_vec_pretty(&file).map_err(io::Error::other)?;
        text.push(b'\n');
        meta::replace(&Self::path(dir), &text)?;
        meta::sync_dir(dir)
    }

    /// Whether this is the header of the first segment.
    pub(crate) fn fits(&self, header: &SegmentHeader) -> bool {
        self.segment == header.number && self.group == header.group && self.base == header.base
    }
}

/// Removes the files of all segments before `first`, those that are left from a removal that was not finished too.
pub(crate) fn remove_before(dir: &Path, first: u64) -> io::Result<u64> {
    let mut removed = 0;
    for number in segment::list(dir)?.into_iter().take_while(|&number| number < first) {
        let path = segment::path(dir, number);
        match fs::remove_file(segment::index_path(&path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The index first: one without its segment would stay for ever.
        fs::remove_file(&path)?;
        removed += 1;
    }
    if removed > 0 {
        meta::sync_dir(dir)?;
    }
    Ok(removed)
}
