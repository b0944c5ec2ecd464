//! `portreeve host certs` and `host rotate`: credentials for a worker's daemon, and the script that installs them there.
//! Both work on files of this machine alone and ask no server, unless credentials are to go into Secrets: then it need not
//! be the control plane's machine.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::error::{Error, Exit, Result};
use super::super::output::print;
use super::super::serve::default_data_dir;
use super::super::session::Session;
use super::firewall::{Denied, Firewall};
use super::installer::installer;
use super::keeping::{Keeping, Minted, check};
use super::secret;
use crate::clock::SystemClock;
use crate::model::{SYSTEM_NAMESPACE, Subnet};
use crate::pki::files::write_private;

/// The port that Docker's tools take for TLS.
const PORT: u16 = 2376;

/// Where credentials of hosts are kept.
#[derive(Args, Debug)]
pub struct CertsDir {
    /// The directory of all hosts' credentials, on the control plane's machine
    #[arg(long, env = "PORTREEVE_CERTS_DIR", value_name = "DIR", default_value_os_t = default_certs_dir())]
    pub certs_dir: PathBuf,
}

/// `/etc/portreeve/hosts` for root, else beside the data.
fn default_certs_dir() -> PathBuf {
    let data = default_data_dir();
    if data == Path::new("/var/lib/portreeve") { PathBuf::from("/etc/portreeve/hosts") } else { data.join("hosts") }
}

/// Make certificates for a worker's Docker daemon, and the script that installs them there.
///
/// Makes a CA the first time. The script goes to stdout, or to a file where stdout is a terminal. It holds the daemon's
/// private key, which is kept nowhere else: who runs this again makes another. It also sets firewall rules that keep the
/// worker's instances from the worker itself, from one another and from clouds' metadata services.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  # on the control plane's machine, with the worker's address on the private network
  portreeve host certs worker-1 --ip 10.0.0.3 | ssh root@10.0.0.3 sh
  portreeve host add worker-1 --endpoint tcp://10.0.0.3:2376

  # under a name, too
  portreeve host certs worker-1 --ip 10.0.0.3 --dns worker-1.internal -o install.sh

  # instances are not to reach the control plane's API either, nor the office
  portreeve host certs worker-1 --ip 10.0.0.3 --deny 10.0.0.2:7443 --deny 192.168.0.0/16 | ssh root@10.0.0.3 sh")]
pub struct HostCertsArgs {
    /// The name of the DockerHost
    pub name: String,
    /// The IP address on which the daemon listens; further ones are also in its certificate
    #[arg(long, required = true, value_name = "IP")]
    pub ip: Vec<IpAddr>,
    /// A host name of the daemon
    #[arg(long, value_name = "NAME")]
    pub dns: Vec<String>,
    /// The port on which the daemon listens
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
    /// What instances on the worker must not reach: an IPv4 address, ADDRESS:PORT or range; more than once for more
    #[arg(long, value_name = "ADDRESS", conflicts_with = "no_firewall")]
    pub deny: Vec<Denied>,
    /// Where the networks of instances are: the record's spec.subnetPool
    #[arg(long, value_name = "RANGE", default_value_t = Firewall::DEFAULT_POOL, conflicts_with = "no_firewall")]
    pub subnet_pool: Subnet,
    /// Set no firewall rules: the worker has its own
    #[arg(long)]
    pub no_firewall: bool,
    /// Write the script to a file; - is stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub keeping: CertsDir,
}

/// Replace the certificates of hosts, on both sides, without losing a host meanwhile.
///
/// The control plane shows its new certificate from the next connection on. The worker's takes effect when its script has
/// run there, sooner or later and in any order: until then, what each side had before is still taken by the other.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve host rotate worker-1 | ssh root@10.0.0.3 sh

  # another CA for the whole fleet: a script for each worker
  portreeve host rotate --all --ca
  ssh root@10.0.0.3 sh < /etc/portreeve/hosts/worker-1/install.sh

  # a control plane that reads a Secret (spec.tls.secret)
  portreeve host rotate worker-1 --secret | ssh root@10.0.0.3 sh")]
pub struct HostRotateArgs {
    /// The DockerHosts
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "NAME")]
    pub names: Vec<String>,
    /// Every host that has credentials here
    #[arg(long)]
    pub all: bool,
    /// Sign with another CA from now on; the old one stays trusted by the control plane
    #[arg(long, requires = "all")]
    pub ca: bool,
    /// The workers have all run their newest script: forget what they took before
    #[arg(long, requires = "all")]
    pub drop_previous: bool,
    /// Put the credentials into the Secrets that the hosts' records name, too; this asks the server
    #[arg(long)]
    pub secret: bool,
    #[command(flatten)]
    pub keeping: CertsDir,
}

