//! A kubeconfig for someone else: the same server, trusted by the same authorities, with their token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Connection;

/// A kubeconfig for kubectl and for this program, in which nothing of the maker's own credentials is.
pub fn with_token(connection: &Connection, user: &str, token: &str, namespace: &str) -> Value {
    let mut cluster = json!({
        "server": connection.server,
        "certificate-authority-data": STANDARD.encode(pem(connection)),
    });
    if let Some(name) = &connection.server_name {
        cluster["tls-server-name"] = name.as_str().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "portreeve", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "portreeve", "context": {"cluster": "portreeve", "user": user, "namespace": namespace}}],
        "current-context": "portreeve",
    })
}

fn pem(connection: &Connection) -> String {
    let mut text = String::new();
    for authority in &connection.authorities {
        let encoded = STANDARD.encode(authority);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            text.extend(line.iter().map(|b| char::from(*b)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
