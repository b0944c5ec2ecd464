//! `portreeve host add`: makes the record of a host, and follows what the control plane finds out about it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::super::error::{Error, Exit, Result};
use super::super::kinds::ResourceType;
use super::super::output::print;
use super::super::session::Session;
use super::super::until::{Seen, Target, until};
use super::super::url::with_query;
use super::certs::CertsDir;
use super::secret;
use crate::model::{ConditionStatus, DaemonEndpoint, DockerHost, Kind, SYSTEM_NAMESPACE, Span, condition};

/// Add a Docker daemon to the fleet, and show each check as it passes.
///
/// The control plane connects to the daemon, from where it runs. A host that is already there is left as it is.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve host add worker-1 --endpoint tcp://10.0.0.3:2376
  portreeve host add worker-1 --endpoint tcp://10.0.0.3:2376 --certs /etc/docker/certs --label zone=fsn1
  portreeve host add here --endpoint unix:///var/run/docker.sock

  # by ssh: the control plane's user can log in there, and knows the host's key
  portreeve host add worker-2 --endpoint ssh://deploy@10.0.0.4

  # a control plane without a directory of certificates
  portreeve host add worker-1 --endpoint tcp://10.0.0.3:2376 --secret worker-1-tls")]
pub struct HostAddArgs {
    /// The name of the DockerHost
    pub name: String,
    /// Where the daemon listens: unix:///PATH, tcp://HOST:PORT, or ssh://USER@HOST to log in and use docker there
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
    /// A directory with ca.pem, cert.pem and key.pem on the control plane's machine [default: what `host certs` made]
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Have the control plane read a Secret of portreeve-system. For tcp it is filled from --certs or from what `host certs`
    /// made, if that is here; for ssh it holds ssh-privatekey and known_hosts
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
    /// The IP address on which host ports are published [default: the endpoint's]
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// A label of the host
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// How long to wait for the daemon
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub timeout: Span,
    #[command(flatten)]
    pub keeping: CertsDir,
}

fn label(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub async fn run(args: &HostAddArgs, session: &Session) -> Result<Exit> {
    let resource = ResourceType::from(Kind::DockerHost);
    let path = with_query(&resource.collection(None), &[("fieldManager", "portreeve"), ("fieldValidation", "Strict")]);
    let (manifest, filled) = (manifest(args)?, filled(args)?);
    if let (Some(name), Some(content)) = (&args.secret, &filled) {
        secret::put(session, name, content).await?;
        print(&format!("secret/{name} in {SYSTEM_NAMESPACE} filled\n"))?;
    }
    session.client.post(&path, &manifest).await?;
    print(&format!("{} created\n", resource.named(&args.name)))?;
    let target = Target { resource: &resource, namespace: "", name: &args.name };
    let mut told = Told::default();
    let waited = until(&session.client, &target, args.timeout.duration(), |object| {
        let Some(object) = object else {
            return Err(Error::failed(format!("{} was deleted meanwhile", resource.named(&args.name))));
        };
        let host: DockerHost = serde_json::from_value(object.clone())
            .map_err(|e| Error::failed(format!("its answer cannot be read: {e}")))?;
        for check in told.news(&host) {
            print(&format!("{check}\n"))?;
        }
        Ok(seen(&host))
    })
    .await;
    if let Err(Error::TimedOut(text)) = waited {
        let hint = format!("the record stays, and is tried on; `portreeve delete dh {}` takes it away", args.name);
        return Err(Error::TimedOut(format!("{text}\n{hint}")));
    }
    waited.map(|()| Exit::Done)
}

/// What is to be put into the Secret, if it is here.
fn filled(args: &HostAddArgs) -> Result<Option<Value>> {
    let Some(name) = args.secret.as_ref().filter(|_| args.endpoint.starts_with("tcp://")) else { return Ok(None) };
    let own = args.keeping.certs_dir.join(&args.name);
    let found = secret::manifest(name, args.certs.as_ref().unwrap_or(&own))?;
    match (&args.certs, &found) {
        (Some(directory), None) => Err(Error::usage(format!("--certs: no credentials are in {}", directory.display()))),
        _ => Ok(found),
    }
}

fn manifest(args: &HostAddArgs) -> Result<Value> {
    let mut spec = json!({"endpoint": args.endpoint});
    let endpoint = DaemonEndpoint::parse(&args.endpoint).map_err(|why| Error::usage(format!("--endpoint: {why}")))?;
    match endpoint {
        DaemonEndpoint::Tcp { .. } if let Some(secret) = &args.secret => {
            spec["tls"] = json!({"secret": secret});
        }
        DaemonEndpoint::Tcp { .. } => {
            let own = args.keeping.certs_dir.join(&args.name);
            let directory = args.certs.as_ref().unwrap_or(&own);
            spec["tls"] = json!({"directory": absolute(directory)?});
        }
        DaemonEndpoint::Unix(_) | DaemonEndpoint::Ssh { .. } if args.certs.is_some() => {
            return Err(Error::usage("--certs: only a tcp endpoint has TLS"));
        }
        DaemonEndpoint::Unix(_) if args.secret.is_some() => {
            return Err(Error::usage("--secret: a unix endpoint needs no credentials"));
        }
        DaemonEndpoint::Ssh { .. } => {
            if let Some(secret) = &args.secret {
                spec["ssh"] = json!({"secret": secret});
            }
        }
        DaemonEndpoint::Unix(_) => {}
    }
    if let Some(address) = args.address {
        spec["address"] = json!(address.to_string());
    }
    let labels: BTreeMap<_, _> = args.label.iter().cloned().collect();
    let mut manifest = json!({
        "apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": args.name}, "spec": spec,
    });
    if !labels.is_empty() {
        manifest["metadata"]["labels"] = json!(labels);
    }
    Ok(manifest)
}

