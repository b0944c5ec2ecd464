//! `portreeve get`: objects as the server's table, or as they are; once or as they change.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::client::{Client, JSON, Stream, TABLE};
use super::error::{Error, Exit, Result};
use super::output::{Format, ObjectFormat, list, print};
use super::selection::{Selection, select};
use super::session::Session;
use super::table::{Columns, Layout, Shape};
use super::url::with_query;

/// Between the end of one watch and the next.
const PAUSE: Duration = Duration::from_millis(500);

const NAMES_AND_SELECTORS: &str = "names cannot be combined with -A or a selector";

/// List objects.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve get inst
  portreeve get inst alice bob -o wide
  portreeve get inst/alice -o yaml
  portreeve get dockerhosts,instances -A
  portreeve get inst -l tier=free -o jsonpath='{range .items[*]}{.metadata.name}={.status.phase}{\"\\n\"}{end}'

  # and then every change
  portreeve get inst -w")]
pub struct GetArgs {
    /// Kinds and names: `inst`, `inst alice`, `inst/alice dh/local`, `inst,dh`, `all` [default: instances]
    #[arg(value_name = "KIND [NAME]")]
    pub targets: Vec<String>,
    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects whose labels match: `a=b,c!=d,e in (f,g),!h`
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only objects whose fields match: `metadata.name=x`
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// table, wide, json, yaml, name or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub output: Option<Format>,
    /// After listing, show every change
    #[arg(short, long)]
    pub watch: bool,
    /// No error when a named object does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Without the line of column names
    #[arg(long)]
    pub no_headers: bool,
    /// A column with the labels
    #[arg(long)]
    pub show_labels: bool,
}

pub async fn run(args: &GetArgs, session: &Session) -> Result<Exit> {
    let selections = select(&session.client, &args.targets).await?;
    let format = args.output.clone().unwrap_or_default();
    let get = Get { args, client: &session.client, namespace: &session.namespace };
    if args.watch {
        let [selection] = selections.as_slice() else {
            return Err(Error::usage("watch is only supported on one kind at a time"));
        };
        if selection.names.len() > 1 {
            return Err(Error::usage("watch is only supported on all objects of a kind or on one"));
        }
        if !selection.names.is_empty() && (args.all_namespaces || !get.selectors().is_empty()) {
            return Err(Error::usage(NAMES_AND_SELECTORS));
        }
        return get.watch(selection, &format).await;
    }
    match format {
        Format::Table => get.tables(&selections, false).await,
        Format::Wide => get.tables(&selections, true).await,
        Format::Object(format) => get.objects(&selections, &format).await,
    }
}

struct Get<'a> {
    args: &'a GetArgs,
    client: &'a Client,
    namespace: &'a str,
}

/// What was found of a selection: the server's answers, one per page or name.
struct Found {
    answers: Vec<Value>,
    exit: Exit,
}

