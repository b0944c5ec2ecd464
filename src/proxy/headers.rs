//! What a gateway changes in the headers that pass through it. Pure.
//!
//! Connection-level fields end here (RFC 9110 §7.6.1). What the app is told of the visitor is set here and nowhere else:
//! whatever a visitor claims about itself in those fields is dropped.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use http_body::Body;

use super::access::USER;
use super::forwarded::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO, Visitor};

/// What the visitor's path began with and the app's does not; as Traefik's StripPrefix says it.
pub const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that never pass a hop.
const HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE];

/// Fields in which apps believe a gateway, also as to who is signed in; ours sets some of them and passes none.
const CLAIMS: [HeaderName; 24] = [
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-real-ip"),
    FORWARDED_PORT,
    FORWARDED_PREFIX,
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-protocol"),
    HeaderName::from_static("front-end-https"),
    HeaderName::from_static("x-scheme"),
    HeaderName::from_static("x-url-scheme"),
    HeaderName::from_static("client-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    USER,
    HeaderName::from_static("x-forwarded-email"),
    HeaderName::from_static("x-forwarded-groups"),
    HeaderName::from_static("x-forwarded-preferred-username"),
    HeaderName::from_static("x-forwarded-access-token"),
];

/// Whether apps may take `name` for `claim`: CGI, WSGI and PHP make `HTTP_X_FORWARDED_FOR` of `X_Forwarded_For` too, some
/// of them with any other sign in place of the dash.
fn is_like(name: &HeaderName, claim: &HeaderName) -> bool {
    let (name, claim) = (name.as_str().bytes(), claim.as_str().bytes());
    let same_sign = |n: u8, c: u8| !n.is_ascii_alphanumeric() && !c.is_ascii_alphanumeric();
    name.len() == claim.len() && name.zip(claim).all(|(n, c)| n == c || same_sign(n, c))
}

/// Removes these fields, and what apps may take for one of them.
pub fn remove_all_like(headers: &mut HeaderMap, claims: &[HeaderName]) {
    let found: Vec<HeaderName> =
        headers.keys().filter(|name| claims.iter().any(|claim| is_like(name, claim))).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Drops what a visitor claims of itself, in the head or in trailers.
pub fn remove_claims(headers: &mut HeaderMap) {
    remove_all_like(headers, &CLAIMS);
}

/// Fields that a `Connection` list must not remove: they belong to the message or to our own rules, and dropping them
/// would let a visitor take away what the app relies on.
const KEPT: [HeaderName; 4] = [HOST, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST];

/// The protocol that a message asks to switch to (`websocket`), when both of its fields agree on it.
///
/// `h2c` counts as none: a tunnel to an HTTP/2 server would carry requests past every rule here.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let protocol = protocols.next()?;
    let single = protocols.next().is_none();
    let wished = connection_tokens(headers).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let plain = protocol.to_str().is_ok_and(|p| {
        !p.is_empty() && p.split(',').all(|p| !p.trim().get(..2).is_some_and(|p| p.eq_ignore_ascii_case("h2")))
    });
    (single && wished && plain).then(|| protocol.clone())
}

/// Turns a visitor's headers into those that the app sees. `upgrade` is what [`upgrade`] found.
pub fn to_app(headers: &mut HeaderMap, host: &HeaderValue, visitor: &Visitor, upgrade: Option<HeaderValue>) {
    let trailers = headers.get_all(TE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let trailers = trailers.map(str::trim).any(|t| t.eq_ignore_ascii_case("trailers"));
    strip_hop_by_hop(headers);
    remove_claims(headers);
    headers.insert(FORWARDED_FOR, addresses(&visitor.hops));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if visitor.secure { "https" } else { "http" }));
    headers.insert(FORWARDED_HOST, visitor.host.as_ref().unwrap_or(host).clone());
    if let Some(port) = &visitor.port {
        headers.insert(FORWARDED_PORT, port.clone());
    }
    headers.insert(HOST, host.clone());
    join_cookies(headers);
    match upgrade {
        Some(protocol) => {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol);
        }
        // Trailers pass both of our hops, so the app may use them if the visitor takes them.
        None if trailers => {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        None => {}
    }
}

