//! The proxy's certificates as files: found in a directory, read, and looked at again while the proxy serves.
//!
//! What cannot be used is said once, and what was read of the same files before stays: a renewal that is half written, or
//! broken, takes nobody's certificate away.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::certificates::{Certificate, Certificates};
use super::stats::Stats;
use crate::clock::SharedClock;
use crate::pki;
use crate::pki::files::{Stamp, stamp};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Certificates with their keys: more is a directory that was not meant.
const MOST_FILES: usize = 10_000;
/// A chain of certificates is some kilobytes.
const MOST_BYTES: u64 = 1 << 20;

/// How the tools that make certificates name the two files, beside `X.crt` and `X.key`: certbot, mkcert.
const CERTBOT: [&str; 2] = ["fullchain.pem", "privkey.pem"];
const MKCERT_KEY: &str = "-key.pem";

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("reading {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} holds no certificate that can be used: NAME.crt with NAME.key, or a directory with fullchain.pem and privkey.pem{why}",
        path.display()
    )]
    None { path: PathBuf, why: String },
}

/// A directory of certificates: pairs of files in it, and in the directories in it, as certbot has them.
pub struct CertificateFiles {
    directory: PathBuf,
    shown: Arc<Certificates>,
    /// By the file of the chain.
    read: BTreeMap<PathBuf, Read>,
}

/// What came of a pair of files.
struct Read {
    /// Of both: tells that one is another now.
    stamps: [Stamp; 2],
    /// The last that could be used.
    certificate: Option<Certificate>,
    /// Why the present one cannot.
    problem: Option<String>,
}

impl CertificateFiles {
    /// Reads what is there, and shows it in `shown`. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory cannot be read, or nothing in it can be used.
    pub fn open(directory: &Path, shown: Arc<Certificates>) -> Result<CertificateFiles, FilesError> {
        let mut files = CertificateFiles { directory: directory.to_owned(), shown, read: BTreeMap::new() };
        files.look().map_err(|source| FilesError::Read { path: files.directory.clone(), source })?;
        if files.usable().is_empty() {
            let problems = files.read.iter().filter_map(|(file, read)| Some((file, read.problem.as_ref()?)));
            let why = problems.map(|(file, why)| format!("; {}: {why}", file.display())).collect();
            return Err(FilesError::None { path: files.directory, why });
        }
        Ok(files)
    }

    /// Looks again when asked to, and whenever files change; until `shutdown`.
    pub async fn follow(mut self, asked: Arc<Notify>, stats: Stats, clock: SharedClock, shutdown: CancellationToken) {
        self.tell(&stats, &clock);
        loop {
            let asked = tokio::select! {
                () = shutdown.cancelled() => return,
                () = asked.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let looking = tokio::task::spawn_blocking(move || {
                let looked = self.look();
                (self, looked)
            });
            // Reading does not panic; if it did, the certificates that are shown would stay.
            let Ok((back, looked)) = looking.await else { return };
            self = back;
            match looked {
                Ok(true) => self.tell(&stats, &clock),
                Ok(false) if asked => tracing::info!("the proxy's certificates were looked at: nothing is new"),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, directory = %self.directory.display(), "cannot look at the proxy's certificates");
                }
            }
        }
    }

    /// Reads what has changed and shows it. True when something is new.
    fn look(&mut self) -> io::Result<bool> {
        let (pairs, unread) = pairs(&self.directory)?;
        let before = self.read.len();
        // A file that is gone was taken away by somebody; one that is broken was not.
        self.read.retain(|file, _| pairs.contains_key(file) || unread.iter().any(|below| file.starts_with(below)));
        let mut changed = self.read.len() != before;
        for (chain, key) in pairs {
            let stamps = [stamp(&chain), stamp(&key)];
            // Two files are not replaced in one step: what did not fit together is read until it does.
            if self.read.get(&chain).is_some_and(|read| read.stamps == stamps && read.problem.is_none()) {
                continue;
            }
            let old = self.read.remove(&chain);
            let known = old.as_ref().and_then(|read| read.problem.clone());
            let read = match load(&chain, &key) {
                Ok(certificate) => {
                    changed = true;
                    Read { stamps, certificate: Some(certificate), problem: None }
                }
                Err(why) => {
                    if known.as_ref() != Some(&why) {
                        tracing::error!(file = %chain.display(), why, "a certificate of the proxy cannot be used");
                    }
                    Read { stamps, certificate: old.and_then(|read| read.certificate), problem: Some(why) }
                }
            };
            self.read.insert(chain, read);
        }
        if changed {
            self.shown.replace(self.usable());
        }
        Ok(changed)
    }

    fn usable(&self) -> Vec<Certificate> {
        self.read.values().filter_map(|read| read.certificate.clone()).collect()
    }

    fn tell(&self, stats: &Stats, clock: &SharedClock) {
        let usable = self.usable();
        for certificate in usable.iter().filter(|c| c.ends <= clock.now()) {
            tracing::warn!(file = certificate.source, ended = %certificate.ends, "a certificate of the proxy has ended");
        }
        tracing::info!(certificates = ?self.shown, "the proxy's certificates");
        stats.certificates(usable.iter().map(|c| (c.source.as_str(), c.ends)));
    }
}

