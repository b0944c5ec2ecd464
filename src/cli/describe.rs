//! `portreeve describe`: one object for reading: what it is, what it should be, what is seen, what happened.

use clap::Args;
use serde_json::Value;

use super::client::{Client, JSON};
use super::error::{Error, Exit, Result};
use super::kinds::ResourceType;
use super::merge::LAST_APPLIED;
use super::output::print;
use super::selection::select;
use super::session::Session;
use super::table::{Layout, printable};
use super::url::with_query;
use crate::clock::SystemClock;
use crate::model::{Kind, Time};

/// Show objects in detail, with their conditions and events.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve describe inst alice
  portreeve describe dh/local
  portreeve describe inst")]
pub struct DescribeArgs {
    /// Kind and names: `inst alice`, `dh/local`; without a name all of the kind
    #[arg(value_name = "KIND [NAME]", required = true)]
    pub targets: Vec<String>,
}

pub async fn run(args: &DescribeArgs, session: &Session) -> Result<Exit> {
    let client = &session.client;
    let now = SystemClock::new().now().into();
    let (mut pages, mut exit) = (vec![], Exit::Done);
    for selection in select(client, &args.targets).await? {
        let resource = &selection.resource;
        let mut objects = vec![];
        if selection.names.is_empty() {
            let list = client.get(&resource.collection(Some(&session.namespace)), JSON).await?;
            objects.extend(list["items"].as_array().cloned().unwrap_or_default());
        }
        for name in &selection.names {
            match client.get(&resource.object(&session.namespace, name)?, JSON).await {
                Ok(object) => objects.push(object),
                Err(e @ Error::Server(_)) => {
                    e.report();
                    exit = Exit::Failed;
                }
                Err(e) => return Err(e),
            }
        }
        for object in objects {
            let events = events(client, resource, &object).await?;
            pages.push(page(&object, &events, now));
        }
    }
    if pages.is_empty() && exit == Exit::Done {
        eprintln!("No resources found in {} namespace.", session.namespace);
    }
    print(&pages.join("\n\n"))?;
    Ok(exit)
}

