//! A directory that is written into and never out of.
//!
//! Each part of a path is opened from the one before, and no symbolic link is followed, neither one that came with the
//! archive nor one that was there: so no name leads outside, also not when the tree changes meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, linkat, mkdirat, open, openat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub struct Tree {
    root: OwnedFd,
}

/// A name as parts that are neither empty nor `.` nor `..`, nor hold a `/`.
pub type Parts = [OsString];

fn split(parts: &Parts) -> io::Result<(&Parts, &OsStr)> {
    let (name, parents) = parts.split_last().ok_or(io::ErrorKind::InvalidFilename)?;
    Ok((parents, name))
}

impl Tree {
    /// The root may be reached over links: it is the user's choice.
    pub fn open(root: &Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Tree { root: open(root, flags, Mode::empty())? })
    }

    /// A directory, made where it is missing, with these rights and the owner's.
    pub fn directory(&self, parts: &Parts, mode: u32) -> io::Result<OwnedFd> {
        let mut at = self.root.try_clone()?;
        for (n, part) in parts.iter().enumerate() {
            let made = match mkdirat(&at, part, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(e) => return Err(e.into()),
            };
            at = self.step(&at, part)?;
            if made {
                let mode = if n + 1 == parts.len() { mode } else { 0o755 };
                fchmod(&at, Mode::from_raw_mode((mode & 0o777) | 0o700))?;
            }
        }
        Ok(at)
    }

    fn step(&self, at: &OwnedFd, part: &OsStr) -> io::Result<OwnedFd> {
        openat(at, part, DIRECTORY, Mode::empty()).map_err(|e| match e {
            Errno::LOOP | Errno::NOTDIR => {
                io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no directory here", part.display()))
            }
            e => e.into(),
        })
    }

    /// A new file in place of what had its name.
    pub fn file(&self, parts: &Parts) -> io::Result<File> {
        let (parents, name) = split(parts)?;
        let directory = self.directory(parents, 0o755)?;
        clear(&directory, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&directory, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// A symbolic link, which must be [`confined`].
    pub fn symlink(&self, parts: &Parts, target: &OsStr) -> io::Result<()> {
        let (parents, name) = split(parts)?;
        let directory = self.directory(parents, 0o755)?;
        clear(&directory, name)?;
        Ok(symlinkat(target, &directory, name)?)
    }

    /// A second name of a file of the tree. Only of a file: a link that is confined where it is need not be so elsewhere.
    pub fn link(&self, parts: &Parts, to: &Parts) -> io::Result<()> {
        let (parents, original) = split(to)?;
        let mut from = self.root.try_clone()?;
        for part in parents {
            from = self.step(&from, part)?;
        }
        let kind = FileType::from_raw_mode(statat(&from, original, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(io::Error::other("it is a second name of what is no file"));
        }
        if parts == to {
            return Ok(());
        }
        let (parents, name) = split(parts)?;
        let directory = self.directory(parents, 0o755)?;
        clear(&directory, name)?;
        Ok(linkat(&from, original, &directory, name, AtFlags::empty())?)
    }
}

/// Takes away what is no directory.
fn clear(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, format!("{} is a directory here", name.display())))
        }
        Err(e) => Err(e.into()),
    }
}

/// Whether a symbolic link that is `depth` directories below the root leads to a place under the root: it climbs at most
/// so far, and never again once it has gone down, which could be over another link.
pub fn confined(depth: usize, target: &OsStr) -> bool {
    let target = target.as_bytes();
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let (mut up, mut down) = (0, false);
    for part in target.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")) {
        match (part, down) {
            (b"..", true) => return false,
            (b"..", false) => up += 1,
            _ => down = true,
        }
    }
    up <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_under_the_root() {
        for (depth, target, stays) in [
            (0, "a/b", true),
            (0, ".", true),
            (0, "..", false),
            (1, "../a", true),
            (1, "./../a//b", true),
            (1, "../../a", false),
            (2, "../../a", true),
            (2, "a/../b", false),
            (5, "/a", false),
            (5, "", false),
        ] {
            assert_eq!(confined(depth, target.as_ref()), stays, "{target} at {depth}");
        }
    }
}
