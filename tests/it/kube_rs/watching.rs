//! Reflectors: what they hold is what the server holds, also after it was killed and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{GLANCE, Instance, client, config, instance, soon};
use crate::support::api_server::ApiServer;

/// The control plane as a process, over a store on disk and without Docker.
struct Served {
    child: Child,
    home: tempfile::TempDir,
    /// Where the API listens; the first start takes any port.
    address: String,
}

impl Served {
    async fn start() -> Served {
        let home = tempfile::tempdir().expect("a directory");
        let child = Served::spawn(&home, "127.0.0.1:0").await.expect("it serves");
        let text = std::fs::read_to_string(Served::kubeconfig(&home)).expect("a kubeconfig");
        let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let url = config["clusters"][0]["cluster"]["server"].as_str().expect("an address");
        let address = url.trim_start_matches("https://").replace("localhost", "127.0.0.1");
        Served { child, home, address }
    }

    fn kubeconfig(home: &tempfile::TempDir) -> PathBuf {
        home.path().join("data/admin.kubeconfig")
    }

    /// Until it serves; `None` when it ended before, as it does when the port is not free yet.
    async fn spawn(home: &tempfile::TempDir, address: &str) -> Option<Child> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portreeve"))
            .args(["serve", "--docker=none", "--proxy-listen=127.0.0.1:0", "--api-listen", address])
            .env_clear()
            .env("HOME", home.path())
            .env("PORTREEVE_DATA_DIR", home.path().join("data"))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let serving = async {
            while let Some(line) = log.next_line().await.expect("text") {
                if line.contains("serving") {
                    return true;
                }
            }
            false
        };
        let serving = soon("the server", serving).await;
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        serving.then_some(child)
    }

    /// kill -9, and a start on the same data and port.
    async fn dies_and_comes_back(&mut self) {
        self.child.kill().await.expect("killed");
        let back = async {
            loop {
                match Served::spawn(&self.home, &self.address).await {
                    Some(child) => return child,
                    None => tokio::time::sleep(GLANCE).await,
                }
            }
        };
        self.child = soon("the port again", back).await;
    }
}

