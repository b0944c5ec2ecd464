//! What may go wrong in a verb, how it is said (in kubectl's words, so that scripts and eyes need not learn) and which
//! exit code it makes.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;

/// How a verb ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// `diff` found differences.
    Different,
    /// The errors are already on stderr.
    Failed,
    /// The exit code of the command that `exec` ran.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        match exit {
            Exit::Done => ExitCode::SUCCESS,
            Exit::Failed => ExitCode::FAILURE,
            Exit::Different => ExitCode::from(3),
            Exit::Command(code) => ExitCode::from(code),
        }
    }
}

/// How a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense, whatever the server holds. Exit code 2.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    /// The server refused.
    #[error("{0}")]
    Server(Box<Status>),
    /// Waited as long as was allowed. Exit code 124.
    #[error("{0}")]
    TimedOut(String),
    /// stdout could not be written to.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn usage(text: impl Into<String>) -> Error {
        Error::Usage(text.into())
    }

    pub fn failed(text: impl Into<String>) -> Error {
        Error::Failed(text.into())
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Server(s) if s.code == 404)
    }

    /// Whether the server refused with this reason.
    pub fn has_reason(&self, reason: &str) -> bool {
        matches!(self, Error::Server(s) if s.reason == reason)
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Error::Usage(_) => ExitCode::from(2),
            Error::TimedOut(_) => ExitCode::from(124),
            Error::Failed(_) | Error::Server(_) | Error::Output(_) => ExitCode::FAILURE,
        }
    }

    /// Says it on stderr. A reader that closed our stdout has what it wanted: that is no error to report.
    pub fn report(&self) {
        match self {
            Error::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            Error::Server(status) => eprintln!("{status}"),
            other => eprintln!("error: {other}"),
        }
    }
}

/// The server's answer to a request that it refused: a Kubernetes Status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Status {
    pub kind: String,
    pub status: String,
    pub message: String,
    pub reason: String,
    pub code: u16,
    pub details: Option<Details>,
    /// From the answer's head: how long to wait before another try.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Details {
    pub name: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

impl Status {
    /// Reads an error answer; one that is no Status (a proxy in between) is told by its HTTP code and first line.
    pub fn read(code: u16, body: &[u8]) -> Status {
        match serde_json::from_slice::<Status>(body) {
            Ok(status) if status.kind == "Status" => Status { code, ..status },
            _ => {
                let text = String::from_utf8_lossy(body);
                let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
                let line = if line.trim().is_empty() { "no explanation".to_owned() } else { line };
                Status { code, message: format!("HTTP {code}: {line}"), ..Status::default() }
            }
        }
    }

    /// Whether one of the causes has this reason.
    pub fn has_cause(&self, reason: &str) -> bool {
        self.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == reason))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason.as_str(), &self.details) {
            ("Unauthorized", _) => f.write_str(
                "error: You must be logged in to the server (Unauthorized): the credentials are unknown to it",
            ),
            ("Invalid", Some(details)) if !details.name.is_empty() || !details.causes.is_empty() => {
                write!(f, "The {} {:?} is invalid", details.kind, details.name)?;
                match details.causes.as_slice() {
                    [] => write!(f, ": {}", self.message),
                    [one] => write!(f, ": {}: {}", one.field, one.message),
                    many => many.iter().try_for_each(|c| write!(f, "\n* {}: {}", c.field, c.message)),
                }
            }
            ("", _) => write!(f, "Error from server: {}", self.message),
            (reason, _) => write!(f, "Error from server ({reason}): {}", self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16, body: &str) -> String {
        Status::read(code, body.as_bytes()).to_string()
    }

    #[test]
    fn refusals_are_said_in_the_words_of_kubectl() {
        assert_eq!(
            said(404, r#"{"kind":"Status","reason":"NotFound","message":"instances.portreeve.dev \"x\" not found"}"#),
            "Error from server (NotFound): instances.portreeve.dev \"x\" not found"
        );
        let invalid = |causes: &str| {
            format!(
                r#"{{"kind":"Status","reason":"Invalid","message":"m","details":{{"name":"x","kind":"Instance","causes":[{causes}]}}}}"#
            )
        };
        let cause = r#"{"reason":"FieldValueRequired","message":"Required value","field":"spec.image"}"#;
        assert_eq!(said(422, &invalid(cause)), r#"The Instance "x" is invalid: spec.image: Required value"#);
        assert_eq!(
            said(422, &invalid(&format!("{cause},{cause}"))),
            "The Instance \"x\" is invalid\n* spec.image: Required value\n* spec.image: Required value"
        );
    }

    #[test]
    fn an_answer_that_is_no_status_is_told_by_its_code() {
        assert_eq!(said(502, "<html>\nlots"), "Error from server: HTTP 502: <html>");
        assert_eq!(said(500, ""), "Error from server: HTTP 500: no explanation");
    }
}
