//! `portreeve explain` and `schema`: what a kind's fields mean, from the schema that the server validates with. Asks no
//! server: it is the same program.

use clap::Args;
use serde_json::{Map, Value};

use super::error::{Error, Exit, Result};
use super::kinds::known;
use super::output::print;
use crate::model::{Kind, schema};

/// Explain a kind or one of its fields.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve explain inst
  portreeve explain inst.spec.idle
  portreeve explain dockerhost.spec.capacity.memory")]
pub struct ExplainArgs {
    /// The kind, and the path of the field
    #[arg(value_name = "KIND[.FIELD]")]
    pub path: String,
}

/// Print the JSON Schema of a kind, for editors and linters.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve schema instance > instance.schema.json")]
pub struct SchemaArgs {
    /// The kind
    pub kind: String,
}

pub fn explain(args: &ExplainArgs) -> Result<Exit> {
    let mut names = args.path.split('.');
    let kind = kind(names.next().unwrap_or_default())?;
    let path: Vec<&str> = names.collect();
    print(&page(kind, &path)?)?;
    Ok(Exit::Done)
}

pub fn print_schema(args: &SchemaArgs) -> Result<Exit> {
    let schema = schema::schema(kind(&args.kind)?);
    let text = serde_json::to_string_pretty(schema).map_err(|e| Error::failed(e.to_string()))?;
    print(&format!("{text}\n"))?;
    Ok(Exit::Done)
}

fn kind(word: &str) -> Result<Kind> {
    let all = || Kind::all().map(|k| k.info().plural).collect::<Vec<_>>().join(", ");
    known(word).ok_or_else(|| Error::failed(format!("there is no kind {word:?}; there are: {}", all())))
}

