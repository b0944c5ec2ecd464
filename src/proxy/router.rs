//! From a request's head to a host name and a port name. Pure; refuses whatever two readers could understand differently.
//!
//! The host name leads to an instance through the cache; the path then picks the instance's port.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use crate::model::{IgnoredRequest, Instance, Route, RoutePath, normal_prefix};

/// Why a request's head is not acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("no Host header")]
    NoHost,
    #[error("more than one Host header")]
    ManyHosts,
    #[error("the host is not a valid host name")]
    InvalidHost,
    #[error("more than one length, or one that is no number")]
    ManyLengths,
    #[error("a transfer coding other than chunked")]
    UnknownCoding,
    #[error("CONNECT is not served")]
    Connect,
    #[error("the target is neither a path nor a URL")]
    InvalidTarget,
}

/// The host name that a request is for, in the client's own case: without port and trailing dot.
///
/// RFC 9112 §3.2: exactly one Host header in HTTP/1.1, none or one in 1.0; the host of an absolute request target
/// takes its place.
pub fn host_name(head: &Parts) -> Result<&str, BadHead> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(BadHead::ManyHosts);
    }
    if header.is_none() && head.version >= Version::HTTP_11 && head.version < Version::HTTP_2 {
        return Err(BadHead::NoHost);
    }
    let text = match (head.uri.authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => header.to_str().map_err(|_| BadHead::InvalidHost)?,
        (None, None) => return Err(BadHead::NoHost),
    };
    strip_port(text).ok_or(BadHead::InvalidHost)
}

/// What a request is for: a host of an instance, and a path there.
#[derive(Debug, PartialEq, Eq)]
pub struct Address<'a> {
    pub host: Cow<'a, str>,
    /// Empty where only the slash after the prefix is missing.
    pub path: &'a str,
    /// Of the path as sent, what stands before `path`: `/proxy/NAME`, or nothing.
    pub prefix: &'a str,
}

impl<'a> Address<'a> {
    /// `domain`: the one on which `/proxy/NAME/` stands for `NAME.DOMAIN`, if any.
    pub fn of(host: &'a str, path: &'a str, domain: Option<&str>) -> Address<'a> {
        let whole = Address { host: Cow::Borrowed(host), path, prefix: "" };
        let Some(domain) = domain.filter(|domain| host.eq_ignore_ascii_case(domain)) else { return whole };
        let Some(rest) = path.strip_prefix("/proxy/") else { return whole };
        let name = rest.split('/').next().unwrap_or_default();
        if name.is_empty() {
            return whole;
        }
        let (prefix, path) = path.split_at(path.len() - rest.len() + name.len());
        Address { host: Cow::Owned(format!("{name}.{domain}")), path, prefix }
    }
}

/// Refuses heads that hyper lets pass but a hop behind us could take in another way.
pub fn check_framing(head: &Parts) -> Result<(), BadHead> {
    if head.method == Method::CONNECT {
        return Err(BadHead::Connect);
    }
    // HTTP/2 has the path in a field of its own, where a whole URL may stand; an authority alone is looked at later.
    let path = head.uri.path();
    let known = path.is_empty() || path.starts_with('/') || path == "*" && head.method == Method::OPTIONS;
    if !known {
        return Err(BadHead::InvalidTarget);
    }
    check_length(&head.headers)
}

/// One plain length at most, and none beside chunks: of a request, or of an app's answer (RFC 9112 §6.3).
pub fn check_length(headers: &HeaderMap) -> Result<(), BadHead> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let plain = |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some() || !length.is_none_or(plain) {
        return Err(BadHead::ManyLengths);
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(BadHead::UnknownCoding);
        }
        if length.is_some() {
            return Err(BadHead::ManyLengths);
        }
    }
    Ok(())
}

/// `host`, `host:80`, `host.`; a literal address keeps its brackets. `None` for anything else.
fn strip_port(text: &str) -> Option<&str> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let inner = &text[1..end - 1];
        if inner.is_empty() || !inner.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
            return None;
        }
        (&text[..end], &text[end..])
    } else {
        let (host, port) = text.find(':').map_or((text, ""), |colon| text.split_at(colon));
        let host = host.strip_suffix('.').unwrap_or(host);
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(valid) {
            return None;
        }
        (host, port)
    };
    match port.strip_prefix(':') {
        None => port.is_empty().then_some(host),
        // RFC 3986 lets the digits be missing.
        Some(digits) => (digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(host),
    }
}

