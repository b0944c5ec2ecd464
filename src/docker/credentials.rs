//! What a daemon is reached with: where it comes from, and the error when it is missing or of no use.
//!
//! Secrets are held above this room, so they come through a [`SecretSource`]; [`tls`](super::tls) and
//! [`ssh`](super::ssh) ask it for each new connection. Invariant: no text made here has a value in it.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use super::identity::behind;
use crate::model::{SYSTEM_NAMESPACE, Secret};

/// Opens the Secrets that DockerHosts name.
#[async_trait]
pub trait SecretSource: Send + Sync {
    /// The Secret of this name in [`SYSTEM_NAMESPACE`] as it is now; `None`: there is none. The error is a sentence.
    async fn secret(&self, name: &str) -> Result<Option<Secret>, String>;
}

/// For who has none: every Secret is missing.
pub struct NoSecrets;

#[async_trait]
impl SecretSource for NoSecrets {
    async fn secret(&self, _: &str) -> Result<Option<Secret>, String> {
        Ok(None)
    }
}

/// What opens the way to a daemon is missing or of no use: nobody was asked, nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadCredentials(pub String);

impl From<BadCredentials> for io::Error {
    fn from(bad: BadCredentials) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, bad)
    }
}

/// Who is there does not let us in, or is not known to us: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoginRefused(pub String);

impl From<LoginRefused> for io::Error {
    fn from(refused: LoginRefused) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, refused)
    }
}

/// A Secret that was opened, with its name for errors.
pub struct Opened {
    name: String,
    secret: Secret,
}

impl Opened {
    pub async fn from(source: &Arc<dyn SecretSource>, name: &str) -> Result<Opened, BadCredentials> {
        let shown = |why: &str| BadCredentials(format!("Secret {SYSTEM_NAMESPACE}/{name}: {why}"));
        match source.secret(name).await {
            Ok(Some(secret)) => Ok(Opened { name: name.to_owned(), secret }),
            Ok(None) => Err(BadCredentials(format!("there is no Secret {SYSTEM_NAMESPACE}/{name}"))),
            Err(why) => Err(shown(&why)),
        }
    }

    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.secret.data.get(key).map(|value| value.expose())
    }

    /// `why` begins with a verb: `has no key ca.pem`.
    pub fn bad(&self, why: &str) -> BadCredentials {
        BadCredentials(format!("Secret {SYSTEM_NAMESPACE}/{} {why}", self.name))
    }
}

/// Why the way is not open to us, as far as an error says that.
pub enum Shut {
    Bad(BadCredentials),
    Refused(LoginRefused),
}

impl Shut {
    pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Shut> {
        let bad = behind::<BadCredentials>(error).cloned().map(Shut::Bad);
        bad.or_else(|| behind::<LoginRefused>(error).cloned().map(Shut::Refused))
    }
}

impl From<Shut> for io::Error {
    fn from(shut: Shut) -> io::Error {
        match shut {
            Shut::Bad(bad) => bad.into(),
            Shut::Refused(refused) => refused.into(),
        }
    }
}
