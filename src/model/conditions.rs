//! Conditions: what a controller found out about an object, by the Kubernetes API conventions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Time;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    #[default]
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(b: bool) -> Self {
        if b { Self::True } else { Self::False }
    }
}

/// One aspect of the observed state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The aspect, in CamelCase: `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// Why, as one CamelCase word for programs.
    #[serde(default)]
    pub reason: String,
    /// Why, in a sentence for people.
    #[serde(default)]
    pub message: String,
    /// The generation of the spec that this was found out about.
    #[serde(default)]
    pub observed_generation: i64,
    /// When `status` last changed.
    pub last_transition_time: Time,
}

/// Sets a condition, keeping the transition time of one whose status stays the same.
pub fn set_condition(conditions: &mut Vec<Condition>, new: Condition) {
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) if old.status == new.status => {
            let since = old.last_transition_time;
            *old = Condition { last_transition_time: since, ..new };
        }
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// The condition of a type, if set.
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of a type is set and True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    condition(conditions, type_).is_some_and(|c| c.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: bool, at: i64) -> Condition {
        Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: "Test".into(),
            message: String::new(),
            observed_generation: 1,
            last_transition_time: jiff::Timestamp::from_second(at).unwrap().into(),
        }
    }

    #[test]
    fn transition_time_moves_only_when_the_status_does() {
        let mut conditions = vec![];
        set_condition(&mut conditions, ready(false, 1));
        set_condition(&mut conditions, ready(false, 2));
        assert_eq!(conditions[0].last_transition_time.timestamp().as_second(), 1);
        set_condition(&mut conditions, ready(true, 3));
        assert_eq!(conditions[0].last_transition_time.timestamp().as_second(), 3);
        assert!(is_true(&conditions, "Ready") && !is_true(&conditions, "Scheduled"));
    }
}
