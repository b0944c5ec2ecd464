//! Local files as a tar stream. Runs in a thread of its own.
//!
//! Owners are left out: the numbers of this machine's users mean nothing in a container. So are set-user-id bits, which
//! would mean another owner.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::pipe::Drain;
use crate::cli::error::{Error, Result};

/// Writes a file, or a directory with all that is in it, under a name.
pub fn pack(source: &Path, name: &Path, out: Drain) -> Result<()> {
    let mut archive = Builder::new(out);
    // the one that was named is followed, as cp does
    let meta = fs::metadata(source).map_err(|e| cannot(source, &e))?;
    add(&mut archive, source, name, &meta)?;
    archive.into_inner().and_then(Drain::finish).map_err(|e| cannot(source, &e))
}

fn cannot(path: &Path, e: &io::Error) -> Error {
    Error::failed(format!("cannot copy {}: {e}", path.display()))
}

fn add<W: Write>(archive: &mut Builder<W>, path: &Path, name: &Path, meta: &Metadata) -> Result<()> {
    let kind = meta.file_type();
    if kind.is_dir() {
        let mut header = header(meta, EntryType::Directory);
        archive.append_data(&mut header, name, io::empty()).map_err(|e| cannot(path, &e))?;
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|e| cannot(path, &e))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // not followed
            let meta = entry.metadata().map_err(|e| cannot(&entry.path(), &e))?;
            add(archive, &entry.path(), &name.join(entry.file_name()), &meta)?;
        }
        return Ok(());
    }
    let added = if kind.is_file() {
        File::open(path).and_then(|file| add_file(archive, file, name))
    } else if kind.is_symlink() {
        fs::read_link(path).and_then(|target| archive.append_link(&mut header(meta, EntryType::Symlink), name, target))
    } else {
        eprintln!("warning: {} is neither a file nor a directory: skipped", path.display());
        Ok(())
    };
    added.map_err(|e| cannot(path, &e))
}

fn add_file<W: Write>(archive: &mut Builder<W>, file: File, name: &Path) -> io::Result<()> {
    let meta = file.metadata()?;
    let mut header = header(&meta, EntryType::Regular);
    header.set_size(meta.len());
    archive.append_data(&mut header, name, Exactly { file, left: meta.len() })
}

fn header(meta: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.permissions().mode() & 0o777);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// So many bytes of a file, which others may write to meanwhile: what it grows by is left out, and that it shrinks is an
/// error, since the stream has promised its size.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut into[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