/// The page of a field; of the whole kind when the path is empty.
fn page(kind: Kind, path: &[&str]) -> Result<String> {
    let mut node = schema::schema(kind);
    for (i, name) in path.iter().enumerate() {
        node = fields(node).and_then(|f| f.get(*name)).ok_or_else(|| {
            let parent = if i == 0 { kind.to_string() } else { path[..i].join(".") };
            let there = fields(node).map(|f| f.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default();
            let there = if there.is_empty() { "it has no fields".into() } else { format!("it has: {there}") };
            Error::failed(format!("{parent} has no field {name:?}; {there}"))
        })?;
    }
    let mut out = format!("KIND:     {kind}\nVERSION:  {}\n", kind.api_version());
    if !path.is_empty() {
        out.push_str(&format!("FIELD:    {} <{}>\n", path.join("."), type_of(node)));
    }
    out.push_str(&format!("\nDESCRIPTION:\n{}", indented(&description(node), 4)));
    if let Some(fields) = fields(node).filter(|f| !f.is_empty()) {
        let required = item(node)["required"].as_array().cloned().unwrap_or_default();
        out.push_str("\nFIELDS:\n");
        for (name, field) in fields {
            let must = if required.iter().any(|r| r == name) { " -required-" } else { "" };
            out.push_str(&format!("  {name} <{}>{must}\n{}", type_of(field), indented(&description(field), 4)));
        }
    }
    Ok(out)
}

/// A list's fields are those of its items.
fn item(node: &Value) -> &Value {
    if node["items"].is_object() { &node["items"] } else { node }
}

fn fields(node: &Value) -> Option<&Map<String, Value>> {
    item(node)["properties"].as_object()
}

fn description(node: &Value) -> String {
    let mut text = node["description"].as_str().unwrap_or("").to_owned();
    let values: Vec<_> = node["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // With their meanings they are in the description already.
    if !values.is_empty() && !text.contains(schema::MEANINGS) {
        text.push_str(&format!("\nOne of: {}.", values.join(", ")));
    }
    text
}

fn type_of(node: &Value) -> String {
    if node["items"].is_object() {
        return format!("[]{}", type_of(&node["items"]));
    }
    if node["additionalProperties"].is_object() {
        return format!("map[string]{}", type_of(&node["additionalProperties"]));
    }
    match (node["format"].as_str(), node["type"].as_str()) {
        (Some(format @ ("quantity" | "duration" | "date-time")), _) => format.into(),
        (_, Some("object")) => "Object".into(),
        (_, Some(name)) => name.into(),
        (_, None) => "any".into(),
    }
}

fn indented(text: &str, by: usize) -> String {
    text.lines().filter(|l| !l.is_empty()).map(|l| format!("{}{l}\n", " ".repeat(by))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_type_meaning_and_fields() {
        let shown = page(Kind::Instance, &["spec", "idle"]).unwrap();
        assert!(
            shown.starts_with("KIND:     Instance\nVERSION:  portreeve.dev/v1\nFIELD:    spec.idle <Object>\n"),
            "{shown}"
        );
        assert!(shown.contains("  after <duration>\n    Time without use"), "{shown}");
        let ports = page(Kind::Instance, &["spec", "ports"]).unwrap();
        assert!(ports.contains("<[]Object>") && ports.contains("  containerPort <integer> -required-\n"), "{ports}");
        let power = page(Kind::Instance, &["spec", "power"]).unwrap();
        let stopped = "    Possible enum values:\n     - `\"Auto\"`: Sleeps when idle, and wakes on the next request.\n     - `\"Running\"`";
        assert!(power.contains(stopped) && !power.contains("One of:"), "{power}");
        let keep = page(Kind::Instance, &["spec", "idle", "webSockets"]).unwrap();
        assert!(keep.contains(" - `\"Messages\"`: The messages that pass, either way;"), "{keep}");
        assert!(keep.contains(" - `\"Open\"`: That it is open."), "{keep}");
        let mode = page(Kind::Instance, &["spec", "routes", "auth", "mode"]).unwrap();
        assert!(mode.contains(" - `\"JWT\"`: The owner, by a signed token of an issuer."), "{mode}");
        assert!(page(Kind::Instance, &["spec", "resources", "memory"]).unwrap().contains("<quantity>"));
    }

    #[test]
    fn every_value_that_users_write_is_explained_and_none_is_lost() {
        fn unexplained(path: &str, node: &Value, found: &mut Vec<String>) {
            let node = item(node);
            let text = description(node);
            for value in node["enum"].as_array().into_iter().flatten() {
                if !text.contains(&format!(" - `{value}`: ")) {
                    found.push(format!("{path}: {value}"));
                }
            }
            for (name, field) in fields(node).into_iter().flatten() {
                unexplained(&format!("{path}.{name}"), field, found);
            }
        }
        for kind in [Kind::Instance, Kind::DockerHost, Kind::AccessToken] {
            let mut found = vec![];
            unexplained("spec", &schema::schema(kind)["properties"]["spec"], &mut found);
            assert_eq!(found, [""; 0], "{kind}: values without a meaning");
        }
        let wanted = &schema::explanation()["properties"]["wanted"]["enum"];
        assert_eq!(*wanted, serde_json::json!(["Awake", "Frozen", "Asleep", "Off"]));
    }

    #[test]
    fn a_field_that_is_not_there_is_told_with_those_that_are() {
        let error = page(Kind::Instance, &["spec", "idle", "before"]).unwrap_err().to_string();
        let has = "after, busyCheck, busyCpu, freezeAfter, ignore, schedule, webSockets";
        assert_eq!(error, format!("spec.idle has no field \"before\"; it has: {has}"));
        assert!(kind("gadget").unwrap_err().to_string().contains("instances"));
    }

    #[test]
    fn every_field_that_users_write_is_explained() {
        fn unexplained(path: &str, node: &Value, found: &mut Vec<String>) {
            for (name, field) in fields(node).into_iter().flatten() {
                let path = format!("{path}.{name}");
                if description(field).is_empty() {
                    found.push(path.clone());
                }
                unexplained(&path, field, found);
            }
        }
        for kind in [Kind::Instance, Kind::DockerHost] {
            let mut found = vec![];
            unexplained("spec", &schema::schema(kind)["properties"]["spec"], &mut found);
            assert_eq!(found, [""; 0], "{kind}: fields without a description");
        }
    }
}
