//! `portreeve token`: credentials for others. An AccessToken is an object like any other; these verbs know that its
//! secret is told once.

use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::args::Global;
use super::error::{Error, Exit, Result};
use super::get::{self, GetArgs};
use super::kinds::ResourceType;
use super::kubeconfig::with_token;
use super::output::{Format, ObjectFormat, print};
use super::session::{Session, connection};
use crate::model::{Kind, Role, Span, validate_name};

/// Make, list and revoke access tokens.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve token create ci --role editor -n team-a --expires 30d
  portreeve token list
  portreeve token revoke ci")]
pub struct TokenArgs {
    #[command(subcommand)]
    pub verb: TokenVerb,
}

#[derive(Subcommand, Debug)]
pub enum TokenVerb {
    Create(Box<CreateArgs>),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Make an access token. Its secret is shown now and never again: the server keeps only its hash.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  # a kubeconfig for a colleague who looks after one namespace
  portreeve token create bob --role editor -n team-a --expires 90d -o kubeconfig > bob.kubeconfig

  # a token for a dashboard that reads the whole cluster
  TOKEN=$(portreeve token create dashboard --role viewer)

  # several namespaces
  portreeve token create ci --role editor --namespaces staging,test --expires 12h")]
pub struct CreateArgs {
    /// The name of the token
    pub name: String,
    /// What its bearer may do
    #[arg(long, value_enum)]
    pub role: RoleName,
    /// The namespaces in which the role holds [default: the one of -n, else the whole cluster]
    #[arg(long, value_name = "NAMESPACE,…", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// How long it is good for, such as 30d or 12h [default: until it is revoked]
    #[arg(long, value_name = "DURATION")]
    pub expires: Option<Span>,
    /// The name that its bearer goes by in refusals and in the audit log [default: NAME]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// token (the secret alone), kubeconfig, name, json or yaml
    #[arg(short, long, value_name = "FORMAT", default_value = "token")]
    pub output: Shown,
}

/// List access tokens: whose they are, what they may and when they end; never their secrets.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve token list
  portreeve token list -o name")]
pub struct ListArgs {
    /// table, wide, json, yaml, name or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// Revoke access tokens at once, with all that they have opened.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve token revoke ci
  portreeve token revoke ci bob")]
pub struct RevokeArgs {
    /// The names of the tokens
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// The model's [`Role`], as a word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Everything; this is root on every host
    Admin,
    /// Also writes what lives in namespaces, reads secrets there, and enters containers
    Editor,
    /// Reads everything but secrets and access tokens, logs included
    Viewer,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Admin => Role::Admin,
            RoleName::Editor => Role::Editor,
            RoleName::Viewer => Role::Viewer,
        }
    }
}

/// What of a new token goes to stdout.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    Token,
    Kubeconfig,
    Object(ObjectFormat),
}

impl FromStr for Shown {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Shown, String> {
        match text {
            "token" => Ok(Shown::Token),
            "kubeconfig" => Ok(Shown::Kubeconfig),
            "name" | "json" | "yaml" => text.parse().map(Shown::Object),
            _ => Err("expected token, kubeconfig, name, json or yaml".into()),
        }
    }
}

pub async fn run(args: &TokenArgs, global: &Global) -> Result<Exit> {
    match &args.verb {
        TokenVerb::Create(args) => create(args, global).await,
        TokenVerb::List(args) => list(args, &Session::open(global)?).await,
        TokenVerb::Revoke(args) => revoke(args, &Session::open(global)?).await,
    }
}

async fn create(args: &CreateArgs, global: &Global) -> Result<Exit> {
    // Read once, and before anything is made: the kubeconfig that is told is of the server that made the token.
    let connection = connection(global)?;
    let session = Session::over(global, &connection)?;
    let wanted = manifest(args, session.namespace_given.then_some(session.namespace.as_str()))?;
    let resource = ResourceType::from(Kind::AccessToken);
    let made = session.client.post(&resource.collection(None), &wanted).await?;
    let secret = made["status"]["token"].as_str().ok_or_else(|| Error::failed("the server told no secret"))?;
    eprintln!("{} created: {}; its secret is not shown again", resource.named(&args.name), summary(&made));
    match &args.output {
        Shown::Token => print(&format!("{secret}\n"))?,
        Shown::Object(format) => print(&format.render(Some(&resource), &made)?)?,
        Shown::Kubeconfig => {
            let namespace = made["spec"]["namespaces"][0].as_str().unwrap_or("default");
            let config = with_token(&connection, &args.name, secret, namespace);
            print(&ObjectFormat::Yaml.render(None, &config)?)?;
        }
    }
    Ok(Exit::Done)
}

/// The object to create. `namespace`: of `-n`, if it was given.
fn manifest(args: &CreateArgs, namespace: Option<&str>) -> Result<Value> {
    for name in &args.namespaces {
        if let Some(e) = validate_name("--namespaces", name) {
            return Err(Error::usage(e.to_string()));
        }
    }
    let namespaces: Vec<&str> = match namespace {
        Some(_) if !args.namespaces.is_empty() => {
            return Err(Error::usage("say either -n or --namespaces"));
        }
        Some(namespace) => vec![namespace],
        None => args.namespaces.iter().map(String::as_str).collect(),
    };
    let role = Role::from(args.role);
    if role == Role::Admin && !namespaces.is_empty() {
        return Err(Error::usage("the role admin holds for the whole cluster: leave the namespace out, or use editor"));
    }
    let mut spec = json!({"role": role.as_str()});
    if !namespaces.is_empty() {
        spec["namespaces"] = json!(namespaces);
    }
    if let Some(span) = &args.expires {
        spec["lifetime"] = span.to_string().into();
    }
    if let Some(user) = &args.user {
        spec["user"] = user.as_str().into();
    }
    let kind = Kind::AccessToken;
    Ok(json!({
        "apiVersion": kind.api_version(), "kind": kind.info().name, "metadata": {"name": args.name}, "spec": spec,
    }))
}

/// `editor in team-a until 2026-02-01T00:00:00Z`
fn summary(made: &Value) -> String {
    let role = made["spec"]["role"].as_str().unwrap_or_default();
    let namespaces: Vec<&str> =
        made["spec"]["namespaces"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let place = if namespaces.is_empty() { "the whole cluster".to_owned() } else { namespaces.join(", ") };
    match made["status"]["expires"].as_str() {
        Some(end) => format!("{role} in {place} until {end}"),
        None => format!("{role} in {place} until it is revoked"),
    }
}

async fn list(args: &ListArgs, session: &Session) -> Result<Exit> {
    let get = GetArgs {
        targets: vec![Kind::AccessToken.qualified()],
        all_namespaces: false,
        selector: None,
        field_selector: None,
        output: args.output.clone(),
        watch: false,
        ignore_not_found: false,
        no_headers: false,
        show_labels: false,
    };
    get::run(&get, session).await
}

async fn revoke(args: &RevokeArgs, session: &Session) -> Result<Exit> {
    let resource = ResourceType::from(Kind::AccessToken);
    let mut exit = Exit::Done;
    for name in &args.names {
        match session.client.delete(&resource.object("", name)?, &json!({})).await {
            Ok(_) => print(&format!("{} revoked\n", resource.named(name)))?,
            // The others are to be revoked all the same.
            Err(e @ (Error::Server(_) | Error::Failed(_))) => {
                e.report();
                exit = Exit::Failed;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(exit)
}