/// Says of a body whose length is not known that it comes in chunks: hyper would take a GET to have none.
pub fn frame(headers: &mut HeaderMap, body: &impl Body) {
    if body.size_hint().exact().is_none() {
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// HTTP/2 may send each cookie in a field of its own, and HTTP/1.1 may not (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let all: Vec<&[u8]> = [first, second].into_iter().chain(crumbs).collect();
        // Joined values are as valid as each of them was.
        if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(all.join(&b"; "[..]))) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Turns an app's headers into those that the visitor sees. `upgrade` is the protocol that the app switched to.
pub fn to_visitor(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    strip_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = connection_tokens(headers)
            .filter_map(|t| HeaderName::from_bytes(t.as_bytes()).ok())
            .filter(|name| !KEPT.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    lists.flat_map(|v| v.split(',')).map(str::trim).filter(|t| !t.is_empty())
}

/// An IPv4 visitor of a dual-stack listener is written as IPv4.
pub fn addresses(hops: &[IpAddr]) -> HeaderValue {
    let mut text = BytesMut::with_capacity(40);
    for (n, hop) in hops.iter().enumerate() {
        // Writing to a buffer that grows cannot fail, and an address holds only visible ASCII.
        let _ = write!(text, "{}{}", if n == 0 { "" } else { ", " }, hop.to_canonical());
    }
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn alone(peer: IpAddr) -> Visitor {
        Visitor { hops: vec![peer], secure: false, host: None, port: None }
    }

    const ALICE: HeaderValue = HeaderValue::from_static("alice.test:81");

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn texts(headers: &HeaderMap) -> Vec<String> {
        let mut texts: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        texts.sort();
        texts
    }

    const OURS: [&str; 4] = [
        "host: alice.test:81",
        "x-forwarded-for: 192.0.2.7",
        "x-forwarded-host: alice.test:81",
        "x-forwarded-proto: http",
    ];

    #[test]
    fn connection_fields_and_those_they_name_end_here() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "x-more"),
            ("x-secret", "1"),
            ("x-more", "1"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("proxy-authorization", "x"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "foo"),
            ("accept", "*/*"),
        ]);
        to_app(&mut headers, &ALICE, &alone(PEER), None);
        assert_eq!(texts(&headers), [&["accept: */*"], &OURS[..]].concat());
    }

    #[test]
    fn claims_of_the_visitor_are_replaced() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bob.test"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-forwarded-prefix", "/admin"),
            ("x-forwarded-user", "mallory"),
            ("x-forwarded-email", "mallory@example.com"),
            ("x-forwarded-groups", "admins"),
            ("x-forwarded-preferred-username", "mallory"),
            ("connection", "x-forwarded-for, host, x-forwarded-host"),
        ]);
        to_app(&mut headers, &ALICE, &alone(PEER), None);
        assert_eq!(texts(&headers), OURS);
        to_app(&mut headers, &ALICE, &alone(IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped())), None);
        assert_eq!(headers[FORWARDED_FOR], "127.0.0.1");
        to_app(&mut headers, &ALICE, &alone(IpAddr::V6(Ipv6Addr::LOCALHOST)), None);
        assert_eq!(headers[FORWARDED_FOR], "::1");
    }

    #[test]
    fn the_crumbs_of_a_cookie_are_one_field_again() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        to_app(&mut headers, &ALICE, &alone(PEER), None);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_claim_in_other_signs_is_a_claim() {
        let mut headers = map(&[
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded_for", "10.0.0.1"),
            ("x_forwarded-proto", "https"),
            ("x.forwarded.host", "bob.test"),
            ("x_real_ip", "10.0.0.1"),
            ("x_forwarded_user", "mallory"),
            ("x-forwarded.user", "mallory"),
            ("x_forwarded_for_app", "kept: another name"),
            ("session_id", "kept: no claim"),
        ]);
        to_app(&mut headers, &ALICE, &alone(PEER), None);
        let kept = ["session_id: kept: no claim", "x_forwarded_for_app: kept: another name"];
        assert_eq!(texts(&headers), [OURS[0], kept[0], OURS[1], OURS[2], OURS[3], kept[1]]);
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_is_never_http2() {
        for (headers, found) in [
            (map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]), Some("websocket")),
            (map(&[("connection", "upgrade"), ("upgrade", "TLS/1.0")]), Some("TLS/1.0")),
            (map(&[("upgrade", "websocket")]), None),
            (map(&[("connection", "upgrade")]), None),
            (map(&[("connection", "upgrade"), ("upgrade", "")]), None),
            (map(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]), None),
            (map(&[("connection", "upgrade"), ("upgrade", "websocket, H2C")]), None),
            (map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]), None),
        ] {
            assert_eq!(upgrade(&headers).as_ref().map(|v| v.to_str().unwrap()), found, "{headers:?}");
        }
    }

    #[test]
    fn an_upgrade_is_spelled_anew_in_both_directions() {
        let mut headers = map(&[("connection", "Upgrade, x-a"), ("upgrade", "websocket"), ("x-a", "1")]);
        let wish = upgrade(&headers);
        to_visitor(&mut headers, wish);
        assert_eq!(texts(&headers), ["connection: upgrade", "upgrade: websocket"]);
    }

    #[test]
    fn trailers_are_offered_to_the_app_when_the_visitor_takes_them() {
        let mut headers = map(&[("te", "gzip, Trailers")]);
        to_app(&mut headers, &ALICE, &alone(PEER), None);
        assert_eq!((&headers[TE], &headers[CONNECTION]), (&"trailers".parse().unwrap(), &"te".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn nothing_that_connection_names_survives(names in proptest::collection::vec("x-[a-z]{1,8}", 0..6)) {
            let mut headers = HeaderMap::new();
            for name in &names {
                headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
            }
            headers.insert(CONNECTION, HeaderValue::from_str(&names.join(" ,")).unwrap());
            to_visitor(&mut headers, None);
            prop_assert!(headers.is_empty(), "{:?}", headers);
        }
    }
}
