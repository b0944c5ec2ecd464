//! The audit: one line for every write and every way into a container, done or refused; never a body, never a secret.
//!
//! ```text
//! handler: Deed (who, what) ──answer──▶ line ──▶ tracing, target `audit`
//!                                         └──bounded queue──▶ a thread ──▶ FILE
//! ```
//!
//! A request neither waits for the file nor fails with it. Lines that the file could not take (the queue is full, the
//! disk is) are in the log all the same, are counted, and the file says how many are missing once it is written again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;

use super::authenticate::Caller;
use super::authorize::Attributes;
use crate::clock::SharedClock;

/// Lines that wait for the disk at a time: some 2 MB.
const MOST_WAITING: usize = 8192;
/// The code of a request whose client went away before it was answered: what it asked for may have been done.
const CLIENT_GONE: u16 = 499;

/// Where audit lines go besides the log. Cheap to clone; the default has no file.
#[derive(Clone, Default)]
pub struct AuditLog {
    file: Option<Arc<AuditFile>>,
}

struct AuditFile {
    queue: SyncSender<Command>,
    /// Lines that the file has not got and does not tell of yet.
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Line(String),
    Reopen,
    Stop,
}

impl AuditLog {
    /// Appends JSON lines to a file, which only we may read when it is new. Starts the thread that writes.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn to_file(path: PathBuf) -> std::io::Result<AuditLog> {
        let file = open(&path)?;
        let (queue, commands) = sync_channel(MOST_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { path, file, broken: false, lost: lost.clone() };
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&commands))?;
        Ok(AuditLog { file: Some(Arc::new(AuditFile { queue, lost, thread: Mutex::new(Some(thread)) })) })
    }

    /// Opens the file anew, for those who have moved it away.
    pub fn reopen(&self) {
        if let Some(file) = &self.file
            && file.queue.try_send(Command::Reopen).is_err()
        {
            tracing::error!("the audit file is too far behind to be reopened; try again");
        }
    }

    /// Writes what waits and ends the thread. Blocks while the disk does.
    pub fn close(&self) {
        let Some(file) = &self.file else { return };
        // Sending blocks while the queue is full, which ends when the thread has written a line.
        drop(file.queue.send(Command::Stop));
        if let Some(thread) = lock(&file.thread).take() {
            drop(thread.join());
        }
    }

    fn write(&self, line: &Line<'_>) {
        tracing::info!(
            target: "audit",
            request = line.request_id, user = line.user, impersonated_by = line.impersonated_by, source = line.source,
            verb = line.verb, group = line.group, resource = line.resource, namespace = line.namespace, name = line.name,
            dry_run = line.dry_run, code = line.code, "audit"
        );
        let Some(file) = &self.file else { return };
        // Texts and numbers only: this cannot fail.
        let Ok(text) = serde_json::to_string(line) else { return };
        if let Err(e) = file.queue.try_send(Command::Line(text + "\n")) {
            let before = file.lost.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                let why = if matches!(e, TrySendError::Full(_)) { "it is too far behind" } else { "it is closed" };
                tracing::error!(why, "the audit file misses lines from here on; the log has them");
            }
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The thread's side.
struct Writer {
    path: PathBuf,
    file: File,
    /// Whether the last write failed, perhaps in the middle of a line.
    broken: bool,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, commands: &Receiver<Command>) {
        while let Ok(command) = commands.recv() {
            match command {
                Command::Line(line) => self.line(&line),
                Command::Reopen => match open(&self.path) {
                    Ok(file) => (self.file, self.broken) = (file, false),
                    Err(e) => tracing::error!(
                        path = %self.path.display(), error = %e, "the audit file cannot be reopened; the old one is kept"
                    ),
                },
                Command::Stop => return,
            }
        }
    }

    fn line(&mut self, line: &str) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut text = String::new();
        if self.broken {
            text.push('\n');
        }
        if lost > 0 {
            text.push_str(&format!("{{\"lost\":{lost}}}\n"));
        }
        text.push_str(line);
        match self.file.write_all(text.as_bytes()) {
            Ok(()) => self.broken = false,
            Err(e) => {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.broken, true) {
                    tracing::error!(
                        path = %self.path.display(), error = %e,
                        "the audit file cannot be written and misses lines from here on; the log has them"
                    );
                }
            }
        }
    }
}

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    #[serde(rename = "requestID")]
    request_id: &'a str,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_by: Option<&'a str>,
    source: String,
    verb: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    dry_run: bool,
    code: u16,
}

