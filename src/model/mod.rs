//! The declarative model: pure types, their parsing and their validation. Uses nothing else of ours and does no I/O.
//!
//! Every other room speaks these types. What a user wrote is kept as written; defaults are applied by the methods
//! that read a field, never stored, so that `apply` and `diff` do not fight the server.

mod access_token;
mod adoption;
mod conditions;
mod container_labels;
mod docker_host;
mod endpoint;
mod env;
mod event;
mod explanation;
mod field_error;
mod host_access;
mod idle;
mod image_reference;
mod instance;
mod instance_status;
mod key;
mod label;
mod meta;
mod namespace;
mod placement;
mod probes;
mod quantity;
mod route;
mod route_auth;
mod route_path;
mod schedule;
pub mod schema;
mod secret;
mod subnet;
mod taint;
mod time;
mod validate;
mod validate_taints;
mod written;

pub use access_token::{AccessToken, AccessTokenSpec, AccessTokenStatus, Role, validate_access_token};
pub use adoption::{Adopt, Adopted, HostContainer, HostContainerList, RELEASE_ANNOTATION};
pub use conditions::{Condition, ConditionStatus, condition, is_true, set_condition};
pub use docker_host::{
    Allocation, CREDENTIALS_INVALID, Capacity, DAEMON_CHANGED, DAEMON_SHARED, DockerHost, DockerHostSpec,
    DockerHostStatus, HostSsh, HostTls, LOGIN_REFUSED, Overcommit, UNREACHABLE,
};
pub use endpoint::DaemonEndpoint;
pub use env::{EnvFrom, EnvVar, KeyRef, SourceRef, ValueFrom, is_variable_name};
pub use event::{Event, EventSeries, EventSource, ObjectReference};
pub use explanation::{InstanceExplanation, NextStep, RouteProblem, UseSignal, Wanted};
pub use field_error::{FieldError, FieldErrors, FieldReason, MOST_ERRORS};
pub use host_access::{HostAccess, HostGrant};
pub use idle::{BusyCheck, CpuShare, Idle, IgnoredRequest, WebSocketUse};
pub use instance::*;
pub use instance_status::*;
pub use key::{BadKey, GROUP, Key, Kind, KindInfo};
pub use label::{is_label_key, is_label_value, is_subdomain};
pub use meta::{ObjectMeta, OwnerReference, Resource};
pub use namespace::{
    NAMESPACE_FINALIZER, Namespace, NamespaceSpec, NamespaceStatus, SYSTEM_NAMESPACE, TERMINATING, namespace_use_mark,
};
pub use placement::{OnHostLoss, Placement};
pub use probes::{Check, ExecProbe, HttpProbe, Probe, Probes, StartupProbe, TcpProbe};
pub use quantity::{Quantity, Span};
pub use route::{Route, RoutePath};
pub use route_auth::{
    AuthMode, ForwardAuth, JwtAuth, RouteAuth, RouteLimits, SecretKey, TokenAuth, URL_PLACEHOLDER, is_askable,
};
pub use route_path::{RESERVED_PATH, normal_prefix};
pub use schedule::{Held, Keep, Stretch, end, held, next_awake, next_change, next_rest, rests_within};
pub use secret::{
    ConfigMap, DOCKER_CONFIG, OPAQUE, SealedSecret, Secret, SecretBytes, SecretText, validate_config_map,
    validate_secret,
};
pub use subnet::{Subnet, SubnetPool, SubnetSet};
pub use taint::{OUT_OF_SERVICE, Operator, Taint, TaintEffect, Toleration, untolerated};
pub use time::{MicroTime, Time};
pub use validate::{validate_docker_host, validate_host_name, validate_instance, validate_name};
pub use written::{Meaning, ParseError, Written};

/// The largest object that is stored, serialised, in bytes.
pub const MAX_OBJECT_BYTES: usize = 256 * 1024;
