//! `portreeve top`: what hosts and instances use now. Measured when it is asked for, so it takes a second or two.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Client, JSON};
use super::error::{Error, Exit, Result};
use super::kinds::ResourceType;
use super::output::{ObjectFormat, print};
use super::session::Session;
use super::table::Layout;
use super::url::{encode, with_query};
use crate::model::{Kind, Quantity};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
/// What is not known.
const UNKNOWN: &str = "<unknown>";

/// Show what hosts and instances use now.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve top hosts
  portreeve top instances
  portreeve top instances -A --sort-by memory")]
pub struct TopArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    #[command(visible_aliases = ["host", "dockerhosts", "dh", "nodes", "node"])]
    Hosts(HostsArgs),
    #[command(visible_aliases = ["instance", "inst", "pods", "pod"])]
    Instances(InstancesArgs),
}

/// Show what the instances on each host use together, and what share of the host's capacity that is.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve top hosts
  portreeve top hosts worker-1
  portreeve top hosts -l zone=a --sort-by cpu")]
pub struct HostsArgs {
    /// One host [default: all]
    pub name: Option<String>,
    #[command(flatten)]
    pub show: Show,
}

/// Show what instances use. Those that are asleep use nothing and are not listed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve top instances
  portreeve top instances alice
  portreeve top instances -n team-a -l tier=free --sort-by memory

  # the hungriest of all
  portreeve top instances -A --sort-by cpu --no-headers | head -5")]
pub struct InstancesArgs {
    /// One instance [default: all of the namespace]
    pub name: Option<String>,
    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    #[command(flatten)]
    pub show: Show,
}

#[derive(Args, Debug)]
pub struct Show {
    /// Only objects whose labels match: `a=b,c!=d,e in (f,g),!h`
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Those that use most of it first [default: by name]
    #[arg(long, value_enum)]
    pub sort_by: Option<SortBy>,
    /// table, json or yaml
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Form,
    /// Without the line of column names
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    Cpu,
    Memory,
}

/// In which form the measurements go to stdout.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    Table,
    Object(ObjectFormat),
}

impl FromStr for Form {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Form, String> {
        match text {
            "table" => Ok(Form::Table),
            "json" => Ok(Form::Object(ObjectFormat::Json)),
            "yaml" => Ok(Form::Object(ObjectFormat::Yaml)),
            _ => Err("expected table, json or yaml".into()),
        }
    }
}

pub async fn run(args: &TopArgs, session: &Session) -> Result<Exit> {
    match &args.what {
        What::Hosts(args) => hosts(args, session).await,
        What::Instances(args) => instances(args, session).await,
    }
}

async fn instances(args: &InstancesArgs, session: &Session) -> Result<Exit> {
    if args.name.is_some() && args.all_namespaces {
        return Err(Error::usage("a name cannot be combined with -A"));
    }
    let path = match args.all_namespaces {
        true => format!("{METRICS}/pods"),
        false => format!("{METRICS}/namespaces/{}/pods", encode(&session.namespace)),
    };
    let answer = measured(&session.client, path, args.name.as_deref(), &args.show).await?;
    if let Form::Object(format) = &args.show.output {
        print(&format.render(None, &answer)?)?;
        return Ok(Exit::Done);
    }
    let mut lines: Vec<Line> = items(&answer).into_iter().map(|item| Line::of(item, None)).collect();
    sort(&mut lines, args.show.sort_by);
    if lines.is_empty() {
        match args.all_namespaces {
            true => eprintln!("No instances are awake."),
            false => eprintln!("No instances are awake in {} namespace.", session.namespace),
        }
        return Ok(Exit::Done);
    }
    let mut rows = vec![];
    if !args.show.no_headers {
        rows.push(row(args.all_namespaces.then_some("NAMESPACE"), ["NAME", "CPU(cores)", "MEMORY(bytes)"]));
    }
    rows.extend(lines.iter().map(|line| {
        let namespace = args.all_namespaces.then_some(line.namespace.as_str());
        row(namespace, [&line.name, &line.cpu_text(), &line.memory_text()])
    }));
    print(&Layout::default().lines(&rows))?;
    Ok(Exit::Done)
}

async fn hosts(args: &HostsArgs, session: &Session) -> Result<Exit> {
    let client = &session.client;
    let answer = measured(client, format!("{METRICS}/nodes"), args.name.as_deref(), &args.show).await?;
    if let Form::Object(format) = &args.show.output {
        print(&format.render(None, &answer)?)?;
        return Ok(Exit::Done);
    }
    // Also those that did not answer: a host that is missing from a list is easily overlooked.
    let resource = ResourceType::from(Kind::DockerHost);
    let records = match &args.name {
        Some(name) => client.get(&resource.object("", name)?, JSON).await?,
        None => client.get(&with_query(&resource.collection(None), &selectors(&args.show)), JSON).await?,
    };
    let used: BTreeMap<&str, &Value> = items(&answer).into_iter().map(|item| (name_of(item), item)).collect();
    let mut lines: Vec<Line> = items(&records)
        .into_iter()
        .map(|host| Line::of(used.get(name_of(host)).copied().unwrap_or(&Value::Null), Some(host)))
        .collect();
    sort(&mut lines, args.show.sort_by);
    if lines.is_empty() {
        eprintln!("No resources found");
        return Ok(Exit::Done);
    }
    let mut rows = vec![];
    if !args.show.no_headers {
        rows.push(row(None, ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]));
    }
    rows.extend(lines.iter().map(|line| {
        let shares = [share(line.cpu_milli, line.all_cpu), share(line.memory, line.all_memory)];
        row(None, [&line.name, &line.cpu_text(), &shares[0], &line.memory_text(), &shares[1]])
    }));
    print(&Layout::default().lines(&rows))?;
    Ok(Exit::Done)
}

