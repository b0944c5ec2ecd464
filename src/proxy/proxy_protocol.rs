//! The PROXY protocol, versions 1 and 2: before the first byte of a visitor, a proxy that does not read HTTP says whose
//! connection it passes on.
//!
//! Exactly the header is read, so that what follows is the visitor's own. Source: HAProxy's `proxy-protocol.txt`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::HeaderResult;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest header of version 1, with its end of line.
const MOST_V1: usize = 107;
/// The longest header of version 2 that is read: addresses, and what proxies say of TLS and themselves.
const MOST_V2: usize = 4096;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Of the type-length-values of version 2, the one about TLS, whose first byte has a bit for a client that speaks it.
const PP2_TYPE_SSL: u8 = 0x20;
const PP2_CLIENT_SSL: u8 = 0x01;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// `None`: the proxy's own, as for its health checks.
    pub source: Option<IpAddr>,
    /// Whether the visitor speaks TLS with the proxy.
    pub secure: bool,
}

/// Reads the header at the beginning of a connection.
///
/// # Errors
/// `InvalidData` when there is none, or it is none of the two versions; what reading fails with.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Passed> {
    let mut header = vec![0; V2_SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == V2_SIGNATURE {
        header.resize(16, 0);
        stream.read_exact(&mut header[12..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if rest > MOST_V2 {
            return Err(invalid("a header of version 2 that is too long"));
        }
        header.resize(16 + rest, 0);
        stream.read_exact(&mut header[16..]).await?;
    } else {
        while !header.ends_with(b"\r\n") {
            if header.len() == MOST_V1 || !header.starts_with(b"PROXY ") {
                return Err(invalid("no PROXY header"));
            }
            header.push(stream.read_u8().await?);
        }
    }
    parse(&header)
}

fn parse(header: &[u8]) -> io::Result<Passed> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => {
            use ppp::v1::Addresses;
            let source = match header.addresses {
                Addresses::Tcp4(pair) => Some(IpAddr::V4(pair.source_address)),
                Addresses::Tcp6(pair) => Some(IpAddr::V6(pair.source_address)),
                Addresses::Unknown => None,
            };
            Ok(Passed { source, secure: false })
        }
        HeaderResult::V2(Ok(header)) => {
            use ppp::v2::{Addresses, Command};
            let source = match header.addresses {
                _ if header.command == Command::Local => None,
                Addresses::IPv4(pair) => Some(SocketAddr::from((pair.source_address, pair.source_port)).ip()),
                Addresses::IPv6(pair) => Some(SocketAddr::from((pair.source_address, pair.source_port)).ip()),
                Addresses::Unspecified | Addresses::Unix(_) => None,
            };
            let secure = header.tlvs().filter_map(Result::ok).any(|tlv| {
                tlv.kind == PP2_TYPE_SSL && tlv.value.first().is_some_and(|client| client & PP2_CLIENT_SSL != 0)
            });
            Ok(Passed { source: source.map(|address| address.to_canonical()), secure })
        }
        HeaderResult::V1(Err(e)) => Err(invalid(&e.to_string())),
        HeaderResult::V2(Err(e)) => Err(invalid(&e.to_string())),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Command, Protocol, Version};
    use proptest::prelude::*;

    use super::*;

    /// What is read of a connection that begins so, and how much of it is left.
    async fn told(bytes: &[u8]) -> (io::Result<Passed>, usize) {
        let mut left = bytes;
        let read = read(&mut left).await;
        (read, left.len())
    }

    fn v2(command: Command, addresses: (SocketAddr, SocketAddr), tls: Option<u8>) -> Vec<u8> {
        let builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
        let builder = match tls {
            Some(client) => builder.write_tlv(PP2_TYPE_SSL, &[client, 0, 0, 0, 0]).unwrap(),
            None => builder,
        };
        builder.build().unwrap()
    }

    #[tokio::test]
    async fn both_versions_tell_the_visitor_and_leave_what_follows() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let four = (socket("192.0.2.7:40000"), socket("10.0.0.1:443"));
        let six = (socket("[2001:db8::7]:40000"), socket("[::1]:443"));
        let passed = |source: &str, secure| Passed { source: source.parse().ok(), secure };
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 443\r\n".to_vec(), passed("192.0.2.7", false)),
            (b"PROXY TCP6 2001:db8::7 ::1 40000 443\r\n".to_vec(), passed("2001:db8::7", false)),
            (b"PROXY UNKNOWN\r\n".to_vec(), passed("", false)),
            (v2(Command::Proxy, four, None), passed("192.0.2.7", false)),
            (v2(Command::Proxy, six, None), passed("2001:db8::7", false)),
            (v2(Command::Proxy, four, Some(PP2_CLIENT_SSL)), passed("192.0.2.7", true)),
            (v2(Command::Proxy, four, Some(0)), passed("192.0.2.7", false)),
            (v2(Command::Local, four, None), passed("", false)),
        ] {
            let (read, left) = told(&[&header[..], b"GET /"].concat()).await;
            assert_eq!((read.unwrap(), left), (expected, 5), "{}", String::from_utf8_lossy(&header));
            // Cut anywhere, it is an error and no visitor.
            for cut in 0..header.len() {
                assert!(told(&header[..cut]).await.0.is_err(), "cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused_within_the_longest_header() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03abc",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 443\r\n",
            b"PROXY TCP4 alice 10.0.0.1 1 443\r\n",
            b"PROXY TCP5 192.0.2.7 10.0.0.1 1 443\r\n",
            long.as_bytes(),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        ] {
            let (read, left) = told(bytes).await;
            assert!(read.is_err(), "{}", String::from_utf8_lossy(bytes));
            assert!(bytes.len() - left <= MOST_V1);
        }
    }

    proptest! {
        #[test]
        fn no_beginning_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), signed in any::<bool>()) {
            let bytes = if signed { [V2_SIGNATURE, &bytes[..]].concat() } else { bytes };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(told(&bytes));
        }
    }
}
