//! Every manifest under `examples/` is one that the server takes: parsed without unknown fields, and valid.

use std::path::{Path, PathBuf};

use portreeve::model::{self, FieldError, Instance, Kind, RoutePath};
use serde_json::Value;

/// The manifests in a directory and those below it; a chart's are templates, which Helm makes manifests of.
fn files(dir: &Path) -> Vec<PathBuf> {
    if dir.join("Chart.yaml").exists() {
        return vec![];
    }
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|e| e.expect("an entry").path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|f| f.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

/// All examples, with the file that each is from.
fn manifests() -> Vec<(PathBuf, Value)> {
    let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"));
    assert!(files.len() >= 5, "examples are missing: {files:?}");
    let documents = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).expect("readable");
        let documents: Vec<Value> =
            serde_yaml::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(!documents.is_empty(), "{} is empty", file.display());
        documents.into_iter().map(move |d| (file.clone(), d))
    };
    files.into_iter().flat_map(documents).collect()
}

fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

#[test]
fn every_example_is_understood_and_valid() {
    let mut kinds = vec![];
    for (file, value) in manifests() {
        let (kind, errors): (Kind, Vec<FieldError>) = match value["kind"].as_str() {
            Some("Instance") => (Kind::Instance, model::validate_instance(&typed(&value))),
            Some("DockerHost") => (Kind::DockerHost, model::validate_docker_host(&typed(&value))),
            Some("ConfigMap") => (Kind::ConfigMap, model::validate_config_map(&typed(&value))),
            Some("Secret") => (Kind::Secret, model::validate_secret(&typed(&value))),
            other => panic!("{}: no test for kind {other:?}", file.display()),
        };
        assert_eq!(value["apiVersion"], kind.api_version(), "{}", file.display());
        assert_eq!(errors, [], "{}", file.display());
        let checked = model::schema::check(kind, &value);
        assert_eq!(checked, model::schema::Checked::default(), "{}", file.display());
        kinds.push(kind);
    }
    for kind in [Kind::Instance, Kind::DockerHost, Kind::Secret, Kind::ConfigMap] {
        assert!(kinds.contains(&kind), "no example of a {kind}");
    }
}

#[test]
fn the_per_user_system_routes_its_gateway_and_its_shell() {
    let all = manifests();
    let (_, value) = all.iter().find(|(f, _)| f.ends_with("matrix-os.yaml")).expect("examples/matrix-os.yaml");
    let instance: Instance = typed(value);
    let routes = instance.resolved_routes("example.com");
    assert_eq!(routes[0].host, "alice.example.com");
    let path = |prefix: &str, port: &str| RoutePath { prefix: prefix.into(), port: port.into() };
    assert_eq!(routes[0].paths, [path("/api", "gateway"), path("/ws", "gateway"), path("/", "shell")]);
    assert_eq!((instance.spec.memory_bytes(), instance.spec.cpu_milli()), (256 << 20, 500));
    assert_eq!(instance.fill(&instance.spec.volumes[0].host_path), "/data/users/alice/app");
}

/// What an example names is in the same example, unless it is optional.
#[test]
fn the_example_with_a_secret_has_all_that_it_needs() {
    let all = manifests();
    let of = |kind: &str| {
        let found = all.iter().find(|(f, v)| f.ends_with("secrets/app.yaml") && v["kind"] == kind);
        &found.unwrap_or_else(|| panic!("no {kind} in examples/secrets/app.yaml")).1
    };
    let (secret, map): (model::Secret, model::ConfigMap) = (typed(of("Secret")), typed(of("ConfigMap")));
    let spec = typed::<Instance>(of("Instance")).spec;
    let named = spec.env.iter().filter_map(|e| e.value_from.as_ref()?.source()).find(|(_, r)| !r.optional);
    let (kind, r) = named.expect("a value of a Secret");
    assert_eq!((kind, &r.name), (Kind::Secret, &secret.metadata.name));
    assert!(secret.string_data.contains_key(&r.key));
    assert_eq!(spec.env_from[0].source().map(|(_, r)| &r.name), Some(&map.metadata.name));
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let example = read("examples/hello.yaml");
    let manifest = example.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n");
    assert!(read("README.md").contains(&manifest), "README.md shows another manifest than examples/hello.yaml");
}