fn absolute(path: &Path) -> Result<String> {
    let whole = std::path::absolute(path).map_err(|e| Error::usage(format!("--certs {}: {e}", path.display())))?;
    whole.into_os_string().into_string().map_err(|_| Error::usage("--certs: the path is not UTF-8"))
}

/// Which checks have been told to have passed.
#[derive(Default)]
struct Told {
    passed: Vec<&'static str>,
}

impl Told {
    /// Lines about the checks that have passed since the last look, in their order.
    fn news(&mut self, host: &DockerHost) -> Vec<String> {
        let status = &host.status;
        let met = |type_| condition(&status.conditions, type_).filter(|c| c.status == ConditionStatus::True);
        let ready = met("Ready");
        let mut checks: Vec<(&'static str, Option<String>)> = vec![];
        if host.spec.tls.as_ref().is_some_and(|tls| !tls.is_plaintext()) {
            checks.push(("TLS", met("TLSValid").map(|c| c.message.clone())));
        }
        checks.push(("daemon", ready.map(|c| format!("{}, API {}, {}", c.message, status.api_version, status.os))));
        checks.push(("identity", ready.map(|_| status.daemon_id.clone())));
        checks.push(("capacity", ready.map(|_| capacity(host))));
        let mut lines = vec![];
        for (name, passed) in checks {
            if let Some(text) = passed.filter(|_| !self.passed.contains(&name)) {
                self.passed.push(name);
                let mark = if std::io::stdout().is_terminal() { "✓" } else { "ok" };
                lines.push(format!("{mark} {name}: {text}"));
            }
        }
        lines
    }
}

fn seen(host: &DockerHost) -> Seen {
    let current = host.status.observed_generation >= host.metadata.generation;
    match condition(&host.status.conditions, "Ready") {
        Some(ready) if current && ready.status == ConditionStatus::True => Seen::Done,
        Some(ready) if current => Seen::NotYet(ready.message.clone()),
        _ => Seen::NotYet("not looked at yet".to_owned()),
    }
}

fn capacity(host: &DockerHost) -> String {
    let amount = |q: &Option<crate::model::Quantity>| q.as_ref().map_or("?".to_owned(), ToString::to_string);
    let capacity = &host.status.capacity;
    let instances = capacity.instances.unwrap_or_default();
    format!("memory {}, cpu {}, {instances} instances", amount(&capacity.memory), amount(&capacity.cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(endpoint: &str) -> HostAddArgs {
        HostAddArgs {
            name: "w1".into(),
            endpoint: endpoint.into(),
            certs: None,
            secret: None,
            address: None,
            label: vec![("zone".into(), "a".into())],
            timeout: "1s".parse().expect("a time"),
            keeping: CertsDir { certs_dir: "/certs".into() },
        }
    }

    #[test]
    fn the_record_says_where_the_credentials_are() {
        let made = manifest(&args("tcp://10.0.0.3:2376")).expect("a manifest");
        assert_eq!(made["spec"]["tls"]["directory"], "/certs/w1");
        assert_eq!(made["metadata"]["labels"]["zone"], "a");
        assert!(manifest(&args("unix:///run/docker.sock")).expect("a manifest")["spec"]["tls"].is_null());
        assert!(manifest(&args("http://10.0.0.3")).is_err());
        let both = HostAddArgs { certs: Some("/x".into()), ..args("unix:///run/docker.sock") };
        assert!(manifest(&both).is_err());
        assert!(manifest(&HostAddArgs { certs: Some("/x".into()), ..args("ssh://a@10.0.0.3") }).is_err());

        let with = |endpoint: &str| HostAddArgs { secret: Some("w1-tls".into()), ..args(endpoint) };
        assert_eq!(
            manifest(&with("tcp://10.0.0.3:2376")).expect("a manifest")["spec"]["tls"],
            json!({"secret": "w1-tls"})
        );
        assert_eq!(
            manifest(&with("ssh://a@10.0.0.3")).expect("a manifest")["spec"]["ssh"],
            json!({"secret": "w1-tls"})
        );
        assert!(manifest(&with("unix:///run/docker.sock")).is_err());
        assert!(manifest(&args("ssh://a@10.0.0.3")).expect("a manifest")["spec"]["ssh"].is_null());
        assert!(filled(&with("tcp://10.0.0.3:2376")).expect("it may be there already").is_none());
        let named = HostAddArgs { certs: Some("/none".into()), ..with("tcp://10.0.0.3:2376") };
        assert!(filled(&named).is_err(), "who names a directory means what is in it");
    }

    #[test]
    fn each_check_is_told_once_when_it_has_passed() {
        let mut host: DockerHost = serde_json::from_value(json!({
            "metadata": {"name": "w1", "generation": 1},
            "spec": {"endpoint": "tcp://10.0.0.3:2376", "tls": {"directory": "/certs/w1"}},
        }))
        .expect("a host");
        let mut told = Told::default();
        assert_eq!((told.news(&host).len(), seen(&host)), (0, Seen::NotYet("not looked at yet".into())));
        let says = |type_: &str, status: &str, message: &str| json!({"type": type_, "status": status, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        host.status = serde_json::from_value(json!({"observedGeneration": 1, "conditions": [
            says("TLSValid", "True", "good until 2027"), says("Ready", "False", "info w1: refused"),
        ]}))
        .expect("a status");
        assert_eq!(told.news(&host), ["ok TLS: good until 2027"]);
        assert_eq!(seen(&host), Seen::NotYet("info w1: refused".into()));
        host.status.conditions[1].status = ConditionStatus::True;
        assert_eq!(told.news(&host).len(), 3);
        assert_eq!((told.news(&host).len(), seen(&host)), (0, Seen::Done));
    }
}