pub fn certs(args: &HostCertsArgs) -> Result<Exit> {
    let names: Vec<String> = args.ip.iter().map(ToString::to_string).chain(args.dns.iter().cloned()).collect();
    check(&args.name, &names)?;
    let keeping = Keeping::new(&args.keeping.certs_dir);
    let minted = keeping.mint(&args.name, &names, false, SystemClock::new().now())?;
    keeping.set_port(&args.name, args.port)?;
    let firewall = Firewall { pool: args.subnet_pool, denied: args.deny.clone() };
    let firewall = (!args.no_firewall).then_some(&firewall);
    let port = keeping.port(&args.name)?.unwrap_or(PORT);
    let script = installer(&args.name, args.ip[0], port, &minted, firewall);
    hand_out(&keeping, &args.name, args.ip[0], &minted, &script, args.output.as_deref())
}

/// `session`: where the Secrets are, if they are wanted.
pub async fn rotate(args: &HostRotateArgs, session: Option<&Session>) -> Result<Exit> {
    let keeping = Keeping::new(&args.keeping.certs_dir);
    let names = if args.all { keeping.hosts()? } else { args.names.clone() };
    if names.is_empty() {
        let directory = args.keeping.certs_dir.display();
        return Err(Error::failed(format!("no host has credentials in {directory}")));
    }
    // Nothing is made before it is known of every one what for.
    let mut all = vec![];
    for name in &names {
        let made_for = keeping.names(name)?;
        let address = made_for.iter().find_map(|n| n.parse::<IpAddr>().ok());
        let address =
            address.ok_or_else(|| Error::failed(format!("the certificate of host {name:?} has no IP address")))?;
        let secret = match session {
            Some(session) => Some((session, secret::of_record(session, name).await?)),
            None => None,
        };
        all.push((name, made_for, address, secret));
    }
    let now = SystemClock::new().now();
    if args.drop_previous {
        names.iter().try_for_each(|name| keeping.drop_previous(name))?;
    }
    if args.ca {
        let waiting = keeping.waiting()?;
        if !waiting.is_empty() {
            let why = "may not have followed the last change of the CA yet, and could not follow two; when their newest \
                       scripts have run, say --drop-previous";
            return Err(Error::failed(format!("{}: {why}", waiting.join(", "))));
        }
        keeping.new_authority(now)?;
    }
    let alone = !args.all && all.len() == 1;
    for (name, made_for, address, secret) in all {
        let minted = keeping.mint(name, &made_for, true, now)?;
        // Before the worker can show anything new.
        if let Some((session, into)) = secret
            && let Some(manifest) = secret::manifest(&into, &keeping.of(name))?
        {
            secret::put(session, &into, &manifest).await?;
            eprintln!("host {name}: credentials for calling it are in Secret {SYSTEM_NAMESPACE}/{into}");
        }
        // Several scripts in one stream would be run by one shell.
        let file = keeping.of(name).join("install.sh");
        // The worker's rules stay as they are.
        let script = installer(name, address, keeping.port(name)?.unwrap_or(PORT), &minted, None);
        hand_out(&keeping, name, address, &minted, &script, (!alone).then_some(file.as_path()))?;
    }
    Ok(Exit::Done)
}

/// Gives the script where it is wanted, and says what was made.
fn hand_out(
    keeping: &Keeping,
    name: &str,
    address: IpAddr,
    minted: &Minted,
    script: &str,
    wanted: Option<&Path>,
) -> Result<Exit> {
    let own = keeping.of(name);
    let client = if minted.client_is_new { "made" } else { "kept" };
    eprintln!("host {name}: credentials for calling it {client} in {}", own.display());
    eprintln!("host {name}: certificate made for {}; good until {}", minted.names.join(", "), minted.ends);
    let to_terminal = wanted.is_none() && std::io::stdout().is_terminal();
    let file = match wanted {
        Some(path) if path == Path::new("-") => None,
        Some(path) => Some(path.to_owned()),
        None if to_terminal => Some(own.join("install.sh")),
        None => None,
    };
    match file {
        None => print(script)?,
        Some(file) => {
            write_private(&file, script.as_bytes()).map_err(|e| Error::failed(format!("{e}: {}", e.source)))?;
            eprintln!(
                "host {name}: next, with the worker's private key in it: ssh root@{address} sh < {}",
                file.display()
            );
        }
    }
    Ok(Exit::Done)
}
