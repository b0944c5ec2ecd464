//! What an Instance's spec takes of its host and of the control plane's place in the network, beyond an ordinary container:
//! directories, rights, ports, runtimes, URLs. Pure.
//!
//! Called by the API's policy, which gives none of it to anyone but administrators. Every field of the spec is named
//! here, so that one that is added later does not compile before someone has decided what it reaches.

use std::fmt;

use super::{Adopt, DEFAULT_CAPABILITIES, InstanceSpec, Port, Route, Security, Volume};

/// One thing of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostGrant {
    /// A directory or a socket, Docker's own among them.
    Path { path: String, writable: bool },
    /// A Docker volume that others may have made.
    Volume(String),
    /// A container that others have made.
    Container(Adopt),
    /// All of it.
    Privileged,
    /// A capability that containers do not have by default.
    Capability(String),
    /// Set-uid programs may gain rights.
    NewPrivileges,
    /// A runtime of one's choice may guard less than the daemon's default.
    Runtime(String),
    /// A port by its number, which may be that of a service of the host.
    Port(u16),
    /// A URL that the control plane asks, from where it is.
    Url(String),
    /// What other programs of the host are told of the container, and may believe.
    Label { key: String, value: String },
}

impl HostGrant {
    /// Whether who has this has `other`, too.
    fn covers(&self, other: &HostGrant) -> bool {
        match (self, other) {
            (HostGrant::Path { path, writable }, HostGrant::Path { path: wanted, writable: write }) => {
                path == wanted && (*writable || !*write)
            }
            (mine, other) => mine == other,
        }
    }
}

impl fmt::Display for HostGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostGrant::Path { path, writable: true } => write!(f, "mounts {path:?} of the host"),
            HostGrant::Path { path, writable: false } => write!(f, "mounts {path:?} of the host read-only"),
            HostGrant::Volume(name) => write!(f, "mounts the Docker volume {name:?}"),
            HostGrant::Container(Adopt { node, container_id }) => {
                write!(f, "takes the container {container_id} of {node}")
            }
            HostGrant::Privileged => f.write_str("gives all rights on the host"),
            HostGrant::Capability(name) => write!(f, "adds the capability {name:?}"),
            HostGrant::NewPrivileges => f.write_str("lets programs gain rights"),
            HostGrant::Runtime(name) => write!(f, "chooses the runtime {name:?}"),
            HostGrant::Port(port) => write!(f, "takes the host's port {port}"),
            HostGrant::Label { key, value } => write!(f, "tells other programs of the host {key:?}: {value:?}"),
            HostGrant::Url(url) => write!(f, "makes the control plane ask {url:?}"),
        }
    }
}

/// A thing of the host, and the field that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAccess {
    /// `spec.volumes[0].hostPath`
    pub field: String,
    pub grant: HostGrant,
}

