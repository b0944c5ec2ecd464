//! Finds and reads kubeconfig files, and makes of them what a client needs to connect.
//!
//! Looked up in order: `--kubeconfig`, `$PORTREEVE_KUBECONFIG`, `$KUBECONFIG` (a list, merged as kubectl merges), the
//! data directory's `admin.kubeconfig`, `~/.kube/config`. What was named but is missing is an error, never a reason to
//! use the next: a command must not reach another server than the one meant.

mod made;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

pub use made::with_token;

use super::error::{Error, Result};
use super::serve::{ADMIN_KUBECONFIG, default_data_dir};

/// The largest kubeconfig or key file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a client needs to reach a server.
#[derive(Debug)]
pub struct Connection {
    /// `https://host:port`, without a slash at the end.
    pub server: String,
    /// The name to expect in the server's certificate, if not the address's.
    pub server_name: Option<String>,
    /// The only authorities that are trusted.
    pub authorities: Vec<CertificateDer<'static>>,
    pub identity: Option<Identity>,
    pub token: Option<String>,
    pub namespace: String,
}

/// A client certificate with its key.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    #[serde(rename = "current-context")]
    current_context: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
    /// The directory of the file that this was read from, against which its paths are relative.
    #[serde(skip)]
    base: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
    #[serde(skip)]
    base: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: String,
}

/// Where to look: the process's environment, replaced in tests.
pub struct Lookup {
    pub flag: Option<PathBuf>,
    pub portreeve_kubeconfig: Option<OsString>,
    pub kubeconfig: Option<OsString>,
    pub data_dir: PathBuf,
    pub home: Option<PathBuf>,
}

impl Lookup {
    pub fn from_environment(flag: Option<PathBuf>) -> Lookup {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        Lookup {
            flag,
            portreeve_kubeconfig: set("PORTREEVE_KUBECONFIG"),
            kubeconfig: set("KUBECONFIG"),
            data_dir: set("PORTREEVE_DATA_DIR").map_or_else(default_data_dir, PathBuf::from),
            home: set("HOME").map(PathBuf::from),
        }
    }

    /// The kubeconfig files to use: at least one, and each exists.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let named = |path: PathBuf, by: &str| {
            if path.exists() {
                Ok(vec![path])
            } else {
                Err(Error::failed(format!("the kubeconfig {} (from {by}) does not exist", path.display())))
            }
        };
        if let Some(path) = &self.flag {
            return named(path.clone(), "--kubeconfig");
        }
        if let Some(path) = &self.portreeve_kubeconfig {
            return named(path.into(), "$PORTREEVE_KUBECONFIG");
        }
        if let Some(list) = &self.kubeconfig {
            let files: Vec<_> = std::env::split_paths(list).filter(|p| p.exists()).collect();
            return if files.is_empty() {
                Err(Error::failed(format!("no kubeconfig of $KUBECONFIG exists: {}", list.display())))
            } else {
                Ok(files)
            };
        }
        let admin = self.data_dir.join(ADMIN_KUBECONFIG);
        let kube = self.home.as_ref().map(|h| h.join(".kube/config"));
        [Some(&admin), kube.as_ref()].into_iter().flatten().find(|p| p.exists()).map(|p| vec![p.clone()]).ok_or_else(
            || {
                Error::failed(format!(
                    "no kubeconfig: none was given by --kubeconfig, $PORTREEVE_KUBECONFIG or $KUBECONFIG, and neither {} nor \
                     ~/.kube/config exists; `portreeve serve` writes the first",
                    admin.display()
                ))
            },
        )
    }
}

/// Reads the files, the first having precedence, and resolves a context (the current one when `None`).
pub fn load(files: &[PathBuf], context: Option<&str>) -> Result<Connection> {
    let mut merged = File::default();
    for path in files {
        let text = String::from_utf8(read(path, "kubeconfig")?)
            .map_err(|_| Error::failed(format!("the kubeconfig {} is not UTF-8", path.display())))?;
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        merged.add(
            File::parse(&text, &base)
                .map_err(|e| Error::failed(format!("the kubeconfig {} cannot be read: {e}", path.display())))?,
        );
    }
    let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    merged.resolve(context).map_err(|e| Error::failed(format!("kubeconfig {}: {e}", names.join(", "))))
}

impl File {
    fn parse(text: &str, base: &Path) -> std::result::Result<File, String> {
        let mut file: File = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        file.clusters.iter_mut().for_each(|c| c.cluster.base = base.to_owned());
        file.users.iter_mut().for_each(|u| u.user.base = base.to_owned());
        Ok(file)
    }

    fn add(&mut self, other: File) {
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        // `find` takes the first of a name, so appending keeps the earlier file's precedence
        self.clusters.extend(other.clusters);
        self.users.extend(other.users);
        self.contexts.extend(other.contexts);
    }

