//! Plays named scenarios with every kubectl that is found: each kubectl has a server and a home of its own, each scenario a
//! namespace and a directory of its own. A failure says which scenario it was and which kubectl.
//!
//! The newest kubectl plays everything; every second scenario is played by the oldest too, and those between share the
//! others out. `KUBECTL_SUITE=all` has all of them play everything.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::{FutureExt, LocalBoxFuture};
use futures::stream::{self, StreamExt};
use portreeve::model::Resource as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::OnceCell;

use super::Kubectl;
use crate::support::api_server::{ApiServer, PATIENCE};
use crate::support::without;

/// Bound on one scenario.
const SCENARIO: Duration = Duration::from_secs(90);

/// How many kubectls play at a time in one test.
const AT_ONCE: usize = 2;

/// An instance as a user writes it.
pub const ALICE: &str = "apiVersion: portreeve.dev/v1
kind: Instance
metadata:
  name: alice
  labels: {tier: free}
spec:
  image: app:1
  resources: {memory: 64Mi}
  ports:
  - {name: web, containerPort: 8080}
";

/// ConfigMap `settings` as a user writes it.
pub const SETTINGS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {set: s}}
data: {mode: dark, size: '4'}
";

/// One named check.
pub struct Scenario {
    pub name: &'static str,
    pub run: for<'a> fn(&'a Shell) -> LocalBoxFuture<'a, ()>,
}

/// The scenarios of these names, which are functions.
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        &[$($crate::kubectl::harness::Scenario { name: stringify!($name), run: |shell| Box::pin($name(shell)) }),+]
    };
}
pub(super) use scenarios;

#[derive(Clone, Debug)]
struct Binary {
    program: PathBuf,
    minor: u32,
}

/// Every kubectl, from the oldest to the newest.
async fn binaries() -> &'static [Binary] {
    static FOUND: OnceCell<Vec<Binary>> = OnceCell::const_new();
    let find = async || {
        let mut found = vec![];
        for program in Kubectl::every_program() {
            let asked = Command::new(&program).args(["version", "--client", "-o", "json"]).output();
            let said = tokio::time::timeout(PATIENCE, asked).await.expect("a version in time").expect("a version");
            let version: Value = serde_json::from_slice(&said.stdout).expect("a version as JSON");
            let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+').parse();
            found.push(Binary { program, minor: minor.expect("a minor version") });
        }
        found.sort_by_key(|b| b.minor);
        found
    };
    FOUND.get_or_init(find).await
}

/// Whether the kubectl at this place, of so many, plays the story of this number.
fn plays(at: usize, of: usize, story: usize) -> bool {
    let all = std::env::var_os("KUBECTL_SUITE").is_some_and(|v| v == "all");
    all || at + 1 == of || at == partner(of, story)
}

/// Who plays beside the newest.
fn partner(of: usize, story: usize) -> usize {
    let between = of.saturating_sub(2);
    if story.is_multiple_of(2) || between == 0 { 0 } else { story / 2 % between + 1 }
}

/// Those that play the story that the test under way is.
pub async fn players() -> Vec<PathBuf> {
    let found = binaries().await;
    let story = std::thread::current().name().map_or(0, |name| name.bytes().map(usize::from).sum());
    let chosen = found.iter().enumerate().filter(|(at, _)| plays(*at, found.len(), story));
    chosen.map(|(_, binary)| binary.program.clone()).collect()
}

