//! The files that remember which version of the rules is valid.
//!
//! `rules.json` in the data directory names the newest version and whether every partition has it. It is replaced as a
//! whole and synced before anything that relies on it happens. `rules/` keeps one file for every version there was.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Format of both files. Persisted.
const FORMAT: u32 = 1;

/// Largest file that is read, bytes: a rule set has at most 1 MiB, and JSON may escape every byte of it.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// One version of the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesVersion {
    /// Version, from 1.
    pub version: u32,
    /// When it was applied, ms since the epoch.
    pub applied_at_ms: i64,
    /// Who applied it, as the command told.
    pub applied_by: String,
    /// The rule set as TOML, every field named.
    pub toml: String,
    /// Where it stands in the log, one position a partition; empty until all have it.
    pub positions: Vec<String>,
}

/// Whether every partition has a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// It may stand in some partitions and not in others.
    Pending,
    /// Every partition has it.
    Active,
}

/// The content of `rules.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    format: u32,
    /// The log that has the version, 32 hex digits: in another log it must be applied again.
    pub(crate) log_uuid: String,
    pub(crate) status: Status,
    /// The `[rules]` of the configuration file that were last applied, so that a version that was applied by a command
    /// is not taken back by the next start.
    pub(crate) configured: Option<String>,
    #[serde(flatten)]
    pub(crate) rules: RulesVersion,
}

/// Why a file of the rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} cannot be read: {reason}. Put it back from a copy, or move it away to apply the configured rules as a new \
         version", path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The topic of the rules cannot be reached.
    #[error("the rules cannot be changed now: {0}. The version in force stays so; try again when Kafka is back")]
    Unreachable(String),
    /// Somebody else applied rules at the same time.
    #[error(
        "version {version} of the rules was given to somebody else's rules a moment ago; look at them and try again"
    )]
    Overtaken {
        /// The version.
        version: u32,
    },
}

fn io_error<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> JournalError + 'p {
    move |source| JournalError::Io { action, path: path.to_owned(), source }
}

/// Where the journal and the history are kept: files where one process has the log for itself, a topic where many
/// share it.
pub(crate) trait Store: std::fmt::Debug + Send + Sync {
    /// The newest version, if there is one.
    fn read_journal(&self) -> Result<Option<Journal>, JournalError>;

    /// Notes a version before its first record is appended, or that every partition has it. Durable when it returns.
    fn write_journal(&self, journal: &Journal) -> Result<(), JournalError>;

    /// Remembers a version for good.
    fn write_history(&self, rules: &RulesVersion) -> Result<(), JournalError>;

    /// Every version there was, oldest first.
    fn read_history(&self) -> Result<Vec<RulesVersion>, JournalError>;

    /// Whether it can be written now.
    fn is_reachable(&self) -> bool {
        true
    }
}

/// The folder of both.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Journal {
    pub(crate) fn new(log_uuid: u128, configured: Option<String>, rules: RulesVersion) -> Self {
        Self { format: FORMAT, log_uuid: format!("{log_uuid:032x}"), status: Status::Pending, configured, rules }
    }
}

impl Files {
    pub(crate) fn new(dir: &Path) -> Result<Self, JournalError> {
        let files = Self { dir: dir.to_owned() };
        let history = files.history_dir();
        fs::create_dir_all(&history).map_err(io_error("make the directory", &history))?;
        Ok(files)
    }

    fn journal_path(&self) -> PathBuf {
        self.dir.join("rules.json")
    }

    fn history_dir(&self) -> PathBuf {
        self.dir.join("rules")
    }
}

impl Store for Files {
    fn read_journal(&self) -> Result<Option<Journal>, JournalError> {
        let path = self.journal_path();
        match read(&path)? {
            None => Ok(None),
            Some(bytes) => {
                let journal: Journal = parse(&path, &bytes)?;
                if journal.format != FORMAT {
                    let reason = format!("it has format {}, this version knows {FORMAT}", journal.format);
                    return Err(JournalError::Unreadable { path, reason });
                }
                Ok(Some(journal))
            }
        }
    }

    fn write_journal(&self, journal: &Journal) -> Result<(), JournalError> {
        replace(&self.journal_path(), journal)
    }

    fn write_history(&self, rules: &RulesVersion) -> Result<(), JournalError> {
        replace(&self.history_dir().join(format!("{:010}.json", rules.version)), rules)
    }

    /// What is no file of ours is passed over.
    fn read_history(&self) -> Result<Vec<RulesVersion>, JournalError> {
        let dir = self.history_dir();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let path = entry.map_err(io_error("list", &dir))?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.extend(number.map(|number| (number, path)));
            }
        }
        paths.sort_unstable();
        let mut versions = Vec::with_capacity(paths.len());
        for (_, path) in paths {
            if let Some(bytes) = read(&path)? {
                versions.push(parse(&path, &bytes)?);
            }
        }
        Ok(versions)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, JournalError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            let reason = format!("it has {} bytes", meta.len());
            return Err(JournalError::Unreadable { path: path.to_owned(), reason });
        }
        Ok(_) => {}
    }
    fs::read(path).map(Some).map_err(io_error("read", path))
}

fn parse<'b, T: Deserialize<'b>>(path: &Path, bytes: &'b [u8]) -> Result<T, JournalError> {
    serde_json::from_slice(bytes)
        .map_err(|error| JournalError::Unreadable { path: path.to_owned(), reason: error.to_string() })
}

/// Writes a file so that after a crash it is the old one or the new one as a whole, and the new one once this returns.
fn replace(path: &Path, content: &impl Serialize) -> Result<(), JournalError> {
    let bytes = serde_json::to_vec_pretty(content).expect("structs of texts and numbers always encode");
    let new = path.with_extension("json.new");
    let mut file = File::create(&new).map_err(io_error("create", &new))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io_error("write", &new))?;
    fs::rename(&new, path).map_err(io_error("replace", path))?;
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: u32) -> RulesVersion {
        RulesVersion {
            version,
            applied_at_ms: 1_735_689_600_000,
            applied_by: "操作员".to_owned(),
            toml: "[custom]\ntype = \"kind\"\n".to_owned(),
            positions: vec!["room/0@7".to_owned()],
        }
    }

    #[test]
    fn a_journal_comes_back_and_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path()).unwrap();
        assert_eq!(files.read_journal().unwrap(), None);
        for number in [1, 2] {
            let journal = Journal::new(7, Some("[before]\n".to_owned()), version(number));
            files.write_journal(&journal).unwrap();
            assert_eq!(files.read_journal().unwrap(), Some(journal));
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["rules", "rules.json"]);
    }

    #[test]
    fn the_history_is_in_order_and_passes_over_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path()).unwrap();
        for number in [10, 9, 1] {
            files.write_history(&version(number)).unwrap();
        }
        fs::write(dir.path().join("rules/notes.txt"), "mine").unwrap();
        fs::write(dir.path().join("rules/0000000011.json.new"), "{").unwrap();
        let numbers: Vec<_> = files.read_history().unwrap().iter().map(|v| v.version).collect();
        assert_eq!(numbers, [1, 9, 10]);
    }

    #[test]
    fn a_damaged_or_newer_journal_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path()).unwrap();
        let mut newer = Journal::new(7, None, version(1));
        newer.format = 2;
        for content in ["", "{", "{}", "[]", &serde_json::to_string(&newer).unwrap()] {
            fs::write(files.journal_path(), content).unwrap();
            let error = files.read_journal().unwrap_err().to_string();
            assert!(error.contains("rules.json cannot be read"), "{content:?}: {error}");
        }
    }
}
