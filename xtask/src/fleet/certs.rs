//! Certificates for the daemons' TCP ports: one authority per fleet, a server certificate per host, one client's.
//!
//! `certs/` holds what a client needs, under the names that Docker gives them: ca.pem, cert.pem, key.pem.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::state::{Fleet, Host};
use crate::process;

/// The authority's settings. All that a distribution's own file may say is left out.
const AUTHORITY: &str = "\
[req]
distinguished_name = name
x509_extensions = authority
prompt = no
[name]
CN = portreeve fleet
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
";

pub fn server_cert(host: &Host) -> PathBuf {
    host.dir.join("server.pem")
}

pub fn server_key(host: &Host) -> PathBuf {
    host.dir.join("server-key.pem")
}

pub fn make(fleet: &Fleet) -> Result<()> {
    let dir = &fleet.certs;
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    let issuer = Issuer { key: fleet.dir.join("ca-key.pem"), cert: dir.join("ca.pem"), work: fleet.dir.join("issue") };
    fs::create_dir_all(&issuer.work)?;
    let config = issuer.work.join("ca.cnf");
    fs::write(&config, AUTHORITY)?;
    openssl(&format!(
        "req -x509 {KEY} -days 30 -config {} -keyout {} -out {}",
        show(&config),
        show(&issuer.key),
        show(&issuer.cert)
    ))?;
    issuer.issue("client", "extendedKeyUsage = clientAuth\n", &dir.join("key.pem"), &dir.join("cert.pem"))?;
    for host in &fleet.hosts {
        fs::create_dir_all(&host.dir)?;
        let extensions = format!("extendedKeyUsage = serverAuth\nsubjectAltName = IP:{}\n", host.address);
        issuer.issue(&host.name, &extensions, &server_key(host), &server_cert(host))?;
    }
    fs::remove_dir_all(&issuer.work)?;
    Ok(())
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

struct Issuer {
    key: PathBuf,
    cert: PathBuf,
    work: PathBuf,
}

impl Issuer {
    fn issue(&self, name: &str, extensions: &str, key: &Path, cert: &Path) -> Result<()> {
        let (request, settings) = (self.work.join("request.pem"), self.work.join("extensions.cnf"));
        fs::write(&settings, format!("basicConstraints = critical, CA:FALSE\n{extensions}"))?;
        let config = self.work.join("ca.cnf");
        openssl(&format!(
            "req {KEY} -config {} -subj /CN={name} -keyout {} -out {}",
            show(&config),
            show(key),
            show(&request)
        ))?;
        openssl(&format!(
            "x509 -req -days 30 -in {} -CA {} -CAkey {} -CAcreateserial -CAserial {} -extfile {} -out {}",
            show(&request),
            show(&self.cert),
            show(&self.key),
            show(&self.work.join("serial")),
            show(&settings),
            show(cert)
        ))
    }
}

fn openssl(words: &str) -> Result<()> {
    process::tool(&format!("openssl {words}")).context("making certificates").map(drop)
}

/// Our paths have no blanks in them: the root is fixed and names are checked.
fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}