impl InstanceSpec {
    /// All that this spec takes of the host, in the order of its fields.
    pub fn host_access(&self) -> Vec<HostAccess> {
        let InstanceSpec {
            owner: _,
            image: _,
            image_pull_policy: _,
            image_pull_secret: _,
            command: _,
            args: _,
            working_dir: _,
            user: _,
            env: _,
            env_from: _,
            ports,
            volumes,
            resources: _,
            probes: _,
            power: _,
            idle: _,
            routes,
            network: _,
            placement: _,
            runtime,
            gpus: _,
            container_labels,
            security,
            adopt,
        } = self;
        let mut found = vec![];
        let mut takes = |field: String, grant| found.push(HostAccess { field, grant });
        for (i, port) in ports.iter().enumerate() {
            let Port { name: _, container_port: _, host_port } = port;
            if let Some(port) = host_port {
                takes(format!("spec.ports[{i}].hostPort"), HostGrant::Port(*port));
            }
        }
        for (i, volume) in volumes.iter().enumerate() {
            let Volume { name: _, mount_path: _, host_path, volume_name, read_only, reclaim: _ } = volume;
            if !host_path.is_empty() {
                let grant = HostGrant::Path { path: host_path.clone(), writable: !read_only };
                takes(format!("spec.volumes[{i}].hostPath"), grant);
            }
            if !volume_name.is_empty() {
                takes(format!("spec.volumes[{i}].volumeName"), HostGrant::Volume(volume_name.clone()));
            }
        }
        if !runtime.is_empty() {
            takes("spec.runtime".into(), HostGrant::Runtime(runtime.clone()));
        }
        for (key, value) in container_labels {
            let grant = HostGrant::Label { key: key.clone(), value: value.clone() };
            takes("spec.containerLabels".into(), grant);
        }
        // Taking capabilities away and writing nothing to the root are no grants.
        let Security { privileged, read_only_root: _, cap_add, cap_drop: _, no_new_privileges } = security;
        if *privileged {
            takes("spec.security.privileged".into(), HostGrant::Privileged);
        }
        for (i, name) in cap_add.iter().enumerate().filter(|(_, name)| !DEFAULT_CAPABILITIES.contains(&name.as_str())) {
            takes(format!("spec.security.capAdd[{i}]"), HostGrant::Capability(name.clone()));
        }
        if *no_new_privileges == Some(false) {
            takes("spec.security.noNewPrivileges".into(), HostGrant::NewPrivileges);
        }
        for (i, route) in routes.iter().enumerate() {
            let Route { host: _, paths: _, auth, limits: _ } = route;
            for (field, url) in auth.urls() {
                takes(format!("spec.routes[{i}].auth.{field}"), HostGrant::Url(url.to_owned()));
            }
        }
        if let Some(adopt) = adopt {
            takes("spec.adopt".into(), HostGrant::Container(adopt.clone()));
        }
        found
    }

