//! When an Instance goes to sleep: the fields, their defaults and rules.

use std::time::Duration;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::probes::{bounded, validate_check};
use super::schedule::validate_schedule;
use super::validate::quoted;
use super::written::{Meaning, Written};
use super::{Check, FieldError, FieldErrors, HttpProbe, Instance, InstanceSpec, Span, Stretch};

/// When an instance with power Auto goes to sleep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Time without use after which the container is stopped; at least 1s. Default: 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// Time without use after which the container is frozen (`docker pause`), until it is stopped
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
    /// What of an open WebSocket is use of the instance.
    #[serde(default, skip_serializing_if = "is_default")]
    pub web_sockets: WebSocketUse,
    /// CPU at or above which the instance is busy and does not fall asleep, as a share of one core: `10%`. Measured only when
    /// it would otherwise fall asleep, as the mean of the last minute or two (of the last seconds where `after` is shorter). At
    /// most what `resources.cpu` lets it use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_cpu: Option<CpuShare>,
    /// What the app is asked when it would otherwise fall asleep: whether it is busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_check: Option<BusyCheck>,
    /// Times at which it is kept awake, or at rest.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub schedule: Vec<Stretch>,
}

/// What of an open WebSocket, or of another upgraded connection, is use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WebSocketUse {
    /// The messages that pass, either way; pings, pongs and closes are none. Of protocols other than WebSocket every byte
    /// counts. One that stays silent for `after` is closed when the instance falls asleep.
    #[default]
    Messages,
    /// That it is open. Counts for connections that open from then on.
    Open,
}

/// A question whether the app is busy: with work that no open request tells of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BusyCheck {
    /// A GET. 200 to 299 but 204: busy, and asked again a minute later (or `idle.after`, if that is shorter). 204, 3xx and 4xx:
    /// not busy. 5xx, or no answer: not known, which keeps the instance awake for 10 minutes at most.
    pub http: HttpProbe,
    /// How long the answer may take, from 100ms to 60s. Default: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

impl BusyCheck {
    pub fn timeout(&self) -> Duration {
        self.timeout.as_ref().map_or(Duration::from_secs(2), Span::duration)
    }
}

/// A share of one core: `10%`, `2.5%`, `150%`. Keeps the text it was written as; compares by value.
pub type CpuShare = Written<Share>;

/// Thousandths of a core.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl CpuShare {
    /// Thousandths of a core.
    pub fn milli(&self) -> u32 {
        self.meaning().0
    }
}

impl Meaning for Share {
    const EXPECTED: &'static str = "a share of one core such as 10%, 2.5% or 150%";
    const SCHEMA_NAME: &'static str = "CpuShare";

    fn schema() -> Schema {
        json_schema!({"type": "string", "format": "cpu-share", "pattern": r"^[0-9]{1,6}(\.[0-9])?%$"})
    }

    fn read(text: &str) -> Option<Share> {
        let number = text.strip_suffix('%')?;
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 6) || !digits(tenth, 1) {
            return None;
        }
        Some(Share(format!("{whole}{tenth}").parse().ok()?))
    }
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

