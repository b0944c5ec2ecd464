//! Event: a core kind, served as Kubernetes serves it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::{is_default, is_resource};
use super::{Key, Kind, ObjectMeta, Time};

/// What happened to an object, for people. Repeats raise `count`; kept for about an hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The versioned schema of this object.
    #[serde(default)]
    pub api_version: String,
    /// The kind of this object.
    #[serde(default)]
    pub kind: String,
    /// Standard object metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The object that it happened to.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub involved_object: ObjectReference,
    /// Why, as one CamelCase word.
    #[serde(default)]
    pub reason: String,
    /// What, in a sentence.
    #[serde(default)]
    pub message: String,
    /// Normal or Warning.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// When it first happened, to the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_timestamp: Option<Time>,
    /// When it last happened, to the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_timestamp: Option<Time>,
    /// How often it has happened.
    #[serde(default)]
    pub count: i64,
    /// Who saw it; newer reporters tell reportingComponent and reportingInstance in place of this.
    #[serde(default)]
    pub source: EventSource,
    /// When it first happened, to the microsecond; newer reporters tell this in place of firstTimestamp.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Time")]
    pub event_time: String,
    /// How it went on, as newer reporters tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<EventSeries>,
    /// What was done, as one CamelCase word.
    #[serde(default, skip_serializing_if = "is_default")]
    pub action: String,
    /// Another object that had to do with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub related: Option<ObjectReference>,
    /// Who reports it: a name such as `example.com/controller`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reporting_component: String,
    /// Which of several of that name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reporting_instance: String,
}

/// A run of repeats of one event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EventSeries {
    /// How often, so far.
    pub count: i64,
    /// When last, to the microsecond.
    #[schemars(with = "Time")]
    #[serde(skip_serializing_if = "is_default")]
    pub last_observed_time: String,
}

is_resource!(Event, Kind::Event);

impl Event {
    /// When it last happened, by whatever its reporter tells, or else when it was told. A time that has not come yet is
    /// taken for none: such an Event would stay for good.
    pub fn last_heard(&self, now: Timestamp) -> Option<Timestamp> {
        let series = self.series.as_ref().map(|series| series.last_observed_time.as_str());
        let precise = [Some(self.event_time.as_str()), series].into_iter().flatten();
        let precise = precise.filter_map(|time| time.parse::<Timestamp>().ok());
        let coarse = [self.last_timestamp, self.first_timestamp, self.metadata.creation_timestamp];
        let coarse = coarse.into_iter().flatten().map(Time::timestamp);
        precise.chain(coarse).filter(|time| *time <= now).max()
    }
}

/// An object, as an Event points at it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Its API group and version: `portreeve.dev/v1`.
    #[serde(skip_serializing_if = "is_default")]
    pub api_version: String,
    /// Its kind.
    #[serde(skip_serializing_if = "is_default")]
    pub kind: String,
    /// Its namespace; empty for one of the whole cluster.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Its unique id: tells it from another that had the name before.
    #[serde(skip_serializing_if = "is_default")]
    pub uid: String,
    /// The version of it that the reporter had seen.
    #[serde(skip_serializing_if = "is_default")]
    pub resource_version: String,
    /// The part of it that is meant: `spec.containers{main}`.
    #[serde(skip_serializing_if = "is_default")]
    pub field_path: String,
}

impl ObjectReference {
    pub fn of(key: &Key, uid: &str) -> ObjectReference {
        ObjectReference {
            api_version: key.kind.api_version(),
            kind: key.kind.info().name.into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.into(),
            ..Default::default()
        }
    }
}

/// Who saw an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EventSource {
    /// The name of the program.
    #[serde(skip_serializing_if = "is_default")]
    pub component: String,
    /// The machine that it saw it on.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
}
