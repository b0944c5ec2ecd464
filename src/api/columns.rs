//! The columns of each kind's Table. Cells are ready to print.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ApiState, object};
use crate::cache::Cache;
use crate::model::Kind;

/// What a cell may tell besides the object itself.
#[derive(Clone)]
pub struct Facts {
    pub now: Timestamp,
    pub cache: Arc<Cache>,
}

impl Facts {
    pub fn of(state: &ApiState) -> Facts {
        Facts { now: state.clock.now(), cache: state.cache.clone() }
    }
}

/// One column. `wide` ones show only with `-o wide`.
pub struct Column {
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    wide: bool,
}

pub const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, description, wide: false }
}

pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, description, wide: true }
}

/// What stands for nothing: kubectl prints a null as blanks, in which columns cannot be told apart.
pub const NONE: &str = "<none>";
pub const NAME: Column = column("Name", "string", "Name of the object, unique within its namespace.");
pub const AGE: Column = column("Age", "string", "Time since the object was created.");

static INSTANCE: [Column; 11] = [
    NAME,
    column("Phase", "string", "Where the instance is in its life."),
    column("Ready", "string", "Whether requests are answered."),
    column("Node", "string", "The DockerHost that the instance is bound to."),
    column("Image", "string", "The image to run."),
    column("Last Active", "string", "Time since the instance was last used."),
    column("URL", "string", "The address to open in a browser."),
    AGE,
    wide("Ports", "string", "Ports of the app and the host ports bound to them."),
    wide("Restarts", "integer", "How often the container was started again after it had ended by itself."),
    wide("Memory", "string", "The memory limit."),
];
static DOCKER_HOST: [Column; 8] = [
    NAME,
    column("Ready", "string", "Whether the daemon answers."),
    column("Endpoint", "string", "Where the daemon listens."),
    column("Version", "string", "Version of the daemon."),
    column("Instances", "integer", "How many instances are bound to it."),
    AGE,
    wide("Memory", "string", "What instances reserve, of what they may in all."),
    wide("CPU", "string", "Cores that instances reserve, of those that there are."),
];
static NAMESPACE: [Column; 3] = [NAME, column("Status", "string", "Active or Terminating."), AGE];
static EVENT: [Column; 6] = [
    column("Last Seen", "string", "Time since it last happened."),
    column("Type", "string", "Normal or Warning."),
    column("Reason", "string", "Why, as one word."),
    column("Object", "string", "The object that it happened to."),
    column("Message", "string", "What happened."),
    wide("Count", "integer", "How often it happened."),
];
static ACCESS_TOKEN: [Column; 7] = [
    NAME,
    column("User", "string", "The name that its user goes by."),
    column("Role", "string", "What its user may do."),
    column("Namespaces", "string", "Where the role holds."),
    column("Expires", "string", "Time until it ends."),
    column("Last Used", "string", "Time since it was last used, to the hour."),
    AGE,
];

static SECRET: [Column; 4] = [
    NAME,
    column("Type", "string", "What the values are for."),
    column("Data", "integer", "How many values it holds."),
    AGE,
];
static CONFIG_MAP: [Column; 3] = [NAME, column("Data", "integer", "How many values it holds."), AGE];

pub fn of(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Instance => &INSTANCE,
        Kind::DockerHost => &DOCKER_HOST,
        Kind::Namespace => &NAMESPACE,
        Kind::Event => &EVENT,
        Kind::AccessToken => &ACCESS_TOKEN,
        Kind::Secret => &SECRET,
        Kind::ConfigMap => &CONFIG_MAP,
    }
}

pub fn definitions(columns: &[Column]) -> Value {
    let define = |c: &Column| {
        json!({
            "name": c.name, "type": c.kind, "format": if c.name == "Name" { "name" } else { "" },
            "description": c.description, "priority": i32::from(c.wide),
        })
    };
    columns.iter().map(define).collect()
}

/// The cells of one object, as many as the kind has columns.
pub fn cells(kind: Kind, object: &Value, facts: &Facts) -> Vec<Value> {
    let now = facts.now;
    let name = || Value::from(object::text(object, "name"));
    let age = || Value::from(since(object::text(object, "creationTimestamp"), now));
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let shown = |pointer: &str| match text(pointer) {
        "" => NONE.into(),
        text => text.into(),
    };
    let count = |field: &str| object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    match kind {
        Kind::Instance => vec![
            name(),
            if object::is_deleting(object) { "Terminating".into() } else { phase(text("/status/phase")) },
            ready(object),
            shown("/status/node"),
            shown("/spec/image"),
            since(text("/status/lastActive"), now).into(),
            shown("/status/url"),
            age(),
            ports(object),
            object.pointer("/status/restarts").cloned().unwrap_or_else(|| 0.into()),
            amount(object, "/spec/resources/memory").unwrap_or_else(|| "256Mi".into()),
        ],
        Kind::DockerHost => vec![
            name(),
            ready(object),
            shown("/spec/endpoint"),
            shown("/status/version"),
            facts.cache.on_node(object::text(object, "name")).len().into(),
            age(),
            reserved(object, "memory"),
            reserved(object, "cpu"),
        ],
        Kind::Namespace => vec![name(), shown("/status/phase"), age()],
        Kind::Secret => vec![name(), shown("/type"), count("data").into(), age()],
        Kind::ConfigMap => vec![name(), (count("data") + count("binaryData")).into(), age()],
        Kind::Event => {
            let seen = [
                "/series/lastObservedTime",
                "/lastTimestamp",
                "/firstTimestamp",
                "/eventTime",
                "/metadata/creationTimestamp",
            ];
            let last = seen.into_iter().map(&text).find(|t| !t.is_empty()).unwrap_or_default();
            let object_name =
                format!("{}/{}", text("/involvedObject/kind").to_lowercase(), text("/involvedObject/name"));
            vec![
                since(last, now).into(),
                shown("/type"),
                shown("/reason"),
                object_name.into(),
                text("/message").trim().into(),
                object.pointer("/series/count").or(object.get("count")).cloned().unwrap_or_else(|| 1.into()),
            ]
        }
        Kind::AccessToken => {
            let user = match text("/spec/user") {
                "" => name(),
                user => user.into(),
            };
            let expires = until(text("/status/expires"), now);
            let used = match text("/status/lastUsed") {
                "" => "never".into(),
                // It is written down once an hour: a nearer time would be made up.
                time if is_within_an_hour(time, now) => "<1h".to_owned(),
                time => since(time, now),
            };
            vec![name(), user, shown("/spec/role"), namespaces(object), expires.into(), used.into(), age()]
        }
    }
}

