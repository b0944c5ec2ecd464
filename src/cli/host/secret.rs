//! Credentials of hosts in Secrets instead of a directory on the control plane's machine: `host add --secret` and
//! `host rotate --secret` put there what `host certs` made. One write each, so that no reader sees half of it.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::client::JSON;
use super::super::error::{Error, Result};
use super::super::kinds::ResourceType;
use super::super::session::Session;
use super::super::url::with_query;
use super::keeping::CREDENTIALS;
use crate::model::{DockerHost, Kind, SYSTEM_NAMESPACE};
use crate::pki::files::read;

/// The manifest of a Secret with the credentials of a directory; `None` when there are none.
pub fn manifest(name: &str, directory: &Path) -> Result<Option<Value>> {
    let mut data = Map::new();
    for file in CREDENTIALS {
        let text = read(&directory.join(file)).map_err(|e| Error::failed(format!("{e}: {}", e.source)))?;
        if let Some(text) = text {
            data.insert(file.to_owned(), STANDARD.encode(text).into());
        }
    }
    let metadata = json!({"name": name, "namespace": SYSTEM_NAMESPACE});
    let object = |data| json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data});
    Ok((!data.is_empty()).then(|| object(data)))
}

/// Makes the Secret, or replaces what we had put into it.
pub async fn put(session: &Session, name: &str, manifest: &Value) -> Result<()> {
    let path = ResourceType::from(Kind::Secret).object(SYSTEM_NAMESPACE, name)?;
    let query = [("fieldManager", "portreeve-host"), ("force", "true"), ("fieldValidation", "Strict")];
    session.client.apply_patch(&with_query(&path, &query), manifest).await.map(drop)
}

/// The name of the Secret that the record of a host says.
pub async fn of_record(session: &Session, host: &str) -> Result<String> {
    let path = ResourceType::from(Kind::DockerHost).object("", host)?;
    let found = session.client.get(&path, JSON).await?;
    let found: DockerHost =
        serde_json::from_value(found).map_err(|e| Error::failed(format!("host {host:?} cannot be read: {e}")))?;
    let named = found.spec.tls.map(|tls| tls.secret).filter(|name| !name.is_empty());
    named.ok_or_else(|| Error::failed(format!("--secret: host {host:?} has no spec.tls.secret; nothing was changed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_calls_a_host_goes_into_the_secret_and_what_it_shows_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(manifest("w1", dir.path()).expect("read"), None);
        for file in ["ca.pem", "cert.pem", "key.pem", "previous-key.pem", "server.pem", "install.sh", "port"] {
            std::fs::write(dir.path().join(file), file).expect("written");
        }
        let made = manifest("w1", dir.path()).expect("read").expect("credentials");
        assert_eq!(made["metadata"], json!({"name": "w1", "namespace": "portreeve-system"}));
        let keys: Vec<&str> = made["data"].as_object().expect("data").keys().map(String::as_str).collect();
        assert_eq!(keys, ["ca.pem", "cert.pem", "key.pem", "previous-key.pem"]);
        assert_eq!(made["data"]["cert.pem"], STANDARD.encode("cert.pem"));
    }
}
