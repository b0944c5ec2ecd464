//! A simulated power cut: the store lives on a small ext4 image, which is copied in the middle of the storm.
//!
//! The loop device passes on only what the inner file system has written out: dirty pages of the inner one are not in
//! the image, so its copy is what a disk would hold when the power goes. Needs root, loop devices and mkfs.ext4; says
//! so when it has to skip.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use portreeve::store::Revision;
use rustix::fs::{SeekFrom, seek};
use rustix::process::{Signal, kill_process};

use super::mounts::{Bench, Mounted};
use super::{Storm, check, progress, random};

const IMAGE_BYTES: u64 = 320 << 20;

/// Hands out, piece by piece, what is not a hole.
fn pieces(of: &File, mut each: impl FnMut(&[u8], u64) -> bool) -> bool {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while let Ok(data) = seek(of, SeekFrom::Data(at)) {
        let end = seek(of, SeekFrom::Hole(data)).unwrap();
        at = data;
        while at < end {
            let part = &mut buffer[..((end - at) as usize).min(1 << 20)];
            of.read_exact_at(part, at).unwrap();
            if !each(part, at) {
                return false;
            }
            at += part.len() as u64;
        }
    }
    true
}

/// Copies an image as it is at one moment. The storm stands still, but the kernel goes on writing for it: a copy whose
/// beginning is older than its end is of a disk that never was (the metadata from before a checkpoint, the journal from
/// after it). One that is still the same when all of it has been read again was the image at the moment in between.
fn copy_image(from: &Path, to: &Path) {
    let (from, to) = (
        File::open(from).unwrap(),
        File::options().read(true).write(true).create(true).truncate(true).open(to).unwrap(),
    );
    let mut copy = vec![0; 1 << 20];
    loop {
        to.set_len(0).unwrap();
        to.set_len(IMAGE_BYTES).unwrap();
        pieces(&from, |part, at| to.write_all_at(part, at).is_ok() || panic!("the copy cannot be written"));
        let same = pieces(&from, |part, at| {
            let copied = &mut copy[..part.len()];
            to.read_exact_at(copied, at).unwrap();
            copied == part
        });
        if same {
            return;
        }
    }
}

#[test]
fn acknowledged_writes_survive_twenty_power_cuts() {
    let bench = match Bench::new("power", IMAGE_BYTES) {
        Ok(bench) => bench,
        Err(why) => return println!("SKIPPED, nothing was tested: the simulated power cut needs {why}"),
    };
    let (image, cut) = (bench.path("image"), bench.path("cut"));
    let (mut floor, mut reached) = (Revision(0), (0, 0, String::new()));
    for _ in 0..20 {
        let mounted = Mounted::new(&image, &bench.path("before")).unwrap();
        let storm = Storm::start(&mounted.0.join("store"));
        // The random moment is the point of the test, not a wait for something.
        std::thread::sleep(Duration::from_millis(random(400)));
        // The watermark first: what is acknowledged now must be in the image. Then everything stops at once.
        let durable = storm.acks();
        kill_process(storm.pid(), Signal::STOP).unwrap();
        copy_image(&image, &cut);
        let last = storm.kill();
        drop(mounted);

        let rebooted = Mounted::new(&cut, &bench.path("after")).expect("the file system recovers its journal");
        floor = check(&rebooted.0.join("store"), &durable, &last, floor);
        reached = progress(&rebooted.0.join("store"));
        drop(rebooted);
        // Life goes on from what was left.
        fs::rename(&cut, &image).unwrap();
    }
    let (segments, files, current) = reached;
    println!("twenty power cuts: {} transactions survived; segment {segments}, {files} files; {current}", floor.0);
    assert!(segments > 40 && files < 40, "the storm did not reach the reuse of segments");
}
