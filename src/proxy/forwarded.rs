//! Who a visitor is when other proxies came before this one: what `X-Forwarded-*` or `Forwarded` say, as far as it is
//! believed. Pure.
//!
//! ```text
//! X-Forwarded-For: a claim, the visitor, a proxy that is trusted      peer, trusted
//!                  dropped   ◀── the first that is not trusted ◀────── read from the right
//! ```
//!
//! Each proxy appends whom it got a request from, so an entry is as good as the one to its right that wrote it: what is left of
//! the first that is not trusted is that visitor's own word. Of a peer that is not trusted nothing is believed.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::front::{Front, Peer};

pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Most proxies in a row that are followed: more are a loop, or an attack.
const MOST_HOPS: usize = 16;

/// The proxies whose word counts.
#[derive(Clone, Debug, Default)]
pub struct Trusted(Vec<IpNet>);

impl Trusted {
    pub fn new(networks: Vec<IpNet>) -> Trusted {
        Trusted(networks)
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }
}

/// In which fields trusted proxies say whom they got a request from. Only one kind is believed: a proxy that writes the one
/// may well pass the other on as its visitor sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToldBy {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
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
    pub fn of(headers: &HeaderMap, peer: &Peer, front: &Front) -> Visitor {
        let address = peer.address.to_canonical();
        let mut visitor = Visitor { hops: vec![address], secure: peer.secure, host: None, port: None };
        if !peer.speaks || !front.trusted.has(address) {
            return visitor;
        }
        let claims = match front.told_by {
            ToldBy::XForwarded => Claims::x_forwarded(headers),
            ToldBy::Forwarded => Claims::forwarded(headers),
        };
        for claim in claims.hops.iter().rev().take(MOST_HOPS) {
            let Some(address) = parse_address(claim) else { break };
            visitor.hops.insert(0, address);
            if !front.trusted.has(address) {
                break;
            }
        }
        if let Some(proto) = claims.proto {
            visitor.secure = proto.eq_ignore_ascii_case("https");
        }
        let host = claims.host.filter(|host| is_host(host));
        let port = claims.port.filter(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
        visitor.host = host.and_then(|host| HeaderValue::from_str(&host).ok());
        visitor.port = port.and_then(|port| HeaderValue::from_str(&port).ok());
        visitor
    }
}

/// What the fields of one kind say. All but the hops are our peer's own words, which stand last.
#[derive(Default)]
struct Claims<'a> {
    hops: Vec<Cow<'a, str>>,
    proto: Option<Cow<'a, str>>,
    host: Option<Cow<'a, str>>,
    port: Option<Cow<'a, str>>,
}

