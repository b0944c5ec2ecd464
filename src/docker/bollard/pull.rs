//! Pulls: one at a time of each reference, shared by all who want it.
//!
//! A daemon says 200 and puts what went wrong into the stream of progress; and it may take minutes, so only silence
//! counts against it. When the last one waiting goes away, the connection closes and the daemon gives the pull up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ::bollard::Docker;
use ::bollard::auth::DockerCredentials;
use ::bollard::errors::Error;
use ::bollard::query_parameters::CreateImageOptions;
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use super::BollardEngine;
use super::progress::Progress;
use crate::docker::engine::{EngineError, EngineErrorKind, EngineResult};
use crate::docker::login::Login;
use crate::docker::{classify, gate, reference, timeouts};

const OP: &str = "pull image";

type Pull = BoxFuture<'static, EngineResult<()>>;
type Running = Shared<Pull>;
/// Kept without holding the pull up; and what it said last.
type Known = (WeakShared<Pull>, watch::Receiver<String>);

/// The image's reference, and the fingerprint of the login.
type Wanted = (String, Option<[u8; 32]>);

/// A daemon loads three layers at once; more pulls only share them.
const AT_ONCE: usize = 4;

/// The pulls under way, by reference and login: nobody gets an image by another's login, or is refused for it.
/// Finished ones are swept when the next begins.
pub struct Pulls {
    running: Mutex<HashMap<Wanted, Known>>,
    turns: Arc<Semaphore>,
}

impl Default for Pulls {
    fn default() -> Pulls {
        Pulls { running: Mutex::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Pulls {
    /// The running pull of this reference, or a new one.
    fn join(&self, docker: &Docker, image: &str, login: Option<&Login>) -> (Running, watch::Receiver<String>) {
        let mut running = self.running.lock().expect("no panic while held");
        running.retain(|_, (pull, _)| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        let key = (image.to_owned(), login.map(fingerprint));
        if let Some((pull, progress)) = running.get(&key)
            && let Some(pull) = pull.upgrade()
        {
            return (pull, progress.clone());
        }
        let (say, progress) = watch::channel(String::new());
        let (docker, wanted, turns) = (docker.clone(), image.to_owned(), self.turns.clone());
        let login = login.cloned();
        let pull = async move {
            let _turn = turns.acquire().await.expect("never closed");
            pull(docker, wanted, login, say).await
        };
        let pull = pull.boxed().shared();
        if let Some(weak) = pull.downgrade() {
            running.insert(key, (weak, progress.clone()));
        }
        (pull, progress)
    }
}

/// Tells logins apart without keeping them.
fn fingerprint(login: &Login) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [&login.server, &login.username, login.password.expose(), login.identity_token.expose()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn credentials(login: &Login) -> DockerCredentials {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    DockerCredentials {
        username: given(&login.username),
        password: given(login.password.expose()),
        serveraddress: given(&login.server),
        identitytoken: given(login.identity_token.expose()),
        ..DockerCredentials::default()
    }
}

async fn pull(docker: Docker, image: String, login: Option<Login>, say: watch::Sender<String>) -> EngineResult<()> {
    let options = CreateImageOptions { from_image: Some(image.clone()), ..CreateImageOptions::default() };
    let mut steps = docker.create_image(Some(options), None, login.as_ref().map(credentials));
    let mut told = Progress::default();
    loop {
        match tokio::time::timeout(timeouts::PULL_IDLE, steps.next()).await {
            Err(_) => return Err(gate::timed_out(OP, &image, timeouts::PULL_IDLE)),
            Ok(None) => break,
            Ok(Some(Err(e))) => return Err(classify::error(OP, &image, &e)),
            Ok(Some(Ok(step))) => {
                let bytes = step.progress_detail.and_then(|d| Some((d.current?, d.total.unwrap_or_default())));
                say.send_replace(told.hear(step.id.as_deref(), &step.status.unwrap_or_default(), bytes));
            }
        }
    }
    // A stream that was cut, or an error in words that the library does not know, ends like a success.
    match tokio::time::timeout(timeouts::QUICK, docker.inspect_image(&image)).await {
        Err(_) => Err(gate::timed_out(OP, &image, timeouts::QUICK)),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Err(EngineError {
            op: OP,
            object: image,
            kind: EngineErrorKind::Server,
            message: "the pull ended, but the image is not there".to_owned(),
        }),
        Ok(Err(e)) => Err(classify::error(OP, &image, &e)),
    }
}

impl BollardEngine {
    pub(super) async fn shared_pull(
        &self,
        image: &str,
        login: Option<&Login>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> EngineResult<()> {
        reference::check_image(OP, image)?;
        // A pull may take minutes: whether the daemon is there at all is asked first, within the gate's limits.
        self.quick(OP, image, self.docker.ping()).await?;
        let (mut pull, mut said) = self.pulls.join(&self.docker, &reference::image(image), login);
        let mut talking = true;
        loop {
            tokio::select! {
                result = &mut pull => return result,
                news = said.changed(), if talking => match news {
                    Ok(()) => progress(said.borrow_and_update().clone()),
                    Err(_) => talking = false,
                },
            }
        }
    }
}
