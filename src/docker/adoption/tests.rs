//! Descriptions as daemons give them, 20.10 and later, and what becomes of them.

use serde_json::{Value, json};

use super::*;

const ID: &str = "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c0000";

/// `docker run -d --name shop --restart unless-stopped -p 8080:80 -v shop_data:/data -v /srv/conf:/etc/shop:ro -e A=1 -m 64m
/// shop:1`, of an image with an entrypoint, a command and a variable.
const SHOP: &str = r#"{
        "Id": "ID", "Name": "/shop", "Image": "sha256:aa", "State": {"Status": "running", "Paused": false},
        "HostConfig": {
            "Binds": ["shop_data:/data", "/srv/conf:/etc/shop:ro"], "ContainerIDFile": "",
            "LogConfig": {"Type": "json-file", "Config": {}}, "NetworkMode": "default",
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
            "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0}, "AutoRemove": false, "VolumeDriver": "",
            "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null, "CgroupnsMode": "host", "Dns": [],
            "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "IpcMode": "private", "Cgroup": "",
            "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false,
            "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 67108864,
            "Runtime": "runc", "Isolation": "", "CpuShares": 0, "Memory": 67108864, "NanoCpus": 0, "CgroupParent": "",
            "BlkioWeight": 0, "BlkioWeightDevice": [], "CpuPeriod": 0, "CpuQuota": 0, "CpusetCpus": "", "Devices": [],
            "DeviceCgroupRules": null, "DeviceRequests": null, "KernelMemory": 0, "MemoryReservation": 0,
            "MemorySwap": 134217728, "MemorySwappiness": null, "OomKillDisable": false, "PidsLimit": null, "Ulimits": null,
            "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
            "MaskedPaths": ["/proc/asound"], "ReadonlyPaths": ["/proc/bus"]
        },
        "Mounts": [
            {"Type": "bind", "Source": "/srv/conf", "Destination": "/etc/shop", "Mode": "ro", "RW": false, "Propagation": "rprivate"},
            {"Type": "volume", "Name": "shop_data", "Source": "/var/lib/docker/volumes/shop_data/_data", "Destination": "/data",
             "Driver": "local", "Mode": "z", "RW": true, "Propagation": ""}
        ],
        "Config": {
            "Hostname": "4c01db0b339c", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
            "AttachStderr": false, "ExposedPorts": {"80/tcp": {}}, "Tty": false, "OpenStdin": false, "StdinOnce": false,
            "Env": ["A=1", "PATH=/bin"], "Cmd": ["serve"], "Image": "shop:1", "Volumes": null, "WorkingDir": "/app",
            "Entrypoint": ["/shop"], "OnBuild": null, "Labels": {"com.docker.compose.project": "x"}
        },
        "NetworkSettings": {"Networks": {"bridge": {}}}
    }"#;

fn shop() -> Value {
    serde_json::from_str(&SHOP.replace("\"ID\"", &format!("{ID:?}"))).unwrap()
}

fn image() -> Value {
    json!({"Config": {"Env": ["PATH=/bin"], "Cmd": ["serve"], "Entrypoint": ["/shop"], "WorkingDir": "/app", "User": ""}})
}

fn with(pointer: &str, value: Value) -> Translation {
    let mut container = shop();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    container.pointer_mut(parent).unwrap()[field] = value;
    translate(&Description { container, image: Some(image()) }, "10.0.0.3")
}

#[test]
fn an_ordinary_container_is_told_as_it_is() {
    let found = translate(&Description { container: shop(), image: Some(image()) }, "10.0.0.3");
    assert_eq!(found.refusals, [""; 0]);
    let expected = json!({
        "image": "shop:1", "env": [{"name": "A", "value": "1"}],
        "ports": [{"name": "p80", "containerPort": 80, "hostPort": 8080}],
        "volumes": [
            {"name": "v0", "mountPath": "/data", "volumeName": "shop_data"},
            {"name": "v1", "mountPath": "/etc/shop", "hostPath": "/srv/conf", "readOnly": true},
        ],
        "resources": {"memory": "67108864"},
        "security": {
            "capAdd": ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP", "SETPCAP", "SYS_CHROOT"], "noNewPrivileges": false,
        },
    });
    assert_eq!(serde_json::to_value(&found.spec).unwrap(), expected);
    assert_eq!((found.restart_policy.as_str(), found.networks), ("unless-stopped", vec!["bridge".to_owned()]));
    assert_eq!(
        found.notes,
        [
            "publishes 8080 on every address of its host; one made anew does at 10.0.0.3 alone",
            "may swap 64 MiB, and nothing from now on",
        ]
    );
}

