//! The two sides of a copy, as they are written: a local path, a stream, a path in an instance. Pure.

use std::ffi::OsString;
use std::str::FromStr;

use crate::cli::error::{Error, Result};
use crate::model::validate_name;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Here(String),
    Stream,
    There(FarPath),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarPath {
    /// As written.
    pub namespace: Option<String>,
    pub name: String,
    pub path: Cleaned,
}

impl FromStr for Place {
    type Err = Error;

    /// A colon after a name makes a path in an instance; `./a:b` is always local.
    fn from_str(text: &str) -> Result<Place> {
        if text == "-" {
            return Ok(Place::Stream);
        }
        if text.is_empty() {
            return Err(Error::usage("a path is empty"));
        }
        let Some((whose, path)) = text.split_once(':') else { return Ok(Place::Here(text.into())) };
        let (namespace, name) = match whose.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, whose),
        };
        let named = |part: &str| validate_name("name", part).is_none();
        if !named(name) || !namespace.is_none_or(named) {
            return Ok(Place::Here(text.into()));
        }
        if path.is_empty() {
            return Err(Error::usage(format!("{text} says no path in the instance")));
        }
        let path = Cleaned::new(path)?;
        Ok(Place::There(FarPath { namespace: namespace.map(str::to_owned), name: name.to_owned(), path }))
    }
}

/// A path without detours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    absolute: bool,
    pub parts: Vec<OsString>,
    /// It was written with a slash at its end.
    pub wants_directory: bool,
}

impl Cleaned {
    fn new(path: &str) -> Result<Cleaned> {
        let absolute = path.starts_with('/');
        let mut parts: Vec<OsString> = vec![];
        for part in path.split('/').filter(|p| !matches!(*p, "" | ".")) {
            match part {
                ".." if parts.pop().is_some() || absolute => {}
                ".." => return Err(Error::usage(format!("{path} leaves the working directory: say it from / on"))),
                part => parts.push(part.into()),
            }
        }
        Ok(Cleaned { absolute, parts, wants_directory: path.ends_with('/') })
    }

    /// `/` or the working directory.
    pub fn is_top(&self) -> bool {
        self.parts.is_empty()
    }

    /// As an argument of a command, never taken for an option.
    pub fn word(&self) -> String {
        word(self.absolute, &self.parts)
    }

    /// The directory that holds it, as an argument, and its name there. Not of [the top](Self::is_top).
    pub fn parent_and_name(&self) -> (String, OsString) {
        let (name, parents) = self.parts.split_last().map_or((OsString::new(), [].as_slice()), |(n, p)| (n.clone(), p));
        (word(self.absolute, parents), name)
    }
}

fn word(absolute: bool, parts: &[OsString]) -> String {
    let joined = parts.iter().map(|p| p.to_string_lossy()).collect::<Vec<_>>().join("/");
    match (absolute, joined.as_str()) {
        (true, _) => format!("/{joined}"),
        (false, "") => ".".into(),
        (false, path) if path.starts_with('-') => format!("./{path}"),
        (false, _) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(text: &str) -> (Option<String>, String, String) {
        match text.parse() {
            Ok(Place::There(FarPath { namespace, name, path })) => (namespace, name, path.word()),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_side_is_an_instance_when_a_name_and_a_colon_come_first() {
        assert_eq!(there("alice:/a/b"), (None, "alice".into(), "/a/b".into()));
        assert_eq!(there("team/alice:a"), (Some("team".into()), "alice".into(), "a".into()));
        assert_eq!(there("alice:C:/x"), (None, "alice".into(), "C:/x".into()));
        for local in ["a", "/a:b", "./a:b", "a b:c", "a/b/c:d", ":x", "Alice:/x", "../x"] {
            assert_eq!(local.parse::<Place>().unwrap(), Place::Here(local.into()));
        }
        assert_eq!("-".parse::<Place>().unwrap(), Place::Stream);
        for bad in ["", "alice:", "alice:../x", "alice:a/../../x"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_passed_without_detours_and_never_as_options() {
        for (written, word, parent, name) in [
            ("/a/b", "/a/b", "/a", "b"),
            ("/a//./b/", "/a/b", "/a", "b"),
            ("/../../a", "/a", "/", "a"),
            ("a/../b", "b", ".", "b"),
            ("-rf", "./-rf", ".", "-rf"),
            ("-a/b", "./-a/b", "./-a", "b"),
        ] {
            let cleaned = Cleaned::new(written).unwrap();
            assert_eq!(cleaned.word(), word, "{written}");
            assert_eq!(cleaned.parent_and_name(), (parent.to_owned(), name.into()), "{written}");
        }
        for (top, word) in [("/", "/"), (".", "."), ("/a/..", "/"), ("a/..", ".")] {
            let cleaned = Cleaned::new(top).unwrap();
            assert!(cleaned.is_top() && cleaned.word() == word, "{top}");
        }
    }
}
