//! Adoption: the commit by which a container that runs already becomes an instance's, as it is.
//!
//! ```text
//! spec.adopt, not bound ──▶ describe it ──▶ fits? ──▶ one commit: node, its own ports, a subnet, status.adopted
//!                                            └─ no: told, and looked at again; nothing is made in its place
//! ```
//!
//! Nothing of a container is touched before that commit. From it on the container stands among the instance's own, with
//! the labels that it would have, had it been made for it: [`dress`]. The hash among them is that of what was found, not
//! of what was asked for: where the two differ, the container is of an older spec like any other, and is replaced. Pure;
//! `candidate` looks.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::docker::engine::ContainerInfo;
use crate::docker::labels;
use crate::model::{Adopt, Adopted, BoundPort, ConditionStatus, Instance, InstanceSpec, Phase, Port, Resource};

use super::action::{Action, Plan};
use super::desired::container_spec;
use super::report::Report;

/// The reason of the Ready condition when a container cannot be taken.
pub const NOT_ADOPTABLE: &str = "NotAdoptable";

/// How often it is looked whether one can be taken by now.
const AGAIN: Duration = Duration::from_secs(30);
const UNREACHABLE_AGAIN: Duration = Duration::from_secs(5);
/// How often an adopted container is looked at, as it is in no listing.
pub const LOOK: Duration = Duration::from_secs(60);

/// What is seen of the container that an instance is to begin with.
#[derive(Clone, Debug, PartialEq)]
pub enum AdoptionSeen {
    /// Nothing is known of it: its host has no record, or does not answer.
    Unknown(String),
    /// It cannot be taken; why.
    Unfit(Vec<String>),
    Fits(Box<Offer>),
}

/// A container that can be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub address: String,
    /// What it is, in every field that one made in its place would be made from.
    pub spec: InstanceSpec,
    pub restart_policy: String,
}

/// The plan of an instance that is to adopt a container and has not yet.
pub fn plan_adoption(desired: &Instance, seen: &AdoptionSeen, mut report: Report) -> Plan {
    let id = desired.spec.adopt.as_ref().map_or("", |a| a.container_id.get(..12).unwrap_or(&a.container_id));
    match seen {
        AdoptionSeen::Fits(offer) => {
            Plan { status: report.take(), actions: vec![Action::Adopt(offer.clone())], recheck: None }
        }
        AdoptionSeen::Unknown(why) => {
            let told = format!("waiting to adopt container {id}: {why}");
            report.phase(Phase::Pending).condition("Ready", ConditionStatus::Unknown, "HostUnreachable", told);
            Plan { status: report.take(), actions: vec![], recheck: Some(UNREACHABLE_AGAIN) }
        }
        AdoptionSeen::Unfit(reasons) => {
            let told = format!("container {id} {}; it is left as it is", reasons.join("; "));
            report.phase(Phase::Failed).not_ready(NOT_ADOPTABLE, told);
            Plan { status: report.take(), actions: vec![], recheck: Some(AGAIN) }
        }
    }
}

/// The note that a container was adopted, with the hash of what it is: that of the instance's container, were its spec
/// what was found. `bound`: with the node and the address that it is bound to.
pub fn adopted(cluster: &str, bound: &Instance, adopt: &Adopt, offer: &Offer) -> Adopted {
    let mut as_found = bound.clone();
    let (spec, found) = (&mut as_found.spec, offer.spec.clone());
    spec.image = found.image;
    (spec.command, spec.args, spec.working_dir, spec.user) = (found.command, found.args, found.working_dir, found.user);
    (spec.env, spec.env_from) = (found.env, vec![]);
    (spec.volumes, spec.runtime, spec.security) = (found.volumes, found.runtime, found.security);
    spec.resources.shm = found.resources.shm;
    let ports = found.ports.iter();
    let bind = |p: &Port| Some(BoundPort { name: p.name.clone(), host_port: p.host_port? });
    as_found.status.ports = ports.filter_map(bind).collect();
    spec.ports = found.ports;
    let labels = container_spec(cluster, &as_found).labels;
    Adopted {
        node: adopt.node.clone(),
        container_id: adopt.container_id.clone(),
        spec_hash: labels.get(labels::SPEC_HASH).cloned().unwrap_or_default(),
        restart_policy: offer.restart_policy.clone(),
    }
}