#[test]
fn what_an_instance_cannot_say_is_refused_with_its_reason() {
    let host = |field: &str| format!("/HostConfig/{field}");
    let device = json!([{"PathOnHost": "/dev/fuse"}]);
    for (pointer, value, why) in [
        (host("Privileged"), json!(true), "Privileged true"),
        (host("NetworkMode"), json!("host"), "the mode \"host\""),
        (host("NetworkMode"), json!("container:abc"), "the mode \"container:abc\""),
        (host("Devices"), device, "Devices [{\"PathOnHost\":\"/dev/fuse\"}]"),
        (host("Links"), json!(["/db:/shop/db"]), "Links"),
        (host("PidMode"), json!("host"), "PidMode"),
        (host("IpcMode"), json!("host"), "IPC"),
        (host("ExtraHosts"), json!(["a:1"]), "ExtraHosts"),
        (host("Tmpfs"), json!({"/tmp": ""}), "Tmpfs"),
        (host("CpuQuota"), json!(50000), "CpuQuota"),
        (host("Ulimits"), json!([{"Name": "nofile"}]), "Ulimits"),
        (host("WhatATomorrowsDaemonCan"), json!(1), "WhatATomorrowsDaemonCan 1"),
        (host("AutoRemove"), json!(true), "--rm"),
        (host("PublishAllPorts"), json!(true), "-P"),
        (host("CapAdd"), json!(["ALL"]), "all capabilities"),
        (host("SecurityOpt"), json!(["seccomp=unconfined"]), "seccomp=unconfined"),
        (host("MaskedPaths"), json!([]), "systempaths"),
        (host("Mounts"), json!([{"Type": "volume", "VolumeOptions": {"Subpath": "a"}}]), "Subpath"),
        (host("PortBindings"), json!({"53/udp": [{"HostPort": "53"}]}), "53/udp; only TCP"),
        (host("PortBindings"), json!({"80/tcp": [{"HostIp": "", "HostPort": ""}]}), "a port of Docker's choice"),
        (host("PortBindings"), json!({"80/tcp": [{"HostPort": "8000-8010"}]}), "a port of Docker's choice"),
        (host("PortBindings"), json!({"80/tcp": [{"HostPort": "1"}, {"HostPort": "2"}]}), "2 host ports"),
        (host("PortBindings"), json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "1"}]}), "reached at 10.0.0.3"),
        ("/Mounts/0/Type".into(), json!("tmpfs"), "type \"tmpfs\""),
        ("/Mounts/0/Source".into(), json!("/srv/{name}"), "braces"),
        ("/Mounts/0/Propagation".into(), json!("shared"), "/srv/conf"),
        ("/Mounts/0/Mode".into(), json!("Z"), "mode \"Z\""),
        ("/Config/Tty".into(), json!(true), "Tty true"),
        ("/Config/OpenStdin".into(), json!(true), "OpenStdin true"),
        ("/Config/Env".into(), json!(["=x", "1A=secret"]), "\"1A\""),
        ("/Config/StopSignal".into(), json!("SIGUSR1"), "SIGUSR1"),
        ("/Config/Labels".into(), json!({"portreeve.dev/cluster": "c"}), "control plane's own"),
        ("/Config/Labels".into(), json!({"com.docker.swarm.task.id": "c"}), "swarm"),
        ("/State/Status".into(), json!("exited"), "not running but exited"),
        ("/Config".into(), json!({}), "not described"),
    ] {
        let found = with(&pointer, value.clone());
        assert!(found.refusals.iter().any(|r| r.contains(why)), "{pointer} = {value}: {:?}", found.refusals);
        assert!(!found.refusals.iter().any(|r| r.contains("secret")), "no value of a variable is told");
    }
}

