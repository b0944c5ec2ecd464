//! Where an instance may run, and what becomes of it when it cannot run there any more.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::{Span, Toleration};

/// Where the instance may run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The name of the one DockerHost to use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node: String,
    /// Labels that the DockerHost must have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of DockerHosts that do not keep the instance away.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// The key of a label of the instance. It is put where the fewest instances of its namespace are that have the same value
    /// of that label, and are spread by it as well: on another DockerHost each, as far as there are hosts that fit.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 317))]
    pub spread_by: String,
    /// What becomes of the instance while its DockerHost cannot be reached. Default: Wait.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_host_loss: OnHostLoss,
    /// How long its DockerHost must have been out of reach before an instance with onHostLoss Recreate is made anew
    /// elsewhere; at least 10s. Longer than a restart of a host should take. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_loss_after: Option<Span>,
}

/// What becomes of an instance while its DockerHost cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnHostLoss {
    /// Nothing; what runs there goes on when the host is back.
    #[default]
    Wait,
    /// After hostLossAfter it is made anew on another host, and the copy on the lost one is removed when that host is back;
    /// until then it may still run there. Only for instances that keep nothing on a host: volumes are refused, but for host
    /// paths that are readOnly.
    Recreate,
}

impl Placement {
    /// The label that it is spread by, of these; `None`: it is not, or has no such label.
    pub fn spread<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> Option<(&'a str, &'a str)> {
        labels.get_key_value(&self.spread_by).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// How long its host must have been lost before the instance is made anew elsewhere.
    pub fn host_loss_after(&self) -> Duration {
        self.host_loss_after.as_ref().map_or(Duration::from_secs(60), Span::duration)
    }
}
