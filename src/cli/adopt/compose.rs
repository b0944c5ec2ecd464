//! A compose file, as far as it says which containers are meant: the project and its services. Nothing else of it is read.

use std::path::Path;

use serde_json::Value;

use super::super::error::{Error, Result};
use crate::model::HostContainer;

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub name: String,
    pub services: Vec<Service>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    /// `container_name`
    pub container: Option<String>,
}

/// Reads a file. `project`: its project's name, given by the user.
pub fn read(file: &Path, project: Option<&str>) -> Result<Project> {
    let shown = file.display();
    let bad = |e: std::io::Error| Error::failed(format!("{shown}: {e}"));
    if std::fs::metadata(file).map_err(bad)?.len() > MAX_FILE {
        return Err(Error::failed(format!("{shown}: larger than {MAX_FILE} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(bad)?;
    let whole = std::path::absolute(file).map_err(bad)?;
    let directory = whole.parent().and_then(Path::file_name).map(|d| d.to_string_lossy().into_owned());
    parse(&text, project, directory.as_deref().unwrap_or_default())
        .map_err(|why| Error::failed(format!("{shown}: {why}")))
}

fn parse(text: &str, project: Option<&str>, directory: &str) -> std::result::Result<Project, String> {
    let file: Value = serde_yaml::from_str(text).map_err(|e| format!("is no YAML: {e}"))?;
    let services = file.get("services").and_then(Value::as_object).ok_or("has no services")?;
    let services: Vec<Service> = services
        .iter()
        .map(|(name, service)| {
            let container = service.get("container_name").and_then(Value::as_str).map(str::to_owned);
            Service { name: name.clone(), container }
        })
        .collect();
    if services.is_empty() {
        return Err("has no services".to_owned());
    }
    let name = match (project, file.get("name").and_then(Value::as_str)) {
        (Some(given), _) => given.to_owned(),
        (None, Some(own)) if own.contains('$') => {
            return Err(format!("the project's name {own:?} has a variable; --project says what it stands for"));
        }
        (None, Some(own)) => own.to_owned(),
        (None, None) => normal(directory),
    };
    if name.is_empty() {
        return Err("the project has no name; --project gives it".to_owned());
    }
    Ok(Project { name, services })
}

/// A directory's name as compose makes a project's of it.
fn normal(directory: &str) -> String {
    let kept = directory.chars().map(|c| c.to_ascii_lowercase());
    let kept: String =
        kept.filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')).collect();
    kept.trim_start_matches(['-', '_']).to_owned()
}

/// Whether compose made this container for this service; a `container_name` must agree.
pub fn is_of(container: &HostContainer, project: &Project, service: &Service) -> bool {
    let label = |key: &str| container.labels.get(key).map(String::as_str);
    label(PROJECT) == Some(&project.name)
        && label(SERVICE) == Some(&service.name)
        && service.container.as_ref().is_none_or(|name| *name == container.name || name.contains('$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "services:\n  db:\n    image: postgres\n  web:\n    image: x\n    container_name: front\n";

    #[test]
    fn a_file_says_which_services_and_no_more() {
        let found = parse(FILE, None, "My.Shop_2").unwrap();
        let service = |name: &str, container: Option<&str>| Service {
            name: name.into(),
            container: container.map(str::to_owned),
        };
        assert_eq!(found.services, [service("db", None), service("web", Some("front"))]);
        assert_eq!(found.name, "myshop_2");
        assert_eq!(parse(&format!("name: own\n{FILE}"), None, "dir").unwrap().name, "own");
        assert_eq!(parse(&format!("name: own\n{FILE}"), Some("given"), "dir").unwrap().name, "given");
    }

    #[test]
    fn what_is_no_compose_file_is_refused() {
        for (text, why) in [
            ("[", "no YAML"),
            ("a: 1", "no services"),
            ("services: {}", "no services"),
            ("name: ${X}\nservices: {a: {}}", "variable"),
        ] {
            assert!(parse(text, None, "d").unwrap_err().contains(why), "{text}");
        }
        assert!(parse(FILE, None, "...").unwrap_err().contains("--project"));
    }
}
