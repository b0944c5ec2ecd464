//! The proxies beside ours: Debian's nginx, HAProxy and Caddy, unpacked into the run's directory, set up as somebody who
//! knows them would. The settings are the files beside this one.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{clock, packages, process, sys};

/// What they link to that a small system lacks, and h2load, are unpacked with them.
const PACKAGES: [&str; 12] = [
    "nginx",
    "haproxy",
    "caddy",
    "nghttp2-client",
    "libnghttp2-14",
    "libopentracing-c-wrapper0",
    "libopentracing1",
    "liblua5.3-0",
    "libev4",
    "libjansson4",
    "libjemalloc2",
    "libxml2",
];

const NGINX: &str = include_str!("nginx.conf");
const HAPROXY: &str = include_str!("haproxy.cfg");
const CADDY: &str = include_str!("Caddyfile");

/// The unpacked packages.
pub struct Root(PathBuf);

impl Root {
    pub fn fetch(dir: &Path) -> Result<Root> {
        let root = dir.join("peers");
        packages::unpack(&PACKAGES, &root)?;
        Ok(Root(root))
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.0.join("usr").join(program));
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        command.env("LD_LIBRARY_PATH", self.0.join(libraries));
        command
    }
}

/// What all proxies of a run share.
pub struct Site<'a> {
    pub dir: &'a Path,
    pub upstream: SocketAddr,
    /// nginx takes several, with spaces between them.
    pub host: &'a str,
    pub certificate: &'a Path,
    pub key: &'a Path,
}

pub struct Peer {
    child: Child,
    pub name: &'static str,
    pub version: String,
    pub http: SocketAddr,
    pub https: SocketAddr,
}

impl Peer {
    pub fn all(root: &Root, site: &Site) -> Result<Vec<Peer>> {
        let (haproxy, caddy) = ("sbin/haproxy", "bin/caddy");
        Ok(vec![
            Peer::nginx(root, site)?,
            Peer::start("haproxy", root, site, (haproxy, HAPROXY, "haproxy.cfg"), |file| {
                vec!["-db".into(), "-f".into(), file]
            })?,
            Peer::start("caddy", root, site, (caddy, CADDY, "Caddyfile"), |file| {
                vec!["run".into(), "--adapter".into(), "caddyfile".into(), "--config".into(), file]
            })?,
        ])
    }

    pub fn nginx(root: &Root, site: &Site) -> Result<Peer> {
        Peer::start("nginx", root, site, ("sbin/nginx", NGINX, "nginx.conf"), |file| {
            vec!["-c".into(), file, "-p".into(), show(site.dir), "-e".into(), show(&site.dir.join("nginx.log"))]
        })
    }

    fn start(
        name: &'static str,
        root: &Root,
        site: &Site,
        (program, settings, file): (&str, &str, &str),
        args: impl Fn(String) -> Vec<String>,
    ) -> Result<Peer> {
        let (http, https) = (free_address()?, free_address()?);
        // HAProxy takes both from one file.
        let both = site.dir.join("both.pem");
        fs::write(&both, [fs::read(site.certificate)?, fs::read(site.key)?].concat())?;
        let filled = [
            ("@DIR@", show(site.dir)),
            ("@UPSTREAM@", site.upstream.to_string()),
            ("@HOST@", site.host.to_owned()),
            ("@CERTIFICATE@", show(site.certificate)),
            ("@KEY@", show(site.key)),
            ("@BOTH@", show(&both)),
            ("@HTTP@", http.port().to_string()),
            ("@HTTPS@", https.port().to_string()),
        ]
        .iter()
        .fold(settings.to_owned(), |text, (mark, value)| text.replace(mark, value));
        let path = site.dir.join(file);
        fs::write(&path, filled)?;
        let version = version(root, name, program)?;
        let log = File::create(site.dir.join(format!("{name}.out")))?;
        let mut command = root.command(program);
        command.args(args(show(&path))).env("HOME", site.dir);
        command.env("XDG_DATA_HOME", site.dir).env("XDG_CONFIG_HOME", site.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        sys::end_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("running {}", process::line(&command)))?;
        let mut peer = Peer { child, name, version, http, https };
        peer.ready(site.dir)?;
        Ok(peer)
    }

    fn ready(&mut self, dir: &Path) -> Result<()> {
        let log = dir.join(format!("{}.out", self.name));
        clock::wait_unless_interrupted(self.name, Duration::from_secs(20), || match self.child.try_wait() {
            Ok(None) => std::net::TcpStream::connect(self.https).map(|_| Ok(())).map_err(|e| e.to_string()),
            ended => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                Ok(Err(anyhow::anyhow!("{} ended: {ended:?}: {said}", self.name)))
            }
        })?
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx has workers, which end with their master; it keeps nothing.
        sys::signal_group(self.child.id(), libc::SIGTERM);
        let _ = self.child.wait();
    }
}

fn version(root: &Root, name: &str, program: &str) -> Result<String> {
    let flag = if name == "caddy" { "version" } else { "-v" };
    let told = root.command(program).arg(flag).output().with_context(|| format!("running {program}"))?;
    // nginx says it on standard error.
    let text = [told.stdout, told.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let word = text.split_whitespace().find_map(|w| {
        let number = w.rsplit('/').next().unwrap_or(w).trim_start_matches('v');
        number.starts_with(|c: char| c.is_ascii_digit()).then(|| number.to_owned())
    });
    match word {
        Some(word) => Ok(format!("{name} {word}")),
        None => bail!("{program} does not tell its version: {text}"),
    }
}

pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
