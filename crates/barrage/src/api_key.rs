//! The API key: from the environment, or made at first start in the data directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The variable that gives servers a key to accept and clients the key to send.
pub(crate) const VARIABLE: &str = "BARRAGE_API_KEY";
/// The file in the data directory.
pub(crate) const FILE: &str = "api-key";
/// Shortest key, in bytes, as ingest has it: shorter ones can be guessed.
const BYTES_MIN: usize = 16;
/// Longest key, in bytes: it travels in a header.
const BYTES_MAX: usize = 1_024;

/// The server's key: `given` (of the environment) when there is one, else the file's, which is made when there is none.
/// The caller must own the data directory, so that two processes never make one each.
pub(crate) fn of_server(given: Option<String>, data_dir: &Path) -> anyhow::Result<String> {
    if let Some(key) = given {
        return checked(&key, VARIABLE);
    }
    let path = data_dir.join(FILE);
    match read(&path)? {
        Some(key) => Ok(key),
        None => make(&path),
    }
}

/// The key a client sends: `given` when there is one, else that of a server on this machine, when its directory is known.
pub(crate) fn of_client(given: Option<String>, data_dir: Option<&Path>) -> anyhow::Result<Option<String>> {
    if let Some(key) = given {
        return checked(&key, VARIABLE).map(Some);
    }
    let Some(dir) = data_dir else { return Ok(None) };
    let path = dir.join(FILE);
    match read(&path)? {
        Some(key) => Ok(Some(key)),
        None => bail!("there is no {}: has a server been started with this --data-dir?", path.display()),
    }
}

fn checked(text: &str, origin: &str) -> anyhow::Result<String> {
    let key = text.trim();
    if !(BYTES_MIN..=BYTES_MAX).contains(&key.len()) {
        bail!("the API key of {origin} has {} bytes; it must have {BYTES_MIN} to {BYTES_MAX}", key.len());
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("the API key of {origin} has a character that a header cannot carry: use letters and digits");
    }
    Ok(key.to_owned())
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("the API key in {} cannot be read", path.display())),
    };
    let mode = file.metadata().map(|m| m.permissions().mode() & 0o077).unwrap_or(0);
    if mode != 0 {
        tracing::warn!(path = %path.display(), "others on this machine may read the API key: chmod 600 it");
    }
    let mut text = String::new();
    let limit = u64::try_from(BYTES_MAX + 2).unwrap_or(u64::MAX);
    file.take(limit).read_to_string(&mut text).with_context(|| format!("reading {}", path.display()))?;
    checked(&text, &path.display().to_string()).map(Some)
}

/// Makes a key of 32 random bytes. The file appears as a whole, so a crash leaves none or a good one.
fn make(path: &Path) -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system has no randomness to give: {error}"))?;
    let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let new: PathBuf = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(format!("{key}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("the API key cannot be written to {}", path.display()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_makes_a_key_once_that_only_its_owner_can_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = of_server(None, dir.path()).expect("made");
        assert_eq!(key.len(), 64);
        assert_eq!(of_server(None, dir.path()).expect("read"), key);
        assert_eq!(of_client(None, Some(dir.path())).expect("read"), Some(key));
        let mode = fs::metadata(dir.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_environment_wins_and_bad_keys_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let given = Some("0123456789abcdef".to_owned());
        assert_eq!(of_server(given, dir.path()).expect("taken"), "0123456789abcdef");
        assert!(!dir.path().join(FILE).exists(), "no file is made for a key that was given");
        for bad in ["short", "with space in the middle", "0123456789abcdef\n0"] {
            assert!(of_server(Some(bad.to_owned()), dir.path()).is_err(), "{bad}");
        }
        fs::write(dir.path().join(FILE), "short").expect("written");
        assert!(of_server(None, dir.path()).is_err());
    }

    #[test]
    fn a_client_without_key_or_directory_has_none_and_an_empty_directory_is_an_error() {
        assert_eq!(of_client(None, None).expect("no key"), None);
        let dir = tempfile::tempdir().expect("a directory");
        assert!(of_client(None, Some(dir.path())).is_err());
    }
}