/// The labels that stand for those that it does not have.
pub fn dress(cluster: &str, desired: &Instance, container: &mut ContainerInfo) {
    let Some(adopted) = desired.status.adopted.as_ref().filter(|a| a.container_id == container.id) else { return };
    let own: BTreeMap<String, String> = labels::owner_labels(cluster, &desired.key(), &desired.metadata.uid);
    container.labels.extend(own);
    container.labels.insert(labels::SPEC_HASH.into(), adopted.spec_hash.clone());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::super::plan::{ActivitySeen, NodeSeen, Observed, Presence, Site, plan};
    use super::super::{NetworkSeen, action::Action};
    use super::*;
    use crate::docker::engine::{Limits, PortMap, RunState};
    use crate::model::{FINALIZER, RELEASE_ANNOTATION};

    const SECOND: i64 = 1_767_225_600;

    fn id() -> String {
        "0af9".repeat(16)
    }

    fn found() -> Value {
        json!({
            "image": "app:1", "env": [{"name": "A", "value": "1"}],
            "ports": [{"name": "p80", "containerPort": 80, "hostPort": 8080}],
            "volumes": [{"name": "v0", "mountPath": "/data", "volumeName": "web_data"}],
            "security": {"noNewPrivileges": false},
        })
    }

    fn offer() -> Offer {
        let spec = serde_json::from_value(found()).unwrap();
        Offer { address: "10.0.0.3".into(), spec, restart_policy: "always".into() }
    }

    /// Made with the found spec, changed by `change`, and bound as adoption binds it.
    fn adopted_with(change: Value) -> Instance {
        let mut spec = found();
        spec["power"] = json!("Running");
        spec["adopt"] = json!({"node": "h1", "containerID": id()});
        json_patch::merge(&mut spec, &change);
        let mut instance: Instance = serde_json::from_value(json!({
            "metadata": {"name": "alice", "namespace": "default", "uid": "u1", "generation": 1, "finalizers": [FINALIZER]},
            "spec": spec,
            "status": {"node": "h1", "address": "10.0.0.3", "subnet": "10.213.0.0/28", "phase": "Pending",
                       "ports": [{"name": "p80", "hostPort": 8080}]},
        }))
        .unwrap();
        let adopt = Adopt { node: "h1".into(), container_id: id() };
        instance.status.allocated_resources = Some(instance.spec.asks());
        instance.status.adopted = Some(adopted("c", &instance, &adopt, &offer()));
        instance
    }

    fn seen(desired: &Instance, state: RunState) -> Observed {
        let mut container = ContainerInfo {
            id: id(),
            name: "web".into(),
            image: "app:1".into(),
            state,
            started_at: Timestamp::from_second(SECOND).ok(),
            restart_policy: "always".into(),
            networks: vec!["bridge".into()],
            limits: Limits::default(),
            ports: vec![PortMap { container_port: 80, host_ip: "0.0.0.0".into(), host_port: 8080 }],
            ..ContainerInfo::default()
        };
        dress("c", desired, &mut container);
        Observed {
            node: NodeSeen::Reachable,
            containers: vec![container],
            address_changed: false,
            node_ready: true,
            name_taken_by: None,
            strays: vec![],
            network: NetworkSeen::Absent,
            volumes: BTreeMap::from([("web_data".to_owned(), Presence::Ours)]),
            image_present: Some(true),
            values: Default::default(),
            activity: ActivitySeen::default(),
            startup: Some(crate::controllers::probes::Attempt::Passed),
            health: Default::default(),
            leave: None,
            loss: None,
            freeze_refusal: None,
            taken: vec![],
        }
    }

    fn planned(desired: &Instance, seen: &Observed) -> Plan {
        let site = Site { cluster: "c".into(), ..Site::default() };
        plan(&site, desired, seen, Timestamp::from_second(SECOND + 60).unwrap())
    }

    fn texts(plan: &Plan) -> Vec<String> {
        plan.actions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_found_as_it_is_needs_nothing_but_its_limits_and_its_policy() {
        let desired = adopted_with(json!({}));
        let mut seen = seen(&desired, RunState::Running);
        let plan = planned(&desired, &seen);
        let update = "update 0af90af90af9 to memory 268435456, cpu 500m, pids 512";
        assert_eq!((texts(&plan), plan.status.phase), (vec![update.to_owned()], Phase::Running));
        assert_eq!(plan.status.container_id, id());
        seen.containers[0].limits = super::super::desired::limits(&desired);
        seen.containers[0].restart_policy = "no".into();
        let plan = planned(&desired, &seen);
        assert_eq!(texts(&plan), [""; 0], "neither its name nor its networks are drift");
        assert!(plan.recheck.is_some_and(|r| r <= LOOK), "it is in no listing");
        // Whose our names are does not matter before they are needed.
        seen.name_taken_by = Some("1".repeat(64));
        seen.network = NetworkSeen::Foreign;
        assert_eq!(planned(&desired, &seen).status.phase, Phase::Running);
    }

    #[test]
    fn whatever_the_container_is_not_is_an_upgrade() {
        for change in [
            json!({"image": "app:2"}),
            json!({"env": []}),
            json!({"args": ["x"]}),
            json!({"security": {"noNewPrivileges": true}}),
            json!({"ports": [{"name": "p80", "containerPort": 81, "hostPort": 8080}]}),
            json!({"volumes": []}),
            json!({"envFrom": [{"configMapRef": {"name": "c", "optional": true}}]}),
        ] {
            let desired = adopted_with(change.clone());
            let texts = texts(&planned(&desired, &seen(&desired, RunState::Running)));
            let made = texts.iter().any(|t| t.starts_with("create container pr.default.alice"));
            let order = [
                texts.iter().position(|t| t.starts_with("stop ")),
                texts.iter().position(|t| t.starts_with("remove ")),
            ];
            assert!(made && order[0].is_some() && order[0] < order[1], "{change}: {texts:?}");
            assert!(!texts.iter().any(|t| t.starts_with("create volume")), "{change}: {texts:?}");
        }
        for change in [json!({"power": "Running", "idle": {"after": "1m"}}), json!({"resources": {"memory": "1Gi"}})] {
            let desired = adopted_with(change);
            let texts = texts(&planned(&desired, &seen(&desired, RunState::Running)));
            assert!(texts.len() == 1 && texts[0].starts_with("update "), "{texts:?}");
        }
    }

    #[test]
    fn it_rests_and_starts_again_in_itself() {
        let desired = adopted_with(json!({"power": "Stopped"}));
        let plan = planned(&desired, &seen(&desired, RunState::Running));
        assert_eq!(texts(&plan), ["mark Stopping", "stop 0af90af90af9"]);
        assert_eq!(texts(&planned(&desired, &seen(&desired, RunState::Exited))), [""; 0], "it keeps its name");
        let desired = adopted_with(json!({}));
        let texts = texts(&planned(&desired, &seen(&desired, RunState::Exited)));
        assert!(texts.contains(&"start 0af90af90af9".to_owned()), "{texts:?}");
        assert!(!texts.iter().any(|t| t.starts_with("create") || t.starts_with("remove")), "{texts:?}");
    }

    #[test]
    fn deletion_takes_it_unless_it_was_released_and_never_its_volumes() {
        let mut desired = adopted_with(json!({}));
        desired.metadata.deletion_timestamp = Timestamp::from_second(SECOND).ok().map(Into::into);
        let seen = seen(&desired, RunState::Running);
        assert_eq!(texts(&planned(&desired, &seen)), ["stop 0af90af90af9", "remove container 0af90af90af9"]);
        desired.metadata.annotations.insert(RELEASE_ANNOTATION.into(), id());
        assert_eq!(planned(&desired, &seen).actions, [Action::DropFinalizer]);
        // One of ours beside it is not what was let go.
        let mut both = seen;
        let mut own = both.containers[0].clone();
        own.id = "1".repeat(64);
        both.containers.push(own);
        assert_eq!(texts(&planned(&desired, &both)), ["stop 111111111111", "remove container 111111111111"]);
    }

    #[test]
    fn before_it_is_adopted_nothing_is_done_but_that() {
        let mut desired = adopted_with(json!({}));
        desired.status = Default::default();
        let mut seen = seen(&desired, RunState::Running);
        seen.containers.clear();
        for (adoption, phase, reason) in [
            (AdoptionSeen::Unknown("h1 is away".into()), Phase::Pending, "HostUnreachable"),
            (AdoptionSeen::Unfit(vec!["is not running".into()]), Phase::Failed, NOT_ADOPTABLE),
        ] {
            seen.node = NodeSeen::ToAdopt(adoption);
            let plan = planned(&desired, &seen);
            let ready = crate::model::condition(&plan.status.conditions, "Ready").unwrap();
            assert_eq!((plan.actions.len(), plan.status.phase, ready.reason.as_str()), (0, phase, reason));
            assert!(plan.recheck.is_some());
            let again = planned(&Instance { status: plan.status.clone(), ..desired.clone() }, &seen);
            assert_eq!(again.status, plan.status, "told once");
        }
        seen.node = NodeSeen::ToAdopt(AdoptionSeen::Fits(Box::new(offer())));
        assert_eq!(planned(&desired, &seen).actions, [Action::Adopt(Box::new(offer()))]);
        desired.metadata.deletion_timestamp = Timestamp::from_second(SECOND).ok().map(Into::into);
        assert_eq!(planned(&desired, &seen).actions, [Action::DropFinalizer], "it was never its own");
    }
}
