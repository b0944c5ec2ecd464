//! What stands between visitors and the proxy, and how a visitor's connection came to be. No effects.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;

use super::certificates::Certificates;
use super::forwarded::{ToldBy, Trusted, Visitor};
use super::linger::Unread;

/// One address at which visitors come in.
pub struct Entrance {
    pub listener: TcpListener,
    /// TLS with these. `None`: plain HTTP.
    pub certificates: Option<Arc<Certificates>>,
}

impl From<TcpListener> for Entrance {
    fn from(listener: TcpListener) -> Entrance {
        Entrance { listener, certificates: None }
    }
}

/// How visitors reach the proxy.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// The proxies before this one whose word on their visitors counts.
    pub trusted: Trusted,
    /// The fields in which they give it.
    pub told_by: ToldBy,
    /// Whether every connection begins with a PROXY header, and is one of a trusted proxy.
    pub proxy_protocol: bool,
    /// The port to which visitors without TLS are sent. `None`: they are served.
    pub redirect: Option<u16>,
    /// Whether `/proxy/NAME/` on the domain itself leads to NAME's host.
    pub paths: bool,
}

impl Front {
    /// Where a visitor is sent who came without TLS and is to come with it; the method stays (RFC 9110 §15.4.9).
    pub fn secure_location(&self, visitor: &Visitor, head: &Parts, host: &str) -> Option<HeaderValue> {
        let port = self.redirect.filter(|_| !visitor.secure)?;
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        let path = head.uri.path_and_query().map(|p| p.as_str()).filter(|p| p.starts_with('/')).unwrap_or("/");
        HeaderValue::try_from(format!("https://{host}{port}{path}")).ok()
    }
}

/// A visitor's connection.
pub struct Peer {
    /// The other end, or whose connection it passes on.
    pub address: IpAddr,
    /// Whether the visitor speaks TLS: with us, or with who passes its connection on.
    pub secure: bool,
    /// Whether the other end may say of whom a request is. Not where it passes a connection on and says nothing of whose that
    /// is: the fields are the visitor's own then.
    pub speaks: bool,
    /// Of our own TLS: the certificates, and the name that was asked for.
    pub shown: Option<(Arc<Certificates>, Option<String>)>,
}

impl Peer {
    pub fn is_misdirected(&self, host: &str) -> bool {
        self.shown.as_ref().is_some_and(|(certificates, asked)| certificates.is_misdirected(asked.as_deref(), host))
    }
}

/// What a request takes of what there is a bounded number of; given back when its answer, or its tunnel, has ended.
pub struct Place {
    /// The connection's place among those allowed.
    #[expect(dead_code, reason = "held, not read")]
    pub connection: Arc<OwnedSemaphorePermit>,
    /// Over HTTP/2, where one connection has many: the request's own, and the connection's count of them.
    #[expect(dead_code, reason = "held, not read")]
    pub stream: Option<(OwnedSemaphorePermit, InUse)>,
    /// Over HTTP/1, where the end of the connection has to wait for it.
    pub unread: Option<Arc<Unread>>,
}

/// How much a connection that carries many requests is used.
#[derive(Default)]
pub struct Uses {
    /// How often a request began or ended.
    changes: AtomicU64,
    open: AtomicUsize,
}

impl Uses {
    pub fn begin(self: &Arc<Uses>) -> InUse {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        InUse(self.clone())
    }

    /// Until nothing has been under way for a while; up to twice that.
    pub async fn idle(&self, after: Duration) {
        loop {
            let seen = self.changes.load(Ordering::Relaxed);
            tokio::time::sleep(after).await;
            if self.open.load(Ordering::Relaxed) == 0 && self.changes.load(Ordering::Relaxed) == seen {
                return;
            }
        }
    }
}

/// One request under way.
pub struct InUse(Arc<Uses>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;

    #[test]
    fn who_came_without_tls_is_sent_to_the_same_place_with_it() {
        let visitor = |secure| Visitor { hops: vec![], secure, host: None, port: None };
        let head = |uri: &str| http::Request::builder().uri(uri).body(()).unwrap().into_parts().0;
        let to = |port| Front { redirect: port, ..Front::default() };
        let sent = |port, secure, uri: &str| to(port).secure_location(&visitor(secure), &head(uri), "alice.test");
        assert_eq!(sent(Some(443), false, "/a?b=c").unwrap(), "https://alice.test/a?b=c");
        assert_eq!(sent(Some(8443), false, "http://alice.test/a").unwrap(), "https://alice.test:8443/a");
        assert_eq!(sent(Some(443), false, "*").unwrap(), "https://alice.test/");
        assert_eq!(sent(Some(443), true, "/a"), None);
        assert_eq!(sent(None, false, "/a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_is_under_way_and_nothing_new_came() {
        const AFTER: Duration = Duration::from_secs(30);
        let (uses, clock) = (Arc::<Uses>::default(), VirtualClock::new());
        let one = uses.begin();
        let idle = tokio::spawn({
            let uses = uses.clone();
            async move { uses.idle(AFTER).await }
        });
        tokio::time::sleep(AFTER * 5 + Duration::from_secs(1)).await;
        drop(one);
        // One that came and went between two looks.
        tokio::time::sleep(AFTER).await;
        assert!(!idle.is_finished());
        drop(uses.begin());
        idle.await.unwrap();
        assert_eq!(clock.monotonic(), AFTER * 8);
    }
}