/// Plays the scenarios of a theme and fails with all that failed.
pub async fn play(scenarios: &[Scenario]) {
    let found = binaries().await;
    if found.is_empty() {
        without("kubectl");
    }
    let played = stream::iter(found.iter().enumerate()).map(async |(at, binary)| {
        let server = ApiServer::start().await;
        let home = tempfile::tempdir().expect("a directory");
        let mut failed = vec![];
        for (_, scenario) in scenarios.iter().enumerate().filter(|(n, _)| plays(at, found.len(), *n)) {
            let shell = Shell::new(binary, &server, home.path(), scenario.name).await;
            let run = AssertUnwindSafe((scenario.run)(&shell)).catch_unwind();
            let ran = tokio::time::timeout(SCENARIO, run).await;
            // The next scenario has an alice of its own, and a host is one instance's.
            server.seen().await;
            for left in server.cache.instances() {
                server.remove(&left.key()).await;
            }
            let why = match ran {
                Ok(Ok(())) => continue,
                Ok(Err(panic)) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".into()),
                Err(_) => "it took too long".into(),
            };
            let name = binary.program.file_name().unwrap_or_default().display();
            failed.push(format!("{name} (1.{}): {}: {why}", binary.minor, scenario.name));
        }
        failed
    });
    let failed = played.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.concat();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// One kubectl in one scenario.
pub struct Shell<'s> {
    program: &'s Path,
    pub minor: u32,
    pub server: &'s ApiServer,
    /// The namespace of the scenario, which its kubeconfig names.
    pub namespace: String,
    home: &'s Path,
    /// Where commands run and files are written.
    pub dir: PathBuf,
    kubeconfig: PathBuf,
}

impl<'s> Shell<'s> {
    async fn new(binary: &'s Binary, server: &'s ApiServer, home: &'s Path, name: &str) -> Shell<'s> {
        let namespace = name.replace('_', "-");
        let dir = home.join(&namespace);
        std::fs::create_dir(&dir).expect("a directory");
        let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        server.client.post("/api/v1/namespaces", &made).await.expect(201);
        let kubeconfig = dir.join("kubeconfig");
        let shell = Shell { program: &binary.program, minor: binary.minor, server, namespace, home, dir, kubeconfig };
        shell.configure(&shell.kubeconfig, |_| {});
        shell
    }

    fn configure(&self, to: &Path, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(&self.server.kubeconfig).expect("the kubeconfig");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["contexts"][0]["context"]["namespace"] = json!(self.namespace);
        change(&mut config["users"][0]["user"]);
        std::fs::write(to, config.to_string()).expect("written");
    }

    /// The same with a kubeconfig that has no credentials.
    pub fn stranger(&self) -> Shell<'s> {
        let kubeconfig = self.dir.join("stranger.kubeconfig");
        self.configure(&kubeconfig, |user| *user = json!({}));
        Shell { namespace: self.namespace.clone(), dir: self.dir.clone(), kubeconfig, ..*self }
    }

