//! When an Instance goes to sleep: the fields, their defaults and rules.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::validate::quoted;
use super::{FieldError, FieldErrors, InstanceSpec, Span};

/// When an instance with power Auto goes to sleep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Time without requests or open connections after which the container is stopped; at least 1s. Default: 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// Time without requests or open connections after which the container is frozen (`docker pause`), until it is stopped
    /// after `after`; at least 1s and less than `after`. What is frozen keeps its memory and goes on within milliseconds
    /// of the next request. Default: never, because all that the app does by itself stands still meanwhile, and its memory
    /// stays taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_after: Option<Span>,
    /// Requests that are no use of the instance: pollers and uptime monitors. They are served while it is awake, keep it awake
    /// for no moment, and do not wake it: while it is not awake they get 503.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub ignore: Vec<IgnoredRequest>,
}

/// Requests of one kind: all that is set must fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IgnoredRequest {
    /// A part of the User-Agent, in upper or lower case: `UptimeRobot`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 256))]
    pub user_agent: String,
    /// Absolute path prefix, matched by whole segments as those of routes: `/healthz`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 1024))]
    pub path: String,
}

impl Idle {
    fn after(&self) -> Duration {
        self.after.as_ref().map_or(Duration::from_secs(30 * 60), Span::duration)
    }
}

impl InstanceSpec {
    pub fn idle_after(&self) -> Duration {
        self.idle.after()
    }

    /// `None`: it is never frozen.
    pub fn freeze_after(&self) -> Option<Duration> {
        self.idle.freeze_after.as_ref().map(Span::duration)
    }
}

pub fn validate_idle(idle: &Idle, errors: &mut FieldErrors) {
    if let Some(after) = idle.after.as_ref().filter(|a| a.duration().as_millis() < 1000) {
        errors.push(FieldError::invalid("spec.idle.after", quoted(&after.to_string()), "must be at least 1s"));
    }
    if let Some(freeze) = &idle.freeze_after {
        let (field, value) = ("spec.idle.freezeAfter", quoted(&freeze.to_string()));
        if freeze.duration().as_millis() < 1000 {
            errors.push(FieldError::invalid(field, value, "must be at least 1s"));
        } else if freeze.duration() >= idle.after() {
            let why = format!("must be less than spec.idle.after, which is {}", Span::from(idle.after()));
            errors.push(FieldError::invalid(field, value, &why));
        }
    }
    for (i, ignored) in idle.ignore.iter().enumerate() {
        let field = format!("spec.idle.ignore[{i}]");
        let (agent, path) = (&ignored.user_agent, &ignored.path);
        if agent.trim().is_empty() && path.is_empty() {
            errors.push(FieldError::required(&field, "userAgent, path or both"));
        }
        // A letter would be a part of every browser's.
        if !agent.is_empty() && agent.trim().len() < 3 {
            let field = format!("{field}.userAgent");
            errors.push(FieldError::invalid(field, quoted(agent), "must have at least 3 characters"));
        }
        if !path.is_empty() && (!path.starts_with('/') || path.contains(char::is_whitespace)) {
            let why = "must be an absolute path without white space";
            errors.push(FieldError::invalid(format!("{field}.path"), quoted(path), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frozen_is_so_before_it_is_stopped() {
        let told = |after: Option<&str>, freeze: &str| {
            let span = |text: &str| text.parse::<Span>().unwrap();
            let mut errors = FieldErrors::default();
            let idle = Idle { after: after.map(span), freeze_after: Some(span(freeze)), ..Idle::default() };
            validate_idle(&idle, &mut errors);
            Vec::from(errors).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (after, freeze) in [(None, "29m"), (Some("10s"), "1s"), (Some("1h"), "59m")] {
            assert_eq!(told(after, freeze), [""; 0], "{after:?} {freeze}");
        }
        for (after, freeze, why) in [
            (Some("10s"), "900ms", "must be at least 1s"),
            (Some("10s"), "10s", "must be less than spec.idle.after, which is 10s"),
            (None, "30m", "must be less than spec.idle.after, which is 30m"),
        ] {
            let errors = told(after, freeze);
            assert!(errors.len() == 1 && errors[0].contains("spec.idle.freezeAfter"), "{errors:?}");
            assert!(errors[0].contains(why), "{errors:?}");
        }
    }

    #[test]
    fn what_is_ignored_is_named_well_enough() {
        let told = |agent: &str, path: &str| {
            let ignore = vec![IgnoredRequest { user_agent: agent.into(), path: path.into() }];
            let mut errors = FieldErrors::default();
            validate_idle(&Idle { ignore, ..Idle::default() }, &mut errors);
            Vec::from(errors).iter().map(|e| e.field.clone()).collect::<Vec<_>>()
        };
        for (agent, path) in [("UptimeRobot", ""), ("", "/healthz"), ("curl", "/")] {
            assert_eq!(told(agent, path), [""; 0], "{agent:?} {path:?}");
        }
        assert_eq!(told("", ""), ["spec.idle.ignore[0]"]);
        assert_eq!(told("a", "x"), ["spec.idle.ignore[0].userAgent", "spec.idle.ignore[0].path"]);
        assert_eq!(told("", "/a b"), ["spec.idle.ignore[0].path"]);
    }
}
