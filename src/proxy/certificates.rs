//! The certificates that visitors are shown: chosen by the name that is asked for (RFC 6066 §3), replaced while the
//! proxy serves.
//!
//! Who asks for no name gets the first one of the operator's; who asks for one that none of them is for gets no handshake,
//! which says no more of what is behind this proxy than the certificates do.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::challenges::{self, ACME_TLS, Challenges};

/// A certificate chain, its key, and what the leaf says of itself.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Where it was read from, for people.
    pub source: String,
    pub key: Arc<CertifiedKey>,
    /// DNS names in lower case, `*.` included; and addresses.
    pub names: Vec<String>,
    pub ends: Timestamp,
}

/// What rustls asks for the certificate of each handshake.
#[derive(Default)]
pub struct Certificates {
    book: ArcSwap<Book>,
    sources: Mutex<Sources>,
    /// Of an ACME server that comes by TLS; `None`: such handshakes are nobody's.
    challenges: Option<Arc<Challenges>>,
}

/// Where certificates come from, each replaced by itself.
#[derive(Default)]
struct Sources {
    /// The operator's files.
    own: Vec<Certificate>,
    /// Those that were ordered for what `own` has none for.
    ordered: Vec<Certificate>,
}

#[derive(Default)]
struct Book {
    /// The operator's own first.
    all: Vec<Certificate>,
    /// How many of them are the operator's own.
    own: usize,
    /// By name, when the last of those ends.
    own_until: HashMap<String, Timestamp>,
    by_name: HashMap<String, usize>,
}

impl Book {
    /// Of several for one name the one that ends last counts.
    fn new(mut all: Vec<Certificate>, ordered: Vec<Certificate>) -> Book {
        let own = all.len();
        let mut own_until = HashMap::new();
        for certificate in &all {
            for name in &certificate.names {
                let until = own_until.entry(name.clone()).or_insert(certificate.ends);
                *until = certificate.ends.max(*until);
            }
        }
        all.extend(ordered);
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for (i, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                let at = by_name.entry(name.clone()).or_insert(i);
                if all[*at].ends < certificate.ends {
                    *at = i;
                }
            }
        }
        Book { all, own, own_until, by_name }
    }

    /// By the name itself, else by a wildcard for its leftmost label (RFC 6125 §6.4.3).
    fn find(&self, name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        let exact = self.by_name.get(&name);
        let wild = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        exact.or_else(wild).copied()
    }

    fn shown(&self, asked: Option<&str>) -> Option<usize> {
        match asked {
            Some(name) => self.find(name),
            // Of those that were ordered, none is for everybody.
            None => (self.own > 0).then_some(0),
        }
    }
}

impl Certificates {
    pub fn new(all: Vec<Certificate>) -> Arc<Certificates> {
        let certificates = Arc::<Certificates>::default();
        certificates.replace(all);
        certificates
    }

    /// Without any so far. `challenges`: what an ACME server is answered that comes by TLS.
    pub fn answering(challenges: Option<Arc<Challenges>>) -> Arc<Certificates> {
        Arc::new(Certificates { challenges, ..Certificates::default() })
    }

    /// New handshakes get these of the operator's from now on; connections that are there stay.
    pub fn replace(&self, own: Vec<Certificate>) {
        self.change(|sources| sources.own = own);
    }

    /// The same of those that were ordered.
    pub fn replace_ordered(&self, ordered: Vec<Certificate>) {
        self.change(|sources| sources.ordered = ordered);
    }

    fn change(&self, change: impl FnOnce(&mut Sources)) {
        // Held until the book is in its place: of two changes none undoes the other.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut sources);
        self.book.store(Arc::new(Book::new(sources.own.clone(), sources.ordered.clone())));
    }

    /// Whether one of the operator's own is for a name, in lower case, and has not ended; a wildcard too.
    pub fn has_own(&self, name: &str, now: Timestamp) -> bool {
        let book = self.book.load();
        let good = |name: &str| book.own_until.get(name).is_some_and(|ends| now < *ends);
        good(name) || name.split_once('.').is_some_and(|(_, parent)| good(&format!("*.{parent}")))
    }

    /// Whether a request for `host` came over a connection whose certificate is for others, while there is one for it: the
    /// visitor is to ask again over a connection of its own (RFC 9110 §15.5.20). `asked` is the name of the handshake.
    pub fn is_misdirected(&self, asked: Option<&str>, host: &str) -> bool {
        // Nearly every request: it asks for the host by whose name the connection was made.
        if asked.is_some_and(|asked| asked.eq_ignore_ascii_case(host)) {
            return false;
        }
        let book = self.book.load();
        let (shown, right) = (book.shown(asked), book.find(host));
        right.is_some() && shown != right && !shown.is_some_and(|i| covers(&book.all[i], host))
    }

