//! The system calls that the standard library lacks, each with a safe face, and processes by identity.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock;

/// A process that cannot be mistaken for another: pids are used again, pid and start time of one boot are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// In clock ticks since the boot.
    pub start: u64,
    pub boot: String,
}

impl ProcessRef {
    pub fn of(pid: i32) -> Option<ProcessRef> {
        Some(ProcessRef { pid, start: stat(pid)?.start, boot: boot_id() })
    }

    pub fn this() -> Result<ProcessRef> {
        ProcessRef::of(std::process::id().cast_signed()).context("reading this process's own /proc entry")
    }

    /// Whether it runs; a zombie does not.
    pub fn alive(&self) -> bool {
        self.boot == boot_id() && stat(self.pid).is_some_and(|s| s.start == self.start && !s.zombie)
    }

    /// A descriptor that becomes readable when the process ends; `None` when it has.
    pub fn watch(&self) -> Option<OwnedFd> {
        // SAFETY: takes integers, returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // checked after opening: the descriptor cannot come to mean another process any more
        self.alive().then_some(fd)
    }

    /// Sends a signal, to this process and no other.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let fd = self.watch().ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: a descriptor that we own, integers and a null pointer, which the call allows.
        check(unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
        } as i32)
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        // an error means that it is gone
        let _ = self.signal(libc::SIGKILL);
        self.gone(Duration::from_secs(20))
    }

    pub fn gone(&self, limit: Duration) -> Result<()> {
        clock::wait(&format!("the end of process {}", self.pid), limit, || {
            // where PID 1 reaps no orphans, we are the subreaper
            // SAFETY: a null status pointer is allowed.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG) };
            if self.alive() { Err("it still runs".into()) } else { Ok(()) }
        })
    }
}

/// What we use of `/proc/PID/stat`.
pub struct Stat {
    pub name: String,
    pub zombie: bool,
    pub stopped: bool,
    pub parent: i32,
    pub start: u64,
}

pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name stands in brackets and may itself hold blanks and brackets.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Stat {
        name: head.split_once('(')?.1.to_owned(),
        zombie: matches!(fields.first()?, &"Z" | &"X"),
        stopped: fields.first()? == &"T",
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// CPU time of all threads of a process, in user and kernel, in microseconds: the kernel counts hundredths of a second.
pub fn cpu_micros(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("reading the CPU of {pid}"))?;
    parse_cpu(&text).context("the kernel's stat line is not as usual")
}

fn parse_cpu(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) * 10_000)
}

/// All process ids now.
pub fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub fn is_root() -> bool {
    user_id() == 0
}

pub fn user_id() -> u32 {
    // SAFETY: has no preconditions.
    unsafe { libc::geteuid() }
}

/// The command's process is asked to end when we die, however that happens.
pub fn end_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call, which is allowed between fork and exec.
    unsafe { command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0))) };
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_string(text: impl AsRef<[u8]>) -> io::Result<CString> {
    Ok(CString::new(text.as_ref())?)
}

/// Moves this process (for `CLONE_NEWPID`: its next child) into new namespaces.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::unshare(flags) })
}

pub fn mount(source: &str, target: &str, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (source, target, kind, data) = (c_string(source)?, c_string(target)?, c_string(kind)?, c_string(data)?);
    // SAFETY: four valid C strings that outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })
}

/// Detaches a mount at once; what still uses it keeps it until it is done.
pub fn unmount(target: &str) -> io::Result<()> {
    let target = c_string(target)?;
    // SAFETY: a valid C string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })
}

pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length of one live buffer.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })
}

/// Leaves the terminal's session, so that its Ctrl-C does not reach us.
pub fn new_session() {
    // SAFETY: has no preconditions; it fails only for a group leader, which has its own session already.
    unsafe { libc::setsid() };
}

/// Orphaned descendants become our children, so that we can reap them.
pub fn become_subreaper() {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets this process and those that it starts have so many descriptors open.
pub fn raise_descriptors(wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the answer.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    limit.rlim_cur = wanted.min(limit.rlim_max);
    // SAFETY: a valid limit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
}

/// From now on SIGINT, SIGTERM and SIGHUP only set a flag: whoever waits looks at it, and cleans up.
pub fn catch_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores into an atomic.
        unsafe { libc::signal(signal, handler) };
    }
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sends a signal to every process of a group that we started.
pub fn signal_group(leader: u32, signal: i32) {
    // SAFETY: takes integers; a group that is gone is an error that means nothing here.
    unsafe { libc::killpg(leader.cast_signed(), signal) };
}

/// Whether the path lies on an overlay file system, on which overlay2 cannot work.
pub fn on_overlay(path: &Path) -> io::Result<bool> {
    let path = c_string(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: all zeroes is a valid statfs; the call fills it.
    let mut stats: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid C string and a valid place for the answer.
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut stats) })?;
    Ok(stats.f_type == libc::OVERLAYFS_SUPER_MAGIC)
}

/// Reserves blocks for a part of a file.
pub fn allocate(file: &fs::File, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: a descriptor that we own, and integers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, length) })
}

/// Lets a descriptor through to the programs that we start.
pub fn inheritable(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a descriptor that we own, and integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })
}

pub fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a descriptor that we own, and integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })
}

/// Blocks these signals and returns a descriptor to read them from.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: a signal set that the first call initialises; the descriptor is new and nobody else's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The next signal from [`signal_fd`]; blocks.
pub fn next_signal(fd: &OwnedFd) -> io::Result<i32> {
    // SAFETY: all zeroes is a valid value; the read fills exactly this struct.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is `size` bytes long.
    let n = unsafe { libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size) };
    if n == size as isize { Ok(info.ssi_signo.cast_signed()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until one of the descriptors is readable; returns which are.
pub fn poll(fds: &[&OwnedFd]) -> io::Result<Vec<bool>> {
    let mut polls: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    loop {
        // SAFETY: pointer and length of one live array.
        match check(unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) }) {
            Ok(()) => return Ok(polls.iter().map(|p| p.revents != 0).collect()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reaps every child that has ended.
pub fn reap() -> Vec<i32> {
    let mut ended = Vec::new();
    loop {
        // SAFETY: a null status pointer is allowed.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
            pid if pid > 0 => ended.push(pid),
            _ => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse_stat() {
        let line = "42 (a) (b c)) T 7 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 98765 1000 5 18446744073709551615";
        let stat = parse_stat(line).unwrap();
        assert_eq!(parse_cpu(line), Some(30_000));
        assert_eq!((stat.name.as_str(), stat.zombie, stat.parent, stat.start), ("a) (b c)", false, 7, 98765));
        assert!(stat.stopped);
        assert!(parse_stat("42 (x) R").is_none());
    }

    #[test]
    fn a_process_is_itself_and_no_other() {
        let this = ProcessRef::this().unwrap();
        assert!(this.alive() && this.watch().is_some());
        let later = ProcessRef { start: this.start + 1, ..this.clone() };
        assert!(!later.alive() && later.signal(0).is_err(), "the same pid with another start time is another process");
        assert!(!ProcessRef { boot: "other".into(), ..this }.alive());
    }
}