/// What happened to an object, oldest first. Cluster-scoped objects have their events in `default`.
async fn events(client: &Client, resource: &ResourceType, object: &Value) -> Result<Vec<Value>> {
    let meta = &object["metadata"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let namespace = meta["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or("default");
    let selector = format!(
        "involvedObject.kind={},involvedObject.name={},involvedObject.uid={}",
        resource.kind,
        text(&meta["name"]),
        text(&meta["uid"])
    );
    let collection = ResourceType::from(Kind::Event).collection(Some(namespace));
    let found = client.get(&with_query(&collection, &[("fieldSelector", &selector)]), JSON).await;
    let mut events = match found {
        Ok(list) => list["items"].as_array().cloned().unwrap_or_default(),
        // the object is worth showing without them
        Err(Error::Server(e)) => {
            eprintln!("Warning: its events cannot be listed: {}", e.message);
            vec![]
        }
        Err(e) => return Err(e),
    };
    events.sort_by_key(|e| text(&e["lastTimestamp"]));
    Ok(events)
}

/// The page of one object. Pure.
fn page(object: &Value, events: &[Value], now: Time) -> String {
    let meta = &object["metadata"];
    let mut rows = vec![row("Name:", show(&meta["name"]))];
    if meta["namespace"].is_string() {
        rows.push(row("Namespace:", show(&meta["namespace"])));
    }
    rows.extend(pairs("Labels:", &meta["labels"]));
    rows.extend(pairs("Annotations:", &meta["annotations"]));
    rows.push(row("API Version:", show(&object["apiVersion"])));
    rows.push(row("Kind:", show(&object["kind"])));
    rows.push(row("Created:", since(&meta["creationTimestamp"], now)));
    if meta["deletionTimestamp"].is_string() {
        rows.push(row("Deleting since:", since(&meta["deletionTimestamp"], now)));
        rows.push(row("Waits for:", show(&meta["finalizers"])));
    }
    let mut out = Layout::default().lines(&rows);
    for part in ["spec", "status"] {
        if object[part].as_object().is_some_and(|o| o.keys().any(|k| k != "conditions")) {
            out.push_str(&format!("{}:\n", title(part)));
            tree(&object[part], 1, &mut out);
        }
    }
    out.push_str(&conditions(&object["status"]["conditions"], now));
    out.push_str(&happened(events, now));
    out
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

fn pairs(name: &str, map: &Value) -> Vec<Vec<String>> {
    let shown = map.as_object().into_iter().flatten().filter(|(k, _)| *k != LAST_APPLIED);
    let mut rows: Vec<_> = shown.map(|(k, v)| row("", format!("{k}={}", show(v)))).collect();
    match rows.first_mut() {
        Some(first) => first[0] = name.to_owned(),
        None => rows.push(row(name, "<none>".into())),
    }
    rows
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A value as indented `Key: value` lines; `conditions` has a table of its own.
fn tree(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for (key, value) in value.as_object().into_iter().flatten().filter(|(k, _)| *k != "conditions" || depth > 1) {
        let name = title(key);
        match value {
            Value::Object(map) if map.is_empty() => {}
            Value::Object(_) => {
                out.push_str(&format!("{indent}{name}:\n"));
                tree(value, depth + 1, out);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out.push_str(&format!("{indent}{name}:\n"));
                for item in items {
                    let mut inner = String::new();
                    tree(item, depth + 2, &mut inner);
                    // the first line of an item carries its dash
                    out.push_str(&inner.replacen(&"  ".repeat(depth + 2), &format!("{indent}  - "), 1));
                }
            }
            value => out.push_str(&format!("{indent}{name}: {}\n", show(value))),
        }
    }
}

/// `hostPort` as `Host Port`, `containerID` as `Container ID`. Keys that are no field names (env, labels) stay.
fn title(key: &str) -> String {
    if !key.chars().all(|c| c.is_ascii_alphanumeric()) || key.starts_with(|c: char| !c.is_ascii_lowercase()) {
        return printable(key);
    }
    let mut out = String::new();
    let mut after_lower = false;
    for (i, c) in key.chars().enumerate() {
        if i == 0 {
            out.push(c.to_ascii_uppercase());
        } else {
            if c.is_ascii_uppercase() && after_lower {
                out.push(' ');
            }
            out.push(c);
        }
        after_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    out
}

fn conditions(value: &Value, now: Time) -> String {
    let Some(items) = value.as_array().filter(|i| !i.is_empty()) else { return String::new() };
    let mut rows = vec![["  TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"].map(str::to_owned).to_vec()];
    rows.extend(items.iter().map(|c| {
        let since = age(&c["lastTransitionTime"], now);
        vec![format!("  {}", show(&c["type"])), show(&c["status"]), since, show(&c["reason"]), show(&c["message"])]
    }));
    format!("Conditions:\n{}", Layout::default().lines(&rows))
}

fn happened(events: &[Value], now: Time) -> String {
    if events.is_empty() {
        return "Events: <none>\n".into();
    }
    let mut rows = vec![["  TYPE", "REASON", "AGE", "FROM", "MESSAGE"].map(str::to_owned).to_vec()];
    rows.extend(events.iter().map(|e| {
        let mut age_ = age(&e["lastTimestamp"], now);
        if let Some(count) = e["count"].as_i64().filter(|n| *n > 1) {
            age_ = format!("{age_} (x{count} over {})", age(&e["firstTimestamp"], now));
        }
        vec![
            format!("  {}", show(&e["type"])),
            show(&e["reason"]),
            age_,
            show(&e["source"]["component"]),
            show(&e["message"]),
        ]
    }));
    format!("Events:\n{}", Layout::default().lines(&rows))
}

pub fn since(value: &Value, now: Time) -> String {
    match value.as_str() {
        Some(text) => format!("{text} ({} ago)", age(value, now)),
        None => "<none>".into(),
    }
}

fn age(value: &Value, now: Time) -> String {
    let then = value.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    then.map_or_else(|| "<unknown>".into(), |then| short(now.timestamp().as_second() - then.as_second()))
}

/// A length of time in at most two units, as kubectl shows ages.
pub fn short(seconds: i64) -> String {
    let s = seconds.max(0);
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    let two = |big: i64, big_unit: &str, small: i64, unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{unit}"),
    };
    match () {
        () if s < 120 => format!("{s}s"),
        () if m < 10 => two(m, "m", s % 60, "s"),
        () if h < 3 => format!("{m}m"),
        () if h < 8 => two(h, "h", m % 60, "m"),
        () if d < 2 => format!("{h}h"),
        () if d < 8 => two(d, "d", h % 24, "h"),
        () => format!("{d}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_shows_what_is_wanted_seen_and_happened() {
        let object = json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance",
            "metadata": {
                "name": "alice", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {LAST_APPLIED: "{}", "portreeve.dev/wake": "x"},
            },
            "spec": {"image": "app:1", "ports": [{"name": "web", "containerPort": 80}], "resources": {}},
            "status": {
                "phase": "Running", "containerID": "c1",
                "conditions": [{"type": "Ready", "status": "True", "reason": "Up", "message": "", "lastTransitionTime": "2026-01-01T00:00:05Z"}],
            },
        });
        let events = [json!({
            "type": "Normal", "reason": "Started", "message": "Started the container", "count": 3,
            "firstTimestamp": "2026-01-01T00:00:04Z", "lastTimestamp": "2026-01-01T00:01:00Z", "source": {"component": "portreeve"},
        })];
        let now: jiff::Timestamp = "2026-01-01T00:01:40Z".parse().unwrap();
        let expected = "\
Name:          alice
Namespace:     default
Labels:        <none>
Annotations:   portreeve.dev/wake=x
API Version:   portreeve.dev/v1
Kind:          Instance
Created:       2026-01-01T00:00:00Z (100s ago)
Spec:
  Image: app:1
  Ports:
    - Container Port: 80
      Name: web
Status:
  Container ID: c1
  Phase: Running
Conditions:
  TYPE    STATUS   SINCE   REASON   MESSAGE
  Ready   True     95s     Up
Events:
  TYPE     REASON    AGE                 FROM        MESSAGE
  Normal   Started   40s (x3 over 96s)   portreeve   Started the container
";
        assert_eq!(page(&object, &events, now.into()), expected);
    }

    #[test]
    fn ages_are_as_short_as_kubectls() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (30 * 3600, "30h"),
            (49 * 3600, "2d1h"),
            (9 * 86_400, "9d"),
        ] {
            assert_eq!(short(seconds), text, "{seconds}");
        }
    }
}
