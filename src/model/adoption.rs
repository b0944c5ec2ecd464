//! Adoption: an Instance that begins with a container that runs already, and what the API tells of such containers.
//! Pure. What may be adopted and what it would be as a spec is found out in the docker room.
//!
//! ```text
//! spec.adopt (asked for, once) ──▶ status.adopted (done, and as what) ──▶ it is the Instance's container like any other
//! ```
//!
//! Docker changes no labels of a container that is there, so `status.adopted` stands for them: while it names a container,
//! that one is the Instance's, and its spec hash is the one noted there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::validate::quoted;
use super::{FieldError, FieldErrors, Instance, InstanceSpec, OnHostLoss, validate_host_name};

/// Annotation: the id of the adopted container that stays, as it is, when the Instance is deleted
/// (`portreeve adopt --release`).
pub const RELEASE_ANNOTATION: &str = "portreeve.dev/release";

/// A container that runs already and is to become an Instance's, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopt {
    /// The DockerHost that it runs on.
    #[schemars(length(min = 1, max = 63))]
    pub node: String,
    /// Its id: all 64 hexadecimal digits.
    #[serde(rename = "containerID")]
    #[schemars(length(min = 64, max = 64))]
    pub container_id: String,
}

/// A container that was adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopted {
    /// The DockerHost that it was found on.
    pub node: String,
    /// Its full id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The hash of what it is: while that of the spec is the same, nothing needs another container.
    pub spec_hash: String,
    /// The restart policy that it had, and has no more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart_policy: String,
}

/// A container on a host that is no Instance's, as `dockerhosts/NAME/containers` tells of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostContainer {
    /// Its full id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its name in Docker.
    pub name: String,
    /// The reference that it was made from.
    pub image: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Why it cannot be adopted; none: it can.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refusals: Vec<String>,
    /// What becomes different once it is made anew.
    #[serde(default, skip_serializing_if = "is_default")]
    pub notes: Vec<String>,
    /// Networks that it shares with other containers; one made in its place would not be in them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared_networks: Vec<String>,
    /// What it is, as the spec of an Instance; none when it cannot be adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<InstanceSpec>,
}

/// All of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostContainerList {
    /// The containers.
    pub items: Vec<HostContainer>,
}

impl Instance {
    /// The container that it is to begin with and has not yet.
    pub fn to_adopt(&self) -> Option<&Adopt> {
        self.spec.adopt.as_ref().filter(|_| self.status.adopted.is_none() && self.status.node.is_empty())
    }

    /// What was adopted on the node that it is bound to.
    pub fn adopted_here(&self) -> Option<&Adopted> {
        self.status.adopted.as_ref().filter(|adopted| adopted.node == self.status.node)
    }

    /// Whether this is the container that was adopted, and not one that was made for the instance.
    pub fn is_adopted(&self, container_id: &str) -> bool {
        !container_id.is_empty() && self.status.adopted.as_ref().is_some_and(|a| a.container_id == container_id)
    }

    /// Whether this container is to stay when the instance goes.
    pub fn is_released(&self, container_id: &str) -> bool {
        self.is_adopted(container_id)
            && self.metadata.annotations.get(RELEASE_ANNOTATION).is_some_and(|id| id == container_id)
    }

    /// Whether the instance claims this container, adopted already or not.
    pub fn claims(&self, container_id: &str) -> bool {
        self.is_adopted(container_id) || self.to_adopt().is_some_and(|adopt| adopt.container_id == container_id)
    }
}

fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether Docker takes it for the name of a volume.
pub(super) fn is_volume_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    text.len() <= 255 && text.bytes().all(allowed) && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

