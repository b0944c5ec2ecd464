//! Paths and queries of the API, with everything that came from a user percent-encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but the unreserved characters of RFC 3986.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One segment or query value.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
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
