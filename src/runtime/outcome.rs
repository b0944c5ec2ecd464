//! What one reconcile came to.

use std::time::Duration;

/// A reconcile that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do until something triggers the key.
    Done,
    /// Look again after this long, though nothing may trigger it.
    Recheck(Duration),
}

/// A reconcile that did not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// May pass: try again with back-off.
    #[error("{0}")]
    Retry(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing was done, because something else has to end first: no failure, tried again soon.
    #[error("{0}")]
    Busy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Trying again will not help until the object changes; already told by a condition.
    #[error("{0}")]
    Terminal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    pub fn retry(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Retry(cause.into())
    }
}
