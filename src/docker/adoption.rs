//! What a container that somebody else made would be as the spec of an Instance; or why it cannot be one. Pure.
//!
//! ```text
//! inspect of the container and its image ──▶ translate ──▶ spec (true to what runs), refusals, notes
//! ```
//!
//! Called by the listing of a host's containers, and by the controller right before it adopts one. It fails closed: of the
//! daemon's description everything that is set and not known here is a refusal, so that what a newer daemon can do is not
//! lost without a word when the container is made anew.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::engine::Limits;
use super::labels;
use crate::model::{
    DEFAULT_CAPABILITIES, EnvVar, Instance, InstanceSpec, Port, Security, Volume, is_variable_name, validate_instance,
};

/// A container and its image in the daemon's own words: the answers to inspect.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    pub container: Value,
    /// `None` when the daemon has the image no more.
    pub image: Option<Value>,
}

/// What a container is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    /// True to the container if there is no refusal. Limits that it does not have are left out.
    pub spec: InstanceSpec,
    /// Why it cannot be adopted.
    pub refusals: Vec<String>,
    /// What would be different once it is made anew.
    pub notes: Vec<String>,
    pub restart_policy: String,
    /// The networks that it is attached to.
    pub networks: Vec<String>,
}

/// What a container is given by Docker beyond our own default.
const DOCKERS_OWN: [&str; 6] = ["NET_RAW", "MKNOD", "SYS_CHROOT", "SETFCAP", "SETPCAP", "AUDIT_WRITE"];
const SHM: i64 = 64 << 20;
static NOTHING: Value = Value::Null;

/// Of `HostConfig`: what is translated or looked at here by name.
const TRANSLATED: [&str; 20] = [
    "Binds",
    "Mounts",
    "PortBindings",
    "RestartPolicy",
    "NetworkMode",
    "CapAdd",
    "CapDrop",
    "ReadonlyRootfs",
    "SecurityOpt",
    "ShmSize",
    "Runtime",
    "Memory",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "LogConfig",
    "IpcMode",
    "MaskedPaths",
    "AutoRemove",
    "PublishAllPorts",
];
/// Of `HostConfig`: what says nothing of the container, or nothing that another would miss.
const OF_NO_MATTER: [&str; 7] =
    ["ContainerIDFile", "ConsoleSize", "Init", "CgroupnsMode", "ReadonlyPaths", "VolumeDriver", "MemorySwappiness"];
/// Of `Config`: the same, and what is translated.
const CONFIG_KNOWN: [&str; 20] = [
    "Hostname",
    "User",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "ExposedPorts",
    "StdinOnce",
    "Env",
    "Cmd",
    "Healthcheck",
    "ArgsEscaped",
    "Image",
    "Volumes",
    "WorkingDir",
    "Entrypoint",
    "OnBuild",
    "Labels",
    "StopSignal",
    "StopTimeout",
    "Shell",
];

/// Whether a value is what Docker writes for "not set".
fn unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == "default",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A value for people, not longer than a line.
fn shown(value: &Value) -> String {
    let whole = value.to_string();
    if whole.chars().count() > 80 { whole.chars().take(80).chain("…".chars()).collect() } else { whole }
}

struct Translator<'a> {
    container: &'a Value,
    host: &'a Value,
    config: &'a Value,
    image: Option<&'a Value>,
    found: Translation,
}

/// Says what a container is. `address`: where its host's published ports are reached.
pub fn translate(described: &Description, address: &str) -> Translation {
    let container = &described.container;
    let mut t = Translator {
        container,
        host: &container["HostConfig"],
        config: &container["Config"],
        image: described.image.as_ref().map(|image| &image["Config"]),
        found: Translation::default(),
    };
    t.state();
    t.unknown();
    t.process();
    t.ports(address);
    t.volumes();
    t.limits();
    t.rights();
    t.surroundings();
    t.check();
    t.found
}

