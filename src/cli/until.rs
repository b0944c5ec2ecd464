//! Waits until an object is as it should be: reads it, then follows its watch; reads it again whenever the watch ends.
//!
//! Level-triggered: every look is at the whole object, so no event can be missed and none is acted upon twice.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, JSON};
use super::error::{Error, Result};
use super::kinds::ResourceType;
use super::table::printable;
use super::url::with_query;

/// How long one watch lasts before it is begun anew, in seconds: long enough to be quiet, short enough for proxies.
const WATCH_SECONDS: &str = "240";
/// Between the end of one watch and the next look, so that a server which ends watches at once is not run over.
const PAUSE: Duration = Duration::from_millis(250);

/// The object to wait for.
pub struct Target<'a> {
    pub resource: &'a ResourceType,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Target<'_> {
    pub fn path(&self) -> Result<String> {
        self.resource.object(self.namespace, self.name)
    }

    pub fn display(&self) -> String {
        self.resource.named(self.name)
    }
}

/// What a look at the object told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Done,
    /// Not yet; what it is instead, for the progress line and the message of a timeout.
    NotYet(String),
}

/// Looks until `check` says done. `check` gets `None` when there is no such object. Exits by `Error::TimedOut`, which
/// names what was seen last.
pub async fn until(
    client: &Client,
    target: &Target<'_>,
    timeout: Duration,
    mut check: impl FnMut(Option<&Value>) -> Result<Seen>,
) -> Result<()> {
    let mut progress = Progress::new(target.display());
    let mut last = String::from("nothing seen yet");
    let outcome = {
        let look = |object: Option<&Value>| -> Result<bool> {
            match check(object)? {
                Seen::Done => Ok(true),
                Seen::NotYet(state) => {
                    progress.show(&state);
                    last = state;
                    Ok(false)
                }
            }
        };
        tokio::time::timeout(timeout, follow(client, target, look)).await
    };
    drop(progress);
    outcome.unwrap_or_else(|_| {
        let seconds = timeout.as_secs_f64();
        Err(Error::TimedOut(format!("timed out after {seconds}s waiting for {}: {last}", target.display())))
    })
}

async fn follow(
    client: &Client,
    target: &Target<'_>,
    mut look: impl FnMut(Option<&Value>) -> Result<bool>,
) -> Result<()> {
    let path = target.path()?;
    let field = format!("metadata.name={}", target.name);
    let collection = target.resource.collection(Some(target.namespace));
    loop {
        let found = match client.get(&path, JSON).await {
            Ok(object) => Some(object),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e),
        };
        if look(found.as_ref())? {
            return Ok(());
        }
        let version = found.as_ref().and_then(|o| o["metadata"]["resourceVersion"].as_str()).unwrap_or("");
        // without a version the watch begins with what there is, so a creation in between is not missed
        let mut query = vec![("watch", "true"), ("fieldSelector", field.as_str()), ("timeoutSeconds", WATCH_SECONDS)];
        if !version.is_empty() {
            query.push(("resourceVersion", version));
        }
        let mut stream = client.stream(&with_query(&collection, &query), JSON).await?;
        // a watch that breaks is begun anew; if the server is gone for good, the next read says so
        while let Ok(Some(line)) = stream.line().await {
            let Ok(event) = serde_json::from_slice::<Value>(&line) else { break };
            let done = match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => look(Some(&event["object"]))?,
                Some("DELETED") => look(None)?,
                Some("BOOKMARK") => false,
                _ => break,
            };
            if done {
                return Ok(());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One line on stderr that is rewritten; nothing when stderr is no terminal.
struct Progress {
    name: String,
    terminal: bool,
}

impl Progress {
    fn new(name: String) -> Progress {
        Progress { name, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, state: &str) {
        if self.terminal {
            let line: String = printable(&format!("{}: {state}", self.name)).chars().take(160).collect();
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