/// A way to the server that can be cut.
struct Line {
    client: Client,
    whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Line {
    async fn to(served: &Served) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = listener.local_addr().expect("an address");
        let whole = watch::Sender::new(true);
        let (far, state) = (served.address.clone(), whole.subscribe());
        let task = tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let (far, mut state) = (far.clone(), state.clone());
                tokio::spawn(async move {
                    let carried = async {
                        let Ok(mut there) = TcpStream::connect(far).await else { return };
                        // Either end's end is the connection's.
                        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                    };
                    tokio::select! {
                        () = carried => {}
                        _ = state.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        let read = Kubeconfig::read_from(Served::kubeconfig(&served.home)).expect("a kubeconfig");
        let mut config = config(read).await;
        config.cluster_url = format!("https://{near}").parse().expect("an address");
        Line { client: Client::try_from(config).expect("a client"), whole, task }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A reflector, and what it must never lose sight of.
struct Mirror {
    store: Store<Instance>,
    /// What it was seen without or with against the rule, in words.
    wrong: Arc<Mutex<Vec<String>>>,
    counts: Arc<Mutex<(u32, u32)>>,
    task: JoinHandle<()>,
}

impl Mirror {
    /// `kept`: there throughout. `known`: all that ever is.
    fn of(client: &Client, config: Config, kept: BTreeSet<String>, known: BTreeSet<String>) -> Mirror {
        let (store, writer) = reflector::store();
        let (wrong, counts) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<(u32, u32)>>::default());
        let api: Api<Instance> = Api::default_namespaced(client.clone());
        let events = watcher(api, config).default_backoff().reflect(writer);
        let (reader, noted, counted) = (store.clone(), wrong.clone(), counts.clone());
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            let mut ready = false;
            while let Some(event) = events.next().await {
                let note = |text: String| noted.lock().expect("no panic").push(text);
                match &event {
                    Ok(Event::InitDone) => {
                        ready = true;
                        counted.lock().expect("no panic").0 += 1;
                    }
                    Ok(Event::Delete(object)) if kept.contains(&object.name_any()) => {
                        note(format!("{} was deleted", object.name_any()));
                    }
                    Ok(_) => {}
                    Err(_) => counted.lock().expect("no panic").1 += 1,
                }
                let held: BTreeSet<_> = reader.state().iter().map(|o| o.name_any()).collect();
                for name in kept.difference(&held).filter(|_| ready) {
                    note(format!("{name} was lost"));
                }
                for name in held.difference(&known) {
                    note(format!("{name} was invented"));
                }
            }
        });
        Mirror { store, wrong, counts, task }
    }

    /// How often it had a whole list, and how often it was in trouble.
    fn counts(&self) -> (u32, u32) {
        *self.counts.lock().expect("no panic")
    }

    fn versions(&self) -> BTreeMap<String, (String, String)> {
        self.store.state().iter().map(|o| version(o)).collect()
    }

    /// Waits until it holds exactly what the server does, once that rests.
    async fn settles(&self, api: &Api<Instance>, wanted: &BTreeSet<String>) {
        let same = async {
            loop {
                let there = api.list(&ListParams::default()).await.expect("a list");
                let there: BTreeMap<_, _> = there.items.iter().map(version).collect();
                if there.keys().eq(wanted.iter()) && self.versions() == there {
                    return;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        let settled = tokio::time::timeout(Duration::from_secs(60), same).await;
        assert!(settled.is_ok(), "it never came to hold {wanted:?}, but {:?}", self.versions());
        let wrong = self.wrong.lock().expect("no panic").clone();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn version(object: &Instance) -> (String, (String, String)) {
    (object.name_any(), (object.uid().expect("a uid"), object.resource_version().expect("a version")))
}

#[tokio::test]
async fn reflectors_lose_and_invent_nothing_when_the_server_is_killed() {
    let mut served = Served::start().await;
    let client = client(&Served::kubeconfig(&served.home)).await;
    let api: Api<Instance> = Api::default_namespaced(client.clone());
    let set = |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}-{n:02}")).collect::<BTreeSet<_>>();
    let (kept, goes, comes) = (set("kept", 23), set("goes", 4), set("comes", 5));
    for name in kept.iter().chain(&goes) {
        api.create(&PostParams::default(), &instance(name)).await.expect("made");
    }
    let known: BTreeSet<_> = kept.iter().chain(&goes).chain(&comes).cloned().collect();
    let listing = Config::default().page_size(7);
    let line = Line::to(&served).await;
    let mirrors = [listing.clone(), listing.any_semantic(), Config::default().streaming_lists()]
        .map(|config| Mirror::of(&line.client, config, kept.clone(), known.clone()));
    let before: BTreeSet<_> = kept.union(&goes).cloned().collect();
    for mirror in &mirrors {
        mirror.settles(&api, &before).await;
    }
    served.dies_and_comes_back().await;
    // Changed before or after they are back: both must come to the same.
    for name in &goes {
        api.delete(name, &DeleteParams::default()).await.expect("begun");
    }
    for name in comes.iter().take(2) {
        api.create(&PostParams::default(), &instance(name)).await.expect("made");
    }
    let some: BTreeSet<_> = kept.iter().chain(comes.iter().take(2)).cloned().collect();
    for mirror in &mirrors {
        mirror.settles(&api, &some).await;
        assert!(mirror.counts().1 >= 1, "the server was gone");
    }
    // Changed while they are away, and before a start from which on alone changes are told: they must list again.
    line.whole.send_replace(false);
    for name in comes.iter().skip(2) {
        api.create(&PostParams::default(), &instance(name)).await.expect("made");
    }
    let changed = Patch::Merge(json!({"spec": {"image": "app:2"}}));
    for name in kept.iter().take(3) {
        api.patch(name, &PatchParams::default(), &changed).await.expect("changed");
    }
    served.dies_and_comes_back().await;
    line.whole.send_replace(true);
    let after: BTreeSet<_> = kept.union(&comes).cloned().collect();
    for mirror in &mirrors {
        mirror.settles(&api, &after).await;
        let newest = mirror.store.get(&ObjectRef::new("kept-00").within("default")).expect("it");
        assert_eq!(newest.spec.image, "app:2");
        assert!(mirror.counts().0 >= 2, "it did not list again");
    }
    // And they go on watching.
    api.create(&PostParams::default(), &instance("goes-00")).await.expect("made");
    let last: BTreeSet<_> = after.iter().cloned().chain(["goes-00".to_owned()]).collect();
    for mirror in &mirrors {
        mirror.settles(&api, &last).await;
    }
}

#[tokio::test]
async fn both_ways_of_watching_tell_the_same_events() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = |name: &str, set: &str| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"set": set}}})).expect("a ConfigMap")
    };
    for (name, set) in [("a", "in"), ("b", "in"), ("c", "out")] {
        api.create(&PostParams::default(), &map(name, set)).await.expect("made");
    }
    let chosen = Config::default().labels("set=in");
    let mut streams = [chosen.clone().page_size(1), chosen.streaming_lists()].map(|c| watcher(api.clone(), c).boxed());
    let mut heard = [vec![], vec![]];
    let mut hear = async |count: usize| {
        for (stream, heard) in streams.iter_mut().zip(&mut heard) {
            for _ in 0..count {
                let event = soon("an event", stream.next()).await.expect("no end").expect("no trouble");
                heard.push(event.to_string());
            }
        }
    };
    // Init, two of them, done.
    hear(4).await;
    let labelled = |set: &str| Patch::Merge(json!({"metadata": {"labels": {"set": set}}}));
    api.patch("c", &PatchParams::default(), &labelled("in")).await.expect("in");
    api.patch("a", &PatchParams::default(), &labelled("out")).await.expect("out");
    api.delete("b", &DeleteParams::default()).await.expect("deleted");
    hear(3).await;
    let wanted = ["Init", "InitApply(a)", "InitApply(b)", "InitDone", "Apply(c)", "Delete(a)", "Delete(b)"];
    assert_eq!(heard, [wanted; 2]);
    // Metadata only.
    let only: Api<PartialObjectMeta<ConfigMap>> = Api::default_namespaced(client);
    let mut only = watcher(only, Config::default()).boxed();
    let mut seen = vec![];
    for _ in 0..4 {
        seen.push(soon("an event", only.next()).await.expect("no end").expect("no trouble").to_string());
    }
    assert_eq!(seen, ["Init", "InitApply(a)", "InitApply(c)", "InitDone"]);
}
