//! The credentials of the hosts, in files on the control plane's machine: one CA, and of each host what calls it.
//!
//! ```text
//! DIR/ca.pem ca.key            the CA of every host; those before, until they end, are in previous-ca.pem
//! DIR/NAME/ca.pem              what the control plane trusts of the host: that CA, and those before it
//! DIR/NAME/cert.pem key.pem    what it shows the host; client-cert.pem, client-key.pem: the same, while these are written
//! DIR/NAME/previous-cert.pem   with previous-key.pem: what it shows a host that still takes the CA before
//! DIR/NAME/server.pem port     what the host shows, and where; its key is in the installer only
//! ```
//!
//! Invariant: at every moment the directory of a host opens its daemon, whether the newest installer has run there or
//! not. What is replaced is kept first, and the docker room takes the pair that the daemon asks for.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::super::error::{Error, Result};
use crate::model::{is_subdomain, validate_host_name};
use crate::pki::files::{CA, FileError, PairNames, load_pair, make_directory, read, remove, store_pair, write_private};
use crate::pki::{self, Pair};

/// What the control plane shows a host.
const SHOWN: PairNames = ["cert.pem", "key.pem"];
/// The same, while its files are replaced one after the other.
const BESIDE: PairNames = ["client-cert.pem", "client-key.pem"];
/// What it showed before.
const PREVIOUS: PairNames = ["previous-cert.pem", "previous-key.pem"];

/// The directory of all hosts' credentials.
pub struct Keeping {
    directory: PathBuf,
}

/// All by which a host may be called, of what is in its directory.
pub const CREDENTIALS: [&str; 7] = ["ca.pem", SHOWN[0], SHOWN[1], BESIDE[0], BESIDE[1], PREVIOUS[0], PREVIOUS[1]];

/// What was made for a host.
pub struct Minted {
    /// The CA that the worker trusts, PEM.
    pub ca: String,
    /// What the worker shows.
    pub server: Pair,
    /// The host names and IP addresses that it is for.
    pub names: Vec<String>,
    /// Whether the control plane's certificate is another than before.
    pub client_is_new: bool,
    /// When the first of the certificates ends.
    pub ends: Timestamp,
}

impl Keeping {
    pub fn new(directory: &Path) -> Keeping {
        Keeping { directory: directory.to_owned() }
    }