pub(super) fn validate_adoption(instance: &Instance, errors: &mut FieldErrors) {
    let Some(adopt) = &instance.spec.adopt else { return };
    errors.extend(validate_host_name("spec.adopt.node", &adopt.node));
    if !is_full_id(&adopt.container_id) {
        let why = "must be the whole id of a container: 64 hexadecimal digits in lower case";
        errors.push(FieldError::invalid("spec.adopt.containerID", quoted(&adopt.container_id), why));
    }
    let placement = &instance.spec.placement;
    if !placement.node.is_empty() && placement.node != adopt.node {
        let why = format!("must be {:?}, where the container that is to be adopted runs", adopt.node);
        errors.push(FieldError::invalid("spec.placement.node", quoted(&placement.node), &why));
    }
    if placement.on_host_loss == OnHostLoss::Recreate {
        let why =
            "Recreate could leave the adopted container running on the lost host, and nothing on it tells whose it is";
        errors.push(FieldError::forbidden("spec.placement.onHostLoss", why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::validate_instance;
    use super::*;

    fn errors(spec: Value) -> Vec<String> {
        let mut whole = json!({"image": "a:1", "adopt": {"node": "h1", "containerID": "0af9".repeat(16)}});
        json_patch::merge(&mut whole, &spec);
        let object = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": whole});
        let instance: Instance = serde_json::from_value(object).unwrap();
        validate_instance(&instance).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_a_whole_id_on_a_named_host_is_adopted() {
        assert_eq!(errors(json!({})), [""; 0]);
        assert_eq!(errors(json!({"placement": {"node": "h1"}})), [""; 0]);
        for (bad, field) in [
            (json!({"adopt": {"containerID": "0af9"}}), "spec.adopt.containerID"),
            (json!({"adopt": {"containerID": "0AF9".repeat(16)}}), "spec.adopt.containerID"),
            (json!({"adopt": {"containerID": "web"}}), "spec.adopt.containerID"),
            (json!({"adopt": {"node": ""}}), "spec.adopt.node"),
            (json!({"adopt": {"node": "../h"}}), "spec.adopt.node"),
            (json!({"placement": {"node": "h2"}}), "spec.placement.node"),
            (json!({"placement": {"onHostLoss": "Recreate"}}), "spec.placement.onHostLoss"),
        ] {
            let found = errors(bad.clone());
            assert!(found.len() == 1 && found[0].starts_with(&format!("{field}: ")), "{bad}: {found:?}");
        }
    }

    #[test]
    fn a_volume_of_anothers_making_is_named_whole_and_kept() {
        let volume = |more: Value| {
            let mut volume = json!({"name": "v", "mountPath": "/v", "volumeName": "shop_data"});
            json_patch::merge(&mut volume, &more);
            errors(json!({"volumes": [volume]}))
        };
        assert_eq!(volume(json!({})), [""; 0]);
        assert_eq!(volume(json!({"volumeName": "0af9".repeat(16)})), [""; 0], "an anonymous one");
        for (bad, field) in [
            (json!({"volumeName": "/etc"}), "spec.volumes[0].volumeName"),
            (json!({"volumeName": "-x"}), "spec.volumes[0].volumeName"),
            (json!({"volumeName": "a b"}), "spec.volumes[0].volumeName"),
            (json!({"hostPath": "/srv"}), "spec.volumes[0].volumeName"),
            (json!({"reclaim": "Delete"}), "spec.volumes[0].reclaim"),
        ] {
            let found = volume(bad.clone());
            assert!(found.len() == 1 && found[0].starts_with(&format!("{field}: ")), "{bad}: {found:?}");
        }
    }

    #[test]
    fn what_was_adopted_is_no_more_to_be_adopted_and_is_let_go_by_its_id_only() {
        let id = "0af9".repeat(16);
        let mut i = Instance::default();
        i.spec.adopt = Some(Adopt { node: "h1".into(), container_id: id.clone() });
        assert!(i.to_adopt().is_some() && i.claims(&id) && !i.is_adopted(&id) && !i.is_adopted(""));
        i.status.node = "h1".into();
        let adopted = Adopted { node: "h1".into(), container_id: id.clone(), ..Adopted::default() };
        i.status.adopted = Some(adopted);
        assert!(i.to_adopt().is_none() && i.claims(&id) && i.adopted_here().is_some());
        i.metadata.annotations.insert(RELEASE_ANNOTATION.into(), "0".repeat(64));
        assert!(!i.is_released(&id));
        i.metadata.annotations.insert(RELEASE_ANNOTATION.into(), id.clone());
        assert!(i.is_released(&id) && !i.is_released(&"0".repeat(64)));
        i.status.node = "h2".into();
        assert!(
            i.adopted_here().is_none() && i.to_adopt().is_none(),
            "it has left that host, and adopts no second time"
        );
    }
}
