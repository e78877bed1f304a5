//! Files that belong to the log as a whole: `log.json`, which says what log this is, and `lock`.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::embedded::format::FORMAT;
use crate::embedded::shape::Shape;
use crate::error::OpenError;

const META_FILE: &str = "log.json";
const LOCK_FILE: &str = "lock";

/// What `log.json` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) uuid: u128,
    pub(crate) shape: Shape,
}

/// The file as it is written. Fields of a later format are refused by the format number, which is looked at first.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaFile {
    format: u32,
    uuid: String,
    room_partitions: u16,
    user_partitions: u16,
}

#[derive(serde::Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Meta {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(META_FILE)
    }

    /// Reads the file; none when there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = Self::path(dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::io("read", &path)(error)),
        };
        let wrong = |reason: String| OpenError::Meta { path: path.clone(), reason };
        let unreadable = |error: serde_json::Error| wrong(format!("not a log's description: {error}"));
        let format = serde_json::from_slice::<FormatOnly>(&text).map_err(unreadable)?.format;
        if format != FORMAT {
            return Err(wrong(format!(
                "the log has format {format}, this version reads format {FORMAT}: use the version that made it"
            )));
        }
        let file: MetaFile = serde_json::from_slice(&text).map_err(unreadable)?;
        let uuid = u128::from_str_radix(&file.uuid, 16).map_err(|error| wrong(format!("`uuid`: {error}")))?;
        if file.room_partitions == 0 || file.user_partitions == 0 {
            return Err(wrong("a topic without partitions".to_owned()));
        }
        Ok(Some(Self { uuid, shape: Shape { room: file.room_partitions, user: file.user_partitions } }))
    }

    /// Writes the file so that it is there as a whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        let file = MetaFile {
            format: FORMAT,
            uuid: format!("{:032x}", self.uuid),
            room_partitions: self.shape.room,
            user_partitions: self.shape.user,
        };
        let mut text = serde_json::to_vec_pretty(&file).expect("numbers and a string are JSON");
        text.push(b'\n');
        let path = Self::path(dir);
        replace(&path, &text).map_err(OpenError::io("write", &path))?;
        sync_dir(dir).map_err(OpenError::io("sync", dir))
    }
}

/// Replaces a file in one step: readers see the old or the new one. Its directory entry is not synced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Locks the directory for this process until the file is dropped or the process ends.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(OpenError::io("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(error) => Err(OpenError::io("lock", &path)(error.into())),
    }
}