impl<'a> Claims<'a> {
    fn x_forwarded(headers: &'a HeaderMap) -> Claims<'a> {
        let last = |name: HeaderName| entries(headers, name).next_back().map(Cow::Borrowed);
        Claims {
            hops: entries(headers, FORWARDED_FOR).map(Cow::Borrowed).collect(),
            proto: last(FORWARDED_PROTO),
            host: last(FORWARDED_HOST),
            port: last(FORWARDED_PORT),
        }
    }

    /// RFC 7239 §4: elements, separated by commas, of `for`, `proto`, `host` and `by`, separated by semicolons.
    ///
    /// Separators count in quotes as well: a quote that a visitor has left open must not swallow what the proxy after it
    /// has written. None of these values needs a separator; an element that has one in it is none, and ends the chain.
    fn forwarded(headers: &'a HeaderMap) -> Claims<'a> {
        let mut claims = Claims::default();
        for element in entries(headers, FORWARDED) {
            let pairs: Option<Vec<(String, Cow<'_, str>)>> = element.split(';').map(pair).collect();
            let value = |wanted: &str| {
                let mut found = pairs.iter().flatten().filter(|(name, _)| name == wanted);
                found.next().map(|(_, value)| value.clone())
            };
            (claims.proto, claims.host) = (value("proto"), value("host"));
            // One that says nothing of whom it is from ends the chain there.
            claims.hops.push(value("for").unwrap_or_default());
        }
        claims
    }
}

/// The entries of a list, however many fields it takes. One that is no text is nothing that can be believed, and takes no
/// other along.
fn entries(headers: &HeaderMap, name: HeaderName) -> impl DoubleEndedIterator<Item = &str> {
    let fields = headers.get_all(name).into_iter();
    fields.flat_map(|value| value.as_bytes().split(|&b| b == b',')).map(|entry| {
        let text = std::str::from_utf8(entry).unwrap_or_default();
        text.trim_matches([' ', '\t'])
    })
}

/// `name=value`, whose value is a token or stands in quotes as a whole (RFC 9110 §5.6). `None` for anything else.
fn pair(text: &str) -> Option<(String, Cow<'_, str>)> {
    let (name, value) = text.split_once('=')?;
    let value = value.trim();
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    // Nothing in addresses, hosts and schemes is ever escaped.
    let plain = !inner.contains(['"', '\\']);
    plain.then(|| (name.trim().to_ascii_lowercase(), Cow::Borrowed(inner)))
}

/// `192.0.2.7`, `2001:db8::7`, and both with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
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
        told(&headers, peer, false, ToldBy::XForwarded)
    }

    fn told(headers: &HeaderMap, peer: &str, secure: bool, told_by: ToldBy) -> Visitor {
        let peer = Peer { address: peer.parse().unwrap(), secure, speaks: true, shown: None };
        Visitor::of(headers, &peer, &Front { trusted: trusted(), told_by, ..Front::default() })
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
    fn what_is_no_text_hides_nobody() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_bytes(b"\xff, 9.9.9.9").unwrap());
        let told = told(&headers, "10.0.0.1", false, ToldBy::XForwarded);
        assert_eq!(told.hops[0], "9.9.9.9".parse::<IpAddr>().unwrap());
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

    #[test]
    fn the_standard_field_is_read_alike_where_it_is_the_one() {
        let seen = |lists: &[&str], peer: &str| {
            let mut headers = HeaderMap::new();
            // Nobody's word here.
            headers.append(FORWARDED_FOR, HeaderValue::from_static("6.6.6.6"));
            headers.append(FORWARDED_PROTO, HeaderValue::from_static("https"));
            for list in lists {
                headers.append(FORWARDED, HeaderValue::from_str(list).unwrap());
            }
            let told = told(&headers, peer, false, ToldBy::Forwarded);
            let hops: Vec<_> = told.hops.iter().map(ToString::to_string).collect();
            (hops.join(" "), told.secure, told.host.map_or(String::new(), |h| h.to_str().unwrap().to_owned()))
        };
        let is = |hops: &str, secure, host: &str| (hops.to_owned(), secure, host.to_owned());
        for (lists, peer, expected) in [
            (&["for=9.9.9.9;proto=https;host=a.test"][..], "10.0.0.1", is("9.9.9.9 10.0.0.1", true, "a.test")),
            (&["for=1.1.1.1, For=\"9.9.9.9:80\";PROTO=https"], "10.0.0.1", is("9.9.9.9 10.0.0.1", true, "")),
            (&["for=9.9.9.9;proto=https", "for=10.0.0.2"], "10.0.0.1", is("9.9.9.9 10.0.0.2 10.0.0.1", false, "")),
            (&["for=\"[2001:db8::7]:47\""], "10.0.0.1", is("2001:db8::7 10.0.0.1", false, "")),
            (&["for=\"9.9.9.9, for=8.8.8.8\""], "10.0.0.1", is("10.0.0.1", false, "")),
            (&["for=\"9.9.9.9\";host=\"a.test\""], "10.0.0.1", is("9.9.9.9 10.0.0.1", false, "a.test")),
            // What a visitor has left open swallows nothing that the proxy after it has written.
            (&["for=6.6.6.6;proto=https;x=\", for=9.9.9.9;proto=http"], "10.0.0.1", is("9.9.9.9 10.0.0.1", false, "")),
            (&["for=6.6.6.6;x=\", for=\"[2001:db8::7]:9\""], "10.0.0.1", is("2001:db8::7 10.0.0.1", false, "")),
            (&["for=6.6.6.6, for=10.0.0.2;x=\"a"], "10.0.0.1", is("10.0.0.1", false, "")),
            (&["for=_hidden"], "10.0.0.1", is("10.0.0.1", false, "")),
            (&["for=9.9.9.9, proto=https"], "10.0.0.1", is("10.0.0.1", true, "")),
            (&["for=9.9.9.9;proto=https"], "8.8.8.8", is("8.8.8.8", false, "")),
        ] {
            assert_eq!(seen(lists, peer), expected, "{lists:?} from {peer}");
        }
    }

    #[test]
    fn a_connection_of_tls_is_secure_unless_a_trusted_proxy_says_otherwise() {
        let with = |proto: Option<&'static str>, peer: &str| {
            let mut headers = HeaderMap::new();
            headers.extend(proto.map(|proto| (FORWARDED_PROTO, HeaderValue::from_static(proto))));
            told(&headers, peer, true, ToldBy::XForwarded).secure
        };
        assert!(with(None, "8.8.8.8"));
        assert!(with(Some("http"), "8.8.8.8"), "a visitor's own word");
        assert!(with(None, "10.0.0.1"));
        assert!(!with(Some("http"), "10.0.0.1"));
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