/// The route of a host of this instance: `Some(None)` is the default one, of which nothing is said; `None` is none.
///
/// `host` is one that the cache resolved to this instance. `domain` is the server's.
pub fn route_of<'a>(instance: &'a Instance, host: &str, domain: &str) -> Option<Option<&'a Route>> {
    match instance.spec.routes.as_slice() {
        [] => Some(None),
        [only] => Some(Some(only)),
        // Placeholders are filled only where there is something to choose from: this is the one path that allocates.
        many => claiming(instance, many, host, domain).map(Some),
    }
}

/// The name of the port that `path` leads to on a route of this instance; `None` when none of its prefixes matches.
pub fn port_name<'a>(instance: &'a Instance, route: Option<&'a Route>, path: &str) -> Option<&'a str> {
    let first = instance.spec.ports.first()?;
    match route {
        Some(route) if !route.paths.is_empty() => longest(&route.paths, path).map(|p| p.port.as_str()),
        _ => Some(&first.name),
    }
}

/// The route whose resolved host is `host`.
fn claiming<'a>(instance: &Instance, routes: &'a [Route], host: &str, domain: &str) -> Option<&'a Route> {
    routes.iter().find(|route| instance.resolved_host(route, domain).eq_ignore_ascii_case(host))
}

/// The longest prefix that matches by whole segments. Of equal ones the first.
fn longest<'a>(paths: &'a [RoutePath], path: &str) -> Option<&'a RoutePath> {
    let mut best: Option<(&RoutePath, usize)> = None;
    for candidate in paths {
        let prefix = normal_prefix(&candidate.prefix);
        if covers(prefix, path) && best.is_none_or(|(_, len)| prefix.len() > len) {
            best = Some((candidate, prefix.len()));
        }
    }
    best.map(|(p, _)| p)
}

/// Whether a request is no use of its instance. `path`: there.
pub fn is_ignored(instance: &Instance, head: &Parts, path: &str) -> bool {
    let rules = &instance.spec.idle.ignore;
    if rules.is_empty() {
        return false;
    }
    let agent =
        head.headers.get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    rules.iter().any(|IgnoredRequest { user_agent, path: prefix }| {
        let part = user_agent.to_ascii_lowercase();
        (part.is_empty() || agent.as_ref().is_some_and(|agent| agent.contains(&part)))
            && (prefix.is_empty() || covers(normal_prefix(prefix), path))
            && !(part.is_empty() && prefix.is_empty())
    })
}

