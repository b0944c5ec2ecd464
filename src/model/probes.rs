//! How it is found out whether an app is up, can serve, and lives: the probes of an Instance, their defaults and rules.

use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::validate::{quoted, unknown_port};
use super::{FieldError, FieldErrors, Instance, InstanceSpec, Span};

/// How to find out whether the app is up, can serve, and lives. Probes are no use of the instance: it falls asleep all the
/// same, and one that sleeps is not probed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probes {
    /// Passes once the app has started; requests are held until then. Default: a TCP connection to the first port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<StartupProbe>,
    /// Passes while the app can serve. While it fails the condition Ready is False (ReadinessFailed), and requests are held.
    /// It restarts nothing. Default: none, what has started can serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// Passes while the app lives. When it fails the container is stopped and started again, with the back-off of a crash.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
}

/// What passes once the app has started: at most one of http, tcp and exec; none: a TCP connection to the first port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartupProbe {
    #[serde(flatten)]
    pub own: Check,
    /// Time between two attempts, from 50ms to 60s. Default: from 1ms right after the start to 250ms later; for exec 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Span>,
    /// How long the app may take in all before it counts as failed. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How long one attempt may take, from 100ms to 60s. Default: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<Span>,
}

/// What is asked again and again while the app runs: exactly one of http, tcp, exec and checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    #[serde(flatten)]
    pub own: Check,
    /// Several of them, made at once: an attempt passes when each does. So a dead port beside a live one is found.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub checks: Vec<Check>,
    /// Time between two attempts, from 1s to 1h. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Span>,
    /// How long one attempt may take, from 100ms to 60s. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<Span>,
    /// How many attempts in a row must fail for the probe to fail. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failures: Option<u32>,
    /// How many attempts in a row must pass for the probe to pass; only for readiness. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub successes: Option<u32>,
}

