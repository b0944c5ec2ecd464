//! Taints of hosts and the tolerations of instances, with Kubernetes' meaning.
//!
//! A host repels by a taint; an instance that tolerates it is not repelled. Which taints count where is the
//! scheduler's and the controllers' to say; whether one is tolerated is said here alone.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;

/// The key of the taint by which an operator says that a host is off and will not come back as it was: Kubernetes' own, of
/// a non-graceful node shutdown. It counts while the host does not answer.
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A mark of a host that keeps instances away which do not tolerate it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Taint {
    /// Name, as of a label: `maintenance`, `example.com/gpu`.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// Value, as of a label.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 63))]
    pub value: String,
    /// What it does to instances that do not tolerate it.
    pub effect: TaintEffect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// Nothing new comes.
    NoSchedule,
    /// Nothing new comes while there is another host.
    PreferNoSchedule,
    /// As NoSchedule, and what is there and can move is moved away.
    NoExecute,
}

/// What an instance puts up with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Toleration {
    /// The taint's key. Default: any, which needs the operator Exists.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 317))]
    pub key: String,
    /// How the taint's value is compared. Default: Equal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub operator: Operator,
    /// The taint's value, for the operator Equal.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 63))]
    pub value: String,
    /// The taint's effect. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The taint has this value.
    #[default]
    Equal,
    /// Whatever its value.
    Exists,
}

impl fmt::Display for Taint {
    /// As kubectl writes it: `maintenance=yes:NoSchedule`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{:?}", self.effect)
    }
}

impl Toleration {
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator {
                Operator::Exists => true,
                // Without a key there is nothing to be equal to.
                Operator::Equal => !self.key.is_empty() && self.value == taint.value,
            }
    }
}

/// The first taint of one of these effects that no toleration covers.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[TaintEffect]) -> Option<&'a Taint> {
    taints.iter().filter(|t| effects.contains(&t.effect)).find(|t| !tolerations.iter().any(|o| o.tolerates(t)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tolerates(toleration: Value) -> bool {
        let taint = Taint { key: "disk".into(), value: "slow".into(), effect: TaintEffect::NoSchedule };
        serde_json::from_value::<Toleration>(toleration).unwrap().tolerates(&taint)
    }

    #[test]
    fn tolerations_match_as_in_kubernetes() {
        for (toleration, expected) in [
            (json!({"key": "disk", "value": "slow"}), true),
            (json!({"key": "disk", "operator": "Equal", "value": "slow", "effect": "NoSchedule"}), true),
            (json!({"key": "disk", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "disk", "value": "fast"}), false),
            (json!({"key": "disk"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({}), false),
        ] {
            assert_eq!(tolerates(toleration.clone()), expected, "{toleration}");
        }
    }

    #[test]
    fn only_the_effects_asked_for_count() {
        let taints = [Taint { key: "a".into(), value: String::new(), effect: TaintEffect::PreferNoSchedule }];
        assert_eq!(untolerated(&taints, &[], &[TaintEffect::NoSchedule, TaintEffect::NoExecute]), None);
        let found = untolerated(&taints, &[], &[TaintEffect::PreferNoSchedule]).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some("a:PreferNoSchedule"));
    }
}