    /// The same with other credentials, as a kubeconfig has them for its user.
    pub fn with_user(&self, name: &str, credentials: Value) -> Shell<'s> {
        let kubeconfig = self.dir.join(format!("{name}.kubeconfig"));
        self.configure(&kubeconfig, |user| *user = credentials);
        Shell { namespace: self.namespace.clone(), dir: self.dir.clone(), kubeconfig, ..*self }
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.program);
        command.args(words(line)).current_dir(&self.dir).env("HOME", self.home).env("KUBECONFIG", &self.kubeconfig);
        // Where `edit` leaves what was refused.
        command.env("TMPDIR", &self.dir).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a command line comes to; words in single quotes are one.
    pub async fn run(&self, line: &str, input: &str) -> Ran {
        end(self.command(line), input).await
    }

    /// The standard output of a command that succeeds.
    pub async fn ok(&self, line: &str) -> String {
        self.ok_with(line, "").await
    }

    pub async fn ok_with(&self, line: &str, input: &str) -> String {
        let ran = self.run(line, input).await;
        assert!(ran.code == Some(0), "kubectl {line}: {ran:?}");
        ran.out
    }

    /// The standard error of a command that fails.
    pub async fn fails(&self, line: &str) -> String {
        self.fails_with(line, "").await
    }

    pub async fn fails_with(&self, line: &str, input: &str) -> String {
        let ran = self.run(line, input).await;
        assert!(ran.code.is_some_and(|c| c != 0), "kubectl {line}: {ran:?}");
        ran.err
    }

    /// `edit` with sed as the editor; the script has no blanks.
    pub async fn edit(&self, script: &str, what: &str) -> Ran {
        let mut command = self.command(&format!("edit {what}"));
        command.env("KUBE_EDITOR", format!("sed -i {script}"));
        end(command, "").await
    }

    /// Makes `alice`.
    pub async fn alice(&self) {
        self.make(&serde_yaml::from_str(ALICE).expect("a manifest")).await;
    }

    /// Makes an object past kubectl.
    pub async fn make(&self, object: &Value) {
        let kind = object["kind"].as_str().expect("a kind").to_ascii_lowercase() + "s";
        self.server.client.post(&self.path(&kind), object).await.expect(201);
    }

    /// Writes a file into the directory of the scenario.
    pub fn file(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    /// The API path of `instances` or `instances/alice` in the scenario's namespace.
    pub fn path(&self, what: &str) -> String {
        let core = ["configmaps", "secrets", "events", "pods"].contains(&what.split('/').next().unwrap_or_default());
        let root = if core { "/api/v1" } else { "/apis/portreeve.dev/v1" };
        format!("{root}/namespaces/{}/{what}", self.namespace)
    }

    /// What is stored.
    pub async fn object(&self, what: &str) -> Value {
        self.server.client.get(&self.path(what)).await.expect(200)
    }

    pub async fn is_gone(&self, what: &str) -> bool {
        self.server.client.get(&self.path(what)).await.status == 404
    }

    /// The names of all objects of a resource.
    pub async fn names(&self, resource: &str) -> Vec<String> {
        let list = self.object(resource).await;
        let items = list["items"].as_array().expect("items");
        items.iter().map(|i| i["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Sets an instance's status, as its controller does.
    pub async fn status(&self, name: &str, status: Value) {
        let path = self.path(&format!("instances/{name}/status"));
        self.server.client.merge(&path, &json!({"status": status})).await.expect(200);
    }

    /// Lets go of an instance as its controller does, once its deletion has begun.
    pub async fn finish(&self, name: &str) {
        let path = self.path("instances");
        let mut watch = self.server.client.watch(&format!("{path}?watch=1&fieldSelector=metadata.name={name}")).await;
        while watch.next().await.expect("an event")["object"]["metadata"]["deletionTimestamp"].is_null() {}
        let done = json!({"metadata": {"finalizers": null}});
        self.server.client.merge(&format!("{path}/{name}"), &done).await.expect(200);
    }

    /// The output of a command that deletes an instance and waits for its end.
    pub async fn ok_while_finishing(&self, line: &str, input: &str, name: &str) -> String {
        tokio::join!(self.ok_with(line, input), self.finish(name)).0
    }

    /// A command that goes on by itself, and its output.
    pub fn start(&self, line: &str) -> Running {
        let mut child = self.command(line).spawn().expect("kubectl runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let errors = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        Running { child, lines, errors }
    }
}

/// A command that goes on by itself.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Running {
    /// The next line that holds this text.
    pub async fn line_with(&mut self, text: &str) -> String {
        line_of(&mut self.lines, &[text]).await
    }

    /// The same of standard error, where `-v=6` tells each request once its answer begins.
    pub async fn error_with(&mut self, texts: &[&str]) -> String {
        line_of(&mut self.errors, texts).await
    }
}

/// The next line that holds all these texts.
async fn line_of(lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>, texts: &[&str]) -> String {
    let mut seen = String::new();
    let found = async {
        loop {
            let Some(line) = lines.next_line().await.expect("output") else {
                panic!("no {texts:?} before the end, but {seen}");
            };
            if texts.iter().all(|text| line.contains(text)) {
                return line;
            }
            seen += &line;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {texts:?} in time"))
}

async fn end(mut command: Command, input: &str) -> Ran {
    let mut child = command.spawn().expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let write = async move {
        // It may end before it has read everything.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    let ended = tokio::time::timeout(PATIENCE, both).await;
    let output = ended.unwrap_or_else(|_| panic!("{command:?} did not end")).expect("output");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The words of a line; those in single quotes keep their blanks.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let (mut word, mut quoted) = (String::new(), false);
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty())),
            other => word.push(other),
        }
    }
    words.extend(Some(word).filter(|w| !w.is_empty()));
    words
}

/// The words of each line of a table.
pub fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|l| l.split_whitespace().collect()).collect()
}

/// That a text has all of these in it.
#[track_caller]
pub fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} is missing: {text}");
    }
}
