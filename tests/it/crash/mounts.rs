//! Small ext4 images on loop devices, for tests of what the disk does. They need root; the mounts go with the test, also
//! when it panics, and what a killed run left is cleaned up by the next one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "portreeve-mounts-";

pub fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// A working directory with an image; its mounts are undone when it goes.
pub struct Bench(PathBuf);

impl Bench {
    /// With an image of `bytes` in it, formatted and mountable; or why this machine cannot do that.
    pub fn new(label: &str, bytes: u64) -> Result<Bench, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("root, to mount".into());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Err("loop devices: there is no /dev/loop-control".into());
        }
        // A run that was killed could not clean up after itself.
        for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((pid, _)) = name.strip_prefix(NAME).and_then(|rest| rest.split_once('-')) else { continue };
            if !Path::new("/proc").join(pid).exists() {
                drop(Bench(entry.path()));
            }
        }
        let dir = std::env::temp_dir().join(format!("{NAME}{}-{label}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("a working directory ({e})"))?;
        let bench = Bench(dir);
        let image = bench.path("image");
        File::create(&image).and_then(|f| f.set_len(bytes)).map_err(|e| format!("an image file ({e})"))?;
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
        Mounted::new(&image, &bench.path("try"))?;
        Ok(bench)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        // The newest first: they may lie in older ones.
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            // With the mount goes its loop device.
            if Path::new(mount).starts_with(&self.0) && run("umount", &[mount]).is_err() {
                let _ = run("umount", &["-l", mount]);
            }
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An image mounted at a directory until it is dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(image: &Path, at: &Path) -> Result<Mounted, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()])?;
        Ok(Mounted(at.to_owned()))
    }

    /// An empty file system in memory.
    pub fn memory(at: &Path, size: &str) -> Result<Mounted, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", at.to_str().unwrap()])?;
        Ok(Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(e) = run("umount", &[self.0.to_str().unwrap()]) {
            println!("{e}; trying again lazily");
            let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
        }
    }
}
