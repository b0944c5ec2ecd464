//! The structural schemas of the kinds that are served and not stored: documents show them, and what clients send of them is
//! checked against them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::super::views::events_v1;
use super::super::views::metrics::{GROUP, VERSION};
use super::schemas::delete_options;
use super::words::{object, text};
use super::{metrics, views};
use crate::model::{self, Kind, schema};

/// Group and kind, and the schema with everything inlined.
static SCHEMAS: LazyLock<BTreeMap<(&'static str, &'static str), Value>> = LazyLock::new(|| {
    let reviews = [
        ("authentication.k8s.io", "SelfSubjectReview"),
        ("authorization.k8s.io", "SelfSubjectAccessReview"),
        ("authorization.k8s.io", "SelfSubjectRulesReview"),
    ];
    let streams = ["PodExecOptions", "PodAttachOptions", "PodPortForwardOptions"];
    let made = [
        (("", "Pod"), views::pod()),
        (("", "Node"), views::node()),
        (("", "Service"), views::service()),
        ((events_v1::GROUP, "Event"), events_v1::schema().clone()),
        (("coordination.k8s.io", "Lease"), views::lease()),
        (("policy", "Eviction"), eviction()),
        ((model::GROUP, "HostContainerList"), schema::host_containers().clone()),
        ((model::GROUP, "InstanceExplanation"), schema::explanation().clone()),
        ((GROUP, "PodMetrics"), metrics::pod()),
        ((GROUP, "NodeMetrics"), metrics::node()),
    ];
    let reviews = reviews.into_iter().filter_map(|(group, kind)| Some(((group, kind), views::review(kind)?)));
    let streams = streams.into_iter().filter_map(|kind| Some((("", kind), views::stream_options(kind)?)));
    let all = made.into_iter().chain(reviews).chain(streams);
    all.map(|((group, kind), schema)| ((group, kind), complete(group, kind, schema))).collect()
});

/// The schema of a kind that is served and not stored.
pub fn schema_of(group: &'static str, kind: &'static str) -> Option<&'static Value> {
    SCHEMAS.get(&(group, kind))
}

fn complete(group: &str, kind: &str, mut schema: Value) -> Value {
    let version = match group {
        "" => "v1".to_owned(),
        GROUP => format!("{GROUP}/{VERSION}"),
        group => format!("{group}/v1"),
    };
    schema["properties"]["apiVersion"] = text(&version);
    schema["properties"]["kind"] = text(kind);
    if !kind.ends_with("Options") {
        schema["properties"]["metadata"] = schema::schema(Kind::Namespace)["properties"]["metadata"].clone();
    }
    schema
}

fn eviction() -> Value {
    let mut options = delete_options();
    options["description"] = json!("How: its preconditions and dryRun count.");
    object(
        "Moves an Instance to another host; its data does not move, so that one with volumes stays (429).",
        [("deleteOptions", options)],
    )
}