pub fn validate_idle(instance: &Instance, errors: &mut FieldErrors) {
    let idle = &instance.spec.idle;
    validate_schedule(&idle.schedule, errors);
    let most = instance.spec.cpu_milli();
    if let Some(share) = idle.busy_cpu.as_ref().filter(|share| !(1..=most).contains(&share.milli().into())) {
        let why = match share.milli() {
            0 => "must be greater than 0%".to_owned(),
            _ => format!("must be at most {}%, which is all that resources.cpu lets it use", most as f64 / 10.0),
        };
        errors.push(FieldError::invalid("spec.idle.busyCpu", quoted(&share.to_string()), &why));
    }
    if let Some(check) = &idle.busy_check {
        let path = "spec.idle.busyCheck";
        let http = Check { http: Some(check.http.clone()), ..Check::default() };
        validate_check(instance, path, &http, errors);
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
        bounded(path, "timeout", check.timeout.as_ref(), bounds, "from 100ms to 60s", errors);
    }
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
    use serde_json::{Value, json};

    use super::super::validate_instance;
    use super::*;

    fn errors(idle: &Value, cpu: &str) -> Vec<String> {
        let ports = json!([{"name": "web", "containerPort": 80}]);
        let spec = json!({"image": "a", "ports": ports, "idle": idle, "resources": {"cpu": cpu}});
        let instance = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec}));
        validate_instance(&instance.unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_frozen_is_so_before_it_is_stopped() {
        let told = |after: Option<&str>, freeze: &str| errors(&json!({"after": after, "freezeAfter": freeze}), "1");
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
            let told = errors(&json!({"ignore": [{"userAgent": agent, "path": path}]}), "1");
            told.iter().map(|e| e.split(": ").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for (agent, path) in [("UptimeRobot", ""), ("", "/healthz"), ("curl", "/")] {
            assert_eq!(told(agent, path), [""; 0], "{agent:?} {path:?}");
        }
        assert_eq!(told("", ""), ["spec.idle.ignore[0]"]);
        assert_eq!(told("a", "x"), ["spec.idle.ignore[0].userAgent", "spec.idle.ignore[0].path"]);
        assert_eq!(told("", "/a b"), ["spec.idle.ignore[0].path"]);
    }

    #[test]
    fn a_share_of_a_core_is_read_to_a_tenth_of_a_percent() {
        for (text, milli) in [("10%", 100), ("2.5%", 25), ("0.1%", 1), ("150%", 1500), ("0%", 0), ("007%", 70)] {
            assert_eq!(text.parse::<CpuShare>().map(|s| (s.milli(), s.to_string())), Ok((milli, text.to_owned())));
        }
        for text in ["", "%", "10", "10 %", "-1%", "+1%", "1.25%", ".5%", "1.%", "1e2%", "1234567%", "١%"] {
            assert!(text.parse::<CpuShare>().is_err(), "{text:?}");
        }
        let serde: CpuShare = serde_json::from_value(json!("12.5%")).unwrap();
        assert_eq!(serde_json::to_value(&serde).unwrap(), json!("12.5%"));
    }

    #[test]
    fn what_it_is_asked_can_be_asked() {
        let whole = json!({
            "busyCpu": "50%", "busyCheck": {"http": {"port": "web", "path": "/activity"}, "timeout": "5s"},
            "schedule": [{"keep": "Awake", "cron": "0 8 * * 1-5", "for": "10h", "timeZone": "Europe/Berlin"}],
        });
        assert_eq!(errors(&whole, "500m"), [""; 0]);
        for (idle, told) in [
            (
                json!({"busyCpu": "50.1%"}),
                "spec.idle.busyCpu: Invalid value: \"50.1%\": must be at most 50%, which is all",
            ),
            (json!({"busyCpu": "0%"}), "spec.idle.busyCpu: Invalid value: \"0%\": must be greater than 0%"),
            (json!({"busyCheck": {"http": {"port": "shell"}}}), "spec.idle.busyCheck.http.port: Invalid value"),
            (
                json!({"busyCheck": {"http": {"port": "web", "path": "x"}}}),
                "spec.idle.busyCheck.http.path: Invalid value",
            ),
            (
                json!({"busyCheck": {"http": {"port": "web"}, "timeout": "61s"}}),
                "spec.idle.busyCheck.timeout: Invalid value: \"61s\": must be from 100ms to 60s",
            ),
            (
                json!({"schedule": [{"keep": "Asleep", "cron": "x", "for": "1h"}]}),
                "spec.idle.schedule[0].cron: Invalid",
            ),
        ] {
            let found = errors(&idle, "500m");
            assert!(found.len() == 1 && found[0].starts_with(told), "{idle}: {found:?}");
        }
    }
}