#[test]
fn every_example_is_planned_up_to_a_running_app() {
    let mut planned = 0;
    for (file, value) in manifests() {
        if value["kind"] != "Instance" {
            continue;
        }
        let mut instance: Instance = typed(&value);
        instance.metadata.namespace = "default".into();
        instance.metadata.uid = "uid".into();
        instance.metadata.generation = 1;
        let mut world = crate::plan::Model::new(instance);
        world.settle();
        let (status, containers) = (&world.desired.status, &world.seen.containers);
        assert_eq!(status.phase, model::Phase::Running, "{}: {status:?}", file.display());
        assert_eq!(containers.len(), 1, "{}", file.display());
        assert_eq!(containers[0].ports.len(), world.desired.spec.ports.len(), "{}", file.display());
        planned += 1;
    }
    assert!(planned >= 4, "only {planned} instances");
}

/// The commands of this program in a text's shell blocks, each as its words; what is piped on or follows is another's.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let (mut shell, mut found) = (false, vec![]);
    for line in joined.lines() {
        match line.trim() {
            fence if fence.starts_with("```") => shell = fence == "```sh",
            line if shell => found.extend(line.split(" #").next().unwrap_or_default().split(['|', '&', ';'])),
            _ => {}
        }
    }
    let words = found.into_iter().map(|c| c.split_whitespace().map(|w| w.trim_matches('\'').to_owned()).collect());
    words.filter(|words: &Vec<String>| words.first().is_some_and(|w| w == "portreeve")).collect()
}

fn assert_understood(file: &Path, words: &[String]) {
    if let Err(why) = <portreeve::cli::args::Cli as clap::Parser>::try_parse_from(words) {
        panic!("{}: {}: {why}", file.display(), words.join(" "));
    }
    if words[1] == "get" {
        // What there is to get is known to the server alone.
        let known = |name: &str| {
            let resource = name.split('/').next().unwrap_or_default();
            Kind::all().any(|kind| {
                let info = kind.info();
                [info.singular, info.plural].contains(&resource) || info.short_names.contains(&resource)
            })
        };
        assert!(words[2].split(',').all(known), "{}: {}", file.display(), words.join(" "));
    }
}

#[test]
fn every_command_in_an_example_is_one_of_ours() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = std::fs::read_dir(root.join("examples")).expect("the examples").map(|e| e.expect("an entry").path());
    let mut readmes: Vec<_> = examples.map(|e| e.join("README.md")).filter(|readme| readme.exists()).collect();
    readmes.push(root.join("README.md"));
    let mut of_fleet = 0;
    for file in readmes {
        let text = std::fs::read_to_string(&file).expect("readable");
        let all = commands(&text);
        all.iter().for_each(|words| assert_understood(&file, words));
        if file.ends_with("examples/fleet/README.md") {
            of_fleet = all.len();
        }
    }
    assert!(of_fleet >= 10, "only {of_fleet} commands are found in the fleet's README");
}

/// The unit starts the program by options that there are, and the README names what is there.
#[test]
fn the_control_planes_unit_serves_and_comes_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fleet");
    let file = root.join("portreeve.service");
    let text = std::fs::read_to_string(&file).expect("readable").replace("\\\n", " ");
    let set = |name: &str| {
        let values = text.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        values.collect::<Vec<_>>()
    };
    let start = set("ExecStart");
    let [start] = start.as_slice() else { panic!("ExecStart: {start:?}") };
    let words: Vec<String> = start.split_whitespace().map(str::to_owned).collect();
    assert_eq!((words[0].as_str(), words[1].as_str()), ("/usr/local/bin/portreeve", "serve"));
    assert_understood(&file, &words);
    let at = words.iter().position(|w| w == "--seal-key").expect("a key of its own");
    let directories: Vec<_> = set("StateDirectory")[0].split(' ').map(|d| Path::new("/var/lib").join(d)).collect();
    assert_eq!(directories[0], Path::new("/var/lib/portreeve"), "the data directory that is the default");
    assert_eq!(Path::new(&words[at + 1]).parent(), Some(directories[1].as_path()));
    assert_eq!((set("Type"), set("Restart")), (vec!["notify"], vec!["always"]));
    let socket = std::fs::read_to_string(root.join("portreeve.socket")).expect("readable");
    for listened in socket.lines().filter_map(|l| l.strip_prefix("ListenStream=")) {
        // A socket at another address than a flag's is refused at the start.
        assert!(words.iter().any(|w| w == listened), "{listened} is no address of {start}");
    }
    assert_eq!(set("Requires"), ["portreeve.socket"]);
    let readme = std::fs::read_to_string(root.join("README.md")).expect("readable");
    assert!(readme.contains("cp examples/fleet/portreeve.{service,socket} /etc/systemd/system/"));
}
