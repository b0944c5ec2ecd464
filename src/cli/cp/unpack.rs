//! A tar stream out of a container, into local files. Runs in a thread of its own.
//!
//! The stream is whatever the container sends. So only what lies under the path that was asked for is taken; names with
//! `..` are refused; nothing is written over links (see [`super::tree`]); links that lead out of the copy are skipped;
//! set-user-id bits, owners and devices are left out; names and headers have a size. Content is not held.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::tree::{Parts, Tree, confined};
use crate::cli::error::{Error, Result};

/// Of one extension header, in bytes: a long name, or extended attributes, which are dropped.
const MOST_EXTENSION: u64 = 1 << 20;

/// Writes what was asked for to `to`: a file there, or into it when it is a directory; a directory as `to`.
pub fn unpack(input: impl Read, asked: &Parts, to: &Path, wants_directory: bool) -> Result<()> {
    let mut archive = Archive::new(input);
    let mut copy = Copy { asked, to, wants_directory, tree: None };
    let broken = |e: io::Error| Error::failed(format!("the archive from the container cannot be read: {e}"));
    let mut told = Told::default();
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        if !told.take(&mut entry).map_err(broken)? {
            let member = std::mem::take(&mut told).member(&entry).map_err(broken)?;
            copy.put(&member, &mut entry)?;
        }
    }
    // else the sender would wait for the padding to be taken
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(())
}

/// What extension headers say of the member that follows.
#[derive(Debug, Default)]
struct Told {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// A member of an archive.
#[derive(Debug)]
struct Member {
    kind: EntryType,
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
}

impl Told {
    /// Whether it was an extension header.
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<bool> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => self.name = Some(text(entry)?),
            EntryType::GNULongLink => self.link = Some(text(entry)?),
            EntryType::XHeader => {
                let bytes = whole(entry)?;
                for pair in PaxExtensions::new(&bytes) {
                    let pair = pair?;
                    match pair.key_bytes() {
                        b"path" => self.name = Some(pair.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(pair.value_bytes().to_vec()),
                        b"size" => return Err(io::Error::other("a file of more than 8 GiB in the pax format")),
                        key if key.starts_with(b"GNU.sparse.") => return Err(io::Error::other("a sparse file")),
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => {}
            EntryType::GNUSparse => return Err(io::Error::other("a sparse file")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn member<R: Read>(self, entry: &Entry<'_, R>) -> io::Result<Member> {
        let header = entry.header();
        let name = self.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        let kind = match header.entry_type() {
            // the oldest tars had no type for directories
            EntryType::Regular if name.ends_with(b"/") => EntryType::Directory,
            kind => kind,
        };
        Ok(Member { kind, name, link, mode: header.mode()? })
    }
}

fn whole<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<u8>> {
    if entry.size() > MOST_EXTENSION {
        return Err(io::Error::other("a header of more than 1 MiB"));
    }
    let mut bytes = vec![];
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<u8>> {
    let mut bytes = whole(entry)?;
    bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
    Ok(bytes)
}

/// A name of an archive as parts; `None` when it climbs.
fn parts(name: &[u8]) -> Option<Vec<OsString>> {
    let parts = name.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b"."));
    parts.map(|p| (p != b".." && !p.contains(&0)).then(|| OsString::from_vec(p.to_vec()))).collect()
}

struct Copy<'a> {
    asked: &'a Parts,
    to: &'a Path,
    wants_directory: bool,
    /// Of a directory that is copied.
    tree: Option<Tree>,
}

impl Copy<'_> {
    /// The parts of a name below the path that was asked for.
    fn below(&self, name: &[u8]) -> Option<Vec<OsString>> {
        parts(name)?.strip_prefix(self.asked).map(<[OsString]>::to_vec)
    }

    fn put<R: Read>(&mut self, member: &Member, content: &mut Entry<'_, R>) -> Result<()> {
        let shown = OsStr::from_bytes(&member.name).display().to_string();
        let Some(below) = self.below(&member.name) else {
            return Err(Error::failed(format!("the container sent {shown:?}, which was not asked for")));
        };
        let cannot = |e: io::Error| Error::failed(format!("cannot write {shown:?} to {}: {e}", self.to.display()));
        if below.is_empty() && member.kind != EntryType::Directory {
            return self.put_alone(member, content, &shown);
        }
        if self.tree.is_none() {
            let made = !self.to.exists();
            fs::create_dir_all(self.to).map_err(cannot)?;
            if made && below.is_empty() {
                let mode = fs::Permissions::from_mode((member.mode & 0o777) | 0o700);
                fs::set_permissions(self.to, mode).map_err(cannot)?;
            }
        }
        let tree = match self.tree.take() {
            Some(tree) => tree,
            None => Tree::open(self.to).map_err(cannot)?,
        };
        let put = self.put_into(&tree, &below, member, content, &shown);
        self.tree = Some(tree);
        put.map_err(cannot)
    }

    fn put_into<R: Read>(
        &self,
        tree: &Tree,
        below: &Parts,
        member: &Member,
        content: &mut Entry<'_, R>,
        shown: &str,
    ) -> io::Result<()> {
        match member.kind {
            EntryType::Directory => tree.directory(below, member.mode).map(drop),
            EntryType::Regular | EntryType::Continuous => {
                let mut file = tree.file(below)?;
                fill(&mut file, content, member.mode)
            }
            EntryType::Symlink => {
                let target = OsStr::from_bytes(&member.link);
                if !confined(below.len() - 1, target) {
                    let target = target.display();
                    eprintln!(
                        "warning: {shown:?} is a symbolic link out of the copy, to {:?}: skipped",
                        target.to_string()
                    );
                    return Ok(());
                }
                tree.symlink(below, target)
            }
            EntryType::Link => match self.below(&member.link).filter(|to| !to.is_empty()) {
                Some(to) => tree.link(below, &to),
                None => {
                    eprintln!("warning: {shown:?} is another name of a file that is not in the copy: skipped");
                    Ok(())
                }
            },
            _ => {
                eprintln!("warning: {shown:?} is neither a file nor a directory: skipped");
                Ok(())
            }
        }
    }

    /// What was asked for is no directory.
    fn put_alone<R: Read>(&self, member: &Member, content: &mut Entry<'_, R>, shown: &str) -> Result<()> {
        let cannot = |e: io::Error| Error::failed(format!("cannot write to {}: {e}", self.to.display()));
        match member.kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Symlink => {
                let target = OsStr::from_bytes(&member.link).display().to_string();
                return Err(Error::failed(format!("{shown:?} is a symbolic link to {target:?}: copy that")));
            }
            _ => return Err(Error::failed(format!("{shown:?} is neither a file nor a directory"))),
        }
        let name = self.asked.last().map(std::slice::from_ref).unwrap_or_default();
        let mut file = if self.to.is_dir() {
            Tree::open(self.to).and_then(|tree| tree.file(name))
        } else if self.wants_directory {
            Err(io::ErrorKind::NotADirectory.into())
        } else {
            let parent = self.to.parent().filter(|p| !p.as_os_str().is_empty());
            parent.map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(self.to))
        }
        .map_err(cannot)?;
        fill(&mut file, content, member.mode).map_err(cannot)
    }
}

fn fill<R: Read>(file: &mut File, content: &mut Entry<'_, R>, mode: u32) -> io::Result<()> {
    let size = content.size();
    if io::copy(content, file)? != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of it"));
    }
    // not of a device or a pipe that was named
    if file.metadata()?.is_file() {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
