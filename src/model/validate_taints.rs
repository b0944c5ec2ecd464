//! The rules of taints and tolerations.

use std::collections::BTreeSet;

use super::{FieldError, FieldErrors, Operator, Taint, Toleration, is_label_key, is_label_value};

const KEY_RULE: &str = "must be an optional DNS subdomain and '/', and up to 63 of A-Za-z0-9-_.";
const VALUE_RULE: &str = "must be empty or up to 63 of A-Za-z0-9-_., beginning and ending with a letter or digit";

fn check(path: &str, key: &str, value: &str, errors: &mut FieldErrors) {
    if !key.is_empty() && !is_label_key(key) {
        errors.push(FieldError::invalid(format!("{path}.key"), format!("{key:?}"), KEY_RULE));
    }
    if !is_label_value(value) {
        errors.push(FieldError::invalid(format!("{path}.value"), format!("{value:?}"), VALUE_RULE));
    }
}

/// The taints of a host: well-formed, and none twice with one effect.
pub fn validate_taints(taints: &[Taint], errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = format!("spec.taints[{i}]");
        if taint.key.is_empty() {
            errors.push(FieldError::required(format!("{path}.key"), "the taint's name"));
        }
        check(&path, &taint.key, &taint.value, errors);
        if !seen.insert((&taint.key, taint.effect)) {
            errors.push(FieldError::duplicate(path, format!("{:?}", format!("{}:{:?}", taint.key, taint.effect))));
        }
    }
}

/// The tolerations of an instance.
pub fn validate_tolerations(tolerations: &[Toleration], errors: &mut FieldErrors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = format!("spec.placement.tolerations[{i}]");
        check(&path, &toleration.key, &toleration.value, errors);
        match toleration.operator {
            Operator::Equal if toleration.key.is_empty() => {
                let why = "must be Exists when key is empty, which means any key";
                errors.push(FieldError::invalid(format!("{path}.operator"), "\"Equal\"", why));
            }
            Operator::Exists if !toleration.value.is_empty() => {
                let why = "must be empty when operator is Exists";
                errors.push(FieldError::invalid(format!("{path}.value"), format!("{:?}", toleration.value), why));
            }
            Operator::Equal | Operator::Exists => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_taints_and_tolerations_are_told_with_their_path() {
        let taints: Vec<Taint> = serde_json::from_value(json!([
            {"key": "example.com/gpu", "value": "a100", "effect": "NoSchedule"},
            {"key": "example.com/gpu", "effect": "NoSchedule"},
            {"key": "", "effect": "NoExecute"},
            {"key": "a b", "value": "-x", "effect": "NoExecute"},
        ]))
        .unwrap();
        let mut errors = FieldErrors::default();
        validate_taints(&taints, &mut errors);
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["spec.taints[1]", "spec.taints[2].key", "spec.taints[3].key", "spec.taints[3].value"]);

        let tolerations: Vec<Toleration> = serde_json::from_value(
            json!([{"operator": "Exists"}, {}, {"key": "a", "operator": "Exists", "value": "b"}]),
        )
        .unwrap();
        let mut errors = FieldErrors::default();
        validate_tolerations(&tolerations, &mut errors);
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["spec.placement.tolerations[1].operator", "spec.placement.tolerations[2].value"]);
    }
}