/// One of the checks of a probe: exactly one of http, tcp and exec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Passes when a GET is answered with a status below 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// Passes when the port accepts a connection and keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// Passes when a command inside the container ends with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpProbe {
    /// The name of one of the instance's ports.
    pub port: String,
    /// Absolute path. Default: /
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TcpProbe {
    /// The name of one of the instance's ports.
    pub port: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExecProbe {
    /// The program and its arguments; not a shell's line. Docker cannot end a command that takes too long: while it still
    /// runs it is not begun anew, and the attempts fail.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
}

/// How long the app may take in all to start.
const STARTUP: Duration = Duration::from_secs(60);
const STARTUP_ATTEMPT: Duration = Duration::from_secs(2);
/// Between two commands of a startup probe: each costs the daemon far more than a connection costs anybody.
const STARTUP_EXEC: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(1);
const FAILURES: u32 = 3;

fn or(span: Option<&Span>, default: Duration) -> Duration {
    span.map_or(default, Span::duration)
}

impl InstanceSpec {
    pub fn startup_timeout(&self) -> Duration {
        or(self.probes.startup.as_ref().and_then(|p| p.timeout.as_ref()), STARTUP)
    }

    pub fn startup_attempt_timeout(&self) -> Duration {
        or(self.probes.startup.as_ref().and_then(|p| p.attempt_timeout.as_ref()), STARTUP_ATTEMPT)
    }

    /// `None`: as often as is good for the app.
    pub fn startup_period(&self) -> Option<Duration> {
        let probe = self.probes.startup.as_ref()?;
        let own = probe.period.as_ref().map(Span::duration);
        own.or_else(|| probe.own.exec.is_some().then_some(STARTUP_EXEC))
    }
}

impl Check {
    fn is_set(&self) -> bool {
        *self != Check::default()
    }
}

impl StartupProbe {
    /// `None`: a connection to the first port.
    pub fn check(&self) -> Option<&Check> {
        self.own.is_set().then_some(&self.own)
    }
}

impl Probe {
    /// All that an attempt makes.
    pub fn all(&self) -> Vec<Check> {
        let own = self.own.is_set().then(|| self.own.clone());
        own.into_iter().chain(self.checks.iter().cloned()).collect()
    }

    pub fn period(&self) -> Duration {
        or(self.period.as_ref(), PERIOD)
    }

    pub fn attempt_timeout(&self) -> Duration {
        or(self.attempt_timeout.as_ref(), ATTEMPT)
    }

    pub fn failures(&self) -> u32 {
        self.failures.unwrap_or(FAILURES).max(1)
    }

    pub fn successes(&self) -> u32 {
        self.successes.unwrap_or(1).max(1)
    }
}

pub fn validate_probes(instance: &Instance, errors: &mut FieldErrors) {
    let probes = &instance.spec.probes;
    if let Some(startup) = &probes.startup {
        let path = "spec.probes.startup";
        if let Some(check) = startup.check() {
            validate_check(instance, path, check, errors);
        } else if *startup == StartupProbe::default() {
            errors.push(FieldError::required(path, "one of http, tcp and exec"));
        }
        bounded(path, "period", startup.period.as_ref(), millis(50)..=millis(60_000), "from 50ms to 60s", errors);
        validate_attempt(path, startup.attempt_timeout.as_ref(), errors);
    }
    if let Some(readiness) = &probes.readiness {
        validate_probe(instance, "spec.probes.readiness", readiness, errors);
    }
    if let Some(liveness) = &probes.liveness {
        let path = "spec.probes.liveness";
        validate_probe(instance, path, liveness, errors);
        if let Some(successes) = liveness.successes.filter(|n| *n != 1) {
            errors.push(FieldError::invalid(
                format!("{path}.successes"),
                successes,
                "must be 1: an app that fails is restarted",
            ));
        }
    }
}

fn validate_probe(instance: &Instance, path: &str, probe: &Probe, errors: &mut FieldErrors) {
    match (probe.own.is_set(), probe.checks.is_empty()) {
        (true, true) => validate_check(instance, path, &probe.own, errors),
        (false, false) => {}
        (false, true) => errors.push(FieldError::required(path, "one of http, tcp, exec and checks")),
        (true, false) => {
            errors
                .push(FieldError::forbidden(path, "checks take the place of http, tcp and exec: only one may be set"));
        }
    }
    for (n, check) in probe.checks.iter().enumerate() {
        validate_check(instance, &format!("{path}.checks[{n}]"), check, errors);
    }
    bounded(path, "period", probe.period.as_ref(), millis(1_000)..=millis(3_600_000), "from 1s to 1h", errors);
    validate_attempt(path, probe.attempt_timeout.as_ref(), errors);
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn validate_attempt(path: &str, span: Option<&Span>, errors: &mut FieldErrors) {
    bounded(path, "attemptTimeout", span, millis(100)..=millis(60_000), "from 100ms to 60s", errors);
}

pub(super) fn bounded(
    path: &str,
    field: &str,
    span: Option<&Span>,
    bounds: RangeInclusive<Duration>,
    told: &str,
    errors: &mut FieldErrors,
) {
    if let Some(span) = span.filter(|s| !bounds.contains(&s.duration())) {
        let path = format!("{path}.{field}");
        errors.push(FieldError::invalid(path, quoted(&span.to_string()), &format!("must be {told}")));
    }
}

pub(super) fn validate_check(instance: &Instance, path: &str, check: &Check, errors: &mut FieldErrors) {
    match (&check.http, &check.tcp, &check.exec) {
        (Some(http), None, None) => {
            if !http.path.is_empty() && (!http.path.starts_with('/') || http.path.contains(char::is_whitespace)) {
                errors.push(FieldError::invalid(
                    format!("{path}.http.path"),
                    quoted(&http.path),
                    "must be an absolute path without white space",
                ));
            }
            unknown_port(instance, &format!("{path}.http.port"), &http.port, errors);
        }
        (None, Some(tcp), None) => unknown_port(instance, &format!("{path}.tcp.port"), &tcp.port, errors),
        (None, None, Some(exec)) => {
            if exec.command.first().is_none_or(String::is_empty) {
                errors.push(FieldError::required(format!("{path}.exec.command"), "the program to run"));
            }
            if let Some(n) = exec.command.iter().position(|word| word.contains('\0')) {
                let field = format!("{path}.exec.command[{n}]");
                errors.push(FieldError::invalid(field, quoted(&exec.command[n]), "must have no NUL"));
            }
        }
        (None, None, None) => errors.push(FieldError::required(path, "one of http, tcp and exec")),
        _ => errors.push(FieldError::forbidden(path, "only one of http, tcp and exec may be set")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::validate_instance;
    use super::*;
    use serde_json::{Value, json};

    fn instance(probes: &Value) -> Instance {
        let ports = json!([{"name": "gateway", "containerPort": 80}, {"name": "shell", "containerPort": 81}]);
        let spec = json!({"image": "a", "ports": ports, "probes": probes});
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec})).unwrap()
    }

    fn errors(probes: &Value) -> Vec<String> {
        validate_instance(&instance(probes)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_kinds_of_checks_are_taken_and_have_defaults() {
        let probes = json!({
            "startup": {"http": {"port": "gateway", "path": "/health"}, "period": "250ms", "timeout": "60s"},
            "readiness": {"exec": {"command": ["/bin/ready", "--now"]}, "period": "10s", "failures": 3, "successes": 2},
            "liveness": {"checks": [{"tcp": {"port": "shell"}}, {"http": {"port": "gateway"}}]},
        });
        assert_eq!(errors(&probes), [""; 0]);
        let spec = instance(&probes).spec;
        let liveness = spec.probes.liveness.as_ref().unwrap();
        assert_eq!(liveness.all().len(), 2);
        assert_eq!((liveness.failures(), liveness.successes()), (3, 1));
        assert_eq!((liveness.period(), liveness.attempt_timeout()), (millis(10_000), millis(1_000)));
        assert_eq!(spec.probes.readiness.as_ref().unwrap().all().len(), 1);
        assert_eq!(spec.startup_period(), Some(millis(250)));
        assert_eq!(spec.startup_attempt_timeout(), millis(2_000));
        assert_eq!(instance(&json!({"startup": {"tcp": {"port": "shell"}}})).spec.startup_period(), None);
        let exec = instance(&json!({"startup": {"exec": {"command": ["ready"]}}}));
        assert_eq!(exec.spec.startup_period(), Some(millis(1_000)));
        assert_eq!(errors(&json!({"startup": {"timeout": "90s"}})), [""; 0], "the first port, for longer");
    }

    #[test]
    fn what_is_wrong_is_told_by_its_path() {
        for (probes, told) in [
            (json!({"startup": {}}), "spec.probes.startup: Required value: one of http, tcp and exec"),
            (json!({"readiness": {}}), "spec.probes.readiness: Required value: one of http, tcp, exec and checks"),
            (json!({"liveness": {"tcp": {"port": "no"}}}), "spec.probes.liveness.tcp.port: "),
            (json!({"liveness": {"checks": [{"tcp": {"port": "shell"}}, {}]}}), "spec.probes.liveness.checks[1]: Req"),
            (
                json!({"liveness": {"tcp": {"port": "shell"}, "checks": [{"tcp": {"port": "shell"}}]}}),
                "spec.probes.liveness: Forbidden: checks take the place",
            ),
            (
                json!({"readiness": {"tcp": {"port": "shell"}, "exec": {"command": ["a"]}}}),
                "spec.probes.readiness: Forbidden: only one of http, tcp and exec",
            ),
            (json!({"readiness": {"http": {"port": "shell", "path": "x"}}}), "spec.probes.readiness.http.path: "),
            (json!({"readiness": {"exec": {"command": [""]}}}), "spec.probes.readiness.exec.command: Required"),
            (
                json!({"readiness": {"exec": {"command": ["a", "\u{0}"]}}}),
                "spec.probes.readiness.exec.command[1]: Invalid",
            ),
            (
                json!({"liveness": {"tcp": {"port": "shell"}, "successes": 2}}),
                "spec.probes.liveness.successes: Invalid value: 2: must be 1",
            ),
            (
                json!({"startup": {"tcp": {"port": "shell"}, "period": "49ms"}}),
                "spec.probes.startup.period: Invalid value: \"49ms\": must be from 50ms to 60s",
            ),
            (
                json!({"liveness": {"tcp": {"port": "shell"}, "period": "999ms"}}),
                "spec.probes.liveness.period: Invalid value: \"999ms\": must be from 1s to 1h",
            ),
            (
                json!({"readiness": {"tcp": {"port": "shell"}, "attemptTimeout": "61s"}}),
                "spec.probes.readiness.attemptTimeout: Invalid value: \"61s\": must be from 100ms to 60s",
            ),
        ] {
            let found = errors(&probes);
            assert!(found.len() == 1 && found[0].starts_with(told), "{probes}: {found:?}");
        }
    }
}