/// What is used instead of a limit that a container does not have: all that its host has, which changes nothing of what it
/// may take. Tells what was filled in.
pub fn fill_limits(spec: &mut InstanceSpec, whole: Limits) -> Vec<String> {
    let mut told = vec![];
    let resources = &mut spec.resources;
    if resources.memory.is_none() && whole.memory > 0 {
        resources.memory = format!("{}Mi", whole.memory >> 20).parse().ok();
        let all = whole.memory >> 20;
        told.push(format!(
            "has no memory limit: it counts as {all} MiB, all that its host has, and nothing new is placed beside it; --memory \
             sets a limit"
        ));
    }
    if resources.cpu.is_none() && whole.cpu_milli > 0 {
        resources.cpu = format!("{}m", whole.cpu_milli).parse().ok();
    }
    if resources.pids.is_none() {
        resources.pids = Some(whole.pids);
    }
    told
}

impl Translator<'_> {
    fn refuse(&mut self, why: impl Into<String>) {
        self.found.refusals.push(why.into());
    }

    fn note(&mut self, what: impl Into<String>) {
        self.found.notes.push(what.into());
    }

    fn state(&mut self) {
        let state = text(&self.container["State"], "Status");
        if state != "running" {
            self.refuse(format!("is not running but {state}"));
        }
        let labels = self.config["Labels"].as_object();
        let of = |prefix: &str| labels.is_some_and(|l| l.keys().any(|key| key.starts_with(prefix)));
        let owners = [
            (labels::CLUSTER, "is a control plane's own"),
            ("com.docker.swarm.", "is a task of a swarm, which would start another"),
            ("io.kubernetes.", "is a container of a kubelet, which would start another"),
        ];
        for why in owners.into_iter().filter(|(prefix, _)| of(prefix)).map(|(_, why)| why).collect::<Vec<_>>() {
            self.refuse(why);
        }
        if self.host["AutoRemove"] == true {
            self.refuse("is removed when it stops (--rm), with what is in it");
        }
        self.found.restart_policy = text(&self.host["RestartPolicy"], "Name").to_owned();
    }

    /// What is set and not known.
    fn unknown(&mut self) {
        let empty = Map::new();
        let host = self.host.as_object().unwrap_or(&empty);
        let unknown = host.iter().filter(|(key, value)| {
            !TRANSLATED.contains(&key.as_str()) && !OF_NO_MATTER.contains(&key.as_str()) && !unset(value)
        });
        let config = self.config.as_object().unwrap_or(&empty);
        let more = config.iter().filter(|(key, value)| !CONFIG_KNOWN.contains(&key.as_str()) && !unset(value));
        let told: Vec<_> = unknown.chain(more).map(|(key, value)| format!("{key} {}", shown(value))).collect();
        for what in told {
            self.refuse(format!("has what an Instance cannot say: {what}"));
        }
        if !host.contains_key("NetworkMode") || config.is_empty() {
            self.refuse("is not described by its daemon");
        }
    }

    fn process(&mut self) {
        let (config, image) = (self.config, self.image.unwrap_or(&NOTHING));
        let name = text(config, "Image");
        // An id in part leads nowhere by itself.
        let by_id = name.bytes().all(|b| b.is_ascii_hexdigit());
        self.found.spec.image = if by_id { text(self.container, "Image") } else { name }.to_owned();
        let (entrypoint, cmd) = (texts(&config["Entrypoint"]), texts(&config["Cmd"]));
        let same_entrypoint = self.image.is_some() && entrypoint == texts(&image["Entrypoint"]);
        let spec = &mut self.found.spec;
        if same_entrypoint && cmd == texts(&image["Cmd"]) {
            // The image's own.
        } else if same_entrypoint && !cmd.is_empty() {
            spec.args = cmd;
        } else if entrypoint.is_empty() {
            // An entrypoint that was taken away: a command without arguments would be given the image's.
            let mut words = cmd.into_iter();
            spec.command = words.next().into_iter().collect();
            spec.args = words.collect();
        } else {
            (spec.command, spec.args) = (entrypoint, cmd);
        }
        let own = |field: &str| {
            let value = text(config, field);
            if value == text(image, field) { String::new() } else { value.to_owned() }
        };
        (spec.working_dir, spec.user) = (own("WorkingDir"), own("User"));
        let of_image: BTreeSet<String> = texts(&image["Env"]).into_iter().collect();
        let mut unfit = vec![];
        for entry in texts(&config["Env"]).into_iter().filter(|entry| !of_image.contains(entry)) {
            match entry.split_once('=') {
                Some((name, value)) if is_variable_name(name) => {
                    let var = EnvVar { name: name.to_owned(), value: value.to_owned(), ..EnvVar::default() };
                    spec.env.push(var);
                }
                // Never the value, which may be a secret.
                Some((name, _)) => unfit.push(name.to_owned()),
                None => unfit.push(entry),
            }
        }
        for name in unfit {
            self.refuse(format!("has an environment variable of the name {name:?}"));
        }
        let signal = text(config, "StopSignal");
        if !["", "SIGTERM", "15", text(image, "StopSignal")].contains(&signal) {
            self.refuse(format!("is stopped by {signal}, which is not its image's signal"));
        }
        if let Some(seconds) = config["StopTimeout"].as_i64().filter(|s| *s != 10) {
            self.note(format!("has {seconds} s to stop by its own setting, and 10 s from now on"));
        }
        let health = &config["Healthcheck"];
        if !unset(health) && *health != image["Healthcheck"] {
            self.note("has a health check of its own, which one made anew will not have; use spec.probes");
        }
        let (hostname, id) = (text(config, "Hostname"), text(self.container, "Id"));
        if !hostname.is_empty() && !id.starts_with(hostname) {
            self.note(format!("calls itself {hostname:?}; one made anew has the name of its Instance"));
        }
    }

    fn ports(&mut self, address: &str) {
        if self.host["PublishAllPorts"] == true {
            self.refuse("publishes ports of Docker's choice (-P), which are others at each start");
        }
        let bindings = self.host["PortBindings"].as_object().cloned().unwrap_or_default();
        for (port, bound) in bindings {
            let Some(container_port) = port.strip_suffix("/tcp").and_then(|p| p.parse::<u16>().ok()) else {
                self.refuse(format!("publishes {port}; only TCP can be"));
                continue;
            };
            let bound = bound.as_array().cloned().unwrap_or_default();
            let [one] = bound.as_slice() else {
                self.refuse(format!("publishes {port} at {} host ports; an Instance does at one", bound.len()));
                continue;
            };
            let ip = text(one, "HostIp");
            match text(one, "HostPort").parse::<u16>().ok().filter(|p| *p > 0) {
                None => {
                    self.refuse(format!(
                        "publishes {port} at a port of Docker's choice, which is another at each start"
                    ));
                }
                Some(_) if !["", "0.0.0.0", address].contains(&ip) => {
                    self.refuse(format!("publishes {port} at {ip}, and its host is reached at {address}"));
                }
                Some(host_port) => {
                    if ip != address {
                        self.note(format!(
                            "publishes {host_port} on every address of its host; one made anew does at {address} alone"
                        ));
                    }
                    let name = format!("p{container_port}");
                    self.found.spec.ports.push(Port { name, container_port, host_port: Some(host_port) });
                }
            }
        }
        self.found.spec.ports.sort_by_key(|p| p.container_port);
    }

    fn volumes(&mut self) {
        let odd = |mount: &&Value| {
            let options = &mount["VolumeOptions"];
            !unset(&options["Subpath"]) || mount["BindOptions"]["NonRecursive"] == true
        };
        for mount in self.host["Mounts"].as_array().into_iter().flatten().filter(odd) {
            self.found.refusals.push(format!("has a mount with options that an Instance cannot say: {}", shown(mount)));
        }
        let mut mounts = self.container["Mounts"].as_array().cloned().unwrap_or_default();
        // The daemon tells them in any order.
        mounts.sort_by_key(|m| text(m, "Destination").to_owned());
        for (i, mount) in mounts.iter().enumerate() {
            let target = text(mount, "Destination");
            let mut volume = Volume {
                name: format!("v{i}"),
                mount_path: target.to_owned(),
                read_only: mount["RW"] == false,
                ..Volume::default()
            };
            match text(mount, "Type") {
                "volume" => volume.volume_name = text(mount, "Name").to_owned(),
                "bind" => {
                    volume.host_path = text(mount, "Source").to_owned();
                    if volume.host_path.contains(['{', '}']) {
                        self.refuse(format!("mounts {:?}, in which braces would be filled in", volume.host_path));
                    }
                    let mode = text(mount, "Mode");
                    if !["", "rw", "ro"].contains(&mode) || !["", "rprivate"].contains(&text(mount, "Propagation")) {
                        self.refuse(format!("mounts {:?} in the mode {mode:?}", volume.host_path));
                    }
                }
                other => self.refuse(format!("has a mount of the type {other:?} at {target}")),
            }
            self.found.spec.volumes.push(volume);
        }
    }

    fn limits(&mut self) {
        let number = |field: &str| self.host[field].as_i64().filter(|n| *n > 0);
        let (memory, swap) = (number("Memory"), number("MemorySwap"));
        let resources = &mut self.found.spec.resources;
        resources.memory = memory.and_then(|bytes| bytes.to_string().parse().ok());
        resources.cpu = number("NanoCpus").and_then(|n| format!("{}m", n / 1_000_000).parse().ok());
        resources.pids = number("PidsLimit");
        resources.shm = number("ShmSize").filter(|n| *n != SHM).and_then(|n| n.to_string().parse().ok());
        if let (Some(memory), Some(swap)) = (memory, swap)
            && swap > memory
        {
            self.note(format!("may swap {} MiB, and nothing from now on", (swap - memory) >> 20));
        }
    }

    fn rights(&mut self) {
        let given = |field: &str| -> Vec<String> {
            let all = texts(&self.host[field]).into_iter();
            all.map(|cap| cap.to_ascii_uppercase()).map(|c| c.trim_start_matches("CAP_").to_owned()).collect()
        };
        let (added, dropped) = (given("CapAdd"), given("CapDrop"));
        let all = |list: &[String]| list.iter().any(|cap| cap == "ALL");
        if all(&added) {
            self.refuse("has all capabilities");
        }
        let docker = DEFAULT_CAPABILITIES.iter().chain(&DOCKERS_OWN).map(|c| (*c).to_owned());
        let kept = docker.filter(|cap| !all(&dropped) && !dropped.contains(cap));
        let has: BTreeSet<String> = kept.chain(added).collect();
        let ours = DEFAULT_CAPABILITIES.map(str::to_owned);
        let options = texts(&self.host["SecurityOpt"]);
        let no_new = |option: &String| ["no-new-privileges", "no-new-privileges:true"].contains(&option.as_str());
        self.found.spec.security = Security {
            read_only_root: self.host["ReadonlyRootfs"] == true,
            cap_add: has.iter().filter(|cap| !ours.contains(cap)).cloned().collect(),
            cap_drop: ours.iter().filter(|cap| !has.contains(*cap)).cloned().collect(),
            no_new_privileges: (!options.iter().any(no_new)).then_some(false),
            ..Security::default()
        };
        for option in options.iter().filter(|o| !no_new(o) && *o != "no-new-privileges:false") {
            self.refuse(format!("has the security option {option:?}"));
        }
        if self.host["MaskedPaths"].as_array().is_some_and(Vec::is_empty) {
            self.refuse("sees paths of the system that are masked in others (systempaths=unconfined)");
        }
        let runtime = text(self.host, "Runtime");
        if !["", "runc", "io.containerd.runc.v2"].contains(&runtime) {
            self.found.spec.runtime = runtime.to_owned();
        }
    }

    fn surroundings(&mut self) {
        let mode = text(self.host, "NetworkMode");
        if ["host", "none"].contains(&mode) || mode.starts_with("container:") {
            self.refuse(format!("has no network of its own but the mode {mode:?}"));
        }
        if !["", "private", "shareable"].contains(&text(self.host, "IpcMode")) {
            self.refuse(format!("has the IPC mode {:?}", text(self.host, "IpcMode")));
        }
        let networks = self.container["NetworkSettings"]["Networks"].as_object();
        self.found.networks = networks.map(|n| n.keys().cloned().collect()).unwrap_or_default();
        let log = text(&self.host["LogConfig"], "Type");
        if !["", "json-file", "local"].contains(&log) {
            self.note(format!("logs by {log:?}; one made anew does by json-file"));
        }
    }

    /// The rules for every Instance.
    fn check(&mut self) {
        let metadata = json!({"name": "adopted", "namespace": "default"});
        let mut instance: Instance = serde_json::from_value(json!({"metadata": metadata})).unwrap_or_default();
        instance.spec = self.found.spec.clone();
        for error in validate_instance(&instance) {
            self.refuse(format!("makes no Instance: {error}"));
        }
    }
}

#[cfg(test)]
#[path = "adoption/tests.rs"]
mod tests;
