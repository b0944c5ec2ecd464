//! When an Instance goes to sleep: the fields, their defaults and rules.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::validate::quoted;
use super::{FieldError, FieldErrors, InstanceSpec, Span};

/// When an instance with power Auto goes to sleep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Idle {
    /// Time without requests or open connections after which the container is stopped; at least 1s. Default: 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
}

impl InstanceSpec {
    pub fn idle_after(&self) -> Duration {
        self.idle.after.as_ref().map_or(Duration::from_secs(30 * 60), Span::duration)
    }
}

pub fn validate_idle(idle: &Idle, errors: &mut FieldErrors) {
    if let Some(after) = idle.after.as_ref().filter(|a| a.duration().as_millis() < 1000) {
        errors.push(FieldError::invalid("spec.idle.after", quoted(&after.to_string()), "must be at least 1s"));
    }
}
