//! Query parameters: read leniently (unknown ones are ignored, `?&` is fine), understood strictly.

use std::str::FromStr;

use axum::extract::Query as Urlencoded;
use http::Uri;

use super::apply::manager_problem;
use super::error::{ApiError, Subject};
use crate::model::{FieldError, FieldReason};

/// The decoded pairs of a query, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Result<Query, ApiError> {
        let Urlencoded(pairs) = Urlencoded::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::bad_request(format!("the query cannot be read: {e}")))?;
        Ok(Query(pairs))
    }

    /// The first non-empty value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether a flag is set: as in Kubernetes by its name alone, and by every value but these two.
    pub fn flag(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.parsed(name)
    }

    /// A number that may be below zero, which mostly means none.
    pub fn signed(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.parsed(name)
    }

    fn parsed<N: FromStr>(&self, name: &str) -> Result<Option<N>, ApiError> {
        let parse = |v: &str| v.parse().map_err(|_| ApiError::bad_request(format!("{name}: {v:?} is not a number")));
        self.get(name).map(parse).transpose()
    }
}

/// What to do with fields that the kind does not have, and with keys given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

/// The options that every write takes.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Do everything, store nothing.
    pub dry_run: bool,
    pub fields: FieldValidation,
    /// Who writes, if the request says so.
    pub manager: Option<String>,
}

impl WriteOptions {
    pub fn of(query: &Query) -> Result<WriteOptions, ApiError> {
        let manager = query.get("fieldManager");
        if let Some(problem) = manager.and_then(|name| manager_problem("fieldManager", name)) {
            return Err(bad_options("Options", problem));
        }
        let mut dry_run = false;
        for value in query.all("dryRun") {
            dry_run |= is_dry_run(value)?;
        }
        let fields = match query.get("fieldValidation") {
            Some("Strict") => FieldValidation::Strict,
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                let message =
                    format!("Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\"");
                return Err(bad_option("fieldValidation", message));
            }
        };
        Ok(WriteOptions { dry_run, fields, manager: manager.map(str::to_owned) })
    }
}

/// One value of `dryRun`, in the query or in a body.
pub fn is_dry_run(value: &str) -> Result<bool, ApiError> {
    match value {
        "All" => Ok(true),
        "" => Ok(false),
        other => Err(bad_option("dryRun", format!("Unsupported value: {other:?}: supported values: \"All\""))),
    }
}

/// A 422 about an option of a request.
pub fn bad_option(field: &str, message: String) -> ApiError {
    bad_options("Options", FieldError { reason: FieldReason::NotSupported, field: field.into(), message })
}

/// A 422 about an option of a list whose value is none that there is.
pub fn bad_list_option(field: &str, message: String) -> ApiError {
    bad_options("ListOptions", FieldError { reason: FieldReason::NotSupported, field: field.into(), message })
}

/// A 422 about an option of a list or a watch that may not be given with the others, or without another.
pub fn forbidden_option(field: &str, why: &str) -> ApiError {
    let message = format!("Forbidden: {why}");
    bad_options("ListOptions", FieldError { reason: FieldReason::Forbidden, field: field.into(), message })
}

/// A 422 about an option; `kind` is `PatchOptions` and the like.
pub fn bad_options(kind: &'static str, problem: FieldError) -> ApiError {
    let subject = Subject { group: "meta.k8s.io", plural: "options", kind, name: String::new() };
    ApiError::invalid(&subject, &[problem])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_leniently_and_understood_strictly() {
        let query = Query::of(&"/x?&limit=5&unknown=1&labelSelector=a%3Db%2Cc&watch=1".parse().unwrap()).unwrap();
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert!(query.flag("watch") && !query.flag("follow"));
        for (value, set) in [("", true), ("=", true), ("=true", true), ("=yes", true), ("=0", false), ("=False", false)]
        {
            let query = Query::of(&format!("/x?limit=5&follow{value}").parse().unwrap()).unwrap();
            assert_eq!(query.flag("follow"), set, "follow{value}");
        }
        let long = format!("/x?fieldManager={}", "m".repeat(129));
        for bad in ["/x?dryRun=Some", "/x?fieldValidation=strict", "/x?fieldManager=a%0A", &long] {
            assert!(WriteOptions::of(&Query::of(&bad.parse().unwrap()).unwrap()).is_err(), "{bad}");
        }
    }
}
