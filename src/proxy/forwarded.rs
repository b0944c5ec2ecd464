//! Who a visitor is when other proxies came before this one: what `X-Forwarded-*` say, as far as it is believed. Pure.
//!
//! ```text
//! X-Forwarded-For: a claim, the visitor, a proxy that is trusted      peer, trusted
//!                  dropped   ◀── the first that is not trusted ◀────── read from the right
//! ```
//!
//! Each proxy appends whom it got a request from, so an entry is as good as the one to its right that wrote it: what is left of
//! the first that is not trusted is that visitor's own word. Of a peer that is not trusted nothing is believed.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Most proxies in a row that are followed: more are a loop, or an attack.
const MOST_HOPS: usize = 16;

/// The proxies whose word counts.
#[derive(Clone, Debug, Default)]
pub struct Trusted(Vec<IpNet>);

impl Trusted {
    pub fn new(networks: Vec<IpNet>) -> Trusted {
        Trusted(networks)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }
}

/// What an app is told of a visitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// The visitor, then the proxies that the request came through, our peer last.
    pub hops: Vec<IpAddr>,
    /// Whether the visitor speaks TLS with the first of them.
    pub secure: bool,
    /// What a trusted peer says it was asked for.
    pub host: Option<HeaderValue>,
    pub port: Option<HeaderValue>,
}

impl Visitor {
    pub fn of(headers: &HeaderMap, peer: IpAddr, trusted: &Trusted) -> Visitor {
        let peer = peer.to_canonical();
        let mut visitor = Visitor { hops: vec![peer], secure: false, host: None, port: None };
        if !trusted.has(peer) {
            return visitor;
        }
        for claim in claims(headers).rev().take(MOST_HOPS) {
            let Some(address) = address(claim) else { break };
            visitor.hops.insert(0, address);
            if !trusted.has(address) {
                break;
            }
        }
        // A list has been appended to as well: the last word is our peer's.
        let last = |name: HeaderName| -> Option<&str> {
            let list = headers.get_all(name).iter().next_back()?.to_str().ok()?;
            list.rsplit(',').next().map(str::trim)
        };
        visitor.secure = last(FORWARDED_PROTO).is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        let host = last(FORWARDED_HOST).filter(|host| is_host(host));
        let port = last(FORWARDED_PORT).filter(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
        visitor.host = host.and_then(|host| HeaderValue::from_str(host).ok());
        visitor.port = port.and_then(|port| HeaderValue::from_str(port).ok());
        visitor
    }
}

/// All that stands in `X-Forwarded-For`, however many fields it takes. What is no text is nothing that can be believed.
fn claims(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &str> {
    let fields = headers.get_all(FORWARDED_FOR).iter().map(|value| value.to_str().unwrap_or_default());
    fields.flat_map(|list| list.split(',')).map(str::trim)
}

/// `192.0.2.7`, `2001:db8::7`, and both with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

/// A name or an address, with or without a port: nothing that a link could not be made of.
fn is_host(text: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && text.len() <= 260 && text.bytes().all(valid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Trusted {
        Trusted::new(["10.0.0.0/8", "fd00::/8"].map(|n| n.parse().unwrap()).into())
    }

    fn seen(fields: &[(HeaderName, &str)], peer: &str) -> Visitor {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Visitor::of(&headers, peer.parse().unwrap(), &trusted())
    }

    fn hops(lists: &[&str], peer: &str) -> Vec<String> {
        let fields: Vec<_> = lists.iter().map(|list| (FORWARDED_FOR, *list)).collect();
        seen(&fields, peer).hops.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_visitor_is_the_first_from_the_right_who_is_not_trusted() {
        for (lists, peer, expected) in [
            (&["9.9.9.9"][..], "8.8.8.8", &["8.8.8.8"][..]),
            (&[], "10.0.0.1", &["10.0.0.1"]),
            (&["9.9.9.9"], "10.0.0.1", &["9.9.9.9", "10.0.0.1"]),
            (&["1.1.1.1, 9.9.9.9"], "10.0.0.1", &["9.9.9.9", "10.0.0.1"]),
            (&["1.1.1.1, 9.9.9.9, 10.0.0.2"], "10.0.0.1", &["9.9.9.9", "10.0.0.2", "10.0.0.1"]),
            (&["1.1.1.1", "9.9.9.9", "10.0.0.2"], "10.0.0.1", &["9.9.9.9", "10.0.0.2", "10.0.0.1"]),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.1", &["10.0.0.3", "10.0.0.2", "10.0.0.1"]),
            // What is no address was not written by one who is trusted to write addresses.
            (&["9.9.9.9, unknown, 10.0.0.2"], "10.0.0.1", &["10.0.0.2", "10.0.0.1"]),
            (&["9.9.9.9,"], "10.0.0.1", &["10.0.0.1"]),
            (&["9.9.9.9:1234"], "10.0.0.1", &["9.9.9.9", "10.0.0.1"]),
            (&["[2001:db8::7]:80"], "fd00::1", &["2001:db8::7", "fd00::1"]),
            (&["::ffff:9.9.9.9"], "::ffff:10.0.0.1", &["9.9.9.9", "10.0.0.1"]),
        ] {
            assert_eq!(hops(lists, peer), expected, "{lists:?} from {peer}");
        }
        let many = vec!["10.0.0.9"; 100].join(",");
        assert_eq!(hops(&[&many], "10.0.0.1").len(), MOST_HOPS + 1);
    }

    #[test]
    fn a_trusted_peer_says_how_and_by_what_name_it_was_reached() {
        let fields =
            [(FORWARDED_PROTO, "http, HTTPS"), (FORWARDED_HOST, "old.test, alice.test:8443"), (FORWARDED_PORT, "8443")];
        let told = seen(&fields, "10.0.0.1");
        assert!(told.secure);
        assert_eq!(told.host.unwrap(), "alice.test:8443");
        assert_eq!(told.port.unwrap(), "8443");
        let stranger = seen(&fields, "8.8.8.8");
        assert_eq!((stranger.secure, stranger.host, stranger.port), (false, None, None));
        let nonsense = [(FORWARDED_PROTO, "ftp"), (FORWARDED_HOST, "a b/<>"), (FORWARDED_PORT, "99999")];
        let nonsense = seen(&nonsense, "10.0.0.1");
        assert_eq!((nonsense.secure, nonsense.host, nonsense.port), (false, None, None));
    }

    proptest! {
        /// Whatever a stranger writes before what a trusted proxy appends: the app is told the stranger's own address.
        #[test]
        fn nobody_can_pass_for_another(claim in "[0-9a-f:., \\[\\]]{0,60}", between in 0_usize..3) {
            let chain = (0..between).fold(format!("{claim}, 203.0.113.5"), |list, n| format!("{list}, 10.1.0.{n}"));
            let told = seen(&[(FORWARDED_FOR, &chain)], "10.0.0.1");
            prop_assert_eq!(told.hops.len(), between + 2);
            prop_assert_eq!(told.hops[0], "203.0.113.5".parse::<IpAddr>().unwrap());
        }
    }
}
