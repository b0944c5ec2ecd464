//! `-o`: in which form objects go to stdout. Machines read stdout; talk goes to stderr.

use std::io::Write;
use std::str::FromStr;

use serde_json::{Value, json};

use super::error::{Error, Result};
use super::jsonpath::JsonPath;
use super::kinds::ResourceType;

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    #[default]
    Table,
    Wide,
    Object(ObjectFormat),
}

/// A form that shows objects themselves, not the server's table of them.
#[derive(Clone, Debug, PartialEq)]
pub enum ObjectFormat {
    Json,
    Yaml,
    Name,
    JsonPath(JsonPath),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Format, String> {
        match text {
            "table" => Ok(Format::Table),
            "wide" => Ok(Format::Wide),
            _ => text.parse().map(Format::Object),
        }
    }
}

impl FromStr for ObjectFormat {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<ObjectFormat, String> {
        match text.split_once('=') {
            Some(("jsonpath", template)) => template.parse().map(ObjectFormat::JsonPath).map_err(|e| format!("{e}")),
            _ => match text {
                "json" => Ok(ObjectFormat::Json),
                "yaml" => Ok(ObjectFormat::Yaml),
                "name" => Ok(ObjectFormat::Name),
                "jsonpath" => Err("jsonpath needs a template: jsonpath={.metadata.name}".into()),
                _ => Err("expected table, wide, json, yaml, name or jsonpath=TEMPLATE".into()),
            },
        }
    }
}

impl ObjectFormat {
    /// One object, or a List of them, with a line end unless a template says otherwise.
    pub fn render(&self, resource: Option<&ResourceType>, value: &Value) -> Result<String> {
        Ok(match self {
            ObjectFormat::Json => {
                let text = serde_json::to_string_pretty(&without_managed_fields(value));
                text.map_err(|e| Error::failed(e.to_string()))? + "\n"
            }
            ObjectFormat::Yaml => yaml(&without_managed_fields(value))?,
            ObjectFormat::Name => names(resource, value),
            ObjectFormat::JsonPath(template) => template.render(value),
        })
    }
}

/// YAML as kubectl prints it, ending in a line end.
pub fn yaml(value: &Value) -> Result<String> {
    let mut text = serde_yaml::to_string(value).map_err(|e| Error::failed(format!("cannot write as YAML: {e}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn names(resource: Option<&ResourceType>, value: &Value) -> String {
    if let Some(items) = value["items"].as_array() {
        return items.iter().map(|item| names(resource, item)).collect();
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    match resource {
        Some(resource) => format!("{}\n", resource.named(name)),
        None => {
            let kind = value["kind"].as_str().unwrap_or_default().to_lowercase();
            match value["apiVersion"].as_str().unwrap_or_default().split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{name}\n"),
                None => format!("{kind}/{name}\n"),
            }
        }
    }
}

/// Bookkeeping of server-side apply is for programs that ask the API themselves.
fn without_managed_fields(value: &Value) -> Value {
    let mut value = value.clone();
    let strip = |object: &mut Value| {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
    };
    strip(&mut value);
    value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
    value
}

/// Objects of any kinds as one.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// Writes to stdout and flushes, so that a reader of a pipe sees it at once.
pub fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn formats_are_told_by_their_names() {
        assert_eq!("wide".parse(), Ok(Format::Wide));
        assert_eq!("yaml".parse(), Ok(Format::Object(ObjectFormat::Yaml)));
        assert!("jsonpath={.a}".parse::<Format>().is_ok());
        for bad in ["jsonpath", "xml", "", "jsonpath={..a}"] {
            assert!(bad.parse::<Format>().is_err(), "{bad}");
        }
    }

    #[test]
    fn objects_are_shown_without_managed_fields_and_named_with_their_group() {
        let object = json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": "a", "managedFields": [1]}});
        let many = list(vec![object.clone()]);
        assert!(!ObjectFormat::Json.render(None, &many).unwrap().contains("managedFields"));
        assert!(!ObjectFormat::Yaml.render(None, &object).unwrap().contains("managedFields"));
        assert_eq!(ObjectFormat::Name.render(None, &many).unwrap(), "instance.portreeve.dev/a\n");
        let instance = ResourceType::from(Kind::Instance);
        assert_eq!(ObjectFormat::Name.render(Some(&instance), &object).unwrap(), "instance.portreeve.dev/a\n");
    }

    #[test]
    fn texts_that_look_like_other_types_stay_texts_in_yaml() {
        let object = json!({"a": "no", "b": "1", "c": "null", "d": "0777", "e": "1e3", "f": "~", "g": "a: b", "h": "line\nline\n", "i": "on", "j": ""});
        let text = yaml(&object).unwrap();
        assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap(), object, "{text}");
    }
}
