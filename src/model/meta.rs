//! Object metadata by the Kubernetes API conventions.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Key, Kind, Time};

/// Standard object metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Name of the object, unique within its namespace: a DNS label (RFC 1123), at most 63 characters.
    pub name: String,
    /// A prefix from which the server makes a unique name when `name` is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// The namespace of a namespaced object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Unique id, set by the server; a deleted and re-created object has another.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Opaque version of the object, for optimistic concurrency and watches; set by the server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Sequence number of the desired state, set by the server; labels and status do not raise it.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When the object was created; set by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// When deletion was asked for; set by the server. The object stays until its finalizers are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
    /// How many seconds it was given to end; set by the server, and always 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    /// Keys and values to select objects by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Keys and values that tools keep with the object.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Names of those that must finish before the object may go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub finalizers: Vec<String>,
    /// Objects that this one depends on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["uid"]))]
    pub owner_references: Vec<OwnerReference>,
    /// Which manager set which fields; written by the server.
    // Nothing typed reads it, and every decoding of every object would pay for it: it is skipped.
    #[serde(skip_serializing, deserialize_with = "skipped")]
    #[schemars(with = "Vec<ManagedFieldsEntry>")]
    pub managed_fields: (),
}

/// Passes over a value without building it.
fn skipped<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(d).map(|_| ())
}

/// An owner of an object, in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Its API group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its unique id: another object of that name is no owner.
    pub uid: String,
    /// Whether it is the one owner that manages this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether the owner is to wait for this object when it is deleted in the foreground.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl OwnerReference {
    /// The owner that it names in an object of this key. `None`: of no kind that is stored here, or in a namespace though
    /// the object is in none; nothing can be known of such an owner.
    pub fn key(&self, dependent: &Key) -> Option<Key> {
        let kind = Kind::from_api(&self.api_version, &self.kind)?;
        let reachable = !kind.info().namespaced || !dependent.namespace.is_empty();
        reachable.then(|| Key::new(kind, &dependent.namespace, &self.name))
    }
}

impl ObjectMeta {
    /// Whether it is being deleted and waits, by this finalizer, for what is done about its dependents.
    pub fn is_held_by(&self, finalizer: &str) -> bool {
        self.deletion_timestamp.is_some() && self.finalizers.iter().any(|f| f == finalizer)
    }
}

/// What one manager set of an object. Described here and read by the API alone: see [`ObjectMeta::managed_fields`].
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct ManagedFieldsEntry {
    /// The name of the manager: `fieldManager` of its requests, or the program that its User-Agent names.
    manager: String,
    /// How it set them: Apply (server-side apply) or Update (any other write).
    operation: String,
    /// The version of the kind that the fields are of.
    api_version: String,
    /// When the entry was last written.
    time: Option<Time>,
    /// FieldsV1, the only form that there is.
    fields_type: String,
    /// The fields, as nested objects: `f:NAME` a field, `k:{..}` the item of a list with these keys, `v:..` a value of
    /// a set, `.` the thing itself.
    fields_v1: BTreeMap<String, Value>,
    /// The subresource that they were set at; empty: the object itself.
    subresource: String,
}

/// A typed object: what controllers read. The API keeps objects as the user wrote them.
pub trait Resource: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    const KIND: Kind;
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    fn key(&self) -> Key {
        Key::new(Self::KIND, &self.meta().namespace, &self.meta().name)
    }
}

/// Declares `struct $name {apiVersion, kind, metadata, spec, status}` and its [`Resource`] implementation.
macro_rules! resource {
    ($(#[$doc:meta])* $name:ident, $kind:expr, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// The versioned schema of this object.
            #[serde(default)]
            pub api_version: String,
            /// The kind of this object.
            #[serde(default)]
            pub kind: String,
            /// Standard object metadata.
            #[serde(default)]
            pub metadata: $crate::model::ObjectMeta,
            /// What should be.
            #[serde(default)]
            pub spec: $spec,
            /// What is seen; written only by the controllers.
            #[serde(default)]
            pub status: $status,
        }

        $crate::model::meta::is_resource!($name, $kind);
    };
}
pub(crate) use resource;

/// Makes a type with a field `metadata` a [`Resource`] of a kind.
macro_rules! is_resource {
    ($name:ident, $kind:expr) => {
        impl $crate::model::Resource for $name {
            const KIND: $crate::model::Kind = $kind;
            fn meta(&self) -> &$crate::model::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut $crate::model::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use is_resource;

pub(crate) fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Whether a value is its type's default: such values are not written.
pub(crate) fn is_default<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}
