//! What is shown of the stored records: the records themselves, or a view of another kind made from them.
//!
//! Lists, watches and Tables are the same for all, so that a view is one projection and a set of columns.

mod events;
pub mod events_v1;
pub mod eviction;
pub mod leases;
pub mod metrics;
mod node_owners;
pub mod nodes;
mod pod_spec;
pub mod pods;

use serde_json::Value;

use super::ApiState;
use super::columns::{self, Facts};
use super::error::{ApiError, Subject};
use super::{object, selector};
use crate::model::{Key, Kind};

pub use events::aliased;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Records(Kind),
    /// Instances as core/v1 Pods.
    Pods,
    /// DockerHosts as core/v1 Nodes.
    Nodes,
    /// Events as events.k8s.io/v1.
    EventsV1,
    /// DockerHosts as Leases.
    Leases,
    /// core/v1 Services, of which there are none: `kubectl cluster-info` asks for them.
    Services,
    /// Instances that run, with what they use. Before it is measured, the Pod.
    PodMetrics,
    /// DockerHosts, with what the instances on them use. Before it is measured, the Node.
    NodeMetrics,
}

impl View {
    /// The kind of the records behind it.
    pub fn source(self) -> Kind {
        match self {
            View::Records(kind) => kind,
            View::Pods | View::PodMetrics => Kind::Instance,
            View::EventsV1 => Kind::Event,
            // None is shown; the few hosts are the cheapest to pass over.
            View::Nodes | View::NodeMetrics | View::Leases | View::Services => Kind::DockerHost,
        }
    }

    /// The kind that clients see.
    pub fn kind(self) -> &'static str {
        match self {
            View::Records(kind) => kind.info().name,
            View::Pods => "Pod",
            View::EventsV1 => "Event",
            View::Nodes => "Node",
            View::Leases => "Lease",
            View::Services => "Service",
            View::PodMetrics => "PodMetrics",
            View::NodeMetrics => "NodeMetrics",
        }
    }

    pub fn api_version(self) -> String {
        match self {
            View::Records(kind) => kind.api_version(),
            View::Pods | View::Nodes | View::Services => "v1".into(),
            View::EventsV1 => format!("{}/{}", events_v1::GROUP, events_v1::VERSION),
            View::Leases => "coordination.k8s.io/v1".into(),
            View::PodMetrics | View::NodeMetrics => format!("{}/{}", metrics::GROUP, metrics::VERSION),
        }
    }

    pub fn subject(self, name: &str) -> Subject {
        let (group, plural) = match self {
            View::Records(kind) => return Subject::of(kind, name),
            View::Pods => return Subject::pod(name),
            View::Nodes => ("", "nodes"),
            View::EventsV1 => (events_v1::GROUP, "events"),
            View::Leases => ("coordination.k8s.io", "leases"),
            View::Services => ("", "services"),
            View::PodMetrics => (metrics::GROUP, "pods"),
            View::NodeMetrics => (metrics::GROUP, "nodes"),
        };
        Subject { group, plural, kind: self.kind(), name: name.to_owned() }
    }

    /// An error of the record, told of what was asked for.
    fn told(self, error: ApiError, name: &str) -> ApiError {
        if error.code() == http::StatusCode::NOT_FOUND { ApiError::not_found(&self.subject(name)) } else { error }
    }

    /// The one namespace that everything of it is in, when its records have none.
    fn home(self) -> Option<&'static str> {
        match self {
            View::Leases => Some(leases::NAMESPACE),
            View::Records(_)
            | View::Pods
            | View::Nodes
            | View::EventsV1
            | View::Services
            | View::PodMetrics
            | View::NodeMetrics => None,
        }
    }

    /// The record as this view shows it in a namespace (`None`: in all); `None` when it shows nothing of it.
    pub fn show(self, record: Value, namespace: Option<&str>, facts: &Facts) -> Option<Value> {
        if let (Some(home), Some(asked)) = (self.home(), namespace)
            && home != asked
        {
            return None;
        }
        match self {
            View::Records(_) => Some(record),
            View::Pods | View::PodMetrics => pods::project(&record),
            View::Nodes | View::NodeMetrics => nodes::project(&record, facts.now),
            View::EventsV1 => Some(events_v1::project(record)),
            View::Leases => leases::project(&record, facts.now),
            View::Services => None,
        }
    }

    /// The field paths that may be selected by.
    pub fn selectable(self) -> &'static [&'static str] {
        match self {
            View::Records(kind) => selector::selectable(kind),
            View::Pods | View::PodMetrics => pods::SELECTABLE,
            View::Nodes | View::NodeMetrics => nodes::SELECTABLE,
            View::EventsV1 => events_v1::SELECTABLE,
            View::Leases => leases::SELECTABLE,
            View::Services => &["metadata.name", "metadata.namespace"],
        }
    }

    pub fn column_definitions(self) -> Value {
        columns::definitions(match self {
            View::Records(kind) => columns::of(kind),
            View::Pods => &pods::COLUMNS,
            View::Nodes => &nodes::COLUMNS,
            View::EventsV1 => columns::of(Kind::Event),
            View::Leases => &leases::COLUMNS,
            View::Services => &[columns::NAME, columns::AGE],
            View::PodMetrics | View::NodeMetrics => &metrics::COLUMNS,
        })
    }

    pub fn cells(self, object: &Value, facts: &Facts) -> Vec<Value> {
        match self {
            View::Records(kind) => columns::cells(kind, object, facts),
            View::Pods => pods::cells(object, facts.now),
            View::Nodes => nodes::cells(object, facts.now),
            View::EventsV1 => columns::cells(Kind::Event, &events_v1::as_record(object.clone()), facts),
            View::Leases => leases::cells(object, facts.now),
            View::Services => vec![],
            View::PodMetrics | View::NodeMetrics => metrics::cells(object),
        }
    }
}

/// What a view shows under a name, or 404.
pub async fn fetch(state: &ApiState, view: View, namespace: Option<&str>, name: &str) -> Result<Value, ApiError> {
    let missing = || ApiError::not_found(&view.subject(name));
    let key = Key::new(view.source(), namespace.unwrap_or_default(), name);
    let record = state.store.get(&key.to_string()).await?.ok_or_else(missing)?;
    let record = object::decode(view.source(), &record)?;
    view.show(record, namespace, &Facts::of(state)).ok_or_else(missing)
}
