//! The rule for a path prefix of a route: what the path of no request can begin with leads nowhere, and is refused.
//!
//! Prefixes and paths are compared as they are sent (`proxy::router`). So a prefix must be spelt as clients spell paths: by
//! RFC 3986 §3.3, percent-encoded as the URL Standard has browsers do it, and without the segments that they resolve.

/// What is the proxy's own on every host: no app gets requests to it.
pub const RESERVED_PATH: &str = "/.well-known/portreeve";

/// A prefix as it is compared: `/a` and `/a/` are one, and `/` is empty.
pub fn normal_prefix(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

/// Why a path prefix cannot work; `None`: it can.
pub fn prefix_problem(prefix: &str) -> Option<&'static str> {
    if !prefix.starts_with('/') {
        return Some("must be an absolute path, beginning with '/'");
    }
    if prefix.contains(['?', '#']) {
        return Some("must be a path alone, without '?' and '#'");
    }
    if !prefix.bytes().all(is_sent_as_it_is) {
        return Some(
            "must be percent-encoded, as requests are: without spaces, control characters, \"<>\\`{} and what is not ASCII",
        );
    }
    if !escapes_are_whole(prefix) {
        return Some("must have two hexadecimal digits after each '%'");
    }
    if prefix.split('/').any(is_dots) {
        return Some("must not have '.' or '..' for a segment: browsers resolve them before they ask");
    }
    if prefix.ends_with("//") {
        return Some("must not end with several '/'");
    }
    let own = normal_prefix(prefix).strip_prefix(RESERVED_PATH);
    if own.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Some("must not be below /.well-known/portreeve/, which is the proxy's own");
    }
    None
}

/// The URL Standard's path percent-encode set, and the backslash, which browsers take for a slash.
fn is_sent_as_it_is(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'`' | b'{' | b'}')
}

fn escapes_are_whole(prefix: &str) -> bool {
    prefix.split('%').skip(1).all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

/// `.` and `..`, in every spelling that the URL Standard takes for them.
fn is_dots(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_requests_can_begin_with_is_taken() {
        for good in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/~d",
            "/a//b",
            "/%C3%BC",
            "/a%20b",
            "/a%2Fb",
            "/..a",
            "/.well-known",
            "/.well-known/portreeves",
            "/a:b@c;d=e,f+g$h&i!j*k(l)'m",
            "/[id]|^",
            "/...",
            "/api/v1/",
        ] {
            assert_eq!(prefix_problem(good), None, "{good}");
        }
    }

    #[test]
    fn what_no_request_begins_with_is_refused_and_told_why() {
        for (bad, why) in [
            ("", "absolute"),
            ("a", "absolute"),
            ("/a?x", "'?'"),
            ("/a#x", "'#'"),
            ("/ü", "percent-encoded"),
            ("/a b", "percent-encoded"),
            ("/a\u{7f}", "percent-encoded"),
            ("/a\\b", "percent-encoded"),
            ("/{id}", "percent-encoded"),
            ("/%zz", "hexadecimal"),
            ("/a%", "hexadecimal"),
            ("/a%2", "hexadecimal"),
            ("/%%20", "hexadecimal"),
            ("/a/../b", "segment"),
            ("/a/./b", "segment"),
            ("/..", "segment"),
            ("/a/%2E%2e", "segment"),
            ("/.%2e/a", "segment"),
            ("//", "several"),
            ("/a//", "several"),
            ("/.well-known/portreeve", "proxy's own"),
            ("/.well-known/portreeve/", "proxy's own"),
            ("/.well-known/portreeve/progress", "proxy's own"),
        ] {
            let problem = prefix_problem(bad).unwrap_or_default();
            assert!(problem.contains(why), "{bad}: {problem:?}");
        }
    }

    proptest! {
        /// What is taken is the path of a request just so.
        #[test]
        fn a_prefix_that_is_taken_is_what_a_client_sends(prefix in "/([a-c.%/2eEfü?#{}\\\\ |]|%2[0-9e]){0,8}") {
            prop_assume!(prefix_problem(&prefix).is_none());
            let uri = format!("http://host.test{prefix}").parse::<http::Uri>();
            prop_assert_eq!(uri.map(|uri| uri.path().to_owned()).ok(), Some(prefix));
        }
    }
}
