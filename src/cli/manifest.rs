//! Reads manifests: YAML with any number of documents, or JSON, from files, directories or standard input.
//!
//! Everything is read and checked for its identity before anything is done with it, so that a mistake in the last file
//! leaves the server untouched.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{Error, Result};

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// One object as a user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Where it was read, for messages: `file.yaml (document 2)`.
    pub source: String,
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
    pub value: Value,
}

/// Reads all that `-f` names; `-` is standard input. No object at all is an error.
pub fn load(paths: &[PathBuf], recursive: bool) -> Result<Vec<Manifest>> {
    let mut manifests = vec![];
    for path in paths {
        if path.as_os_str() == "-" {
            manifests.extend(parse("standard input", &text("standard input", std::io::stdin().lock())?)?);
            continue;
        }
        for file in files(path, recursive)? {
            let name = file.display().to_string();
            let opened = std::fs::File::open(&file).map_err(|e| Error::failed(format!("cannot read {name}: {e}")))?;
            manifests.extend(parse(&name, &text(&name, opened)?)?);
        }
    }
    if manifests.is_empty() {
        return Err(Error::failed("no objects passed: the files hold none"));
    }
    Ok(manifests)
}

fn text(source: &str, reader: impl Read) -> Result<String> {
    let mut bytes = vec![];
    reader
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::failed(format!("cannot read {source}: {e}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::failed(format!("{source} has more than {MAX_FILE_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Error::failed(format!("{source} is not UTF-8")))
}

/// The file itself, or a directory's manifests by their endings, in the order of their names.
fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let cannot = |p: &Path, e: std::io::Error| Error::failed(format!("cannot read {}: {e}", p.display()));
    if !std::fs::metadata(path).map_err(|e| cannot(path, e))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries: std::io::Result<Vec<_>> = std::fs::read_dir(path).and_then(Iterator::collect);
    let mut entries: Vec<_> = entries.map_err(|e| cannot(path, e))?.iter().map(std::fs::DirEntry::path).collect();
    entries.sort();
    let mut found = vec![];
    for entry in entries {
        // a link to a directory is not followed: it could lead in a circle
        if entry.is_dir() && !entry.is_symlink() && recursive {
            found.extend(files(&entry, true)?);
        } else if entry.is_file() && entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.push(entry);
        }
    }
    Ok(found)
}

/// The objects of one text.
pub fn parse(source: &str, text: &str) -> Result<Vec<Manifest>> {
    let documents = documents(text).map_err(|e| Error::failed(format!("{source}: {e}")))?;
    let many = documents.len() > 1;
    let mut manifests = vec![];
    for (i, document) in documents.into_iter().enumerate() {
        let source = if many { format!("{source} (document {})", i + 1) } else { source.to_owned() };
        expand(&source, document, &mut manifests)?;
    }
    Ok(manifests)
}

fn documents(text: &str) -> std::result::Result<Vec<Value>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        let json: std::result::Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        // what begins with a brace may be YAML in flow style too
        if let Ok(values) = json {
            return Ok(values);
        }
    }
    let options = serde_yaml::options! { strict_booleans: true, ignore_binary_tag_for_string: true };
    serde_yaml::from_multiple_with_options::<Value>(text, options).map_err(|e| e.to_string())
}

fn expand(source: &str, value: Value, into: &mut Vec<Manifest>) -> Result<()> {
    let bad = |why: &str| Err(Error::failed(format!("{source}: {why}")));
    let text =
        |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned).filter(|s| !s.is_empty());
    if value.is_null() {
        return Ok(());
    }
    if !value.is_object() {
        return bad("a manifest is a mapping with apiVersion, kind and metadata");
    }
    let Some(api_version) = text("/apiVersion") else { return bad("apiVersion is not set") };
    let Some(kind) = text("/kind") else { return bad("kind is not set") };
    if kind.ends_with("List") && value["items"].is_array() {
        let Value::Array(items) = value["items"].clone() else { return Ok(()) };
        return items.into_iter().enumerate().try_for_each(|(i, v)| expand(&format!("{source}, items[{i}]"), v, into));
    }
    let Some(name) = text("/metadata/name") else {
        return bad(&format!("metadata.name of the {kind} is not set (generateName cannot be applied)"));
    };
    let namespace = text("/metadata/namespace");
    into.push(Manifest { source: source.to_owned(), api_version, kind, name, namespace, value });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {name: a}\n";

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let found = parse("x", &format!("# head\n---\n{ONE}---\n---\n{ONE}")).unwrap();
        assert_eq!(found.len(), 2);
        let list = format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[{0},{0}]}} "#,
            r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n","namespace":"m"}}"#
        );
        let found = parse("x", &list).unwrap();
        assert_eq!((found.len(), found[1].source.as_str()), (2, "x, items[1]"));
        assert_eq!(found[0].namespace.as_deref(), Some("m"));
    }

    #[test]
    fn yaml_texts_keep_their_types() {
        let found =
            parse("x", &format!("{ONE}spec: {{a: no, b: \"1\", c: 1, d: true, e: 1.5, f: null, g: 500m}}")).unwrap();
        assert_eq!(
            found[0].value["spec"],
            serde_json::json!({"a": "no", "b": "1", "c": 1, "d": true, "e": 1.5, "f": null, "g": "500m"})
        );
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, expected) in [
            ("a: [", "x: "),
            ("- a", "mapping"),
            ("kind: A", "apiVersion is not set"),
            ("apiVersion: v1", "kind is not set"),
            ("apiVersion: v1\nkind: A\nmetadata: {}", "metadata.name of the A"),
            ("apiVersion: v1\nkind: A\nkind: B\nmetadata: {name: a}", "duplicate"),
            (&format!("{ONE}---\nkind: A"), "x (document 2): apiVersion"),
        ] {
            let error = parse("x", text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_directory_gives_its_manifests_in_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for (file, name) in [("b.yml", "b"), ("a.yaml", "a"), ("sub/c.json", "c")] {
            std::fs::write(dir.path().join(file), ONE.replace("name: a", &format!("name: {name}"))).unwrap();
        }
        std::fs::write(dir.path().join("README.md"), "not a manifest").unwrap();
        let names = |recursive| -> Vec<String> {
            load(&[dir.path().to_owned()], recursive).unwrap().into_iter().map(|m| m.name).collect()
        };
        assert_eq!(names(false), ["a", "b"]);
        assert_eq!(names(true), ["a", "b", "c"]);
        let missing = load(&[dir.path().join("none.yaml")], false).unwrap_err().to_string();
        assert!(missing.contains("none.yaml"), "{missing}");
    }
}
