//! Keys and certificates in files that only their owner may read. Each is written whole or not at all, and onto the
//! disk. Called where the API keeps its own and where the command line keeps those of the Docker hosts; and by whoever
//! follows files that are replaced.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Pair;

/// The files of a certificate and its key, in that order.
pub type PairNames = [&'static str; 2];

/// Of a CA.
pub const CA: PairNames = ["ca.pem", "ca.key"];

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct FileError {
    pub operation: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

/// Names the file to which an error belongs.
pub fn file<'a>(operation: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> FileError + use<'a> {
    move |source| FileError { operation, path: path.to_owned(), source }
}

/// What tells that a file is another: its time of change, size and number; `None` when it is not there.
pub type Stamp = Option<(i64, i64, u64, u64)>;

pub fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()))
}

/// Makes a directory that only we may enter. One that is there keeps its rights; it may be shared on purpose.
pub fn make_directory(path: &Path) -> Result<(), FileError> {
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(file("making directory", path)(e)),
        _ => Ok(()),
    }
}

/// The text of a file, or `None` when there is none. Takes away the rights of others.
pub fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(file("protecting", path))?;
            Ok(Some(text))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file("reading", path)(e)),
    }
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Writes a file that only we may read, whole or not at all, and onto the disk.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    // Left over from a crash: with rights that we did not choose.
    remove(&beside)?;
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(file("making", &beside))?;
    out.write_all(bytes).and_then(|()| out.sync_all()).map_err(file("writing", &beside))?;
    fs::rename(&beside, path).map_err(file("moving into place", path))?;
    if let Some(directory) = path.parent() {
        fs::File::open(directory).and_then(|d| d.sync_all()).map_err(file("syncing", directory))?;
    }
    Ok(())
}

/// A pair that is whole. The key is written first, so a certificate without one is of no use; a crash between the two
/// files leaves halves of different pairs.
pub fn load_pair(directory: &Path, names: PairNames) -> Result<Option<Pair>, FileError> {
    let [certificate, key] = names.map(|name| read(&directory.join(name)));
    Ok(certificate?.zip(key?).map(|(certificate, key)| Pair { certificate, key }).filter(super::belongs))
}

pub fn store_pair(directory: &Path, [certificate, key]: PairNames, pair: Pair) -> Result<Pair, FileError> {
    write_private(&directory.join(key), pair.key.as_bytes())?;
    write_private(&directory.join(certificate), pair.certificate.as_bytes())?;
    Ok(pair)
}
