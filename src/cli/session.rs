//! What every verb that speaks to the server begins with: the client and the namespace.

use std::time::Duration;

use super::args::Global;
use super::client::{Client, REQUEST_TIMEOUT};
use super::error::{Error, Result};
use super::kubeconfig::{Connection, Lookup, load};
use crate::model::validate_name;

pub struct Session {
    pub client: Client,
    /// The namespace to use where none is written.
    pub namespace: String,
    /// Whether the namespace was given on the command line: then manifests must agree with it.
    pub namespace_given: bool,
}

impl Session {
    /// Reads the kubeconfig; does not connect yet.
    pub fn open(global: &Global) -> Result<Session> {
        Session::over(global, &connection(global)?)
    }

    /// The same over a connection that was read already.
    pub fn over(global: &Global, connection: &Connection) -> Result<Session> {
        let timeout = global.request_timeout.as_ref().map_or(REQUEST_TIMEOUT, |t| t.duration());
        // kubectl's notation for "no limit"
        let timeout = if timeout.is_zero() { Duration::from_secs(u64::from(u32::MAX)) } else { timeout };
        let client = Client::new(connection, timeout)?;
        let namespace = global.namespace.clone().unwrap_or_else(|| connection.namespace.clone());
        if let Some(e) = validate_name("namespace", &namespace) {
            return Err(Error::usage(e.to_string()));
        }
        Ok(Session { client, namespace, namespace_given: global.namespace.is_some() })
    }
}

/// The connection of the kubeconfig and context asked for.
pub fn connection(global: &Global) -> Result<Connection> {
    let files = Lookup::from_environment(global.kubeconfig.clone()).files()?;
    load(&files, global.context.as_deref())
}