    fn resolve(&self, context: Option<&str>) -> std::result::Result<Connection, String> {
        let name = context.unwrap_or(&self.current_context);
        if name.is_empty() {
            return Err("it has no current-context; choose one with --context".into());
        }
        let known = || self.contexts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        let context = &self
            .contexts
            .iter()
            .find(|c| c.name == name)
            .ok_or_else(|| format!("there is no context {name:?}; there are: {}", known()))?
            .context;
        let cluster = &self
            .clusters
            .iter()
            .find(|c| c.name == context.cluster)
            .ok_or_else(|| format!("context {name:?} names the cluster {:?}, which is not there", context.cluster))?
            .cluster;
        let user = match self.users.iter().find(|u| u.name == context.user) {
            Some(user) => user.user.clone(),
            None if context.user.is_empty() => User::default(),
            None => return Err(format!("context {name:?} names the user {:?}, which is not there", context.user)),
        };
        let namespace = if context.namespace.is_empty() { "default".into() } else { context.namespace.clone() };
        Ok(Connection {
            server: cluster.address()?,
            server_name: cluster.tls_server_name.clone(),
            authorities: cluster.authorities()?,
            identity: user.identity()?,
            token: user.token()?,
            namespace,
        })
    }
}

impl Cluster {
    fn address(&self) -> std::result::Result<String, String> {
        if !self.server.starts_with("https://") {
            return Err(format!("the server {:?} must begin with https://", self.server));
        }
        if self.insecure_skip_tls_verify {
            return Err("insecure-skip-tls-verify is refused: give the server's certificate-authority instead".into());
        }
        if self.proxy_url.as_ref().is_some_and(|p| !p.is_empty()) {
            return Err("proxy-url is not supported".into());
        }
        Ok(self.server.trim_end_matches('/').to_owned())
    }

    fn authorities(&self) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
        let what = "certificate-authority";
        let pem = data_or_file(what, &self.certificate_authority_data, &self.certificate_authority, &self.base)?
            .ok_or("the cluster has no certificate-authority, so its server cannot be trusted")?;
        certificates(what, &pem)
    }
}

impl User {
    fn identity(&self) -> std::result::Result<Option<Identity>, String> {
        let chain =
            data_or_file("client-certificate", &self.client_certificate_data, &self.client_certificate, &self.base)?;
        let key = data_or_file("client-key", &self.client_key_data, &self.client_key, &self.base)?;
        match (chain, key) {
            (Some(chain), Some(key)) => Ok(Some(Identity {
                chain: certificates("client-certificate", &chain)?,
                key: PrivateKeyDer::from_pem_slice(&key).map_err(|e| format!("client-key is no PEM key: {e}"))?,
            })),
            (None, None) => Ok(None),
            (Some(_), None) => Err("the user has a client-certificate and no client-key".into()),
            (None, Some(_)) => Err("the user has a client-key and no client-certificate".into()),
        }
    }

    fn token(&self) -> std::result::Result<Option<String>, String> {
        if self.exec.is_some() || self.auth_provider.is_some() {
            return Err(
                "credential plugins (exec, auth-provider) are not supported: use a token or a certificate".into()
            );
        }
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) if !token.is_empty() => token.clone(),
            (_, Some(file)) => {
                let path = self.base.join(file);
                String::from_utf8(read(&path, "tokenFile").map_err(|e| e.to_string())?)
                    .map_err(|_| format!("the tokenFile {} is not UTF-8", path.display()))?
            }
            _ => return Ok(None),
        };
        let token = token.trim().to_owned();
        if token.is_empty() || token.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err("the user's token is empty or has characters that no token has".into());
        }
        Ok(Some(token))
    }
}

fn certificates(what: &str, pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{what} holds no PEM certificate")),
        Err(e) => Err(format!("{what} is no PEM: {e}")),
    }
}

/// The bytes of a credential, inline (base64) or in a file; inline wins, as with kubectl.
fn data_or_file(
    what: &str,
    data: &Option<String>,
    file: &Option<PathBuf>,
    base: &Path,
) -> std::result::Result<Option<Vec<u8>>, String> {
    if let Some(data) = data.as_ref().filter(|d| !d.is_empty()) {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data.split_ascii_whitespace().collect::<String>())
            .map_err(|e| format!("{what}-data is not base64: {e}"))?;
        return Ok(Some(bytes));
    }
    match file.as_ref().filter(|f| !f.as_os_str().is_empty()) {
        Some(file) => read(&base.join(file), what).map(Some).map_err(|e| e.to_string()),
        None => Ok(None),
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    use std::io::Read;
    let cannot = |e: std::io::Error| Error::failed(format!("cannot read the {what} {}: {e}", path.display()));
    let mut bytes = vec![];
    std::fs::File::open(path).map_err(cannot)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::failed(format!("the {what} {} has more than {MAX_FILE_BYTES} bytes", path.display())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
