//! How it is found out whether an app is up: the probes of an Instance, their defaults and rules.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::validate::{quoted, unknown_port};
use super::{FieldError, FieldErrors, Instance, InstanceSpec, Span};

/// How to find out whether the app is up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probes {
    /// Passes once the app has started; requests are held until then. Default: a TCP connection to the first port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
}

/// One probe: exactly one of http and tcp.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// Passes when a GET is answered with a status below 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// Passes when the port accepts a connection and keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// How long the app may take in all before it counts as failed. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpProbe {
    /// The name of one of the instance's ports.
    pub port: String,
    /// Absolute path. Default: /
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TcpProbe {
    /// The name of one of the instance's ports.
    pub port: String,
}

impl InstanceSpec {
    pub fn startup_timeout(&self) -> Duration {
        self.probes.startup.as_ref().and_then(|p| p.timeout.as_ref()).map_or(Duration::from_secs(60), Span::duration)
    }
}

pub fn validate_probes(instance: &Instance, errors: &mut FieldErrors) {
    if let Some(probe) = &instance.spec.probes.startup {
        validate_probe(instance, "spec.probes.startup", probe, errors);
    }
}

fn validate_probe(instance: &Instance, path: &str, probe: &Probe, errors: &mut FieldErrors) {
    let port = match (&probe.http, &probe.tcp) {
        (Some(http), None) => {
            if !http.path.is_empty() && (!http.path.starts_with('/') || http.path.contains(char::is_whitespace)) {
                errors.push(FieldError::invalid(
                    format!("{path}.http.path"),
                    quoted(&http.path),
                    "must be an absolute path without white space",
                ));
            }
            ("http", &http.port)
        }
        (None, Some(tcp)) => ("tcp", &tcp.port),
        (None, None) => return errors.push(FieldError::required(path, "one of http and tcp")),
        (Some(_), Some(_)) => return errors.push(FieldError::forbidden(path, "only one of http and tcp may be set")),
    };
    unknown_port(instance, &format!("{path}.{}.port", port.0), port.1, errors);
}
