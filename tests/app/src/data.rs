//! The data directory: proves that a volume survives. [`crate::routes`] serves it under `/data/`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new(path: String) -> DataDir {
        DataDir(path.into())
    }

    /// Adds one to the counter that the directory keeps. `None` when there is no such directory or it is read-only.
    pub fn count_boot(&self) -> Option<u64> {
        let path = self.0.join("boots");
        let before = fs::read_to_string(&path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0_u64);
        fs::write(&path, format!("{}\n", before + 1)).ok().map(|()| before + 1)
    }

    pub fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(file)?)
    }

    /// Appends, and returns only once the bytes are on the disk.
    pub fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(file)?)?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    /// One plain name: nothing leads out of the directory.
    fn path(&self, file: &str) -> io::Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if file.is_empty() || file.len() > 64 || file.starts_with('.') || !file.chars().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file name"));
        }
        Ok(self.0.join(file))
    }
}
