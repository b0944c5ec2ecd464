//! What the messages of Kubernetes' protobuf are made of, as far as clients send them to us.
//!
//! Source: `generated.proto` of k8s.io/api and k8s.io/apimachinery.

/// How a field is written in JSON.
#[derive(Clone, Copy)]
pub enum Shape {
    Text,
    Integer,
    /// A number that is not set where it is zero: Go writes it always.
    Count,
    /// `{1 seconds}`
    Time,
    Message(&'static [Field]),
    /// `{1 seconds, 2 nanoseconds}`, told to the microsecond
    MicroTime,
    Flag,
    /// JSON as bytes: `{1 raw}`
    Json,
    /// Repeated `{1 key, 2 value}` of texts.
    TextMap,
    /// As that, of a text and bytes, which are base64 in JSON.
    BytesMap,
}

pub struct Field {
    pub number: u64,
    pub name: &'static str,
    pub shape: Shape,
    pub repeated: bool,
}

const fn one(number: u64, name: &'static str, shape: Shape) -> Field {
    Field { number, name, shape, repeated: false }
}

const fn many(number: u64, name: &'static str, shape: Shape) -> Field {
    Field { number, name, shape, repeated: true }
}

static OBJECT_META: [Field; 14] = [
    one(1, "name", Shape::Text),
    one(2, "generateName", Shape::Text),
    one(3, "namespace", Shape::Text),
    one(5, "uid", Shape::Text),
    one(6, "resourceVersion", Shape::Text),
    one(7, "generation", Shape::Count),
    one(8, "creationTimestamp", Shape::Time),
    one(9, "deletionTimestamp", Shape::Time),
    one(10, "deletionGracePeriodSeconds", Shape::Integer),
    one(11, "labels", Shape::TextMap),
    one(12, "annotations", Shape::TextMap),
    many(13, "ownerReferences", Shape::Message(&OWNER)),
    many(14, "finalizers", Shape::Text),
    many(17, "managedFields", Shape::Message(&MANAGED)),
];
static OWNER: [Field; 6] = [
    one(1, "kind", Shape::Text),
    one(3, "name", Shape::Text),
    one(4, "uid", Shape::Text),
    one(5, "apiVersion", Shape::Text),
    one(6, "controller", Shape::Flag),
    one(7, "blockOwnerDeletion", Shape::Flag),
];
static MANAGED: [Field; 7] = [
    one(1, "manager", Shape::Text),
    one(2, "operation", Shape::Text),
    one(3, "apiVersion", Shape::Text),
    one(4, "time", Shape::Time),
    one(6, "fieldsType", Shape::Text),
    one(7, "fieldsV1", Shape::Json),
    one(8, "subresource", Shape::Text),
];
static SECRET: [Field; 5] = [
    one(1, "metadata", Shape::Message(&OBJECT_META)),
    one(2, "data", Shape::BytesMap),
    one(3, "type", Shape::Text),
    one(4, "stringData", Shape::TextMap),
    one(5, "immutable", Shape::Flag),
];
static CONFIG_MAP: [Field; 4] = [
    one(1, "metadata", Shape::Message(&OBJECT_META)),
    one(2, "data", Shape::TextMap),
    one(3, "binaryData", Shape::BytesMap),
    one(4, "immutable", Shape::Flag),
];
static NAMESPACE: [Field; 2] =
    [one(1, "metadata", Shape::Message(&OBJECT_META)), one(2, "spec", Shape::Message(&NAMESPACE_SPEC))];
static NAMESPACE_SPEC: [Field; 1] = [many(1, "finalizers", Shape::Text)];
static EVENT: [Field; 15] = [
    one(1, "metadata", Shape::Message(&OBJECT_META)),
    one(2, "involvedObject", Shape::Message(&REFERENCE)),
    one(3, "reason", Shape::Text),
    one(4, "message", Shape::Text),
    one(5, "source", Shape::Message(&SOURCE)),
    one(6, "firstTimestamp", Shape::Time),
    one(7, "lastTimestamp", Shape::Time),
    one(8, "count", Shape::Count),
    one(9, "type", Shape::Text),
    one(10, "eventTime", Shape::MicroTime),
    one(11, "series", Shape::Message(&SERIES)),
    one(12, "action", Shape::Text),
    one(13, "related", Shape::Message(&REFERENCE)),
    one(14, "reportingComponent", Shape::Text),
    one(15, "reportingInstance", Shape::Text),
];
/// The Event of `events.k8s.io`.
static NEW_EVENT: [Field; 15] = [
    one(1, "metadata", Shape::Message(&OBJECT_META)),
    one(2, "eventTime", Shape::MicroTime),
    one(3, "series", Shape::Message(&SERIES)),
    one(4, "reportingController", Shape::Text),
    one(5, "reportingInstance", Shape::Text),
    one(6, "action", Shape::Text),
    one(7, "reason", Shape::Text),
    one(8, "regarding", Shape::Message(&REFERENCE)),
    one(9, "related", Shape::Message(&REFERENCE)),
    one(10, "note", Shape::Text),
    one(11, "type", Shape::Text),
    one(12, "deprecatedSource", Shape::Message(&SOURCE)),
    one(13, "deprecatedFirstTimestamp", Shape::Time),
    one(14, "deprecatedLastTimestamp", Shape::Time),
    one(15, "deprecatedCount", Shape::Count),
];
static SERIES: [Field; 2] = [one(1, "count", Shape::Count), one(2, "lastObservedTime", Shape::MicroTime)];
static REFERENCE: [Field; 7] = [
    one(1, "kind", Shape::Text),
    one(2, "namespace", Shape::Text),
    one(3, "name", Shape::Text),
    one(4, "uid", Shape::Text),
    one(5, "apiVersion", Shape::Text),
    one(6, "resourceVersion", Shape::Text),
    one(7, "fieldPath", Shape::Text),
];
static SOURCE: [Field; 2] = [one(1, "component", Shape::Text), one(2, "host", Shape::Text)];
/// Without its status, which nobody writes.
static NODE: [Field; 2] =
    [one(1, "metadata", Shape::Message(&OBJECT_META)), one(2, "spec", Shape::Message(&NODE_SPEC))];
static NODE_SPEC: [Field; 3] = [
    one(3, "providerID", Shape::Text),
    one(4, "unschedulable", Shape::Flag),
    many(5, "taints", Shape::Message(&TAINT)),
];
static TAINT: [Field; 4] = [
    one(1, "key", Shape::Text),
    one(2, "value", Shape::Text),
    one(3, "effect", Shape::Text),
    one(4, "timeAdded", Shape::Time),
];
static REVIEW: [Field; 1] = [one(1, "metadata", Shape::Message(&OBJECT_META))];
static ACCESS_REVIEW: [Field; 2] =
    [one(1, "metadata", Shape::Message(&OBJECT_META)), one(2, "spec", Shape::Message(&ACCESS_SPEC))];
static ACCESS_SPEC: [Field; 2] = [
    one(1, "resourceAttributes", Shape::Message(&RESOURCE_ATTRIBUTES)),
    one(2, "nonResourceAttributes", Shape::Message(&NON_RESOURCE_ATTRIBUTES)),
];
static RULES_REVIEW: [Field; 1] = [one(2, "spec", Shape::Message(&RULES_SPEC))];
static RULES_SPEC: [Field; 1] = [one(1, "namespace", Shape::Text)];
static RESOURCE_ATTRIBUTES: [Field; 7] = [
    one(1, "namespace", Shape::Text),
    one(2, "verb", Shape::Text),
    one(3, "group", Shape::Text),
    one(4, "version", Shape::Text),
    one(5, "resource", Shape::Text),
    one(6, "subresource", Shape::Text),
    one(7, "name", Shape::Text),
];
static NON_RESOURCE_ATTRIBUTES: [Field; 2] = [one(1, "path", Shape::Text), one(2, "verb", Shape::Text)];
static DELETE_OPTIONS: [Field; 4] = [
    one(1, "gracePeriodSeconds", Shape::Integer),
    one(2, "preconditions", Shape::Message(&PRECONDITIONS)),
    one(4, "propagationPolicy", Shape::Text),
    many(5, "dryRun", Shape::Text),
];
static EVICTION: [Field; 2] =
    [one(1, "metadata", Shape::Message(&OBJECT_META)), one(2, "deleteOptions", Shape::Message(&DELETE_OPTIONS))];
static PRECONDITIONS: [Field; 2] = [one(1, "uid", Shape::Text), one(2, "resourceVersion", Shape::Text)];
/// `{1 typeMeta {1 apiVersion, 2 kind}, 2 raw}`, but for `raw`, which is read by hand.
pub static TYPE_META: [Field; 2] = [one(1, "apiVersion", Shape::Text), one(2, "kind", Shape::Text)];

/// The fields of a kind.
pub fn of(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    Some(match (api_version, kind) {
        ("events.k8s.io/v1", "Event") => &NEW_EVENT,
        (_, "Event") => &EVENT,
        (_, "Namespace") => &NAMESPACE,
        (_, "Node") => &NODE,
        (_, "Secret") => &SECRET,
        (_, "ConfigMap") => &CONFIG_MAP,
        (_, "SelfSubjectReview") => &REVIEW,
        (_, "SelfSubjectAccessReview") => &ACCESS_REVIEW,
        (_, "SelfSubjectRulesReview") => &RULES_REVIEW,
        (_, "DeleteOptions") => &DELETE_OPTIONS,
        (_, "Eviction") => &EVICTION,
        _ => return None,
    })
}
