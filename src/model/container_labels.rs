//! Labels of an instance's container for other programs on its host: Traefik's Docker provider, Prometheus, log shippers.

use super::{FieldError, FieldErrors, Instance};

const MOST: usize = 64;
const LONGEST_KEY: usize = 255;
const LONGEST_VALUE: usize = 4096;
/// What Docker keeps for itself, and what is ours.
const TAKEN: [&str; 5] = ["portreeve.dev/", "com.docker.", "io.docker.", "org.dockerproject.", "desktop.docker."];

pub fn validate_container_labels(instance: &Instance, errors: &mut FieldErrors) {
    const FIELD: &str = "spec.containerLabels";
    let labels = &instance.spec.container_labels;
    if labels.len() > MOST {
        errors.push(FieldError::invalid(FIELD, labels.len(), &format!("must have at most {MOST} labels")));
    }
    for (key, value) in labels {
        let field = format!("{FIELD}[{key:?}]");
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'=' | b'"' | b'\'' | b'`' | b'\\');
        if key.is_empty() || key.len() > LONGEST_KEY || !key.bytes().all(plain) {
            let why = "a label's key has 1 to 255 visible characters of ASCII, none of them = or a quote";
            errors.push(FieldError::invalid(&field, format!("{key:?}"), why));
        }
        if let Some(prefix) = TAKEN.iter().find(|prefix| key.starts_with(**prefix)) {
            errors.push(FieldError::forbidden(&field, &format!("labels that begin with {prefix} are not for users")));
        }
        if value.len() > LONGEST_VALUE || value.chars().any(char::is_control) {
            let why = "must have at most 4096 bytes, and no control characters";
            errors.push(FieldError::invalid(&field, format!("{:.40?}", value), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(key: &str, value: &str) -> Vec<String> {
        let object = json!({"metadata": {"name": "a"}, "spec": {"containerLabels": {key: value}}});
        let instance: Instance = serde_json::from_value(object).unwrap();
        let mut errors = FieldErrors::default();
        validate_container_labels(&instance, &mut errors);
        Vec::from(errors).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn labels_that_other_programs_read_are_taken_and_those_of_docker_and_ours_are_not() {
        for key in ["traefik.enable", "traefik.http.routers.a.tls.domains[0].main", "prometheus.io/port", "x"] {
            assert_eq!(told(key, "Host(`a.example.com`) && PathPrefix(`/`)"), [""; 0], "{key}");
        }
        for key in ["portreeve.dev/uid", "com.docker.compose.project", "io.docker.x"] {
            assert!(told(key, "v")[0].starts_with(&format!("spec.containerLabels[{key:?}]: Forbidden")), "{key}");
        }
        for (key, value) in [("a b", "v"), ("a=b", "v"), ("", "v"), ("ä", "v"), ("a", "line\nbreak")] {
            assert!(told(key, value)[0].contains("Invalid value"), "{key:?}");
        }
        assert_eq!(told(&"k".repeat(256), "v").len(), 1);
        assert_eq!(told("k", &"v".repeat(4097)).len(), 1);
    }
}