impl Get<'_> {
    fn shape(&self, selection: &Selection, wide: bool) -> Shape {
        let namespaces = self.args.all_namespaces && selection.resource.namespaced;
        Shape { wide, namespaces, labels: self.args.show_labels }
    }

    fn collection(&self, selection: &Selection) -> String {
        selection.resource.collection((!self.args.all_namespaces).then_some(self.namespace))
    }

    fn selectors(&self) -> Vec<(&str, &str)> {
        let labels = self.args.selector.as_deref().map(|l| ("labelSelector", l));
        let fields = self.args.field_selector.as_deref().map(|f| ("fieldSelector", f));
        labels.into_iter().chain(fields).collect()
    }

    async fn fetch(&self, selection: &Selection, accept: &str) -> Result<Found> {
        let mut found = Found { answers: vec![], exit: Exit::Done };
        if !selection.names.is_empty() {
            if self.args.all_namespaces || !self.selectors().is_empty() {
                return Err(Error::usage(NAMES_AND_SELECTORS));
            }
            for name in &selection.names {
                match self.client.get(&selection.resource.object(self.namespace, name)?, accept).await {
                    Ok(answer) => found.answers.push(answer),
                    Err(e) if e.is_not_found() && self.args.ignore_not_found => {}
                    Err(e @ Error::Server(_)) => {
                        e.report();
                        found.exit = Exit::Failed;
                    }
                    Err(e) => return Err(e),
                }
            }
            return Ok(found);
        }
        let mut next = String::new();
        loop {
            let mut query = self.selectors();
            query.push(("limit", "500"));
            if !next.is_empty() {
                query.push(("continue", &next));
            }
            let answer = self.client.get(&with_query(&self.collection(selection), &query), accept).await?;
            let more = answer["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            found.answers.push(answer);
            if more.is_empty() {
                return Ok(found);
            }
            next = more;
        }
    }

    async fn tables(&self, selections: &[Selection], wide: bool) -> Result<Exit> {
        let (mut exit, mut printed) = (Exit::Done, false);
        for selection in selections {
            let shape = self.shape(selection, wide);
            let found = self.fetch(selection, TABLE).await?;
            if found.exit != Exit::Done {
                exit = found.exit;
            }
            let prefix = (selections.len() > 1).then(|| selection.resource.qualified());
            let (mut columns, mut rows) = (Columns::default(), vec![]);
            for table in &found.answers {
                columns.learn(table, shape);
                rows.extend(columns.rows(table, shape, prefix.as_deref()));
            }
            if rows.is_empty() {
                continue;
            }
            if !self.args.no_headers {
                rows.insert(0, columns.header(shape));
            }
            let blank = if printed { "\n" } else { "" };
            print(&format!("{blank}{}", Layout::default().lines(&rows)))?;
            printed = true;
        }
        if !printed && exit == Exit::Done && !self.args.ignore_not_found {
            self.nothing_found(selections);
        }
        Ok(exit)
    }

    fn nothing_found(&self, selections: &[Selection]) {
        if self.args.all_namespaces || selections.iter().all(|s| !s.resource.namespaced) {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {} namespace.", self.namespace);
        }
    }

    async fn objects(&self, selections: &[Selection], format: &ObjectFormat) -> Result<Exit> {
        let (mut items, mut exit) = (vec![], Exit::Done);
        for selection in selections {
            let found = self.fetch(selection, JSON).await?;
            if found.exit != Exit::Done {
                exit = found.exit;
            }
            for answer in found.answers {
                match answer["items"].as_array() {
                    Some(list) if selection.names.is_empty() => items.extend(list.iter().cloned()),
                    _ => items.push(answer),
                }
            }
        }
        let single = selections.iter().map(|s| s.names.len()).sum::<usize>() == 1 && selections.len() == 1;
        let value = if single { items.pop() } else { Some(list(items)) };
        if let Some(value) = value {
            print(&format.render(None, &value)?)?;
        }
        Ok(exit)
    }

    /// Shows what there is and then every change, for ever.
    async fn watch(&self, selection: &Selection, format: &Format) -> Result<Exit> {
        let accept = if matches!(format, Format::Object(_)) { JSON } else { TABLE };
        let name_field;
        let mut fields = self.selectors();
        if let Some(name) = selection.names.first() {
            name_field = format!("metadata.name={name}");
            fields.push(("fieldSelector", &name_field));
        }
        let mut view = View::new(format, self.shape(selection, matches!(format, Format::Wide)), self.args.no_headers);
        let collection = self.collection(selection);
        let mut version = String::new();
        loop {
            if version.is_empty() {
                let answer = self.client.get(&with_query(&collection, &fields), accept).await?;
                version = answer["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
                view.show(&answer)?;
            }
            let mut query = fields.clone();
            query.extend([("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", version.as_str())]);
            let stream = self.client.stream(&with_query(&collection, &query), accept).await?;
            version = follow(stream, &mut view, version).await?;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Shows a watch until it ends; gives the version from which to go on, empty when the server's history is lost.
async fn follow(mut stream: Stream, view: &mut View<'_>, mut version: String) -> Result<String> {
    while let Ok(Some(line)) = stream.line().await {
        let event: Value = serde_json::from_slice(&line)
            .map_err(|e| Error::failed(format!("the server sent a watch event that is no JSON: {e}")))?;
        let object = &event["object"];
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED" | "DELETED") => view.show(object)?,
            Some("BOOKMARK") => {}
            // too old: what changed meanwhile is unknown, so everything is shown anew
            Some("ERROR") if object["code"] == 410 => return Ok(String::new()),
            _ => return Err(Error::failed(format!("the watch ended: {}", object["message"].as_str().unwrap_or("")))),
        }
        let row = &object["rows"][0]["object"]["metadata"]["resourceVersion"];
        if let Some(seen) = object["metadata"]["resourceVersion"].as_str().filter(|v| !v.is_empty()).or(row.as_str()) {
            version = seen.to_owned();
        }
    }
    Ok(version)
}

/// How a watch shows what it gets.
struct View<'a> {
    format: &'a Format,
    shape: Shape,
    headers: bool,
    columns: Columns,
    layout: Layout,
}

impl View<'_> {
    fn new(format: &Format, shape: Shape, no_headers: bool) -> View<'_> {
        View { format, shape, headers: !no_headers, columns: Columns::default(), layout: Layout::default() }
    }

    fn show(&mut self, answer: &Value) -> Result<()> {
        if let Format::Object(format) = self.format {
            let items = answer["items"].as_array();
            let objects = items.map_or_else(|| vec![answer], |items| items.iter().collect());
            for object in objects {
                let divider = if *format == ObjectFormat::Yaml { "---\n" } else { "" };
                print(&format!("{divider}{}", format.render(None, object)?))?;
            }
            return Ok(());
        }
        self.columns.learn(answer, self.shape);
        let mut rows = self.columns.rows(answer, self.shape, None);
        if rows.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.headers) {
            rows.insert(0, self.columns.header(self.shape));
        }
        print(&self.layout.lines(&rows))
    }
}
