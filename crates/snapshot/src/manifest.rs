//! What a snapshot consists of.

use barrage_event::Partition;
use barrage_state::{Meta, proto};
use serde::{Deserialize, Serialize};

/// Version of the manifest itself; a later one is not read.
const VERSION: u32 = 1;
/// Most files of a snapshot that are read: a store has hundreds.
const FILES_MAX: usize = 100_000;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub version: u32,
    /// The log that the state was made from, 32 hex digits.
    pub log_uuid: String,
    /// The partition, as answers write it: `room/0`.
    pub partition: String,
    /// First offset that the snapshot does not hold.
    pub next_offset: u64,
    /// Id of the record before `next_offset`, 32 hex digits; empty when that was no record of Barrage. `None` in manifests of
    /// versions that did not write it.
    #[serde(default)]
    pub last_record_id: Option<String>,
    /// Hash of the statistics' tables, 32 hex digits.
    pub state_hash: String,
    /// Hash of everything in the store, 32 hex digits.
    pub store_hash: String,
    /// Format of the runtime's tables.
    pub format: u32,
    /// The statistics with their state versions, in the order in which they are applied.
    pub statistics: Vec<StatisticVersion>,
    /// When it was made, by the clock of the process that made it, ms since the epoch.
    pub created_at_ms: i64,
    /// Its files.
    pub files: Vec<File>,
}

/// A statistic and the version of its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticVersion {
    /// Its name.
    pub name: String,
    /// Its state's version.
    pub version: u32,
}

impl From<&proto::StatisticVersion> for StatisticVersion {
    fn from(version: &proto::StatisticVersion) -> Self {
        Self { name: version.name.clone(), version: version.version }
    }
}

/// One file of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name in the store's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Hash of its content, 32 hex digits.
    pub xxh3_128: String,
}

impl File {
    /// Its name in the object store.
    pub(crate) fn object(&self) -> String {
        format!("{}-{}", self.xxh3_128, self.bytes)
    }

    /// The name comes from outside and becomes a path: one plain name in the store's directory.
    fn is_plain(&self) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let hash = self.xxh3_128.len() == 32 && self.xxh3_128.chars().all(|c| c.is_ascii_hexdigit());
        hash && !self.name.is_empty() && !self.name.starts_with('.') && self.name.chars().all(plain)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    pub(crate) fn new(partition: Partition, meta: &Meta, created_at_ms: i64, files: Vec<File>) -> Self {
        Self {
            version: VERSION,
            log_uuid: hex(&meta.log_uuid),
            partition: partition.to_string(),
            next_offset: meta.next_offset,
            last_record_id: Some(hex(&meta.last_record_id)),
            state_hash: meta.state_hash_value().to_string(),
            store_hash: meta.store_hash_value().to_string(),
            format: meta.format,
            statistics: meta.statistics.iter().map(Into::into).collect(),
            created_at_ms,
            files,
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } =
            serde_json::from_slice(bytes).map_err(|e| format!("its manifest cannot be read: {e}"))?;
        if version != VERSION {
            return Err(format!("its manifest has version {version}, this program reads {VERSION}"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| format!("its manifest cannot be read: {e}"))?;
        if manifest.files.len() > FILES_MAX {
            return Err(format!("its manifest names {} files", manifest.files.len()));
        }
        match manifest.files.iter().find(|file| !file.is_plain()) {
            Some(file) => Err(format!("its manifest names a file `{}`", file.name.escape_debug())),
            None => Ok(manifest),
        }
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether the store that was made of it is the one that it tells of.
    pub(crate) fn agrees(&self, meta: &Meta) -> Result<(), String> {
        let found = Self { files: Vec::new(), ..Self::new_like(self, meta) };
        let last_record_id = self.last_record_id.clone().or_else(|| found.last_record_id.clone());
        let told = Self { files: Vec::new(), last_record_id, ..self.clone() };
        if found == told { Ok(()) } else { Err(format!("its store holds {found:?} where its manifest says {told:?}")) }
    }

    fn new_like(&self, meta: &Meta) -> Self {
        Self {
            partition: self.partition.clone(),
            ..Self::new(Partition::room(0), meta, self.created_at_ms, Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str) -> Vec<u8> {
        let file = File { name: name.to_owned(), bytes: 1, xxh3_128: "0".repeat(32) };
        let manifest = Manifest::new(Partition::user(3), &Meta::default(), 5, vec![file]);
        serde_json::to_vec(&manifest).expect("encodes")
    }

    #[test]
    fn a_manifest_reads_back_and_one_that_leads_elsewhere_is_refused() {
        assert_eq!(Manifest::parse(&manifest("000012.sst")).expect("ours").partition, "user/3");
        for name in ["../CURRENT", "", ".hidden", "a/b", "a\0b", "..", "Ünicode"] {
            assert!(Manifest::parse(&manifest(name)).is_err(), "{name}");
        }
        let later = String::from_utf8(manifest("x")).expect("text").replace("\"version\":1", "\"version\":2");
        assert!(Manifest::parse(later.as_bytes()).expect_err("newer").contains("version 2"));
        assert!(Manifest::parse(b"{").is_err() && Manifest::parse(b"").is_err());
    }
}
