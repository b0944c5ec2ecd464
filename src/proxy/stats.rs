//! What the proxy counts, for whoever scrapes it. Shared by all connections; registered by `serve`.

use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds: from a frozen app's to a large one's.
const WAITS: [f64; 12] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// One label of a few values.
type Label = [(&'static str, &'static str); 1];

/// Counters since the start. Cheap to clone: clones count together.
#[derive(Clone, Debug)]
pub struct Stats {
    responses: Family<Label, Counter>,
    holds: Family<Label, Counter>,
    held: Gauge,
    waits: Histogram,
    refused: Family<Label, Counter>,
    certificates: Family<[(&'static str, String); 1], Gauge>,
    upgraded: Gauge,
    accesses: Family<Label, Counter>,
}

impl Default for Stats {
    fn default() -> Stats {
        let stats = Stats {
            responses: Family::default(),
            holds: Family::default(),
            held: Gauge::default(),
            waits: Histogram::new(WAITS),
            refused: Family::default(),
            certificates: Family::default(),
            upgraded: Gauge::default(),
            accesses: Family::default(),
        };
        // What has not happened yet is told as 0: a rate over what is absent would be nothing.
        for class in ["1xx", "2xx", "3xx", "4xx", "5xx"] {
            drop(stats.responses.get_or_create(&[("code", class)]));
        }
        for end in [End::Ready, End::Page, End::TimedOut, End::Refused, End::Full, End::Closing] {
            drop(stats.holds.get_or_create(&[("outcome", end.as_str())]));
        }
        for why in [Rejected::ProxyProtocol, Rejected::Tls] {
            drop(stats.refused.get_or_create(&[("reason", why.as_str())]));
        }
        for outcome in Access::ALL {
            drop(stats.accesses.get_or_create(&[("outcome", outcome.as_str())]));
        }
        stats
    }
}

/// Why a connection was ended before it asked for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    ProxyProtocol,
    Tls,
}

impl Rejected {
    fn as_str(self) -> &'static str {
        match self {
            Rejected::ProxyProtocol => "proxy_protocol",
            Rejected::Tls => "tls",
        }
    }
}

/// What became of a request to a route with rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Granted,
    Unauthorized,
    /// A browser was sent to where one signs in.
    Login,
    Forbidden,
    /// An authentication service answered it.
    Service,
    Unavailable,
    /// Over the rate.
    Rate,
    /// Over the number of what may be open.
    Connections,
}

impl Access {
    const ALL: [Access; 8] = [
        Access::Granted,
        Access::Unauthorized,
        Access::Login,
        Access::Forbidden,
        Access::Service,
        Access::Unavailable,
        Access::Rate,
        Access::Connections,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Access::Granted => "granted",
            Access::Unauthorized => "unauthorized",
            Access::Login => "login",
            Access::Forbidden => "forbidden",
            Access::Service => "service",
            Access::Unavailable => "unavailable",
            Access::Rate => "rate",
            Access::Connections => "connections",
        }
    }
}

/// How the wait of a request came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ready,
    /// A browser was shown a page meanwhile.
    Page,
    TimedOut,
    Refused,
    /// It could not wait: as many wait as may.
    Full,
    Closing,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            End::Ready => "ready",
            End::Page => "page",
            End::TimedOut => "timeout",
            End::Refused => "refused",
            End::Full => "full",
            End::Closing => "closing",
        }
    }
}

impl Stats {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Answers to visitors, by the class of their status";
        registry.register("proxy_responses", help, self.responses.clone());
        let help = "Requests that found their instance not ready, by how their wait ended";
        registry.register("proxy_holds", help, self.holds.clone());
        registry.register("proxy_held_requests", "Requests that wait for their instance now", self.held.clone());
        let help = "Requests to routes with rules of access or limits, by what became of them";
        registry.register("proxy_accesses", help, self.accesses.clone());
        let help = "How long requests waited for an instance that became ready";
        registry.register_with_unit("proxy_hold", help, Unit::Seconds, self.waits.clone());
        let help = "Visitors' connections that were ended before they asked for anything";
        registry.register("proxy_refused_connections", help, self.refused.clone());
        let help = "Upgraded connections, WebSockets for the most part, that are open now";
        registry.register("proxy_upgraded_connections", help, self.upgraded.clone());
        let help = "When a certificate of the operator's that visitors are shown ends, in seconds since 1970";
        registry.register("proxy_certificate_expiry_timestamp_seconds", help, self.certificates.clone());
    }

    /// A connection was upgraded; it counts until the answer is dropped.
    pub fn upgraded(&self) -> Upgraded {
        self.upgraded.inc();
        Upgraded(self.upgraded.clone())
    }

    /// Upgraded connections that are open.
    pub fn upgraded_now(&self) -> i64 {
        self.upgraded.get()
    }

    pub fn accessed(&self, outcome: Access) {
        self.accesses.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }

    pub fn responded(&self, status: http::StatusCode) {
        let class = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.responses.get_or_create(&[("code", class)]).inc();
    }

    pub fn rejected(&self, why: Rejected) {
        self.refused.get_or_create(&[("reason", why.as_str())]).inc();
    }

    /// The certificates that are shown from now on: where each is from, and when it ends.
    pub fn certificates<'a>(&self, shown: impl Iterator<Item = (&'a str, Timestamp)>) {
        self.certificates.clear();
        for (file, ends) in shown {
            self.certificates.get_or_create(&[("file", file.to_owned())]).set(ends.as_second());
        }
    }

    /// A request begins to wait.
    pub fn hold(&self) {
        self.held.inc();
    }

    /// It waits no more.
    pub fn release(&self) {
        self.held.dec();
    }

    /// Its wait has come out so.
    pub fn ended(&self, end: End, waited: Duration) {
        self.holds.get_or_create(&[("outcome", end.as_str())]).inc();
        if end == End::Ready {
            self.waits.observe(waited.as_secs_f64());
        }
    }
}

/// An upgraded connection, for as long as it is open.
#[derive(Debug)]
pub struct Upgraded(Gauge);

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.0.dec();
    }
}
