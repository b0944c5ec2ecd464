//! What is shown of the stored records: the records themselves, or a view of another kind made from them.
//!
//! Lists, watches and Tables are the same for both, so that a view is one projection and a set of columns.

pub mod pods;

use serde_json::Value;

use super::columns::{self, Facts};
use super::selector;
use crate::model::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Records(Kind),
    /// Instances as core/v1 Pods.
    Pods,
}

impl View {
    /// The kind of the records behind it.
    pub fn source(self) -> Kind {
        match self {
            View::Records(kind) => kind,
            View::Pods => Kind::Instance,
        }
    }

    /// The kind that clients see.
    pub fn kind(self) -> &'static str {
        match self {
            View::Records(kind) => kind.info().name,
            View::Pods => "Pod",
        }
    }

    pub fn api_version(self) -> String {
        match self {
            View::Records(kind) => kind.api_version(),
            View::Pods => "v1".into(),
        }
    }

    /// The record as this view shows it; `None` when it shows nothing of it.
    pub fn show(self, record: Value) -> Option<Value> {
        match self {
            View::Records(_) => Some(record),
            View::Pods => pods::project(&record),
        }
    }

    /// The field paths that may be selected by.
    pub fn selectable(self) -> &'static [&'static str] {
        match self {
            View::Records(kind) => selector::selectable(kind),
            View::Pods => pods::SELECTABLE,
        }
    }

    pub fn column_definitions(self) -> Value {
        match self {
            View::Records(kind) => columns::definitions(columns::of(kind)),
            View::Pods => columns::definitions(&pods::COLUMNS),
        }
    }

    pub fn cells(self, object: &Value, facts: &Facts) -> Vec<Value> {
        match self {
            View::Records(kind) => columns::cells(kind, object, facts),
            View::Pods => pods::cells(object, facts.now),
        }
    }
}