#[test]
fn commands_are_told_so_that_a_new_container_runs_the_same() {
    let process = |config: Value, image: Option<Value>| {
        let mut container = shop();
        json_patch::merge(&mut container["Config"], &config);
        let spec = translate(&Description { container, image }, "10.0.0.3").spec;
        (spec.command.join(" "), spec.args.join(" "), spec.working_dir, spec.user)
    };
    let own = |command: &str, args: &str| (command.to_owned(), args.to_owned(), String::new(), String::new());
    assert_eq!(process(json!({}), Some(image())), own("", ""));
    assert_eq!(process(json!({"Cmd": ["x", "y"]}), Some(image())), own("", "x y"));
    assert_eq!(process(json!({"Entrypoint": ["/z"], "Cmd": null}), Some(image())), own("/z", ""));
    assert_eq!(process(json!({"Cmd": null}), Some(image())), own("/shop", ""), "the image's command was taken away");
    assert_eq!(process(json!({"Entrypoint": null, "Cmd": ["sh", "-c"]}), Some(image())), own("sh", "-c"));
    let gone = process(json!({"User": "1:2"}), None);
    assert_eq!(gone, ("/shop".into(), "serve".into(), "/app".into(), "1:2".into()), "the image is gone: all is said");
}

#[test]
fn rights_are_neither_more_nor_less() {
    let security = |add: Value, drop: Value| {
        let mut container = shop();
        container["HostConfig"]["CapAdd"] = add;
        container["HostConfig"]["CapDrop"] = drop;
        container["HostConfig"]["SecurityOpt"] = json!(["no-new-privileges"]);
        translate(&Description { container, image: Some(image()) }, "10.0.0.3").spec.security
    };
    let none = security(json!(null), json!(["ALL"]));
    assert_eq!((none.cap_add.len(), none.cap_drop.len(), none.no_new_privileges), (0, 8, None));
    let one = security(json!(["CAP_NET_ADMIN", "CHOWN"]), json!(["all"]));
    assert_eq!((one.cap_add.as_slice(), one.cap_drop.len()), (&["NET_ADMIN".to_owned()][..], 7));
    let less = security(json!(["NET_ADMIN"]), json!(["NET_RAW", "KILL"]));
    assert!(less.cap_add.contains(&"NET_ADMIN".into()) && !less.cap_add.contains(&"NET_RAW".into()));
    assert_eq!(less.cap_drop, ["KILL"]);
}

#[test]
fn the_order_in_which_a_daemon_tells_things_does_not_matter() {
    let mut turned = shop();
    turned["Mounts"].as_array_mut().unwrap().reverse();
    let one = |container| translate(&Description { container, image: Some(image()) }, "10.0.0.3");
    assert_eq!(one(turned), one(shop()));
}

#[test]
fn a_limit_that_is_not_there_counts_as_all_that_the_host_has() {
    let mut spec = with("/HostConfig/Memory", json!(0)).spec;
    assert_eq!(spec.resources.memory, None);
    let told = fill_limits(&mut spec, Limits { memory: 2 << 30, cpu_milli: 4000, pids: 99 });
    assert_eq!((spec.memory_bytes(), spec.cpu_milli(), spec.pids()), (2 << 30, 4000, 99));
    assert!(told.len() == 1 && told[0].starts_with("has no memory limit: it counts as 2048 MiB,"), "{told:?}");
}

#[test]
fn an_image_that_was_run_by_a_part_of_its_id_is_named_whole() {
    let mut container = shop();
    container["Config"]["Image"] = json!("c0ffee");
    container["Image"] = json!(format!("sha256:{ID}"));
    let found = translate(&Description { container, image: Some(image()) }, "10.0.0.3");
    assert_eq!((found.spec.image, found.refusals), (format!("sha256:{ID}"), vec![]));
}
