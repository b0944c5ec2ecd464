//! Locks between runners: one at a time changes a fleet, one at a time chooses a subnet. They end with their process.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::state::ROOT;

/// Held until dropped.
pub struct Lock {
    _file: File,
    path: PathBuf,
}

/// The right to change one fleet; waits for others.
pub fn fleet(name: &str) -> Result<Lock> {
    take(&Path::new(ROOT).join(format!("{name}.lock")))
}

/// The right to choose a subnet; waits for others.
pub fn subnets() -> Result<Lock> {
    take(&Path::new(ROOT).join(".subnets.lock"))
}

fn take(path: &Path) -> Result<Lock> {
    loop {
        fs::create_dir_all(ROOT).with_context(|| format!("making {ROOT}"))?;
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = match opened {
            Ok(file) => file,
            // the last fleet was removed between the two calls
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
        };
        file.lock().with_context(|| format!("locking {}", path.display()))?;
        // its last holder may have removed the file meanwhile
        let same = fs::metadata(path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino()));
        if same {
            return Ok(Lock { _file: file, path: path.to_owned() });
        }
    }
}

impl Lock {
    /// Leaves no file behind; the directory goes with the last fleet.
    pub fn remove(self) {
        // both may fail for a good reason: another runner waits, another fleet is there
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(Path::new(ROOT).join(".subnets.lock"));
        let _ = fs::remove_dir(ROOT);
    }
}