/// Whether `prefix`, without trailing slash, is `path` or ends in it where a segment ends. The empty prefix is the root.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;
    use crate::model::Port;

    fn port_at<'a>(instance: &'a Instance, host: &str, path: &str) -> Option<&'a str> {
        port_name(instance, route_of(instance, host, "test")?, path)
    }

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_host_is_taken_without_port_and_dot() {
        for (sent, host) in [
            ("alice.example.com", "alice.example.com"),
            ("Alice.Example.COM:8080", "Alice.Example.COM"),
            ("alice.example.com.", "alice.example.com"),
            ("alice.example.com.:80", "alice.example.com"),
            ("alice.example.com:", "alice.example.com"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
        ] {
            assert_eq!(host_name(&head("/", &[("host", sent)])), Ok(host), "{sent}");
        }
    }

    #[test]
    fn a_host_that_could_be_read_in_two_ways_is_refused() {
        for sent in
            ["", ".", "a b", "u@alice", "alice:x", "alice:80:80", "alice:123456", "[::1", "[x]", "[]", "a/b", "a,b"]
        {
            assert_eq!(host_name(&head("/", &[("host", sent)])), Err(BadHead::InvalidHost), "{sent:?}");
        }
        assert_eq!(host_name(&head("/", &[])), Err(BadHead::NoHost));
        assert_eq!(host_name(&head("/", &[("host", "a"), ("host", "a")])), Err(BadHead::ManyHosts));
    }

    #[test]
    fn the_host_of_an_absolute_target_wins_but_does_not_excuse_bad_headers() {
        assert_eq!(host_name(&head("http://alice.test:81/x", &[("host", "bob.test")])), Ok("alice.test"));
        assert_eq!(host_name(&head("http://alice.test/x", &[])), Err(BadHead::NoHost));
        assert_eq!(host_name(&head("http://alice.test/", &[("host", "a"), ("host", "b")])), Err(BadHead::ManyHosts));
        assert_eq!(host_name(&head("http://eve@alice.test/", &[("host", "b")])), Err(BadHead::InvalidHost));
        let mut old = head("/", &[]);
        old.version = Version::HTTP_10;
        assert_eq!(host_name(&old), Err(BadHead::NoHost), "1.0 may leave Host out, but then names nobody");
    }

    #[test]
    fn only_one_plain_framing_is_accepted() {
        assert_eq!(check_framing(&head("/", &[("transfer-encoding", "Chunked")])), Ok(()));
        assert_eq!(check_framing(&head("/", &[("content-length", "3")])), Ok(()));
        for (headers, why) in [
            (&[("transfer-encoding", "gzip, chunked")][..], BadHead::UnknownCoding),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], BadHead::UnknownCoding),
            (&[("transfer-encoding", "\u{b}chunked")], BadHead::UnknownCoding),
            (&[("transfer-encoding", "chunked"), ("content-length", "3")], BadHead::ManyLengths),
        ] {
            let mut parts = head("/", &[]);
            for (name, value) in headers {
                if let Ok(value) = http::HeaderValue::from_str(value) {
                    parts.headers.append(http::HeaderName::from_static(name), value);
                } else {
                    parts.headers.append(http::HeaderName::from_static(name), http::HeaderValue::from_static("x"));
                }
            }
            assert_eq!(check_framing(&parts), Err(why), "{headers:?}");
        }
        let mut connect = head("/", &[]);
        connect.method = Method::CONNECT;
        assert_eq!(check_framing(&connect), Err(BadHead::Connect));
    }

    #[test]
    fn a_length_is_one_plain_number() {
        let of = |lengths: &[&str]| {
            let lengths: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            check_framing(&head("/", &lengths))
        };
        assert_eq!((of(&[]), of(&["0"]), of(&["0012"])), (Ok(()), Ok(()), Ok(())));
        for bad in [&["5", "5"][..], &["5", "0"], &[""], &["+5"], &["5, 5"], &["0x5"], &["5 "]] {
            assert_eq!(of(bad), Err(BadHead::ManyLengths), "{bad:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_a_url() {
        let of = |path: &'static str, method: Method| {
            let mut parts = head("/", &[]);
            // As HTTP/2 has it: whatever stood in the field of the path.
            parts.uri = http::uri::Builder::new().path_and_query(path).build().unwrap();
            parts.method = method;
            check_framing(&parts)
        };
        assert_eq!(
            (of("/", Method::GET), of("//a?b", Method::GET), of("*", Method::OPTIONS)),
            (Ok(()), Ok(()), Ok(()))
        );
        assert_eq!(of("*", Method::GET), Err(BadHead::InvalidTarget));
        assert_eq!(check_framing(&head("http://alice.test/a", &[])), Ok(()));
    }

    #[test]
    fn a_path_on_the_domain_stands_for_a_host_where_that_is_wanted() {
        let of = |host, path| {
            let Address { host, path, prefix } = Address::of(host, path, Some("example.com"));
            (host.into_owned(), path, prefix)
        };
        let own = |host: &str, path, prefix| (host.to_owned(), path, prefix);
        assert_eq!(of("Example.com", "/proxy/alice/a/b"), own("alice.example.com", "/a/b", "/proxy/alice"));
        assert_eq!(of("example.com", "/proxy/alice/"), own("alice.example.com", "/", "/proxy/alice"));
        assert_eq!(of("example.com", "/proxy/alice"), own("alice.example.com", "", "/proxy/alice"));
        for (host, path) in [
            ("example.com", "/proxy/"),
            ("example.com", "/proxy"),
            ("example.com", "/proxy//a"),
            ("example.com", "/other/alice/"),
            ("bob.example.com", "/proxy/alice/"),
            ("example.com", "*"),
        ] {
            assert_eq!(of(host, path), own(host, path, ""), "{host}{path}");
        }
        let without = Address::of("example.com", "/proxy/alice/", None);
        assert_eq!((&*without.host, without.path, without.prefix), ("example.com", "/proxy/alice/", ""));
    }

    #[test]
    fn pollers_are_told_by_their_agent_and_path() {
        let mut inst = Instance::default();
        let rule = |agent: &str, path: &str| IgnoredRequest { user_agent: agent.into(), path: path.into() };
        inst.spec.idle.ignore = vec![rule("UptimeRobot", ""), rule("", "/healthz/"), rule("curl", "/poll")];
        for (agent, path, ignored) in [
            ("Mozilla/5.0+(compatible; uptimerobot/2.0)", "/", true),
            ("Mozilla/5.0", "/", false),
            ("Mozilla/5.0", "/healthz", true),
            ("Mozilla/5.0", "/healthzx", false),
            ("curl/8.0", "/poll/a", true),
            ("curl/8.0", "/", false),
            ("Mozilla/5.0", "/poll", false),
        ] {
            assert_eq!(is_ignored(&inst, &head("/", &[("user-agent", agent)]), path), ignored, "{agent} {path}");
        }
        assert!(!is_ignored(&inst, &head("/", &[]), "/"));
        assert!(!is_ignored(&Instance::default(), &head("/", &[("user-agent", "UptimeRobot")]), "/"));
    }

    fn app(routes: &[(&str, &[(&str, &str)])]) -> Instance {
        let mut inst = Instance::default();
        inst.metadata.name = "alice".into();
        for name in ["web", "api", "ws"] {
            inst.spec.ports.push(Port { name: name.into(), container_port: 80, host_port: None });
        }
        for (host, paths) in routes {
            let paths = paths.iter().map(|(prefix, port)| RoutePath { prefix: (*prefix).into(), port: (*port).into() });
            inst.spec.routes.push(Route { host: (*host).into(), paths: paths.collect(), ..Default::default() });
        }
        inst
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let inst = app(&[("", &[("/", "web"), ("/api", "api"), ("/api/v2/", "ws")])]);
        for (path, port) in [
            ("/", "web"),
            ("/apiary", "web"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/api/v2x", "api"),
            ("/api/v2", "ws"),
            ("/api/v2/deep", "ws"),
            ("*", "web"),
        ] {
            assert_eq!(port_at(&inst, "alice.test", path), Some(port), "{path}");
        }
        let no_root = app(&[("", &[("/api", "api")])]);
        assert_eq!(port_at(&no_root, "alice.test", "/other"), None);
    }

    #[test]
    fn each_host_has_its_own_paths_and_the_first_port_is_the_default() {
        assert_eq!(port_at(&app(&[]), "alice.test", "/x"), Some("web"));
        assert_eq!(port_at(&app(&[("a.test", &[])]), "a.test", "/x"), Some("web"));
        let two = app(&[("{name}.{domain}", &[("/", "web")]), ("api.Test", &[("/", "api")])]);
        assert_eq!(port_at(&two, "ALICE.test", "/x"), Some("web"));
        assert_eq!(port_at(&two, "api.test", "/x"), Some("api"));
        assert_eq!(port_at(&two, "eve.test", "/x"), None);
        assert_eq!(port_at(&Instance::default(), "alice.test", "/"), None, "no port, nowhere to go");
    }

    /// The rule as the documentation tells it, on lists of segments.
    fn by_segments(prefix: &str, path: &str) -> bool {
        let prefix = prefix.trim_end_matches('/');
        let prefix: Vec<_> = prefix.split('/').collect();
        let path: Vec<_> = path.split('/').collect();
        path.len() >= prefix.len() && path[..prefix.len()] == prefix[..]
    }

    proptest! {
        #[test]
        fn prefixes_match_as_lists_of_segments_do(prefix in "(/[ab]{1,2}){0,3}/?", path in "(/[ab]{0,2}){1,4}") {
            let prefix = if prefix.is_empty() { "/".to_owned() } else { prefix };
            prop_assert_eq!(covers(prefix.trim_end_matches('/'), &path), by_segments(&prefix, &path));
        }

        #[test]
        fn the_chosen_prefix_matches_and_no_longer_one_does(
            prefixes in proptest::collection::vec("(/[ab]{1,2}){1,3}/?", 1..6),
            path in "(/[ab]{0,2}){1,4}",
        ) {
            let paths: Vec<_> =
                prefixes.iter().map(|p| RoutePath { prefix: p.clone(), port: p.clone() }).collect();
            let best = prefixes.iter().filter(|p| by_segments(p, &path)).map(|p| p.trim_end_matches('/').len()).max();
            prop_assert_eq!(longest(&paths, &path).map(|p| p.prefix.trim_end_matches('/').len()), best);
        }

        #[test]
        fn no_text_of_a_host_header_panics(text in "\\PC{0,40}") {
            let _ = strip_port(&text);
        }
    }
}