/// The pairs of files, chain and key; and the directories in it that cannot be read.
fn pairs(directory: &Path) -> io::Result<(BTreeMap<PathBuf, PathBuf>, Vec<PathBuf>)> {
    let mut found = BTreeMap::new();
    let mut add = |within: &Path| -> io::Result<Vec<PathBuf>> {
        let mut below = vec![];
        for entry in fs::read_dir(within)?.take(MOST_FILES) {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.')) else {
                continue;
            };
            // Links are followed: certbot's files are.
            if path.is_dir() {
                below.push(path);
                continue;
            }
            let key = match name.rsplit_once('.') {
                Some((stem, "crt")) => format!("{stem}.key"),
                Some(_) if name == CERTBOT[0] => CERTBOT[1].to_owned(),
                Some((stem, "pem")) => format!("{stem}{MKCERT_KEY}"),
                _ => continue,
            };
            let key = within.join(key);
            // A .pem alone may be anything: certbot has four of them. A .crt is a certificate whose key is missing.
            if name.ends_with(".crt") || key.exists() {
                found.insert(path, key);
            }
        }
        Ok(below)
    };
    let mut unread = vec![];
    for below in add(directory)? {
        // One of these may be none of ours, such as lost+found.
        if let Err(error) = add(&below) {
            tracing::debug!(directory = %below.display(), %error, "not looked at for certificates");
            unread.push(below);
        }
    }
    Ok((found, unread))
}

fn load(chain: &Path, key: &Path) -> Result<Certificate, String> {
    let read = |path: &Path| {
        let found = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
        // A pipe would be waited for.
        if !found.is_file() {
            return Err(format!("{} is not a file", path.display()));
        }
        if found.len() > MOST_BYTES {
            return Err(format!("{} is too large for a certificate", path.display()));
        }
        fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let certified = pki::certified(&read(chain)?, &read(key)?)?;
    let (ends, names) = pki::end_and_names(&certified.cert[0]).ok_or("the certificate cannot be read as X.509")?;
    if names.is_empty() {
        return Err("the certificate has no subject alternative names".into());
    }
    let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    Ok(Certificate { source: chain.display().to_string(), key: certified.into(), names, ends })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    /// Writes a certificate for a name, and its key.
    fn write(directory: &Path, [chain, key]: [&str; 2], name: &str) {
        fs::create_dir_all(directory).unwrap();
        let now = SystemClock::new().now();
        let ca = pki::make_ca("test", now).unwrap();
        let pair = pki::make_server(&ca, name, &[name.to_owned()], now).unwrap();
        fs::write(directory.join(key), pair.key).unwrap();
        fs::write(directory.join(chain), pair.certificate + &ca.certificate).unwrap();
    }

    fn names(files: &CertificateFiles) -> Vec<String> {
        files.usable().into_iter().flat_map(|c| c.names).collect()
    }

    #[test]
    fn pairs_are_found_as_the_usual_tools_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        write(at, ["a.test.crt", "a.test.key"], "a.test");
        write(at, ["b.test.pem", "b.test-key.pem"], "b.test");
        write(&at.join("c.test"), CERTBOT, "c.test");
        // What else certbot and people leave there.
        for other in ["c.test/cert.pem", "c.test/chain.pem", "README", "a.test.csr", ".hidden.crt"] {
            fs::write(at.join(other), "not for us").unwrap();
        }
        let files = CertificateFiles::open(at, Arc::default()).unwrap();
        assert_eq!(names(&files), ["a.test", "b.test", "c.test"]);
        assert!(files.read.values().all(|read| read.problem.is_none()));
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ["a.crt", "a.key"], "a.test");
        let pipe = dir.path().join("pipe.crt");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        let files = CertificateFiles::open(dir.path(), Arc::default()).unwrap();
        assert_eq!(names(&files), ["a.test"]);
        assert_eq!(files.read[&pipe].problem, Some(format!("{} is not a file", pipe.display())));
    }

    #[test]
    fn a_renewal_is_shown_and_a_broken_one_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (crt, key) = (dir.path().join("a.crt"), dir.path().join("a.key"));
        write(dir.path(), ["a.crt", "a.key"], "a.test");
        let mut files = CertificateFiles::open(dir.path(), Arc::default()).unwrap();
        assert!(!files.look().unwrap(), "nothing is new");

        write(dir.path(), ["new.crt", "new.key"], "b.test");
        fs::rename(dir.path().join("new.key"), &key).unwrap();
        assert!(!files.look().unwrap(), "half of it is no pair");
        assert_eq!(names(&files), ["a.test"]);
        fs::rename(dir.path().join("new.crt"), &crt).unwrap();
        assert!(files.look().unwrap());
        assert_eq!(names(&files), ["b.test"]);

        fs::write(&crt, "").unwrap();
        assert!(!files.look().unwrap());
        assert_eq!(names(&files), ["b.test"]);
        assert!(files.read[&crt].problem.as_ref().unwrap().contains("holds none"));

        fs::remove_file(&crt).unwrap();
        assert!(files.look().unwrap(), "what is taken away is gone");
        assert!(names(&files).is_empty());
    }

    #[test]
    fn a_start_without_any_is_refused_with_the_reasons() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |dir: &Path| CertificateFiles::open(dir, Arc::default()).err().unwrap().to_string();
        assert!(refused(dir.path()).contains("holds no certificate"));
        write(dir.path(), ["a.crt", "b.key"], "a.test");
        assert!(refused(dir.path()).contains("a.key"), "{}", refused(dir.path()));
        assert!(refused(&dir.path().join("missing")).starts_with("reading "));
    }
}
