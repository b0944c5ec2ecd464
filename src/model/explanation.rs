//! Why an Instance is as it is: what it is meant to be and by which signal, and what comes next. Made when somebody asks,
//! never stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::{Condition, Phase, Time};

/// What an Instance is meant to be at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Wanted {
    /// Running, or on its way up.
    #[default]
    Awake,
    /// Paused, its memory kept.
    Frozen,
    /// Stopped, until it is used.
    Asleep,
    /// By `power: Stopped`, or because it is being deleted.
    Off,
}

/// Why an Instance is as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceExplanation {
    /// Where it is in its life.
    pub phase: Phase,
    /// The DockerHost that it is bound to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node: String,
    /// What it is meant to be at the moment.
    pub wanted: Wanted,
    /// Why that, in a sentence.
    pub because: String,
    /// What is known of its use, the latest first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signals: Vec<UseSignal>,
    /// What comes next when nothing else happens.
    pub next: NextStep,
    /// What keeps visitors from it at its host names, as far as that is known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub route_problems: Vec<RouteProblem>,
    /// What the controllers found out about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
}

/// One sign that somebody uses an Instance, or wishes it to sleep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UseSignal {
    /// Where it was seen: `proxy`, `exec`, `attach` and `port-forward` (open by the API), `busyCpu` and `busyCheck` (what came of
    /// asking), `schedule`, `wake` (asked for by hand), `sleep` (sent to sleep by hand), `record` (from before this server began).
    pub source: String,
    /// When.
    pub at: Time,
    /// What, in a few words.
    pub message: String,
}

/// What keeps visitors from an Instance at one of its host names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteProblem {
    /// The host name.
    pub host: String,
    /// In one word, as in the Event that tells of it: `SecretUnavailable`, `OwnerMissing`, `KeysUnavailable` and `ServiceUnavailable`
    /// let nobody in; `CertificateAwaited`, `CertificateRefused` and `CertificateHeldBack` are of its certificate by ACME.
    pub reason: String,
    /// The path of the field that it comes from; empty: of none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub field: String,
    /// What is wrong, in a sentence.
    pub message: String,
    /// Since when, as far as that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// When it is tried again; of what is tried only for a visitor, from when on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
}

/// What comes next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NextStep {
    /// When; none where it waits for something to happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// What, in a sentence.
    pub message: String,
}