/// What one request does, told once: by its answer, or when its client is gone before that.
pub struct Deed {
    log: AuditLog,
    clock: SharedClock,
    pub request_id: String,
    source: Option<IpAddr>,
    told: Mutex<Option<Told>>,
}

/// What is known of it so far.
struct Told {
    user: String,
    impersonator: Option<String>,
    verb: String,
    group: String,
    resource: String,
    namespace: String,
    name: String,
    dry_run: bool,
}

impl Deed {
    pub fn new(log: AuditLog, clock: SharedClock, source: Option<IpAddr>) -> Deed {
        Deed { log, clock, request_id: uuid::Uuid::new_v4().to_string(), source, told: Mutex::new(None) }
    }

    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// Says who is about to do what. Reads are not told; every other verb is, ways into a container (`create`) too.
    pub fn begins(&self, caller: &Caller, wanted: &Attributes<'_>, dry_run: bool) {
        if matches!(wanted.verb, "get" | "list" | "watch") {
            return;
        }
        *lock(&self.told) = Some(Told {
            user: caller.user.name.clone(),
            impersonator: caller.impersonator.as_ref().map(|u| u.name.clone()),
            verb: wanted.verb.to_owned(),
            group: wanted.group.to_owned(),
            resource: wanted.resource.to_owned(),
            namespace: wanted.namespace.to_owned(),
            name: wanted.name.to_owned(),
            dry_run,
        });
    }

    /// The name that only the body told, or that the server made.
    pub fn names(&self, name: &str) {
        if let Some(told) = lock(&self.told).as_mut() {
            name.clone_into(&mut told.name);
        }
    }

    /// The body says that nothing is to be done.
    pub fn is_dry(&self) {
        if let Some(told) = lock(&self.told).as_mut() {
            told.dry_run = true;
        }
    }

    /// Writes the line, the first time.
    pub fn ends(&self, code: u16) {
        let Some(told) = lock(&self.told).take() else { return };
        self.log.write(&Line {
            time: self.clock.now().to_string(),
            request_id: &self.request_id,
            user: &told.user,
            impersonated_by: told.impersonator.as_deref(),
            source: self.source.map(|a| a.to_canonical().to_string()).unwrap_or_default(),
            verb: &told.verb,
            group: &told.group,
            resource: &told.resource,
            namespace: &told.namespace,
            name: &told.name,
            dry_run: told.dry_run,
            code,
        });
    }
}

/// Ends a deed with its request, whatever becomes of that: a client that hangs up drops the work in the middle.
pub struct EndOf(pub Arc<Deed>);

impl Drop for EndOf {
    fn drop(&mut self) {
        self.0.ends(CLIENT_GONE);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::authenticate::User;
    use super::super::tokens::Lease;
    use super::*;
    use crate::clock::SystemClock;

    fn deed(log: &AuditLog, verb: &str) -> Arc<Deed> {
        let deed = Deed::new(log.clone(), SystemClock::new(), Some("::ffff:10.0.0.1".parse().unwrap()));
        let caller =
            Caller { user: User::new("bob", []), impersonator: Some(User::new("admin", [])), lease: Lease::Always };
        let wanted = Attributes { verb, group: "", resource: "events", namespace: "a", name: "" };
        deed.begins(&caller, &wanted, false);
        Arc::new(deed)
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn each_deed_is_one_line_also_when_its_client_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = AuditLog::to_file(path.clone()).unwrap();
        let created = deed(&log, "create");
        created.names("x");
        created.ends(201);
        drop(EndOf(created));
        drop(EndOf(deed(&log, "delete")));
        drop(EndOf(deed(&log, "watch")));
        log.close();
        let lines = lines(&path);
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (field, value) in
            [("user", "bob"), ("impersonatedBy", "admin"), ("source", "10.0.0.1"), ("namespace", "a"), ("name", "x")]
        {
            assert_eq!(lines[0][field], value);
        }
        assert_eq!((&lines[0]["code"], &lines[1]["code"]), (&201.into(), &499.into()));
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        let log = AuditLog::to_file(path.clone()).unwrap();
        deed(&log, "create").ends(201);
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        deed(&log, "delete").ends(200);
        log.close();
        // Which of the two has the first depends on the thread's speed before the move, not after it.
        assert_eq!((lines(&old).len(), lines(&path).len()), (1, 1));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let lost = Arc::new(AtomicU64::new(0));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut writer = Writer { path: path.clone(), file: full, broken: false, lost };
        writer.line("{\"code\":1}\n");
        writer.line("{\"code\":2}\n");
        (writer.file, writer.broken) = (open(&path).unwrap(), false);
        writer.line("{\"code\":3}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"lost\":2}\n{\"code\":3}\n");
    }
}