    /// What this spec takes of the host and `old` (`None`: a new instance) did not: where a field stands does not
    /// matter, only what it gives.
    pub fn new_host_access(&self, old: Option<&InstanceSpec>) -> Vec<HostAccess> {
        let had = old.map(InstanceSpec::host_access).unwrap_or_default();
        let mut new = self.host_access();
        new.retain(|access| !had.iter().any(|h| h.grant.covers(&access.grant)));
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::schema;
    use crate::model::{Instance, Kind};

    fn spec(value: Value) -> InstanceSpec {
        serde_json::from_value(value).unwrap()
    }

    fn fields(found: &[HostAccess]) -> Vec<&str> {
        found.iter().map(|a| a.field.as_str()).collect()
    }

    #[test]
    fn an_ordinary_app_takes_nothing_of_its_host() {
        let ordinary = spec(json!({
            "image": "app:1", "command": ["sh"], "user": "0:0", "env": [{"name": "A", "value": "/var/run/docker.sock"}],
            "ports": [{"name": "web", "containerPort": 80}], "volumes": [{"name": "home", "mountPath": "/home"}],
            "resources": {"memory": "1Gi", "cpu": "2", "shm": "1Gi"}, "placement": {"node": "a"},
            "security": {"readOnlyRoot": true, "capDrop": ["ALL"], "capAdd": ["KILL", "CHOWN"], "noNewPrivileges": true},
        }));
        assert_eq!(ordinary.host_access(), []);
    }

    #[test]
    fn all_that_reaches_the_host_is_told_with_its_path() {
        let found = spec(json!({
            "ports": [{"name": "web", "containerPort": 80}, {"name": "ssh", "containerPort": 22, "hostPort": 22}],
            "volumes": [{"name": "a", "mountPath": "/a"}, {"name": "s", "mountPath": "/s", "hostPath": "/var/run/docker.sock"},
                        {"name": "r", "mountPath": "/r", "hostPath": "/", "readOnly": true},
                        {"name": "v", "mountPath": "/v", "volumeName": "pr.default.bob.home"}],
            "runtime": "runc", "containerLabels": {"traefik.enable": "true"},
            "security": {"privileged": true, "capAdd": ["KILL", "SYS_ADMIN", "ALL"], "noNewPrivileges": false},
            "routes": [
                {"auth": {"mode": "JWT", "jwt": {"issuer": "i", "jwksURL": "https://i.test/jwks"}, "loginURL": "https://l.test"}},
                {"host": "b", "auth": {"mode": "ForwardAuth", "forwardAuth": {"url": "https://auth.test"}}},
                {"host": "c", "auth": {"mode": "Token", "token": {"secretKeyRef": {"name": "a", "key": "b"}}}}],
            "adopt": {"node": "h1", "containerID": "c0ffee"},
        }))
        .host_access();
        let told: Vec<String> = found.iter().map(|a| format!("{}: {}", a.field, a.grant)).collect();
        assert_eq!(
            told,
            [
                "spec.ports[1].hostPort: takes the host's port 22",
                "spec.volumes[1].hostPath: mounts \"/var/run/docker.sock\" of the host",
                "spec.volumes[2].hostPath: mounts \"/\" of the host read-only",
                "spec.volumes[3].volumeName: mounts the Docker volume \"pr.default.bob.home\"",
                "spec.runtime: chooses the runtime \"runc\"",
                "spec.containerLabels: tells other programs of the host \"traefik.enable\": \"true\"",
                "spec.security.privileged: gives all rights on the host",
                "spec.security.capAdd[1]: adds the capability \"SYS_ADMIN\"",
                "spec.security.capAdd[2]: adds the capability \"ALL\"",
                "spec.security.noNewPrivileges: lets programs gain rights",
                "spec.routes[0].auth.jwt.jwksURL: makes the control plane ask \"https://i.test/jwks\"",
                "spec.routes[1].auth.forwardAuth.url: makes the control plane ask \"https://auth.test\"",
                "spec.adopt: takes the container c0ffee of h1",
            ]
        );
    }

    #[test]
    fn more_of_what_was_there_is_new() {
        let old = spec(json!({
            "volumes": [{"name": "a", "mountPath": "/a", "hostPath": "/srv", "readOnly": true}],
            "ports": [{"name": "web", "containerPort": 80, "hostPort": 80}], "security": {"capAdd": ["NET_ADMIN"]},
        }));
        let new = |change: Value| {
            let mut value = serde_json::to_value(&old).unwrap();
            json_patch::merge(&mut value, &change);
            let new = spec(value).new_host_access(Some(&old));
            fields(&new).iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(new(json!({"image": "other:1", "args": ["x"]})), [""; 0]);
        let volume = |v: Value| json!({"volumes": [v]});
        let writable = volume(json!({"name": "a", "mountPath": "/a", "hostPath": "/srv"}));
        assert_eq!(new(writable), ["spec.volumes[0].hostPath"], "read-only was all that was granted");
        let parent = volume(json!({"name": "a", "mountPath": "/a", "hostPath": "/", "readOnly": true}));
        assert_eq!(new(parent), ["spec.volumes[0].hostPath"]);
        let below = volume(json!({"name": "a", "mountPath": "/a", "hostPath": "/srv/x", "readOnly": true}));
        assert_eq!(new(below), ["spec.volumes[0].hostPath"], "a link below it leads anywhere");
        let renamed = volume(json!({"name": "b", "mountPath": "/b", "hostPath": "/srv", "readOnly": true}));
        assert_eq!(new(renamed), [""; 0]);
        assert_eq!(new(json!({"security": {"capAdd": ["SYS_ADMIN", "NET_ADMIN"]}})), ["spec.security.capAdd[0]"]);
        assert_eq!(
            new(json!({"ports": [{"name": "w", "containerPort": 80, "hostPort": 81}]})),
            ["spec.ports[0].hostPort"]
        );
        assert_eq!(new(json!({"security": null, "volumes": null, "ports": null})), [""; 0]);
    }

    /// Specs with any choice of what reaches the host, among few values so that two of them often agree.
    fn specs() -> impl Strategy<Value = InstanceSpec> {
        let path = prop::sample::select(vec!["", "/", "/srv", "/srv/{name}", "/var/run/docker.sock"]);
        let volume =
            (path, any::<bool>()).prop_map(|(path, read_only)| json!({"hostPath": path, "readOnly": read_only}));
        let port = prop::option::of(prop::sample::select(vec![22_u16, 80, 30000]));
        let cap = prop::sample::select(vec!["KILL", "CHOWN", "NET_ADMIN", "SYS_ADMIN", "ALL"]);
        let runtime = prop::sample::select(vec!["", "runc", "runsc"]);
        (
            prop::collection::vec(volume, 0..4),
            prop::collection::vec(port, 0..3),
            prop::collection::vec(cap, 0..4),
            (runtime, any::<bool>(), any::<Option<bool>>()),
        )
            .prop_map(|(volumes, ports, caps, (runtime, privileged, gain))| {
                let named = |(i, mut v): (usize, Value)| {
                    v["name"] = format!("v{i}").into();
                    v["mountPath"] = format!("/m{i}").into();
                    v
                };
                let port = |(i, p): (usize, Option<u16>)| json!({"name": format!("p{i}"), "containerPort": i + 1, "hostPort": p});
                spec(json!({
                    "image": "app:1", "runtime": runtime,
                    "volumes": volumes.into_iter().enumerate().map(named).collect::<Vec<_>>(),
                    "ports": ports.into_iter().enumerate().map(port).collect::<Vec<_>>(),
                    "security": {"privileged": privileged, "capAdd": caps, "noNewPrivileges": gain},
                }))
            })
    }

    fn granted(spec: &InstanceSpec, access: &HostAccess) -> bool {
        spec.host_access().iter().any(|a| a.grant.covers(&access.grant))
    }

    proptest! {
        #[test]
        fn what_is_there_may_stay_and_may_go(old in specs()) {
            prop_assert_eq!(old.new_host_access(Some(&old)), vec![]);
            prop_assert_eq!(InstanceSpec::default().new_host_access(Some(&old)), vec![]);
            let mut turned = old.clone();
            turned.volumes.reverse();
            turned.ports.reverse();
            turned.security.cap_add.reverse();
            prop_assert_eq!(turned.new_host_access(Some(&old)), vec![]);
        }

        #[test]
        fn whatever_is_not_refused_was_granted_before(old in specs(), new in specs()) {
            let added = new.new_host_access(Some(&old));
            for access in new.host_access() {
                prop_assert_eq!(!added.contains(&access), granted(&old, &access), "{:?}", access);
            }
            prop_assert_eq!(new.new_host_access(None), new.host_access());
        }

        /// No way through writes that each pass leads to more than the first spec had.
        #[test]
        fn steps_that_pass_do_not_add_up(chain in prop::collection::vec(specs(), 1..8)) {
            let mut at = chain[0].clone();
            for next in &chain[1..] {
                if next.new_host_access(Some(&at)).is_empty() {
                    at = next.clone();
                }
            }
            prop_assert_eq!(at.new_host_access(Some(&chain[0])), vec![]);
        }

        /// Each path is one that a reader finds in the object.
        #[test]
        fn every_path_leads_to_its_field(new in specs()) {
            let object = json!({"metadata": {"name": "a"}, "spec": new});
            let decoded: Instance = serde_json::from_value(object.clone()).unwrap();
            prop_assert!(schema::check(Kind::Instance, &object).unknown.is_empty());
            for access in decoded.spec.host_access() {
                let pointer = format!("/{}", access.field.replace(['.', '['], "/").replace(']', ""));
                prop_assert!(object.pointer(&pointer).is_some(), "{}", access.field);
            }
        }
    }
}