    /// TLS 1.2 and 1.3; HTTP/2 where the visitor speaks it (RFC 7301).
    ///
    /// # Errors
    /// When the crypto library has no randomness for session tickets.
    pub fn server_config(self: &Arc<Certificates>) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // The last: whoever speaks anything else as well is no ACME server.
        config.alpn_protocols.extend(self.challenges.as_ref().map(|_| ACME_TLS.to_vec()));
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(config)
    }
}

fn covers(certificate: &Certificate, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let wild = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    certificate.names.iter().any(|name| *name == host || Some(name) == wild.as_ref())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if challenges::is_challenge(&hello) {
            return self.challenges.as_ref()?.tls(hello.server_name());
        }
        let book = self.book.load();
        book.shown(hello.server_name()).map(|i| book.all[i].key.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.book.load();
        f.debug_list().entries(book.all.iter().map(|c| (&c.source, &c.names))).finish()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::pki;

    fn certificate(source: &str, names: &[&str], days: i64) -> Certificate {
        let now = Timestamp::UNIX_EPOCH;
        let ca = pki::make_ca("test", now).unwrap();
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let pair = pki::make_server(&ca, "test", &names, now).unwrap();
        let key = pki::certified(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
        let ends = now + SignedDuration::from_hours(24 * days);
        Certificate { source: source.into(), key: key.into(), names, ends }
    }

    #[test]
    fn a_name_gets_its_own_certificate_before_a_wildcard_and_the_one_that_lasts_longest() {
        let own = vec![
            certificate("first", &["*.test", "test"], 30),
            certificate("own", &["alice.test"], 10),
            certificate("renewed", &["alice.test"], 90),
            certificate("older", &["alice.test"], 20),
        ];
        let book = Book::new(own, vec![certificate("ordered", &["carol.test"], 90)]);
        let found = |name: &str| book.find(name).map(|i| book.all[i].source.as_str());
        assert_eq!(found("Alice.Test"), Some("renewed"));
        assert_eq!(found("bob.test"), Some("first"));
        assert_eq!(found("test"), Some("first"));
        assert_eq!(found("a.b.test"), None, "a wildcard stands for one label");
        assert_eq!(found("bob.example"), None);
        assert_eq!(found(""), None);
        assert_eq!(found("carol.test"), Some("ordered"));
        assert_eq!(book.shown(None), Some(0));
        assert_eq!(Book::new(vec![], vec![certificate("ordered", &["carol.test"], 90)]).shown(None), None);
        assert_eq!(book.shown(Some("bob.example")), None);
        assert_eq!(Book::default().shown(None), None);
    }

    #[test]
    fn the_operator_has_one_for_a_name_while_it_is_good() {
        let own = vec![certificate("wild", &["*.test"], 30), certificate("b", &["b.test"], 40)];
        let certificates = Certificates::new(own);
        certificates.replace_ordered(vec![certificate("ordered", &["shop.example"], 90)]);
        let has = |name: &str, days: i64| {
            certificates.has_own(name, Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * days))
        };
        assert!(has("a.test", 29) && !has("a.test", 30) && has("b.test", 39) && !has("b.test", 40));
        assert!(!has("test", 0) && !has("a.b.test", 0) && !has("shop.example", 0));
    }

    #[test]
    fn a_request_is_sent_away_only_where_another_connection_would_serve_it() {
        let both = Certificates::new(vec![
            certificate("wild", &["*.test"], 30),
            certificate("alice", &["alice.test"], 30),
            certificate("other", &["shop.example", "www.shop.example"], 30),
        ]);
        for (asked, host, misdirected) in [
            (Some("bob.test"), "bob.test", false),
            (Some("bob.test"), "carol.test", false),
            // Its own certificate is another one, but the one shown is for it as well.
            (Some("bob.test"), "alice.test", false),
            (Some("alice.test"), "bob.test", true),
            (Some("alice.test"), "ALICE.test", false),
            (Some("bob.test"), "shop.example", true),
            (Some("shop.example"), "www.shop.example", false),
            // No certificate is for it: another connection would be no better.
            (Some("bob.test"), "nobody.example", false),
            (None, "10.0.0.1", false),
            (None, "shop.example", true),
        ] {
            assert_eq!(both.is_misdirected(asked, host), misdirected, "{host} over {asked:?}");
        }
    }
}
