//! A simulated power cut: the store lives on a small ext4 image, which is copied in the middle of the storm.
//!
//! The loop device passes on only what the inner file system has written out: dirty pages of the inner one are not in
//! the image, so its copy is what a disk would hold when the power goes. Needs root, loop devices and mkfs.ext4; says
//! so when it has to skip.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portreeve::store::Revision;
use rustix::fs::{SeekFrom, seek};
use rustix::process::{Signal, kill_process};

use super::{Storm, check, random};

const NAME: &str = "portreeve-power-cut-";
const IMAGE_BYTES: u64 = 320 << 20;

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// A working directory whose mounts are undone when it goes.
struct Bench(PathBuf);

impl Bench {
    fn new() -> Bench {
        // A run that was killed could not clean up after itself.
        for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(pid) = name.strip_prefix(NAME) else { continue };
            if !Path::new("/proc").join(pid).exists() {
                drop(Bench(entry.path()));
            }
        }
        let dir = std::env::temp_dir().join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Bench(dir)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            // With the mount goes its loop device.
            if Path::new(mount).starts_with(&self.0) && run("umount", &[mount]).is_err() {
                let _ = run("umount", &["-l", mount]);
            }
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: &Path) -> Result<Mounted, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()])?;
        Ok(Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(e) = run("umount", &[self.0.to_str().unwrap()]) {
            println!("power cut: {e}; trying again lazily");
            let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
        }
    }
}

/// Copies what is not a hole: quick, so that the copy shows one moment as nearly as can be.
fn copy_image(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    to.set_len(IMAGE_BYTES).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while let Ok(data) = seek(&from, SeekFrom::Data(at)) {
        let end = seek(&from, SeekFrom::Hole(data)).unwrap();
        at = data;
        while at < end {
            let part = &mut buffer[..((end - at) as usize).min(1 << 20)];
            from.read_exact_at(part, at).unwrap();
            to.write_all_at(part, at).unwrap();
            at += part.len() as u64;
        }
    }
}

#[test]
fn acknowledged_writes_survive_twenty_power_cuts() {
    let skip = |why: &str| println!("SKIPPED, nothing was tested: the simulated power cut needs {why}");
    if !rustix::process::geteuid().is_root() {
        return skip("root, to mount");
    }
    if !Path::new("/dev/loop-control").exists() {
        return skip("loop devices: there is no /dev/loop-control");
    }
    let bench = Bench::new();
    let (image, cut) = (bench.0.join("image"), bench.0.join("cut"));
    File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
    if let Err(why) = run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]) {
        return skip(&format!("mkfs.ext4 ({why})"));
    }
    match Mounted::new(&image, &bench.0.join("before")) {
        Ok(mounted) => drop(mounted),
        Err(why) => return skip(&format!("mount -o loop ({why})")),
    }

    let mut floor = Revision(0);
    for _ in 0..20 {
        let mounted = Mounted::new(&image, &bench.0.join("before")).unwrap();
        let storm = Storm::start(&mounted.0.join("store"));
        // The random moment is the point of the test, not a wait for something.
        std::thread::sleep(Duration::from_millis(random(400)));
        // The watermark first: what is acknowledged now must be in the image. Then everything stops at once.
        let durable = storm.acks();
        kill_process(storm.pid(), Signal::STOP).unwrap();
        copy_image(&image, &cut);
        let last = storm.kill();
        drop(mounted);

        let rebooted = Mounted::new(&cut, &bench.0.join("after")).expect("the file system recovers its journal");
        floor = check(&rebooted.0.join("store"), &durable, &last, floor);
        drop(rebooted);
        // Life goes on from what was left.
        fs::rename(&cut, &image).unwrap();
    }
    println!("twenty power cuts: {} transactions survived", floor.0);
}
