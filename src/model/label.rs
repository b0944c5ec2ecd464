//! The form of label keys and values, which annotations, finalizers and taints share.

/// A label or annotation key: an optional DNS subdomain and '/', then at most 63 of `A-Za-z0-9-_.`.
pub fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// A label value: empty, or at most 63 of `A-Za-z0-9-_.` beginning and ending with a letter or digit.
pub fn is_label_value(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= 63 && value.starts_with(end) && value.ends_with(end) && value.chars().all(inner))
}

/// A DNS subdomain of at most 253 characters.
pub fn is_subdomain(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label)
}
