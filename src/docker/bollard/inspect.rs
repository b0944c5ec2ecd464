//! From the API's descriptions to ours.

use std::collections::{BTreeMap, HashMap};

use ::bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary as ApiSummary, ContainerSummaryStateEnum,
    HostConfig,
};
use jiff::Timestamp;

use crate::docker::engine::{ContainerInfo, ContainerSummary, Limits, PortMap, RunState};

/// A time; the daemon writes the year 1 for "never".
fn time(text: Option<&String>) -> Option<Timestamp> {
    text?.parse().ok().filter(|t: &Timestamp| t.as_second() > 0)
}

fn name(text: &str) -> String {
    text.trim_start_matches('/').to_owned()
}

pub fn sorted(labels: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    labels.unwrap_or_default().into_iter().collect()
}

/// The library has two types of the same states, one for a container and one for a list of them.
macro_rules! run_state {
    ($api:ident, $status:expr) => {
        match $status {
            $api::RUNNING | $api::STOPPING => RunState::Running,
            $api::PAUSED => RunState::Paused,
            $api::RESTARTING => RunState::Restarting,
            $api::REMOVING => RunState::Removing,
            $api::EXITED => RunState::Exited,
            $api::DEAD => RunState::Dead,
            $api::CREATED | $api::EMPTY => RunState::Created,
        }
    };
}

fn state(status: ContainerStateStatusEnum) -> RunState {
    run_state!(ContainerStateStatusEnum, status)
}

fn listed_state(status: ContainerSummaryStateEnum) -> RunState {
    run_state!(ContainerSummaryStateEnum, status)
}

/// As configured. A published port that is not TCP is none of ours.
fn ports(host: &HostConfig) -> Vec<PortMap> {
    let mut ports = Vec::new();
    for (container, bindings) in host.port_bindings.iter().flatten() {
        let Some(container_port) = container.strip_suffix("/tcp").and_then(|port| port.parse().ok()) else { continue };
        for binding in bindings.iter().flatten() {
            let host_port = binding.host_port.as_ref().and_then(|port| port.parse().ok()).unwrap_or_default();
            ports.push(PortMap { container_port, host_ip: binding.host_ip.clone().unwrap_or_default(), host_port });
        }
    }
    ports.sort();
    ports
}

pub fn container(told: ContainerInspectResponse) -> ContainerInfo {
    let (run, host, config) =
        (told.state.unwrap_or_default(), told.host_config.unwrap_or_default(), told.config.unwrap_or_default());
    let networks = told.network_settings.and_then(|n| n.networks).unwrap_or_default();
    let mut networks: Vec<_> = networks.into_keys().collect();
    networks.sort();
    let started_at = time(run.started_at.as_ref());
    let state = run.status.map_or(RunState::Created, state);
    ContainerInfo {
        id: told.id.unwrap_or_default(),
        name: name(&told.name.unwrap_or_default()),
        image_id: told.image.unwrap_or_default(),
        image: config.image.unwrap_or_default(),
        labels: sorted(config.labels),
        state,
        exit_code: run.exit_code.unwrap_or_default(),
        oom_killed: run.oom_killed.unwrap_or_default(),
        error: run.error.unwrap_or_default(),
        started_at,
        finished_at: time(run.finished_at.as_ref()),
        limits: Limits {
            memory: host.memory.unwrap_or_default(),
            cpu_milli: host.nano_cpus.unwrap_or_default() / 1_000_000,
            pids: host.pids_limit.unwrap_or_default(),
        },
        restart_policy: host
            .restart_policy
            .as_ref()
            .and_then(|policy| policy.name)
            .map(|name| name.to_string())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "no".to_owned()),
        networks,
        ports: ports(&host),
    }
}

pub fn summary(told: ApiSummary) -> ContainerSummary {
    let names = told.names.unwrap_or_default();
    // Links give further names, with a second slash.
    let own = names.iter().map(|n| name(n)).find(|n| !n.contains('/')).unwrap_or_default();
    ContainerSummary {
        id: told.id.unwrap_or_default(),
        name: own,
        labels: sorted(told.labels),
        state: told.state.map_or(RunState::Created, listed_state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_is_no_time() {
        for never in ["0001-01-01T00:00:00Z", "", "yesterday"] {
            assert_eq!(time(Some(&never.to_owned())), None, "{never:?}");
        }
        assert_eq!(time(None), None);
        assert!(time(Some(&"2026-01-02T03:04:05.123456789Z".to_owned())).is_some());
        assert!(time(Some(&"2026-01-02T03:04:05.123456789+01:00".to_owned())).is_some());
    }

    #[test]
    fn a_summary_takes_the_name_that_is_no_link() {
        let names = vec!["/web/pr.default.db".to_owned(), "/pr.default.alice".to_owned()];
        let told = ApiSummary { names: Some(names), ..ApiSummary::default() };
        assert_eq!(summary(told).name, "pr.default.alice");
    }
}
