//! The key file: one key a line, base64; `#` begins a comment. The first key seals, all of them open.
//!
//! To rotate, put a new line first (`head -c 32 /dev/urandom | base64`), restart, write every sealed record anew, and
//! take the old line away. The file must be its owner's alone: one that others can read is refused.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{KEY_BYTES, Keyring, random_key};

const MOST_BYTES: u64 = 64 * 1024;
const HEAD: &str = "# Opens the secrets of a Portreeve control plane. Keep a copy apart from its data directory:\n\
                    # without this file its sealed records are lost.\n";

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("seal key file {}: there is none", .0.display())]
    Missing(PathBuf),
    #[error("seal key file {}: others than its owner may read it (mode {mode:o}); chmod 600 it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("seal key file {}: line {line}: {why}", path.display())]
    Malformed { path: PathBuf, line: usize, why: &'static str },
    #[error("seal key file {}: {why}", path.display())]
    Unusable { path: PathBuf, why: &'static str },
    #[error("{doing} seal key file {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| KeyFileError::Io { doing, path, source }
}

impl Keyring {
    /// Reads the key file.
    ///
    /// # Errors
    /// `Missing` when there is none; others when it cannot be read, is open to others, or holds something else.
    pub fn load(path: &Path) -> Result<Keyring, KeyFileError> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(KeyFileError::Missing(path.to_owned())),
            opened => opened.map_err(io("open the", path))?,
        };
        // Of the open file, so that nobody can put another in its place in between.
        let facts = file.metadata().map_err(io("look at the", path))?;
        if !facts.is_file() {
            return Err(KeyFileError::Unusable { path: path.to_owned(), why: "it is no file" });
        }
        if facts.mode() & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path.to_owned(), mode: facts.mode() & 0o777 });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MOST_BYTES).read_to_string(&mut text).map_err(io("read the", path))?;
        let mut keys = vec![];
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = STANDARD.decode(line).map(Zeroizing::new).ok();
            let key = bytes.and_then(|b| <[u8; KEY_BYTES]>::try_from(&b[..]).ok()).map(Zeroizing::new);
            keys.push(key.ok_or(KeyFileError::Malformed {
                path: path.to_owned(),
                line: i + 1,
                why: "must be a key of 32 bytes in base64",
            })?);
        }
        Keyring::of(&keys).ok_or(KeyFileError::Unusable { path: path.to_owned(), why: "it holds no key" })
    }

    /// Makes a key file with one new key, for a store that has nothing sealed yet. Durable when this returns.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn create(path: &Path) -> Result<Keyring, KeyFileError> {
        let key = random_key()
            .map_err(|_| KeyFileError::Unusable { path: path.to_owned(), why: "there is no randomness for a key" })?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(io("make the directory of the", path))?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let text = Zeroizing::new(format!("{HEAD}{}\n", *Zeroizing::new(STANDARD.encode(*key))));
        let write = || -> io::Result<()> {
            // A rest of an interrupted start; it has sealed nothing.
            if let Err(e) = std::fs::remove_file(&aside)
                && e.kind() != io::ErrorKind::NotFound
            {
                return Err(e);
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // Unlike a rename, this never takes the place of a file that is there.
            let linked = std::fs::hard_link(&aside, path);
            std::fs::remove_file(&aside)?;
            linked?;
            File::open(parent)?.sync_all()
        };
        write().map_err(io("write the", path))?;
        Keyring::load(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn refused(text: &str, mode: u32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let told = Keyring::load(&path).unwrap_err().to_string();
        assert!(told.contains(path.to_str().unwrap()), "{told}");
        told
    }

    #[test]
    fn a_made_file_is_its_owners_alone_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/key");
        assert!(matches!(Keyring::load(&path), Err(KeyFileError::Missing(_))));
        let made = Keyring::create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(Keyring::load(&path).unwrap().sealing_id(), made.sealing_id());
        assert!(Keyring::create(&path).is_err(), "a key was silently replaced");
        assert_eq!(Keyring::load(&path).unwrap().sealing_id(), made.sealing_id());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something was left beside it");
    }

    #[test]
    fn the_first_of_several_seals_and_all_of_them_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let old = Keyring::create(&path).unwrap();
        let sealed = old.seal(b"a", b"value");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{}\n# the one before\n{text}", STANDARD.encode([9; 32]))).unwrap();
        let both = Keyring::load(&path).unwrap();
        assert_ne!(both.sealing_id(), old.sealing_id());
        assert_eq!(*both.open(old.sealing_id(), b"a", &sealed).unwrap(), b"value");
    }

    #[test]
    fn a_file_that_others_may_read_or_that_holds_no_key_is_refused() {
        let good = STANDARD.encode([1; 32]);
        assert!(refused(&good, 0o640).contains("(mode 640); chmod 600 it"));
        assert!(refused(&good, 0o604).contains("others than its owner"));
        assert!(refused("# nothing\n\n", 0o600).contains("it holds no key"));
        let told = refused(&format!("{good}\nhunter2\n"), 0o600);
        assert!(told.contains("line 2: must be a key of 32 bytes") && !told.contains("hunter2"), "{told}");
    }
}
