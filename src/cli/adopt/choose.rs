//! Which of a host's containers are meant: by name or id, by label, or as the services of a compose file. Pure.

use super::super::error::{Error, Result};
use super::AdoptArgs;
use super::compose::{self, Project};
use crate::model::HostContainer;

/// The fewest digits of an id that are taken for one.
const LEAST_OF_ID: usize = 4;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Names(Vec<String>),
    /// Keys, with their values where those matter.
    Labels(Vec<(String, Option<String>)>),
    Services(Project),
}

impl Wanted {
    /// `None`: nothing was chosen.
    pub fn of(args: &AdoptArgs) -> Result<Option<Wanted>> {
        let ways = [!args.containers.is_empty(), !args.selector.is_empty(), args.filename.is_some()];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Err(Error::usage("choose by names, by -l or by -f, by one of them"));
        }
        if let Some(file) = &args.filename {
            return compose::read(file, args.project.as_deref()).map(Wanted::Services).map(Some);
        }
        if !args.selector.is_empty() {
            let label = |text: &String| match text.split_once('=') {
                Some(("", _)) => Err(Error::usage(format!("-l {text:?}: expected KEY=VALUE or KEY"))),
                Some((key, value)) => Ok((key.to_owned(), Some(value.to_owned()))),
                None => Ok((text.clone(), None)),
            };
            return args.selector.iter().map(label).collect::<Result<_>>().map(Wanted::Labels).map(Some);
        }
        Ok((!args.containers.is_empty()).then(|| Wanted::Names(args.containers.clone())))
    }
}

/// A container that is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<'a> {
    pub container: &'a HostContainer,
}

/// Finds them; each that was named must be there, and none is taken twice.
pub fn choose<'a>(wanted: &Wanted, all: &'a [HostContainer]) -> Result<Vec<Chosen<'a>>> {
    let mut found: Vec<&HostContainer> = vec![];
    match wanted {
        Wanted::Names(names) => {
            for name in names {
                let one = by_name(name, all)?;
                if !found.iter().any(|c| c.container_id == one.container_id) {
                    found.push(one);
                }
            }
        }
        Wanted::Labels(labels) => {
            let has = |c: &&HostContainer| {
                let fits = |value: &String, wanted: &Option<String>| wanted.as_ref().is_none_or(|w| w == value);
                labels.iter().all(|(key, wanted)| c.labels.get(key).is_some_and(|value| fits(value, wanted)))
            };
            found.extend(all.iter().filter(has));
            if found.is_empty() {
                return Err(Error::failed("no container has these labels"));
            }
        }
        Wanted::Services(project) => {
            for service in &project.services {
                let of = |c: &&HostContainer| compose::is_of(c, project, service);
                let before = found.len();
                found.extend(all.iter().filter(of));
                if found.len() == before {
                    let why =
                        format!("the service {:?} of the project {:?} has no container", service.name, project.name);
                    return Err(Error::failed(why));
                }
            }
        }
    }
    Ok(found.into_iter().map(|container| Chosen { container }).collect())
}

/// By its whole name, else by its id or the beginning of it, if that means just one.
fn by_name<'a>(name: &str, all: &'a [HostContainer]) -> Result<&'a HostContainer> {
    if let Some(found) = all.iter().find(|c| c.name == name) {
        return Ok(found);
    }
    let id = name.len() >= LEAST_OF_ID && name.bytes().all(|b| b.is_ascii_hexdigit());
    let begins: Vec<_> = all.iter().filter(|c| id && c.container_id.starts_with(&name.to_ascii_lowercase())).collect();
    match begins.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::failed(format!("no container {name:?} on the host that is not Portreeve's already"))),
        _ => Err(Error::failed(format!("{name:?} is the beginning of several ids"))),
    }
}

/// A container's name as that of an Instance: a DNS label.
pub fn fit_name(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let all: String = name.chars().map(fit).take(63).collect();
    all.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::compose::Service;
    use super::*;

    fn container(name: &str, id: &str, labels: &[(&str, &str)]) -> HostContainer {
        HostContainer {
            name: name.into(),
            container_id: id.into(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..HostContainer::default()
        }
    }

    fn names(wanted: &Wanted, all: &[HostContainer]) -> std::result::Result<Vec<String>, String> {
        let chosen = choose(wanted, all).map_err(|e| e.to_string())?;
        Ok(chosen.iter().map(|c| c.container.name.clone()).collect())
    }

    #[test]
    fn a_name_is_whole_and_an_id_is_of_one_container() {
        let all = [container("cafe", "aa01", &[]), container("web", "cafe0123", &[]), container("db", "cafe0456", &[])];
        let named = |words: &[&str]| names(&Wanted::Names(words.iter().map(|w| (*w).to_owned()).collect()), &all);
        assert_eq!(named(&["cafe"]).unwrap(), ["cafe"], "a name that looks like an id is a name");
        assert_eq!(named(&["cafe01", "web"]).unwrap(), ["web"], "and none is taken twice");
        assert!(named(&["cafe0"]).unwrap_err().contains("several ids"));
        assert!(named(&["we"]).unwrap_err().contains("no container \"we\""));
        assert!(named(&["caf"]).unwrap_err().contains("no container"), "too little of an id");
        assert!(named(&["web", "gone"]).unwrap_err().contains("gone"));
    }

    #[test]
    fn labels_must_all_fit() {
        let all = [container("a", "1", &[("tier", "free"), ("x", "1")]), container("b", "2", &[("tier", "free")])];
        let with = |labels: &[(&str, Option<&str>)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
            names(&Wanted::Labels(labels), &all)
        };
        assert_eq!(with(&[("tier", Some("free"))]).unwrap(), ["a", "b"]);
        assert_eq!(with(&[("tier", Some("free")), ("x", None)]).unwrap(), ["a"]);
        assert!(with(&[("tier", Some("paid"))]).is_err());
    }

    #[test]
    fn each_service_of_a_file_must_run() {
        let label = |project: &'static str, service: &'static str| {
            [("com.docker.compose.project", project), ("com.docker.compose.service", service)]
        };
        let all = [
            container("shop-db-1", "1", &label("shop", "db")),
            container("other-db-1", "2", &label("other", "db")),
            container("mine", "3", &[]),
        ];
        let service = |name: &str, own: Option<&str>| Service { name: name.into(), container: own.map(str::to_owned) };
        let of = |services: Vec<Service>| names(&Wanted::Services(Project { name: "shop".into(), services }), &all);
        assert_eq!(of(vec![service("db", None)]).unwrap(), ["shop-db-1"]);
        assert!(of(vec![service("db", None), service("web", None)]).unwrap_err().contains("\"web\""));
        assert!(of(vec![service("x", Some("mine"))]).is_err(), "a stranger of that name is not the project's");
    }

    #[test]
    fn names_are_made_fit() {
        for (given, fit) in [("web", "web"), ("shop_web_1", "shop-web-1"), ("_A.b-", "a-b"), ("---", "")] {
            assert_eq!(fit_name(given), fit);
        }
        assert_eq!(fit_name(&"a".repeat(80)).len(), 63);
    }
}
