//! Answers about objects, in the form that the client asked for.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::columns::Facts;
use super::negotiate::Form;
use super::table;
use super::views::View;

/// What a handler answers.
pub struct Reply {
    pub status: StatusCode,
    pub body: Value,
    /// Texts for `Warning` headers, one each.
    pub warnings: Vec<String>,
    /// JSON in the form that was asked for, in the place of `body`.
    made: Option<Body>,
}

impl Reply {
    pub fn ok(body: Value) -> Reply {
        Reply { status: StatusCode::OK, body, warnings: vec![], made: None }
    }

    /// An answer whose bytes are there already.
    pub fn made(body: Body) -> Reply {
        Reply { status: StatusCode::OK, body: Value::Null, warnings: vec![], made: Some(body) }
    }

    pub fn created(body: Value) -> Reply {
        Reply { status: StatusCode::CREATED, body, warnings: vec![], made: None }
    }

    pub fn with_warnings(mut self, warnings: Vec<String>) -> Reply {
        self.warnings = warnings;
        self
    }

    /// As plain JSON.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(self.made.unwrap_or_else(|| Body::from(self.body.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for warning in &self.warnings {
            if let Ok(value) = HeaderValue::from_str(&warning_header(warning)) {
                headers.append(header::WARNING, value);
            }
        }
        response
    }

    /// An object, as the form says. A `Status` stays as it is, and so does what a deletion of a collection tells.
    pub fn render(mut self, view: View, form: Form, include: table::Include, facts: &Facts) -> Response {
        let status = self.body.get("kind").is_some_and(|k| k == "Status") || self.body.get("items").is_some();
        if !status && self.made.is_none() {
            self.body = match form {
                Form::Json => self.body,
                Form::Table(version) => table::table(view, self.body, version, include, facts),
                Form::Metadata(version) => table::metadata_only(self.body, version),
            };
        }
        self.into_response()
    }
}

/// `299 - "text"`, quoted, and in ASCII: kubectl prints it.
fn warning_header(text: &str) -> String {
    let mut quoted = String::from("299 - \"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}
