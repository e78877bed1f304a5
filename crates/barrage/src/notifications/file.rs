//! Notifications of one machine: JSON lines in a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use barrage_event::Partition;

use super::{Board, Message, Place, Places};

/// The file is put aside at this size, and the one put aside before is removed: listeners that tail it keep up.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// `notifications/` in the data directory.
pub(crate) struct File {
    dir: PathBuf,
    file: fs::File,
    log: String,
    places: Arc<Mutex<BTreeMap<Partition, Place>>>,
}

/// `places.json`.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    /// The log whose offsets they are, 32 hex digits.
    log: String,
    places: BTreeMap<String, Place>,
}

/// What `places.json` may hold.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Found {
    Kept(Kept),
    /// As it was before it named the log: taken for this one's.
    Nameless(BTreeMap<String, Place>),
}

impl Found {
    fn of_log(self, log: &str) -> BTreeMap<String, Place> {
        match self {
            Self::Kept(kept) if kept.log != log => {
                tracing::warn!(
                    of = kept.log,
                    log,
                    "the log was made anew: its notifications are told, whatever the one before has told"
                );
                BTreeMap::new()
            }
            Self::Kept(kept) => kept.places,
            Self::Nameless(places) => places,
        }
    }
}

impl File {
    pub(crate) fn open(data_dir: &Path, log: u128) -> anyhow::Result<Self> {
        let log = format!("{log:032x}");
        let dir = data_dir.join("notifications");
        fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let path = dir.join("places.json");
        let named = match fs::read(&path) {
            Ok(bytes) => {
                let found = serde_json::from_slice::<Found>(&bytes).with_context(|| {
                    format!("{} cannot be read; without it, notifications are told again", path.display())
                })?;
                found.of_log(&log)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let places = named.into_iter().map(|(name, place)| {
            let partition = name.parse::<Partition>();
            Ok((partition.map_err(|error| anyhow::anyhow!("{}: `{name}`: {error}", path.display()))?, place))
        });
        let places = places.collect::<anyhow::Result<_>>()?;
        Ok(Self { file: appended(&dir)?, dir, log, places: Arc::new(Mutex::new(places)) })
    }

    fn rotate(&mut self) -> anyhow::Result<()> {
        let path = self.dir.join("notifications.jsonl");
        fs::rename(&path, self.dir.join("notifications.1.jsonl"))
            .with_context(|| format!("{} cannot be put aside", path.display()))?;
        self.file = appended(&self.dir)?;
        Ok(())
    }
}

fn appended(dir: &Path) -> anyhow::Result<fs::File> {
    let path = dir.join("notifications.jsonl");
    let file = fs::OpenOptions::new().create(true).append(true).open(&path);
    file.with_context(|| format!("{} cannot be opened", path.display()))
}

impl Board for File {
    fn places(&self) -> Places {
        let places = Arc::clone(&self.places);
        Arc::new(move |partition| {
            places.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied().unwrap_or_default()
        })
    }

    fn put(&mut self, partition: Partition, messages: &[Message], place: Place) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for message in messages {
            lines.extend_from_slice(message.text.as_bytes());
            lines.push(b'\n');
        }
        if self.file.metadata().context("the file of notifications is gone")?.len() > FILE_BYTES_MAX {
            self.rotate()?;
        }
        self.file.write_all(&lines).and_then(|()| self.file.sync_data()).context("notifications cannot be written")?;
        let named: BTreeMap<String, Place> = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.insert(partition, place);
            places.iter().map(|(partition, place)| (partition.to_string(), *place)).collect()
        };
        let (path, new) = (self.dir.join("places.json"), self.dir.join("places.json.new"));
        let text = serde_json::to_vec(&Kept { log: self.log.clone(), places: named })
            .context("the places cannot be written down")?;
        // Synced before the rename, or a crash could leave an empty file in its place.
        fs::File::create(&new)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_data()))
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_outlive_the_process_and_a_big_file_is_put_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let (room, user) = (Partition::room(3), "user/1".parse::<Partition>().expect("a partition"));
        let message = |id: &str| Message { id: id.to_owned(), text: format!("{{\"id\":\"{id}\"}}") };
        let mut file = File::open(dir.path(), 1).expect("opens");
        assert_eq!((file.places()(room), file.places()(user)), ((0, 0), (0, 0)));
        file.put(room, &[message("a"), message("b")], (7, 1)).expect("writes");
        file.put(user, &[message("c")], (9, 0)).expect("writes");
        file.put(room, &[message("d")], (8, 2)).expect("writes");
        drop(file);
        // Offsets of another log say nothing of this one's.
        let other = File::open(dir.path(), 2).expect("opens");
        assert_eq!((other.places()(room), other.places()(user)), ((0, 0), (0, 0)));
        let mut file = File::open(dir.path(), 1).expect("opens");
        assert_eq!((file.places()(room), file.places()(user)), ((8, 2), (9, 0)));
        let text = fs::read_to_string(dir.path().join("notifications/notifications.jsonl")).expect("is there");
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [r#"{"id":"a"}"#, r#"{"id":"b"}"#, r#"{"id":"c"}"#, r#"{"id":"d"}"#]
        );
        file.file.set_len(FILE_BYTES_MAX + 1).expect("grows");
        file.put(room, &[message("e")], (9, 0)).expect("writes");
        let text = fs::read_to_string(dir.path().join("notifications/notifications.jsonl")).expect("is there");
        assert_eq!(text, "{\"id\":\"e\"}\n");
        assert!(dir.path().join("notifications/notifications.1.jsonl").exists());
    }

    #[test]
    fn places_that_name_no_log_are_this_ones_until_they_are_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let (room, user) = (Partition::room(3), Partition::user(1));
        fs::create_dir(dir.path().join("notifications")).expect("writable");
        fs::write(dir.path().join("notifications/places.json"), r#"{"room/3":[8,2],"user/1":[9,0]}"#)
            .expect("writable");
        let mut file = File::open(dir.path(), 1).expect("opens");
        assert_eq!((file.places()(room), file.places()(user)), ((8, 2), (9, 0)));
        file.put(room, &[], (10, 0)).expect("writes");
        let places = |log: u128| File::open(dir.path(), log).expect("opens").places();
        assert_eq!((places(1)(room), places(1)(user)), ((10, 0), (9, 0)));
        assert_eq!((places(2)(room), places(2)(user)), ((0, 0), (0, 0)));
    }
}