/// The measurements of one or of all.
async fn measured(client: &Client, collection: String, name: Option<&str>, show: &Show) -> Result<Value> {
    let Some(name) = name else { return client.get(&with_query(&collection, &selectors(show)), JSON).await };
    if show.selector.is_some() {
        return Err(Error::usage("a name cannot be combined with a selector"));
    }
    if matches!(name, "" | "." | "..") {
        return Err(Error::usage(format!("{name:?} is not a name")));
    }
    client.get(&format!("{collection}/{}", encode(name)), JSON).await
}

fn selectors(show: &Show) -> Vec<(&str, &str)> {
    show.selector.as_deref().map(|labels| ("labelSelector", labels)).into_iter().collect()
}

/// The items of a list, or the one object.
fn items(answer: &Value) -> Vec<&Value> {
    answer["items"].as_array().map_or_else(|| vec![answer], |items| items.iter().collect())
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn row<const N: usize>(namespace: Option<&str>, cells: [&str; N]) -> Vec<String> {
    namespace.into_iter().chain(cells).map(str::to_owned).collect()
}

/// One line, before it is text.
#[derive(Debug, Default)]
struct Line {
    namespace: String,
    name: String,
    cpu_milli: Option<i64>,
    memory: Option<i64>,
    /// Of a host: what instances may use in all.
    all_cpu: Option<i64>,
    all_memory: Option<i64>,
}

impl Line {
    /// From what was measured, and of a host its record.
    fn of(measured: &Value, host: Option<&Value>) -> Line {
        let usage = match &measured["containers"][0]["usage"] {
            Value::Null => &measured["usage"],
            usage => usage,
        };
        let capacity = host.map_or(&Value::Null, |host| &host["status"]["capacity"]);
        let about = host.unwrap_or(measured);
        Line {
            namespace: about["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
            name: name_of(about).to_owned(),
            cpu_milli: amount(&usage["cpu"]).map(|q| q.milli()),
            memory: amount(&usage["memory"]).map(|q| q.value()),
            all_cpu: amount(&capacity["cpu"]).map(|q| q.milli()),
            all_memory: amount(&capacity["memory"]).map(|q| q.value()),
        }
    }

    fn cpu_text(&self) -> String {
        self.cpu_milli.map_or_else(|| UNKNOWN.to_owned(), |milli| format!("{milli}m"))
    }

    fn memory_text(&self) -> String {
        self.memory.map_or_else(|| UNKNOWN.to_owned(), |bytes| format!("{}Mi", bytes >> 20))
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn share(used: Option<i64>, all: Option<i64>) -> String {
    match (used, all) {
        (Some(used), Some(all)) if all > 0 => format!("{}%", i128::from(used) * 100 / i128::from(all)),
        _ => UNKNOWN.to_owned(),
    }
}

/// The server's order is by name; equal ones keep it, and what is not known comes last.
fn sort(lines: &mut [Line], by: Option<SortBy>) {
    match by {
        Some(SortBy::Cpu) => lines.sort_by_key(|line| Reverse(line.cpu_milli)),
        Some(SortBy::Memory) => lines.sort_by_key(|line| Reverse(line.memory)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measured(name: &str, cpu: &str, memory: &str) -> Value {
        json!({"metadata": {"name": name}, "usage": {"cpu": cpu, "memory": memory}})
    }

    #[test]
    fn shares_are_of_what_instances_may_use() {
        let host = json!({"metadata": {"name": "a"}, "status": {"capacity": {"cpu": 4, "memory": "4Gi"}}});
        let line = Line::of(&measured("a", "1000000001n", "1Gi"), Some(&host));
        assert_eq!((line.cpu_text().as_str(), line.memory_text().as_str()), ("1001m", "1024Mi"));
        assert_eq!(
            (share(line.cpu_milli, line.all_cpu), share(line.memory, line.all_memory)),
            ("25%".into(), "25%".into())
        );
        let silent = Line::of(&Value::Null, Some(&host));
        assert_eq!((silent.name.as_str(), silent.cpu_text().as_str()), ("a", UNKNOWN));
        assert_eq!(share(silent.cpu_milli, silent.all_cpu), UNKNOWN);
        assert_eq!(share(Some(1), Some(0)), UNKNOWN, "of nothing");
    }

    #[test]
    fn the_hungriest_come_first_and_the_unknown_last() {
        let all = [measured("a", "5m", "1Mi"), measured("b", "900u", "9Mi"), json!({"metadata": {"name": "c"}})];
        let by = |by| {
            let mut lines: Vec<Line> = all.iter().map(|m| Line::of(m, None)).collect();
            sort(&mut lines, by);
            lines.into_iter().map(|line| line.name).collect::<Vec<_>>().concat()
        };
        assert_eq!([by(Some(SortBy::Cpu)), by(Some(SortBy::Memory)), by(None)], ["abc", "bac", "abc"]);
    }

    #[test]
    fn only_the_forms_of_this_verb_are_taken() {
        assert_eq!("yaml".parse(), Ok(Form::Object(ObjectFormat::Yaml)));
        for bad in ["wide", "name", "", "jsonpath={.a}"] {
            assert!(bad.parse::<Form>().is_err(), "{bad}");
        }
    }
}
