//! Paths and queries of the API, with everything that came from a user percent-encoded.

use std::fmt::Write;

/// One segment or query value: all but RFC 3986's unreserved characters are encoded.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A path with its query: `?a=b&c=d`, or nothing when there are no pairs.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let query: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// The Pod view of an instance.
pub fn pod(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", encode(namespace), encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_typed_cannot_leave_its_segment() {
        assert_eq!(encode("../x?y#z/ü"), "..%2Fx%3Fy%23z%2F%C3%BC");
        assert_eq!(with_query("/a", &[("l", "a in (b,c)"), ("n", "1")]), "/a?l=a%20in%20%28b%2Cc%29&n=1");
        assert_eq!(with_query("/a", &[]), "/a");
    }
}
