//! What outlives a restart: the account, what was tried, and the certificates, in files that only their owner may read, each
//! written whole or not at all. Every ACME server has a directory of its own.
//!
//! A certificate and its key are one file, so that no crash leaves halves of two.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::plan::{Ledger, Span};
use crate::pki;
use crate::pki::files::{self, FileError};
use crate::proxy::Certificate;

const ACCOUNT: &str = "account.json";
const LEDGER: &str = "ledger.json";
const CERTIFICATES: &str = "certificates";
/// A longer name would not fit a file's.
const LONGEST_NAME: usize = 200;

/// The account at the ACME server.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeptAccount {
    /// As the server was told it.
    pub contact: Vec<String>,
    /// The key among them, as the client library writes them.
    pub credentials: serde_json::Value,
}

/// A certificate that was ordered for a name.
#[derive(Clone, Debug)]
pub struct Held {
    pub name: String,
    pub span: Span,
    pub certificate: Certificate,
}

impl Held {
    /// A key and a chain in one text, PEM, for this name.
    fn read(name: &str, source: &Path, text: &[u8]) -> Result<Held, String> {
        let key = pki::certified(text, text)?;
        let leaf = key.cert.first().ok_or("there is no certificate")?;
        let (ends, names) = pki::end_and_names(leaf).ok_or("the certificate cannot be read as X.509")?;
        let begins = pki::beginning(leaf).ok_or("the certificate cannot be read as X.509")?;
        let names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        if !names.iter().any(|for_name| for_name == name) {
            return Err(format!("the certificate is for {}, not for {name}", names.join(", ")));
        }
        let certificate = Certificate { source: source.display().to_string(), key: key.into(), names, ends };
        Ok(Held { name: name.to_owned(), span: Span { begins, ends, window: None }, certificate })
    }
}