fn phase(text: &str) -> Value {
    if text.is_empty() { "Pending".into() } else { text.into() }
}

/// The status of the condition `Ready`.
fn ready(object: &Value) -> Value {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| c.get("type").is_some_and(|t| t == "Ready"));
    ready.and_then(|c| c.get("status")).cloned().unwrap_or_else(|| "Unknown".into())
}

/// A quantity, as it was written.
fn amount(object: &Value, pointer: &str) -> Option<Value> {
    match object.pointer(pointer)? {
        Value::String(text) => Some(text.clone().into()),
        Value::Number(n) => Some(n.to_string().into()),
        _ => None,
    }
}

/// What is reserved of a host, of what there is: `512Mi/4Gi`.
fn reserved(host: &Value, what: &str) -> Value {
    let amount =
        |part: &str| amount(host, &format!("/status/{part}/{what}")).and_then(|v| Some(v.as_str()?.to_owned()));
    match (amount("allocated"), amount("capacity")) {
        (None, None) => NONE.into(),
        (allocated, capacity) => {
            let shown = |amount: Option<String>| amount.unwrap_or_else(|| "?".into());
            format!("{}/{}", shown(allocated), shown(capacity)).into()
        }
    }
}

/// `web:80->30001,api:81`
fn ports(object: &Value) -> Value {
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let texts: Vec<String> = list("/spec/ports")
        .map(|port| {
            let name = port.get("name").and_then(Value::as_str).unwrap_or_default();
            let inner = port.get("containerPort").and_then(Value::as_i64).unwrap_or_default();
            let bound = list("/status/ports").find(|b| b.get("name").is_some_and(|n| n == name));
            match bound.and_then(|b| b.get("hostPort")).and_then(Value::as_i64) {
                Some(outer) => format!("{name}:{inner}->{outer}"),
                None => format!("{name}:{inner}"),
            }
        })
        .collect();
    if texts.is_empty() { NONE.into() } else { texts.join(",").into() }
}

/// Where an access token's role holds.
fn namespaces(object: &Value) -> Value {
    let list = object.pointer("/spec/namespaces").and_then(Value::as_array);
    let names: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
    if names.is_empty() { "<all>".into() } else { names.join(",").into() }
}

/// The time until an RFC 3339 time: `29d`, `expired`, or `never` without one.
fn until(text: &str, now: Timestamp) -> String {
    match text.parse::<Timestamp>() {
        Ok(then) if then <= now => "expired".into(),
        Ok(then) => human(then.as_second() - now.as_second()),
        Err(_) => "never".into(),
    }
}

/// Whether a time is less than an hour ago.
fn is_within_an_hour(text: &str, now: Timestamp) -> bool {
    text.parse::<Timestamp>().is_ok_and(|then| now.as_second() - then.as_second() < 3600)
}

/// The time since an RFC 3339 time, for people: `5m`, `3h12m`; `<none>` without one.
pub fn since(text: &str, now: Timestamp) -> String {
    match text.parse::<Timestamp>() {
        Ok(then) => human(now.as_second() - then.as_second()),
        Err(_) => NONE.into(),
    }
}

/// Two significant units at most, as kubectl prints ages.
fn human(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match s {
        ..=0 => "0s".into(),
        1..120 => format!("{s}s"),
        120..600 => pair(m, "m", s % 60, "s"),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => pair(h, "h", m % 60, "m"),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => pair(d, "d", h % 24, "h"),
        691_200..63_072_000 => format!("{d}d"),
        _ => pair(d / 365, "y", d % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_520, "3h12m"),
            (100_000, "27h"),
            (176_400, "2d1h"),
            (864_000, "10d"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        let facts = Facts { now: Timestamp::from_second(1_000_000).unwrap(), cache: Cache::new("localhost") };
        for kind in Kind::all() {
            assert_eq!(cells(kind, &json!({}), &facts).len(), of(kind).len(), "{kind}");
        }
    }
}
