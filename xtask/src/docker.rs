//! What the chores ask of a Docker daemon, over its unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http::{Answer, Request};

/// One daemon.
pub struct Docker {
    pub socket: PathBuf,
}

/// Kinds of things that carry labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    Container,
    Network,
    Volume,
}

impl Docker {
    pub fn at(socket: impl AsRef<Path>) -> Docker {
        Docker { socket: socket.as_ref().to_owned() }
    }

    /// Whether the daemon answers, else why not.
    pub fn ping(&self) -> Result<()> {
        let request = Request { timeout: Duration::from_secs(2), ..Request::get("/_ping") };
        expect(request.over_unix(&self.socket)?, 200).map(drop)
    }

    /// Loads an archive as `docker save` writes it.
    pub fn load(&self, archive: &[u8]) -> Result<()> {
        self.long("POST", "/v1.41/images/load?quiet=1", "application/x-tar", archive).context("loading an image")
    }

    pub fn pull(&self, repository: &str, tag: &str) -> Result<()> {
        self.long("POST", &format!("/v1.41/images/create?fromImage={repository}&tag={tag}"), "", b"")
    }

    pub fn push(&self, repository: &str, tag: &str) -> Result<()> {
        // it wants to know who we are; a pull would leave this unread, and reset the connection for it
        self.long("POST", &format!("/v1.41/images/{repository}/push?tag={tag}"), "application/json", b"{}")
    }

    /// A call whose end is told in the stream of its progress.
    fn long(&self, method: &str, target: &str, content_type: &str, body: &[u8]) -> Result<()> {
        let request = Request { method, content_type, body, timeout: Duration::from_secs(120), ..Request::get(target) };
        let answer = expect(request.over_unix(&self.socket)?, 200)?;
        // the status comes before the work: errors are in the stream
        let text = answer.text();
        if text.contains("\"errorDetail\"") {
            bail!("{method} {target}: {text}");
        }
        Ok(())
    }

    pub fn has_image(&self, reference: &str) -> Result<bool> {
        let target = format!("/v1.41/images/{reference}/json");
        match Request::get(&target).over_unix(&self.socket)? {
            Answer { status: 404, .. } => Ok(false),
            answer => expect(answer, 200).map(|_| true),
        }
    }

    /// Removes an image; one that is not there, or still in use, is left.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        self.delete(&format!("/v1.41/images/{reference}"))
    }

    /// Ids (volumes: names) of everything with this label: a key, or `key=value`.
    pub fn labelled(&self, object: Object, label: &str) -> Result<Vec<String>> {
        let filters = encode(&serde_json::json!({ "label": [label] }).to_string());
        let target = match object {
            Object::Container => format!("/v1.41/containers/json?all=1&filters={filters}"),
            Object::Network => format!("/v1.41/networks?filters={filters}"),
            Object::Volume => format!("/v1.41/volumes?filters={filters}"),
        };
        let answer = expect(Request::get(&target).over_unix(&self.socket)?, 200)?;
        let json: Value = serde_json::from_slice(&answer.body).context("reading the daemon's answer")?;
        let (list, field) = match object {
            Object::Container | Object::Network => (&json, "Id"),
            Object::Volume => (&json["Volumes"], "Name"),
        };
        Ok(list.as_array().into_iter().flatten().filter_map(|o| o[field].as_str()).map(str::to_owned).collect())
    }

    pub fn remove(&self, object: Object, id: &str) -> Result<()> {
        self.delete(&match object {
            Object::Container => format!("/v1.41/containers/{id}?force=1&v=1"),
            Object::Network => format!("/v1.41/networks/{id}"),
            Object::Volume => format!("/v1.41/volumes/{id}"),
        })
    }

    /// Any other call, with a JSON body if there is one; what it answers, `Null` for nothing.
    pub fn call(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request {
            method,
            content_type: if body.is_empty() { "" } else { "application/json" },
            body: body.as_bytes(),
            ..Request::get(target)
        };
        match request.over_unix(&self.socket)? {
            Answer { status: 200..=299, body } if body.is_empty() => Ok(Value::Null),
            Answer { status: 200..=299, body } => serde_json::from_slice(&body).context("reading the daemon's answer"),
            answer => bail!("{method} {target}: {}: {}", answer.status, answer.text()),
        }
    }

    /// What is gone already is fine.
    fn delete(&self, target: &str) -> Result<()> {
        let request = Request { method: "DELETE", timeout: Duration::from_secs(60), ..Request::get(target) };
        match request.over_unix(&self.socket)? {
            Answer { status: 200..=299 | 404, .. } => Ok(()),
            answer => bail!("DELETE {target}: {}: {}", answer.status, answer.text()),
        }
    }
}

fn expect(answer: Answer, status: u16) -> Result<Answer> {
    if answer.status != status {
        bail!("the Docker daemon answered {}: {}", answer.status, answer.text());
    }
    Ok(answer)
}

/// Percent-encodes a query value.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