    /// Where the credentials for calling a host are: what `spec.tls.directory` says.
    pub fn of(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The names of the hosts that have credentials here, in order.
    pub fn hosts(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(Error::failed(format!("reading {}: {e}", self.directory.display()))),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self.of(name).join("server.pem").exists())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The host names and IP addresses that a host's certificate was made for.
    pub fn names(&self, name: &str) -> Result<Vec<String>> {
        let path = self.of(name).join("server.pem");
        let text = read(&path).map_err(told)?;
        let text = text.ok_or_else(|| {
            Error::failed(format!(
                "host {name:?} has no credentials in {}: make them by `portreeve host certs {name} --ip IP`",
                self.directory.display()
            ))
        })?;
        let (_, names) = pki::end_and_names_of_pem(&text)
            .ok_or_else(|| Error::failed(format!("{} is no certificate", path.display())))?;
        Ok(names)
    }

    /// Makes what is missing, and the host's own certificate in any case: its key is kept nowhere but in the installer.
    /// `renew`: also another certificate for the control plane.
    pub fn mint(&self, name: &str, names: &[String], renew: bool, now: Timestamp) -> Result<Minted> {
        let ca = self.authority(now)?;
        let own = self.of(name);
        make_directory(&own).map_err(told)?;
        let server = pki::make_server(&ca, name, names, now).map_err(|e| made("the host's certificate", &e))?;
        let previous = read(&self.directory.join("previous-ca.pem")).map_err(told)?.unwrap_or_default();
        // Trusted before anything is signed by it that the host may show.
        write_private(&own.join("ca.pem"), format!("{}{previous}", ca.certificate).as_bytes()).map_err(told)?;
        let kept = load_pair(&own, SHOWN).map_err(told)?;
        let (shown, client_is_new) = match kept {
            Some(kept) if !renew && pki::is_good(&kept.certificate, &ca.certificate, None, now) => (kept, false),
            kept => (replace_client(&own, &ca, kept, now)?, true),
        };
        write_private(&own.join("server.pem"), server.certificate.as_bytes()).map_err(told)?;
        let ends = [&server, &shown].into_iter().filter_map(|pair| pki::end_and_names_of_pem(&pair.certificate));
        let ends = ends.map(|(end, _)| end);
        Ok(Minted { ca: ca.certificate, names: names.to_vec(), client_is_new, ends: ends.min().unwrap_or(now), server })
    }

    /// The CA, made when there is none.
    fn authority(&self, now: Timestamp) -> Result<Pair> {
        make_directory(&self.directory).map_err(told)?;
        match load_pair(&self.directory, CA).map_err(told)? {
            Some(ca) => Ok(ca),
            // Another CA in its place would be a silent change of whom the hosts trust.
            None if CA.iter().any(|name| self.directory.join(name).exists()) => {
                let directory = self.directory.display();
                let why = "ca.pem and ca.key are not both there, or do not belong together; put them back, or change \
                           the CA of every host by `portreeve host rotate --all --ca`";
                Err(Error::failed(format!("{directory}: {why}")))
            }
            None => self.new_authority(now),
        }
    }

    /// The hosts that may still take nothing but what an older CA signed: what they take is kept until it is dropped.
    pub fn waiting(&self) -> Result<Vec<String>> {
        let Some(ca) = load_pair(&self.directory, CA).map_err(told)? else { return Ok(vec![]) };
        let mut waiting = vec![];
        for name in self.hosts()? {
            let previous = load_pair(&self.of(&name), PREVIOUS).map_err(told)?;
            if previous.is_some_and(|p| !pki::is_signed_by(&p.certificate, &ca.certificate)) {
                waiting.push(name);
            }
        }
        Ok(waiting)
    }

    /// Forgets what hosts took before.
    pub fn drop_previous(&self, name: &str) -> Result<()> {
        remove_pair(&self.of(name), PREVIOUS)
    }

    /// The port on which the host's daemon listens, as last said.
    pub fn port(&self, name: &str) -> Result<Option<u16>> {
        let text = read(&self.of(name).join("port")).map_err(told)?;
        Ok(text.and_then(|text| text.trim().parse().ok()))
    }

    pub fn set_port(&self, name: &str, port: u16) -> Result<()> {
        write_private(&self.of(name).join("port"), format!("{port}\n").as_bytes()).map_err(told)
    }

    /// Another CA, from which everything is signed from now on. The one before stays trusted by the control plane.
    pub fn new_authority(&self, now: Timestamp) -> Result<Pair> {
        make_directory(&self.directory).map_err(told)?;
        let previous = self.directory.join("previous-ca.pem");
        let trusted = [read(&self.directory.join("ca.pem")), read(&previous)];
        let trusted = trusted.into_iter().collect::<std::result::Result<Vec<_>, _>>().map_err(told)?;
        let trusted: String = trusted.into_iter().flatten().collect();
        let lasting = trusted
            .split_inclusive(END)
            .filter(|text| pki::end_and_names_of_pem(text).is_some_and(|(end, _)| end > now));
        let lasting: Vec<String> = lasting.map(|text| format!("{}\n", text.trim())).collect();
        write_private(&previous, lasting.concat().as_bytes()).map_err(told)?;
        // No two have one name: a daemon tells by it which client certificates it takes.
        let name = format!("portreeve-hosts-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let ca = pki::make_ca(&name, now).map_err(|e| made("the CA", &e))?;
        store_pair(&self.directory, CA, ca).map_err(told)
    }
}

/// Of a PEM certificate.
const END: &str = "-----END CERTIFICATE-----";

/// Gives the control plane another certificate for a host. `kept`: the one that it has shown so far.
fn replace_client(own: &Path, ca: &Pair, kept: Option<Pair>, now: Timestamp) -> Result<Pair> {
    // One of another CA stays: the host may not have heard of this one yet.
    let older = |p: &Pair| !pki::is_signed_by(&p.certificate, &ca.certificate);
    let waits = load_pair(own, PREVIOUS).map_err(told)?.is_some_and(|p| older(&p));
    if let Some(old) = kept.filter(|kept| older(kept) || !waits) {
        store_pair(own, PREVIOUS, old).map_err(told)?;
    }
    let new = pki::make_client(ca, "portreeve", None, now).map_err(|e| made("the control plane's certificate", &e))?;
    // Whole beside its place first: a crash between two files leaves a pair that opens the host.
    let new = store_pair(own, BESIDE, new).map_err(told)?;
    let new = store_pair(own, SHOWN, new).map_err(told)?;
    remove_pair(own, BESIDE)?;
    Ok(new)
}

fn remove_pair(directory: &Path, names: PairNames) -> Result<()> {
    names.iter().try_for_each(|name| remove(&directory.join(name))).map_err(told)
}

fn told(error: FileError) -> Error {
    Error::failed(format!("{error}: {}", error.source))
}

fn made(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::failed(format!("making {what}: {error}"))
}

/// What a certificate can be for; a host's name must be one that a DockerHost can have.
pub fn check(name: &str, names: &[String]) -> Result<()> {
    if let Some(wrong) = validate_host_name("NAME", name) {
        return Err(Error::usage(wrong.to_string()));
    }
    for name in names {
        if name.parse::<IpAddr>().is_err() && !is_subdomain(name) {
            return Err(Error::usage(format!("{name:?} is neither an IP address nor a host name")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_600;

    fn later(days: i64) -> Timestamp {
        Timestamp::from_second(NOW + days * 86_400).expect("a time")
    }

    fn text(path: PathBuf) -> String {
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    #[test]
    fn what_calls_a_host_is_kept_until_it_is_renewed_and_the_one_before_even_then() {
        let root = tempfile::tempdir().expect("a directory");
        let keeping = Keeping::new(root.path());
        let names = ["10.0.0.3".to_owned()];
        let first = keeping.mint("w1", &names, false, later(0)).expect("minted");
        assert!(first.client_is_new && first.ends > later(300));
        let file = |name: &str| keeping.of("w1").join(name);
        let shown = text(file("cert.pem"));

        let again = keeping.mint("w1", &names, false, later(10)).expect("minted");
        assert!(!again.client_is_new && again.ca == first.ca && again.server.key != first.server.key);
        assert_eq!(text(file("cert.pem")), shown);
        assert_eq!(
            (keeping.hosts().expect("hosts"), keeping.names("w1").expect("names")),
            (vec!["w1".to_owned()], names.to_vec())
        );

        let renewed = keeping.mint("w1", &names, true, later(20)).expect("minted");
        assert!(renewed.client_is_new);
        assert_eq!(text(file("previous-cert.pem")), shown);
        assert_ne!(text(file("cert.pem")), shown);
        // and by itself when its end is near
        assert!(keeping.mint("w1", &names, false, later(20 + 340)).expect("minted").client_is_new);
    }

    #[test]
    fn under_another_authority_both_are_trusted_and_both_pairs_are_there() {
        let root = tempfile::tempdir().expect("a directory");
        let keeping = Keeping::new(root.path());
        let names = ["10.0.0.3".to_owned()];
        let first = keeping.mint("w1", &names, false, later(0)).expect("minted");
        let old = text(keeping.of("w1").join("cert.pem"));
        keeping.new_authority(later(1)).expect("a CA");
        let second = keeping.mint("w1", &names, false, later(1)).expect("minted");
        assert!(second.client_is_new, "it was signed by the other CA");
        assert_ne!(second.ca, first.ca);
        assert_eq!(text(keeping.of("w1").join("ca.pem")), format!("{}{}", second.ca, first.ca));
        assert_eq!(text(keeping.of("w1").join("previous-cert.pem")), old);

        // The host has not followed yet: whatever is renewed meanwhile, what it takes and shows stays.
        assert_eq!(keeping.waiting().expect("hosts"), ["w1"]);
        keeping.mint("w1", &names, true, later(2)).expect("minted");
        assert_eq!(text(keeping.of("w1").join("previous-cert.pem")), old);
        let third = keeping.new_authority(later(3)).expect("a CA");
        keeping.mint("w1", &names, false, later(3)).expect("minted");
        assert_eq!(text(keeping.of("w1").join("ca.pem")), format!("{}{}{}", third.certificate, second.ca, first.ca));
        keeping.drop_previous("w1").expect("dropped");
        assert_eq!(keeping.waiting().expect("hosts"), Vec::<String>::new());
        assert!(!keeping.of("w1").join("client-cert.pem").exists());
    }

    #[test]
    fn a_ca_without_its_key_is_not_replaced_in_silence() {
        let root = tempfile::tempdir().expect("a directory");
        let keeping = Keeping::new(root.path());
        let names = ["10.0.0.3".to_owned()];
        let first = keeping.mint("w1", &names, false, later(0)).expect("minted");
        fs::remove_file(root.path().join("ca.key")).expect("kept elsewhere");
        let Err(error) = keeping.mint("w2", &names, false, later(1)) else { panic!("signed by whom?") };
        assert!(error.to_string().contains("put them back"), "{error}");
        assert_eq!(text(root.path().join("ca.pem")), first.ca);
        keeping.new_authority(later(1)).expect("asked for");
        assert_eq!(text(root.path().join("previous-ca.pem")), first.ca);
    }

    #[test]
    fn nobody_else_may_read_the_keys() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a directory");
        let keeping = Keeping::new(&root.path().join("hosts"));
        keeping.mint("w1", &["::1".to_owned()], false, later(0)).expect("minted");
        for (path, mode) in [("", 0o700), ("ca.key", 0o600), ("w1", 0o700), ("w1/key.pem", 0o600)] {
            let found = fs::metadata(root.path().join("hosts").join(path)).expect(path).permissions().mode() & 0o777;
            assert_eq!(found, mode, "{path}");
        }
        assert!(keeping.names("w2").unwrap_err().to_string().contains("portreeve host certs w2"));
        for (name, names) in [("W1", vec![]), ("../x", vec![]), ("w1", vec!["a b".to_owned()])] {
            assert!(check(name, &names).is_err(), "{name} {names:?}");
        }
    }
}