/// The directory of one ACME server. All methods block on the disk.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// # Errors
    /// When it cannot be made.
    pub fn open(data_dir: &Path, server: &str) -> Result<Directory, FileError> {
        let host = server.split("://").last().unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
        let root = data_dir.join("acme").join(format!("{host}-{}", &digest(server)[..8]));
        files::make_directory(&root.join(CERTIFICATES))?;
        Ok(Directory(root))
    }

    /// `None` where there is none that can be used; one that cannot is told.
    pub fn account(&self) -> Option<KeptAccount> {
        self.read(ACCOUNT)
    }

    pub fn put_account(&self, account: &KeptAccount) -> Result<(), FileError> {
        self.write(ACCOUNT, account)
    }

    /// The ACME server does not know it any more.
    pub fn forget_account(&self) -> Result<(), FileError> {
        files::remove(&self.0.join(ACCOUNT))
    }

    pub fn ledger(&self) -> Ledger {
        self.read(LEDGER).unwrap_or_default()
    }

    pub fn put_ledger(&self, ledger: &Ledger) -> Result<(), FileError> {
        self.write(LEDGER, ledger)
    }

    /// All that can be used and has not ended. What has is removed; what cannot is told and left.
    pub fn certificates(&self, now: Timestamp) -> Vec<Held> {
        let entries = match fs::read_dir(self.0.join(CERTIFICATES)) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, directory = %self.0.display(), "the certificates that were ordered cannot be read");
                return vec![];
            }
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let pems = paths.filter(|path| path.extension().is_some_and(|extension| extension == "pem"));
        pems.filter_map(|path| match self.certificate(&path) {
            Ok(held) if held.span.ends <= now => {
                // It is tried again at the next start.
                let _ = files::remove(&path);
                None
            }
            Ok(held) => Some(held),
            Err(why) => {
                tracing::error!(file = %path.display(), why, "a certificate that was ordered cannot be used");
                None
            }
        })
        .collect()
    }

    fn certificate(&self, path: &Path) -> Result<Held, String> {
        let text = files::read(path).map_err(|e| format!("{:#}", anyhow::Error::from(e)))?.unwrap_or_default();
        let key = pki::certified(text.as_bytes(), text.as_bytes())?;
        let names = key.cert.first().and_then(|leaf| pki::end_and_names(leaf)).map(|(_, names)| names);
        // Of several names the file tells which is meant.
        let mine = names.unwrap_or_default().into_iter().find(|name| self.path(&name.to_ascii_lowercase()) == path);
        Held::read(&mine.ok_or("it is for another name than its file")?.to_ascii_lowercase(), path, text.as_bytes())
    }

    /// What an ACME server gave for a name, looked at: a key and a chain in one text. Not written yet.
    pub fn accept(&self, name: &str, text: &str) -> Result<Held, String> {
        Held::read(name, &self.path(name), text.as_bytes())
    }

    pub fn put_certificate(&self, name: &str, text: &str) -> Result<(), FileError> {
        files::write_private(&self.path(name), text.as_bytes())
    }

    fn path(&self, name: &str) -> PathBuf {
        let stem = if name.len() <= LONGEST_NAME { name.to_owned() } else { digest(name) };
        self.0.join(CERTIFICATES).join(format!("{stem}.pem"))
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> Option<T> {
        let path = self.0.join(file);
        let text = files::read(&path).map_err(|e| format!("{:#}", anyhow::Error::from(e)));
        let read = text.and_then(|text| match text {
            Some(text) => serde_json::from_str(&text).map(Some).map_err(|e| e.to_string()),
            None => Ok(None),
        });
        read.unwrap_or_else(|why| {
            tracing::error!(file = %path.display(), why, "it cannot be used, and is made anew");
            None
        })
    }

    fn write(&self, file: &str, value: &impl Serialize) -> Result<(), FileError> {
        let path = self.0.join(file);
        let text = serde_json::to_vec(value).map_err(|e| files::file("writing", &path)(e.into()))?;
        files::write_private(&path, &text)
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::clock::SystemClock;

    fn pem(name: &str, now: Timestamp) -> String {
        let ca = pki::make_ca("test", now).unwrap();
        let pair = pki::make_server(&ca, name, &[name.to_owned()], now).unwrap();
        pair.key + &pair.certificate + &ca.certificate
    }

    #[test]
    fn what_is_written_is_found_again_by_its_owner_alone_and_what_is_broken_is_left() {
        let (dir, now) = (tempfile::tempdir().unwrap(), SystemClock::new().now());
        let directory = Directory::open(dir.path(), "https://acme.example:14000/dir").unwrap();
        let long = format!("{0}.{0}.{0}.{0}", "a".repeat(60));
        for name in ["alice.test", long.as_str()] {
            let text = pem(name, now);
            assert_eq!(directory.accept(name, &text).unwrap().name, name);
            directory.put_certificate(name, &text).unwrap();
        }
        assert!(directory.accept("bob.test", &pem("alice.test", now)).unwrap_err().contains("not for bob.test"));
        directory.put_certificate("broken.test", "").unwrap();
        directory.put_certificate("other.test", &pem("alice.test", now)).unwrap();
        directory
            .put_certificate("old.test", &pem("old.test", now - jiff::SignedDuration::from_hours(24 * 400)))
            .unwrap();
        let mut ledger = Ledger::default();
        ledger.begin("alice.test", "x", true, now);
        directory.put_ledger(&ledger).unwrap();

        let again = Directory::open(dir.path(), "https://acme.example:14000/dir").unwrap();
        let mut names: Vec<String> = again.certificates(now).into_iter().map(|held| held.name).collect();
        names.sort();
        assert_eq!(names, [long.as_str(), "alice.test"]);
        assert_eq!(again.ledger(), ledger);
        assert!(again.path("broken.test").exists() && !again.path("old.test").exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&again.path("alice.test")), mode(&again.0), mode(&again.0.join(LEDGER))),
            (0o600, 0o700, 0o600)
        );
        fs::write(again.0.join(LEDGER), "{").unwrap();
        assert_eq!(again.ledger(), Ledger::default());
        let other = Directory::open(dir.path(), "https://acme.example:14000/staging").unwrap();
        assert!(other.certificates(now).is_empty(), "another server's");
    }
}
